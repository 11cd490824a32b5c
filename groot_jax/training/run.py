"""What the two stages of one training share: data, model, search, oracle, and where arrays lie.

Made once a job. Holds no parameter and takes no step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from groot_jax.contrast.projection import OutputColumns
from groot_jax.data.augment import Augmenter
from groot_jax.data.batches import Example, Hide, TrainingBatches, encode
from groot_jax.data.corpus import Corpus
from groot_jax.errors import UserError
from groot_jax.evaluation.evaluator import Evaluator
from groot_jax.generate.generator import Generator
from groot_jax.mesh import arrays
from groot_jax.reward.oracle import Oracle
from groot_jax.runtime.allocator import release_freed_memory
from groot_jax.runtime.files import expanded
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import Task, initial_params
from groot_jax.training import loop
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.setup import Placement, place, system_key
from groot_jax.training.steps import Step


@dataclass(frozen=True)
class Run:
    """One training, from stage 0 to the last system; see the module."""

    config: ConfigDict
    workdir: Path
    corpus: Corpus
    task: Task
    placement: Placement
    examples: list[Example]  # of the training split
    augmenter: Augmenter | None  # of the same
    columns: OutputColumns
    generator: Generator
    oracle: Oracle
    evaluator: Evaluator  # of dev
    console: Console
    hosts: Hosts

    def train(self, stage: loop.Stage) -> None:
        """The loop, with what is the same for all stages."""
        loop.train(
            stage, self.workdir, self.config.checkpoint, self.evaluator, self.console, self.hosts
        )

    def batches(self, batch_size: int, seed: int, own_B: np.ndarray) -> TrainingBatches:
        """The training split in an order of its own for each seed, with words hidden and mentions
        swapped as `config.data` says; `own_B`: rows that this process fills."""
        return TrainingBatches(
            self.examples,
            batch_size,
            self.task.ladder,
            seed,
            own_B=own_B,
            augmenter=self.augmenter,
            hide=self._hidden_words(),
        )

    def _hidden_words(self) -> Hide | None:
        """None where a format has nothing to show of a word but the word."""
        chance, tokenizer = self.config.data.hide_words, self.task.tokenizer
        if chance == 0 or self.task.format.name != "aligned" or not tokenizer.has_features:
            return None
        return Hide(chance, tokenizer.unk_id, (tokenizer.pad_id, tokenizer.eos_id))

    def key(self, system: str) -> jax.Array:
        """Each system has random draws of its own; those of a step depend on the step alone."""
        return system_key(self.config.seed, system, self.placement)

    def stage_0_params(self) -> Any:
        """What stage 1 starts from: the best of stage 0, here or in `nll.checkpoint`, or, without
        any stage 0, the initial parameters. Raises UserError where there is no checkpoint."""
        elsewhere = self.config.nll.checkpoint
        if not elsewhere and not self.config.nll.enabled:
            return initial_params(self.task, self.placement.params)
        workdir = expanded(elsewhere, "config.nll.checkpoint") if elsewhere else self.workdir
        target = self.placement.shapes(self.task.model_config)
        tie = self.config.checkpoint.tie
        with Checkpoints(workdir, "nll", tie=tie, read_only=True) as checkpoints:
            step = checkpoints.best()
            if step is None:
                raise UserError(
                    f"{checkpoints.folder} holds no checkpoint of stage 0; run groot_jax.train "
                    "there first"
                )
            return checkpoints.restore_params(step, target)


def make_run(
    config: ConfigDict,
    workdir: Path,
    corpus: Corpus,
    task: Task,
    oracle: Oracle,
    console: Console,
    hosts: Hosts,
) -> Run:
    """Places the model on the mesh, encodes the training split and dev."""
    placement = place(config, task.model_config)
    generator = task.generator(layout=placement.layout)
    augment = config.data.augment
    return Run(
        config=config,
        workdir=workdir,
        corpus=corpus,
        task=task,
        placement=placement,
        examples=encode(corpus.train, task.format),
        augmenter=Augmenter(corpus.train, task.format, augment) if augment else None,
        columns=arrays.put(
            OutputColumns(task.grammar.columns_C, task.grammar.column_of_V),
            placement.everywhere,
        ),
        generator=generator,
        oracle=oracle,
        evaluator=Evaluator(task, generator, oracle, corpus.dev, hosts, config.evaluate.dev_limit),
        console=console,
        hosts=hosts,
    )


def let_go(*programs: Step) -> None:
    """Of what is compiled: a system may have 50 programs, each of which holds 50 to 100 MiB."""
    for program in programs:
        program.clear_cache()
    release_freed_memory()
