"""A short real training for benchmarks that need beams of a model which has learnt something.

Goes through the project's own jobs; what it trains is kept in a cache folder and found there again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from benchmarks.measure import Params
from groot_jax import config as configs
from groot_jax.data.batches import encode, evaluation_batches
from groot_jax.data.corpus import Corpus, read_corpus
from groot_jax.data.labeling import Sentence
from groot_jax.errors import UserError
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask
from groot_jax.reward.rewards import RewardSpec
from groot_jax.task import Task, load_task
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.setup import make_partitioning

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
DEFAULT_CACHE = Path("~/.cache/groot_jax/benchmarks").expanduser()


def short_run(config: str, cache: Path, updates: int, overrides: Sequence[str] = ()) -> Path:
    """The work directory of a model after `updates` updates on gold; trained where it is missing.

    Args:
      config: a config file of the project, such as `CONFIGS / "snips.py"`.
      overrides: further `--config.KEY=VALUE`.

    Raises CalledProcessError where the training fails; its output has gone to stderr.
    """
    facts = [config, str(updates), *overrides]
    # Another config, length or setting is another folder: `snips-1f0e...`.
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:10]
    workdir = cache / f"{name_of(config)}-{digest}"
    loaded = configs.load(config, [split_override(text) for text in overrides])
    # The job counts in epochs: 400 updates of 32 of 12,000 sentences are 1.0667 of them.
    count = len(read_corpus(loaded).train)
    epochs = updates * loaded.nll.batch_size / count
    command = [
        sys.executable,
        "-m",
        "groot_jax.train",
        f"--config={config}",
        f"--workdir={workdir}",
        *overrides,
        f"--config.nll.epochs={epochs:.4f}",
        f"--config.nll.eval_every={epochs:.4f}",
        # Stage 0 alone, with one short evaluation at its end; nobody reads how good it is.
        "--config.systems=",
        "--config.evaluate.dev_limit=64",
        "--split=none",
    ]
    # One that was interrupted goes on.
    status = workdir / "status.json"
    if not status.exists() or json.loads(status.read_text())["state"] != "finished":
        print(f"training for {updates} updates: {workdir}", file=sys.stderr, flush=True)
        # The checkout at hand, whatever is installed.
        paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
    return workdir


def name_of(config: str) -> str:
    """`retail` for `configs/retail.py`, with or without an argument after a colon."""
    return Path(config.partition(".py:")[0]).stem


def split_override(text: str) -> tuple[str, str]:
    """`--config.KEY=VALUE` as (KEY, VALUE)."""
    key, _, value = text.removeprefix("--config.").partition("=")
    return key, value


class Trained(NamedTuple):
    """A finished run, read back."""

    config: ConfigDict
    task: Task
    corpus: Corpus
    params: Params


def restore(workdir: Path) -> Trained:
    """The best stage-0 checkpoint of a work directory, with what it was trained on."""
    config = configs.load_dumped(workdir / configs.CONFIG_FILE)
    task = load_task(workdir, config)
    with Checkpoints(workdir, "nll", tie=config.checkpoint.tie, read_only=True) as checkpoints:
        step = checkpoints.best()
        if step is None:
            raise UserError(f"{workdir} holds no checkpoint of stage 0")
        shapes = make_partitioning(config, task.model_config).param_shapes
        params = checkpoints.restore_params(step, shapes)
    return Trained(config, task, read_corpus(config), params)


def trained_pools(
    run: Trained, count: int, seed: int = 0
) -> tuple[list[Sentence], dict[int, Pool]]:
    """`count` training sentences, drawn with `seed`, and the pool of each, by its index in them:
    the beams of the model, corrected and ranked as stage 1 does it."""
    config, task, train = run.config, run.task, run.corpus.train
    drawn = random.Random(seed).sample(range(len(train)), min(count, len(train)))
    sentences = [train[i] for i in drawn]
    examples = encode(sentences, task.format)
    batches = evaluation_batches(examples, 32, task.ladder)
    layout = make_partitioning(config, task.model_config).layout
    found = task.generator(layout).label(run.params, batches)
    beams = [found[index] for index in range(len(examples))]
    tasks = [
        ScoringTask(sentence.words, sentence.labeling, candidates, index)
        for index, (sentence, candidates) in enumerate(zip(sentences, beams, strict=True))
    ]
    settings = PoolSettings(**config.groot.pool)
    with Oracle(RewardSpec(**config.reward), config.seed) as oracle:
        pools = oracle.submit(tasks, settings).result()
    return sentences, dict(enumerate(pools))
