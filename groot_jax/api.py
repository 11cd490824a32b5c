"""The jobs from Python, in a notebook say: `groot_jax.train(...)`, `groot_jax.evaluate(...)`.

They print what the commands print, and raise UserError where a command would end with its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.errors import UserError
from groot_jax.evaluate import run_evaluation
from groot_jax.evaluation.results import Results
from groot_jax.runtime.files import expanded
from groot_jax.train import run_training


def train(
    config: str | ConfigDict,
    workdir: str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    split: str = "test",
) -> Results:
    """Trains all systems, from where they were stopped, and scores them.

        groot_jax.train("retail", "runs/retail", {"groot.tau": 0.2})

    Args:
      config: what --config is given, or a ConfigDict of `groot_jax.config.load`, changed or not.
      workdir: the run's own folder.
      overrides: the value of each key, as --config.KEY=VALUE.
      split: what the systems are scored on at the end: test, dev or none.

    Returns what W/results.json holds; where `split` is none, no system.
    """
    if split not in ("test", "dev", "none"):
        raise UserError(f"split={split!r}: use test, dev or none")
    given = [(key, str(value)) for key, value in (overrides or {}).items()]
    # As a command line says it, for the list of jobs; what Python has made has no file.
    name = config if isinstance(config, str) else "(made in Python)"
    line = [f"--config={name}", f"--workdir={workdir}", f"--split={split}"]
    line += [f"--config.{key}={value}" for key, value in given]
    if isinstance(config, str):
        config = configs.load(config, given)
    else:
        config = configs.checked(config, given)
    return run_training(config, expanded(str(workdir), "workdir"), split, line)


def evaluate(
    workdir: str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    split: str = "test",
    checkpoint: str | int = "best",
    system: str | None = None,
    output: str | Path | None = None,
) -> Results:
    """Scores checkpoints of a work directory.

        groot_jax.evaluate("runs/retail", {"reward.name": "f0.5"})["systems"]["groot"]["test"]

    Args:
      workdir: of a training.
      overrides: the value of each key, as --config.KEY=VALUE.
      split: test or dev.
      checkpoint: best (on dev), latest, or a step.
      system: groot, nll, ...; without: all there are.
      output: a folder for the results; without: the work directory, or one in it under other
        settings than those of training.

    Returns what results.json holds there.
    """
    flags: dict[str, object] = {"workdir": workdir, "split": split, "checkpoint": checkpoint}
    flags |= {"system": system, "output": output}
    line = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    return run_evaluation(line + [f"--config.{k}={v}" for k, v in (overrides or {}).items()])
