"""A checkpoint of a work directory with all that makes a labeler of it: task, mesh, parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.data.card import read_card
from groot_jax.evaluation.decisions import Tuning
from groot_jax.evaluation.records import read_tuning
from groot_jax.model.param_tree import Params
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import Task, load_task
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.setup import Partitioning, keep_programs, make_partitioning
from groot_jax.training.systems import choose_step, choose_system, home_of


@dataclass(frozen=True)
class Trained:
    """What `load_trained` found."""

    workdir: Path
    task: Task
    partitioning: Partitioning
    params: Params  # on the devices
    system: str
    step: int

    def tuning(self) -> Tuning:
        """What dev has chosen for this checkpoint under the reward of the config."""
        reward = self.task.config.reward.name
        return read_tuning(self.workdir, self.system, self.step, reward)

    def punctuation_apart(self) -> bool:
        """Whether punctuation stood apart from the words of training, as far as the data card says
        (see `stands_apart`)."""
        card = read_card(self.workdir) or {}
        return bool(card.get("splits", {}).get("train", {}).get("punctuation_apart"))


def load_trained(
    workdir: Path,
    config: ConfigDict | None = None,
    system: str | None = None,
    checkpoint: str = "best",
    hosts: Hosts | None = None,
) -> Trained:
    """Reads a checkpoint of a work directory.

    Args:
      config: where given, replaces W/config.json.
      system: `groot`, `nll`, ...; without: the last of `config.systems` that was trained.
      checkpoint: best (on dev), latest, or a step.
      hosts: the processes that load together, where there are several.

    Raises UserError where there is nothing to load.
    """
    config = config or configs.load_dumped(workdir / configs.CONFIG_FILE)
    if not jax.config.values["jax_compilation_cache_dir"]:  # Whoever calls may have chosen one.
        keep_programs(config.compilation_cache)
    task = load_task(workdir, config)
    system = choose_system(workdir, config, system)
    home, tie = home_of(workdir, config, system), config.checkpoint.tie
    with Checkpoints(home, system, tie=tie, read_only=True, hosts=hosts) as checkpoints:
        partitioning = make_partitioning(config, task.model_config)
        choose = partial(choose_step, wanted=checkpoint)
        step, params = checkpoints.read_params(choose, partitioning.param_shapes)
    return Trained(workdir, task, partitioning, params, system, step)
