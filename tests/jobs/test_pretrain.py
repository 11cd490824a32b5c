"""The pretraining job: it continues to the bit, and leaves a model that training starts from."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax import config as configs
from groot_jax import pretrain
from groot_jax.data.corpus import load_corpus
from groot_jax.data.tokenizer import load_tokenizer, train_tokenizer
from groot_jax.errors import UserError
from groot_jax.model.config import T5Config
from groot_jax.model.pretrained import load_pretrained, save_pretrained
from groot_jax.model.t5 import T5, init_params
from groot_jax.task import initial_params, make_task, make_tokenizer
from groot_jax.training.checkpoints import Checkpoints, by_loss, saved_steps
from groot_jax.training.monitor import Monitor
from groot_jax.training.pretraining import load_pretrain_task
from tests.jobs.support import (
    ITS_OWN,
    ROOT,
    TIMEOUT,
    Jobs,
    error_of,
    launch,
    own_compilation_cache,
    sentence,
    state_of,
)
from tests.jobs.test_train import assert_same_state, metrics_of, status_of, timeless

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")
SETTINGS = (
    "text.vocab_size=60",
    "text.max_features=200",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "loader.source_buckets=32",
    "loader.target_buckets=32",
    "loader.threads=1",
    "pretrain.batch_size=32",
    "pretrain.epochs=3",
    "pretrain.eval_every=1",
    "pretrain.dev_fraction=0.2",
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 queries like those of the labeled corpus, as plain text and JSON lines."""
    rng = random.Random(9)
    lines = [" ".join(sentence(rng)["words"]) for _ in range(96)]
    lines[1::2] = [json.dumps({"text": line}) for line in lines[1::2]]
    path = tmp_path_factory.mktemp("text") / "queries.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def argv(jobs: Jobs, text: Path, workdir: Path, *flags: str) -> list[str]:
    return [
        f"--config={ROOT}/configs/pretrain.py:text={text}",
        f"--workdir={workdir}",
        f"--config.compilation_cache={jobs.cache}",
        *(f"--config.{setting}" for setting in SETTINGS),
        *flags,
    ]


def run(*args: Any) -> None:
    with own_compilation_cache():
        pretrain.main(argv(*args))


@pytest.fixture(scope="module")
def scratch(jobs: Jobs, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory that was never interrupted. Nothing may write into it."""
    workdir = tmp_path_factory.mktemp("pretrained") / "w"
    run(jobs, text, workdir)
    return workdir


@pytest.fixture(scope="module")
def released(jobs: Jobs, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of a small T5 v1.1: gated, its head its own, 100 sentinels on top."""
    folder = tmp_path_factory.mktemp("released")
    corpus = load_corpus(train_config(jobs).data)
    train_tokenizer(corpus.train, corpus.types, 80).save(folder)
    # What is left is what a stranger has.
    (folder / "groot_tokenizer.json").unlink()
    rows = load_tokenizer(folder).vocab_size + 3
    config = T5Config(rows, 32, 8, 48, 1, 1, 4)
    save_pretrained(folder, config, init_params(config, 7))
    return folder


def train_config(jobs: Jobs, *flags: str) -> Any:
    parser = configs.job_parser("test", "", True)
    return configs.parse_job(parser, jobs.argv("train", Path("unused"), *flags)).config


def best_params(workdir: Path) -> tuple[T5Config, Any]:
    config = configs.load_dumped(workdir / "config.json")
    task = load_pretrain_task(workdir, config)
    shapes = init_params(task.model_config, 0)
    with Checkpoints(workdir, "pretrain", merit=by_loss, read_only=True) as checkpoints:
        step = checkpoints.best()
        assert step is not None
        return task.model_config, checkpoints.restore_params(step, shapes)


def logits(config: T5Config, params: Any, columns: int) -> np.ndarray:
    """Of the first `columns` ids: rows that fill up have none in the model that is left."""
    model = T5(config)
    ids = jnp.arange(2, 14, dtype=jnp.int32).reshape(2, 6)
    variables = {"params": jax.tree.map(jnp.asarray, params)}
    encoded: Any = model.apply(variables, ids, method=model.encode)
    hidden = model.apply(
        variables,
        ids,
        jnp.arange(6)[None],
        jnp.tril(jnp.ones((1, 6, 6), bool)),
        model.apply(variables, encoded, method=model.cross_kv),
        jnp.ones((2, 1, 6), bool),
        method=model.decode,
    )
    found: Any = model.apply(variables, hidden, jnp.arange(columns), method=model.logits)
    return np.asarray(found)


def assert_model_is_the_best_checkpoint(workdir: Path, rows: int) -> None:
    config, params = best_params(workdir)
    loaded_config, loaded = load_pretrained(workdir / "model")
    assert loaded_config.vocab_size == rows <= config.vocab_size
    assert loaded_config.tie_word_embeddings == config.tie_word_embeddings
    np.testing.assert_array_equal(logits(loaded_config, loaded, rows), logits(config, params, rows))
    for part in ("encoder", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, loaded[part], params[part])


# ---- From scratch -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_loss_falls_and_the_lowest_is_kept(scratch: Path) -> None:
    lines = [line for line in metrics_of(scratch) if line["split"] == "dev"]
    losses = {line["step"]: line["loss"] for line in lines}
    assert len(losses) == 3 and losses[max(losses)] < losses[min(losses)] - 0.1
    for line in lines:
        assert line["perplexity"] == pytest.approx(np.exp(line["loss"]))
    best = min(losses, key=lambda step: (losses[step], step))
    assert saved_steps(scratch, "pretrain") == sorted({best, *sorted(losses)[-2:]})
    assert status_of(scratch) == "finished"
    assert {*metrics_of(scratch)[0]} >= {"loss", "gold_score", "grad_norm"}


@pytest.mark.slow
def test_the_model_loads_with_equal_logits(scratch: Path) -> None:
    tokenizer = load_tokenizer(scratch / "model")
    assert tokenizer.has_features
    assert_model_is_the_best_checkpoint(scratch, tokenizer.vocab_size)
    # A tied head that is scaled, and gated: none of T5's releases is both.
    config = json.loads((scratch / "model" / "config.json").read_text())
    assert config["tie_word_embeddings"] and config["feed_forward_proj"] == "gated-gelu"


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bits(
    jobs: Jobs, text: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    per_epoch = saved_steps(scratch, "pretrain")[-1] // 3
    advance = Monitor.advance

    def stop(self: Monitor, step: int, *args: Any) -> None:
        advance(self, step, *args)
        if step == 2 * per_epoch - 2:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Monitor, "advance", stop)
        run(jobs, text, tmp_path)
    # The next update had begun: its state is the one at hand.
    assert saved_steps(tmp_path, "pretrain") == [per_epoch, 2 * per_epoch - 1]
    assert status_of(tmp_path) == "stopped" and not (tmp_path / "model").exists()
    run(jobs, text, tmp_path)
    assert_same_state(tmp_path, scratch, "pretrain")
    assert timeless(metrics_of(tmp_path)) == timeless(metrics_of(scratch))
    files = [sorted((w / "model").iterdir()) for w in (tmp_path, scratch)]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


@pytest.mark.slow
def test_two_processes_leave_the_model_of_one_with_as_many_devices(
    jobs: Jobs, text: Path, tmp_path: Path
) -> None:
    """To the last bit: each masks the texts of its own rows alone, by the same draws."""
    for processes, devices in ((2, 1), (1, 2)):
        flags = argv(jobs, text, tmp_path / str(processes), "--config.pretrain.epochs=1")
        with launch(processes, devices, "groot_jax.pretrain", flags) as process:
            _, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, err
    states = [state_of(tmp_path / name, "pretrain") for name in "12"]
    jax.tree.map(np.testing.assert_array_equal, *states)
    left, right = (load_pretrained(tmp_path / name / "model")[1] for name in "12")
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.slow
def test_training_starts_from_it_in_the_aligned_format(
    jobs: Jobs, scratch: Path, tmp_path: Path
) -> None:
    flags = (
        *ITS_OWN,
        f"--config.model.init={scratch / 'model'}",
        "--config.nll.epochs=1",
        "--config.systems=()",
        "--config.evaluate.decide=map",
    )
    config = train_config(jobs, *flags)
    task = make_task(config, load_corpus(config.data))
    assert task.format.name == "aligned"
    words = ("show", "me", "red", "jeans")
    learned = load_tokenizer(scratch / "model")
    assert [task.format.tokenizer.features(w) for w in words] == [
        learned.features(w) for w in words
    ]
    params, rows = initial_params(task), learned.vocab_size
    _, loaded = load_pretrained(scratch / "model")
    table = params["shared"]["embedding"]
    np.testing.assert_array_equal(table[:rows], loaded["shared"]["embedding"])
    # Rows for the tags are new, and as large as those that were learned.
    tags = {piece for pieces in task.format.tags.values() for piece in pieces}
    assert max(tags) >= rows
    assert 0.5 < table[rows:].std() / table[:rows].std() < 2
    jobs.run("train", tmp_path / "w", *flags)
    assert json.loads((tmp_path / "w" / "results.json").read_text())["systems"]["nll"]


# ---- From a released checkpoint, and what cannot be ------------------------------------------


@pytest.mark.slow
def test_a_released_checkpoint_adapts_with_its_own_tokenizer(
    jobs: Jobs, text: Path, released: Path, tmp_path: Path
) -> None:
    flags = (*ITS_OWN, "--config.pretrain.epochs=1")
    run(jobs, text, tmp_path, f"--config.model.init={released}", *flags)
    rows = load_tokenizer(released).vocab_size + 3
    assert_model_is_the_best_checkpoint(tmp_path, rows)
    facts = json.loads((tmp_path / "pretraining" / "pretraining.json").read_text())
    assert not facts["by_word"]
    start, end = (load_pretrained(folder)[1] for folder in (released, tmp_path / "model"))
    moved = np.abs(start["lm_head"]["kernel"] - end["lm_head"]["kernel"])
    assert moved.max() > 1e-4
    words = ("show", "me", "red", "jeans")
    ours, theirs = load_tokenizer(tmp_path / "model"), load_tokenizer(released)
    assert [ours.word(w) for w in words] == [theirs.word(w) for w in words]
    assert ours.sentinels[0] == theirs.sentinels[0]
    config = train_config(jobs, *ITS_OWN, f"--config.model.init={tmp_path / 'model'}")
    assert make_tokenizer(config, [], [])[0] == "sentinel_tag"


def test_bad_text_ends_in_one_sentence_and_claims_no_folder(
    jobs: Jobs, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text(text.read_text() + "{broken\n")
    workdir = tmp_path / "w"
    said = error_of(lambda: run(jobs, bad, workdir), capsys)
    assert f"{bad}:97" in said and "is not JSON" in said
    long = tmp_path / "long.txt"
    long.write_text(text.read_text() + "jeans " * 40 + "\n")
    said = error_of(lambda: run(jobs, long, workdir), capsys)
    assert f"{long}:97" in said and "config.loader.source_buckets" in said
    assert not workdir.exists()


@pytest.mark.slow
def test_other_text_is_refused(jobs: Jobs, scratch: Path, text: Path) -> None:
    before = text.read_text()
    try:
        text.write_text(before + "one more line\n")
        with pytest.raises(UserError, match=r"config\.pretrain\.text: the files do not hold"):
            run(jobs, text, scratch)
    finally:
        text.write_text(before)
