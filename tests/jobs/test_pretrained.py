"""Training starts from a Hugging Face folder: its weights, its tokenizer, its shape."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from groot_jax import config as configs
from groot_jax.data.corpus import load_corpus
from groot_jax.errors import UserError
from groot_jax.model.config import T5Config
from groot_jax.model.pretrained import save_pretrained
from groot_jax.model.t5 import init_params
from groot_jax.task import initial_params, load_task, make_task, save_task
from tests.jobs.support import ITS_OWN, Jobs, error_of

INIT_SETTINGS = (
    *ITS_OWN,
    "--config.nll.epochs=2",
    "--config.systems=groot",
    "--config.groot.epochs=1",
    "--config.loader.source_buckets=64",
    "--config.loader.target_buckets=96",
    "--config.loader.node_buckets=512",
)


@pytest.fixture(scope="module")
def folder(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 as transformers writes it: config.json, tokenizer files and Flax weights."""
    from transformers import FlaxT5ForConditionalGeneration, T5Tokenizer
    from transformers import T5Config as HfConfig
    from transformers.models.t5 import modeling_flax_t5

    folder = tmp_path_factory.mktemp("tiny-t5")
    words = folder / "words.txt"
    lines = (jobs.corpus / "train.jsonl").read_text().splitlines()
    text = [" ".join(json.loads(line)["words"]) for line in lines]
    words.write_text("\n".join([*text, *["color brand product O I"] * 40]), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(words),
        model_prefix=str(folder / "spiece"),
        vocab_size=110,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    tokenizer = T5Tokenizer(str(folder / "spiece.model"), extra_ids=100)
    tokenizer.save_pretrained(folder)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    hf = HfConfig(
        vocab_size=len(tokenizer),
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        **shape,
    )
    with pytest.MonkeyPatch.context() as patch:
        # Of its own forward pass only shapes are asked for, and jnp.clip has no `a_max` any more.
        patch.setattr(
            modeling_flax_t5.FlaxT5Attention,
            "_relative_position_bucket",
            staticmethod(lambda position, **_: jnp.zeros_like(position)),
        )
        model = FlaxT5ForConditionalGeneration(hf, _do_init=False)
    params = init_params(T5Config.from_hf(hf.to_dict()), 7)
    model.save_pretrained(folder, params=params)
    assert (folder / "flax_model.msgpack").is_file()
    return folder


def config_of(jobs: Jobs, folder: Path, *settings: str):
    parser = configs.job_parser("test", "", True)
    argv = jobs.argv("train", Path("unused"), *INIT_SETTINGS, f"--config.model.init={folder}")
    return configs.parse_job(parser, [*argv, *settings]).config


def test_the_task_takes_the_checkpoints_tokenizer_shape_and_weights(jobs, folder, tmp_path):
    config = config_of(jobs, folder)
    task = make_task(config, load_corpus(config.data))
    assert task.format.name == "sentinel_tag"
    assert task.model_config.d_model == 32
    assert (
        task.format.tokenizer.sentinels[0] == task.format.tokenizer.sentinels[1] + 1
    )  # T5's order.
    params = initial_params(task)
    want = init_params(T5Config.from_hf(json.loads((folder / "config.json").read_text())), 7)
    rows = want["shared"]["embedding"].shape[0]
    np.testing.assert_array_equal(params["shared"]["embedding"][:rows], want["shared"]["embedding"])
    np.testing.assert_array_equal(params["lm_head"]["kernel"][:, :rows], want["lm_head"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, params["decoder"], want["decoder"])
    save_task(task, tmp_path)
    again = load_task(tmp_path, config)
    words = ("show", "me", "red", "<extra_id_3>", "jeans")
    assert again.format.source(words) == task.format.source(words)
    assert again.model_config == task.model_config


def test_safetensors_written_by_us_start_the_same_run(jobs, folder, tmp_path):
    config = config_of(jobs, folder)
    task = make_task(config, load_corpus(config.data))
    hf = T5Config.from_hf(json.loads((folder / "config.json").read_text()))
    save_pretrained(tmp_path, hf, init_params(hf, 7))
    (tmp_path / "spiece.model").write_bytes((folder / "spiece.model").read_bytes())
    other_config = config_of(jobs, tmp_path)
    other = make_task(other_config, load_corpus(other_config.data))
    # Rows of new pieces are drawn around the old ones' mean: sums in another order.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        initial_params(task),
        initial_params(other),
    )


@pytest.mark.slow
def test_a_run_from_a_hugging_face_folder_trains_and_labels(jobs, folder, tmp_path, capsys):
    flags = (*INIT_SETTINGS, f"--config.model.init={folder}")
    jobs.run("train", tmp_path / "w", *flags)
    results = json.loads((tmp_path / "w" / "results.json").read_text())
    assert set(results["systems"]) >= {"nll", "groot"}
    capsys.readouterr()
    query = tmp_path / "query.txt"
    query.write_text("show me red jeans\n")
    jobs.run("predict", tmp_path / "w", "-k", "3", str(query))
    (line,) = capsys.readouterr().out.splitlines()
    labelings = json.loads(line)["labelings"]
    assert labelings and all(labeling["well_formed"] for labeling in labelings)


def test_a_folder_without_weights_or_tokenizer_is_named(jobs, tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        make_task(config_of(jobs, tmp_path), load_corpus(config_of(jobs, tmp_path).data))


def change_config(folder: Path, target: Path, **changes: object) -> Path:
    """The folder's copy, with other values in config.json."""
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eos_token_id": 5}, "eos_token_id is 5, but by the tokenizer it is 1"),
        ({"eos_token_id": [5, 6]}, "eos_token_id is 5, but by the tokenizer it is 1"),
        ({"pad_token_id": 3}, "pad_token_id is 3, but by the tokenizer it is 0"),
        ({"decoder_start_token_id": 2}, "decoder_start_token_id is 2, but by the tokenizer it is"),
        ({"d_model": 64}, "has shape .* but the configuration asks for"),
    ],
    ids=["eos", "list", "pad", "start", "shape"],
)
def test_what_disagrees_is_refused_before_the_work_directory_is_claimed(
    jobs, folder, tmp_path, capsys, changes, words
):
    init = change_config(folder, tmp_path / "t5", **changes)
    flags = (*INIT_SETTINGS, f"--config.model.init={init}")
    said = error_of(lambda: jobs.run("train", tmp_path / "w", *flags), capsys)
    assert re.search(words, said), said
    assert not (tmp_path / "w").exists()


def test_a_list_of_ids_that_end_an_output_holds_the_tokenizers(jobs, folder, tmp_path):
    init = change_config(folder, tmp_path / "t5", eos_token_id=[2, 1])
    config = config_of(jobs, init)
    assert make_task(config, load_corpus(config.data)).model_config.eos_token_id == 1


def test_a_tokenizer_with_too_many_ids_for_the_model_is_refused(jobs, folder, tmp_path):
    hf = T5Config.from_hf(json.loads((folder / "config.json").read_text()))
    few = dataclasses.replace(hf, vocab_size=hf.vocab_size - 20)
    save_pretrained(tmp_path, few, init_params(few, 7))
    shutil.copy(folder / "spiece.model", tmp_path)
    config = config_of(jobs, tmp_path)
    with pytest.raises(UserError, match=r"has \d+ embeddings, and the tokenizer \d+ ids"):
        make_task(config, load_corpus(config.data))


def test_byt5_gets_sizes_as_long_as_its_sentences(jobs, tmp_path):
    """The config's buckets end at 64 source positions, and its sentences have more bytes."""
    shape: dict[str, Any] = {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 1,
        "num_decoder_layers": 1,
    }
    model = T5Config(vocab_size=384, num_heads=2, **shape)
    save_pretrained(tmp_path, model, init_params(model, 7))
    path = tmp_path / "config.json"
    written = json.loads(path.read_text()) | {"tokenizer_class": "ByT5Tokenizer"}
    path.write_text(json.dumps(written))
    config = config_of(jobs, tmp_path, "--config.loader.source_buckets=16,32")
    task = make_task(config, load_corpus(config.data))
    assert task.format.tokenizer.bytes
    assert 32 < task.ladder.rungs[-1][0] <= 128
    save_task(task, tmp_path / "w")
    assert load_task(tmp_path / "w", config).ladder == task.ladder
