"""What is exported for transformers, under whichever version of it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from groot_jax.errors import UserError
from groot_jax.export.weights import check_read_back, generation_config
from groot_jax.export.words import write_tokenizer
from groot_jax.model.pretrained import save_pretrained
from groot_jax.model.t5 import T5
from tests.export.conftest import SENTENCES, MakeTrained
from tests.export.support import answers, assert_same

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.parametrize("format_name", ["sentinel_tag", "tag_only", "input_tag"])
def test_labelings_and_scores(make_trained: MakeTrained, expected, exported, format_name) -> None:
    folder = exported(format_name, "transformers")
    assert_same(answers(folder), expected(make_trained(format_name)))


def test_logits_of_a_model_in_shards(make_trained: MakeTrained, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    trained = make_trained("sentinel_tag")
    save_pretrained(tmp_path, trained.task.model_config, trained.params, shard_bytes=200_000)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    source_BxS, inputs_BxT = np.array([[7, 9, 12, 1]]), np.array([[0, 30, 8]])
    with torch.no_grad():
        theirs = model(
            input_ids=torch.tensor(source_BxS), decoder_input_ids=torch.tensor(inputs_BxT)
        ).logits.numpy()
    params = {"params": trained.params}
    ours = T5(trained.task.model_config).apply(params, source_BxS, inputs_BxT)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_tokenizer_and_search_settings(make_trained: MakeTrained, exported, tmp_path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = make_trained("sentinel_tag").task.format.tokenizer
    write_tokenizer(tokenizer, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for words in SENTENCES[:2]:
        wanted = [id_ for word in words for id_ in tokenizer.word(word)]
        assert theirs(" ".join(words)).input_ids == [*wanted, tokenizer.eos_id]
    assert theirs("<extra_id_0>").input_ids == [tokenizer.sentinels[0], tokenizer.eos_id]
    assert (theirs.pad_token_id, theirs.eos_token_id) == (0, 1)
    folder = exported("sentinel_tag", "transformers")
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.num_beams, settings.length_penalty) == (4, 0.0)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "t5"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("generation_config.json", {"num_return_sequences": 9}, "refuses the settings .*num_ret"),
        ("generation_config.json", {"length_penalty": 0.0, "num_beams": 1}, "refuses the settings"),
        ("config.json", {"model_type": "t6"}, "refuses the settings"),
        ("config.json", {"vocab_size_of_old": 9}, None),
        ("config.json", {"num_decoder_layers": None}, "num_decoder_layers=None, which .* as 1:"),
    ],
)
def test_what_transformers_would_read_otherwise(exported, tmp_path, file, change, message) -> None:
    folder = exported("sentinel_tag", "transformers")
    for name in ("config.json", "generation_config.json"):
        found = json.loads((folder / name).read_text())
        (tmp_path / name).write_text(json.dumps(found | (change if name == file else {})))
    if message is None:
        check_read_back(tmp_path)
    else:
        with pytest.raises(UserError, match=f"^--format=transformers: .*{message}"):
            check_read_back(tmp_path)


def test_search_settings_of_one_beam_are_read_back(make_trained, exported, tmp_path) -> None:
    settings = generation_config(make_trained("sentinel_tag", generate__k="1").task)
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    config = (exported("sentinel_tag", "transformers") / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    check_read_back(tmp_path)
