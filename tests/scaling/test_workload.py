"""The made-up sentences that preflight compiles for."""

from __future__ import annotations

from pathlib import Path

import pytest

from groot_jax.config import load
from groot_jax.contrast.tree import build_tree
from groot_jax.data.labeling import Sentence
from groot_jax.data.tokenizer import train_tokenizer
from groot_jax.scaling.workload import Sentences, make_workload
from groot_jax.task import make_tokenizer

RETAIL = str(Path(__file__).parents[2] / "configs" / "retail.py")


@pytest.mark.parametrize("words", [16, 32])
def test_pools_share_prefixes_but_no_more_than_those_of_trained_models(words):
    """Those have .35 (mit_restaurant) and .38 (snips) nodes a token; unrelated labelings .8."""
    workload = make_workload(load(RETAIL), 4000, Sentences(words, 1.5, 12), 20)
    nodes = tokens = 0
    for example in workload.examples:
        pool = workload.pools[example.index]
        assert len({entry.labeling for entry in pool}) == len(pool) == 16
        sequences = [
            workload.format.target(entry.labeling, example.sentence.words) for entry in pool
        ]
        nodes += len(build_tree(sequences, 0).tokens)
        tokens += sum(map(len, sequences))
    assert 0.38 < nodes / tokens < 0.7


@pytest.mark.parametrize(
    ("max_features", "tokenizer", "expected"),
    [(50, "auto", "aligned"), (0, "auto", "sentinel_tag"), (50, "train", "sentinel_tag")],
)
def test_a_model_that_was_pretrained_on_features_is_taken_as_training_takes_it(
    tmp_path, max_features, tokenizer, expected
):
    """What groot_jax.pretrain leaves says what it reads; the made-up sentences follow it."""
    words = [Sentence(("red", name), ()) for name in ("shoes", "jeans")]
    train_tokenizer(words, [], 40, max_features=max_features).save(tmp_path)
    config = load(RETAIL)
    config.model.init, config.text.tokenizer = str(tmp_path), tokenizer
    config.text.vocab_size = 40
    assert make_tokenizer(config, words, ["color"])[0] == expected
    workload = make_workload(config, 4000, Sentences(6, 1.5, 3), 4)
    assert workload.format.name == expected
    assert bool(workload.format.fused_width) == (expected == "aligned")


@pytest.mark.parametrize("words", [1, 2])
def test_a_sentence_with_few_labelings_has_a_small_pool(words):
    workload = make_workload(load(RETAIL), 4000, Sentences(words, 1.0, 1), 2)
    for example in workload.examples:
        labelings = [entry.labeling for entry in workload.pools[example.index]]
        assert 1 < len(labelings) == len(set(labelings)) < 16
