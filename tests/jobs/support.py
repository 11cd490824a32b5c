"""What the tests of the jobs share: a tiny corpus, settings under which a whole run takes seconds,
and the jobs as functions, in this process or in one of their own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from groot_jax import evaluate, predict, train
from groot_jax.errors import exit_on_user_error
from groot_jax.training.checkpoints import saved_steps

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "columns.py"
MAINS: dict[str, Callable[[list[str]], None]] = {
    "train": train.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
}
# The smallest model: a run takes 10 CPU seconds, of the next one 15. Sentences fit one size of
# batch and one of trees, so that a run compiles few programs; training and evaluation have batches
# of the same size, so that they share the search.
SETTINGS = (
    "systems=nll_continued,groot",
    "text.vocab_size=200",
    "text.max_words=100",
    "model.preset=pico",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "generate.k=4",
    "loader.source_buckets=32",
    "loader.target_buckets=12",
    "loader.node_buckets=384",
    "loader.threads=1",
    "nll.batch_size=16",
    "nll.epochs=3",
    "nll.eval_every=1",
    "nll.patience=0",
    "nll.learning_rate=5e-3",
    "groot.batch_size=16",
    "groot.epochs=2",
    "groot.eval_every=0.5",
    "groot.tau=0.3",
    "groot.lag=1",
    "groot.pool.size=8",
    "groot.pool.beams=4",
    "checkpoint.keep=1",
    "checkpoint.retry_minutes=0",
    "checkpoint.tie=0",
    "evaluate.batch_size=16",
    "evaluate.decide=map,mbr,threshold",
    "evaluate.bootstrap=20",
    "evaluate.samples=4",
)
# With model.init, which says how many layers and how large a vocabulary there are: the defaults.
ITS_OWN = (
    "--config.model.preset=nano",
    "--config.model.encoder_layers=0",
    "--config.model.decoder_layers=0",
    "--config.text.vocab_size=2000",
    "--config.text.max_features=16000",
)
TIMEOUT = 300.0


def sentence(rng: random.Random) -> dict[str, Any]:
    """A query such as `show me dark blue orange jeans`, where `orange` is a color or a brand."""
    words: list[str] = []
    spans = []
    parts = {
        "": ("find", "show me", "i want"),
        "color": ("red", "dark blue", "orange", ""),
        "brand": ("orange", "levi", "big apple"),
        "product": ("jeans", "shirt", "running shoes"),
    }
    for type_, choices in parts.items():
        part = rng.choice(choices).split()
        if type_ and part:
            spans.append([len(words), len(words) + len(part), type_])
        words += part
    return {"words": words, "spans": spans}


def write_jsonl(path: Path, items: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def column_lines(item: dict[str, Any]) -> list[str]:
    tags = ["O"] * len(item["words"])
    for start, end, type_ in item["spans"]:
        tags[start:end] = [f"B-{type_}", *[f"I-{type_}"] * (end - start - 1)]
    return [f"{word}\t{tag}" for word, tag in zip(item["words"], tags, strict=True)]


def job_environment() -> dict[str, str]:
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # JAX has set it for this process.
    return environment


def launch(processes: int, devices: int, module: str, argv: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a job on several processes of this machine, each with so many virtual devices."""
    command = [sys.executable, str(ROOT / "launch" / "local.py")]
    command += [f"--processes={processes}", f"--devices={devices}", "--"]
    return subprocess.Popen(
        [*command, sys.executable, "-m", module, *argv],
        env=job_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True)
class Jobs:
    """The jobs on the generated corpus, in this process or in one of their own."""

    corpus: Path
    cache: Path

    def argv(self, job: str, workdir: Path, *flags: str) -> list[str]:
        argv = [f"--workdir={workdir}"]
        if job == "train":
            files = [f"{split}={self.corpus / split}.jsonl" for split in ("train", "dev", "test")]
            argv += [f"--config={CONFIG}:{','.join(files)}"]
            argv += [f"--config.{setting}" for setting in SETTINGS]
            argv += [f"--config.compilation_cache={self.cache}"]
        return [*argv, *flags]

    def run(self, job: str, workdir: Path, *flags: str) -> None:
        """In this process; raises what the job raises."""
        with own_compilation_cache():
            MAINS[job](self.argv(job, workdir, *flags))

    def start(self, job: str, workdir: Path, *flags: str, **options: Any) -> subprocess.Popen[str]:
        """In a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", f"groot_jax.{job}", *self.argv(job, workdir, *flags)],
            env=job_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def call(self, job: str, workdir: Path, *flags: str, text: str = "", **options: Any) -> Ended:
        """Starts it and waits for its end; `text` goes to its standard input."""
        with self.start(job, workdir, *flags, stdin=subprocess.PIPE, **options) as process:
            out, err = process.communicate(text, timeout=TIMEOUT)
        return Ended(process.returncode, out, err)


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


@contextmanager
def own_compilation_cache() -> Iterator[None]:
    """The jobs set JAX's cache for their process; tests that come after must not keep it."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Until `condition`; fails when `process` ends before that, or takes forever."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"it ended too early:\n{process.communicate()}")
        assert time.monotonic() < end
        time.sleep(0.005)


def state_of(workdir: Path, system: str) -> dict[str, np.ndarray]:
    """Step, parameters and optimizer of the latest checkpoint, whatever devices wrote it."""
    folder = workdir / "checkpoints" / system / str(saved_steps(workdir, system)[-1]) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(folder.absolute()).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        tree = checkpointer.restore(folder.absolute(), restore_args=as_numpy)
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def error_of(run: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a job ends with: as `python -m` ends it, without the process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        exit_on_user_error(run)
    assert ended.value.code == 1
    return one_error(capsys.readouterr().err)


def one_error(text: str) -> str:
    """Checks that standard error holds one sentence and nothing else."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    return lines[0]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(files)
    }
