"""What the two stages of one training share: data, model, search, oracle, and where arrays lie.

Made once a job. Holds no parameter and takes no step.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar, cast

import jax
from ml_collections import ConfigDict
from rich.console import Console

from groot_jax import config as configs
from groot_jax.contrast.packing import gold_bucket
from groot_jax.contrast.projection import OutputColumns
from groot_jax.contrast.update import Params
from groot_jax.data.augment import Augmenter
from groot_jax.data.batches import Batch, Hide, MixedBatches, TrainingBatches, encode
from groot_jax.data.corpus import Corpus
from groot_jax.evaluation.evaluator import Evaluator
from groot_jax.generate.generator import Generator
from groot_jax.generate.inputs import search_input
from groot_jax.mesh import arrays
from groot_jax.mesh.rows import own_rows
from groot_jax.reward.oracle import Oracle
from groot_jax.runtime.files import expanded
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import Task, initial_params
from groot_jax.training.ahead import Ahead, shapes_on
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.evaluations import Meta
from groot_jax.training.reading import saved_steps
from groot_jax.training.setup import make_partitioning
from groot_jax.training.starting import read_start
from groot_jax.training.systems import recorded_meta

_Compiled = TypeVar("_Compiled")


class Run:
    """One training, from stage 0 to the last system; see the module."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        corpus: Corpus,
        task: Task,
        oracle: Oracle,
        hosts: Hosts,
        ahead: Ahead | None = None,
        console: Console | None = None,
    ) -> None:
        """Lays the model over the mesh, encodes the training split and dev. `ahead` compiles what
        is known to come; without, nothing does. Raises UserError where the mesh does not fit the
        devices."""
        self._console = console or Console(quiet=True)
        self._start: int | None = None  # The step of stage 0 that stage 1 starts from, once known.
        self.config, self.workdir, self.corpus, self.task = config, workdir, corpus, task
        self.oracle, self.hosts = oracle, hosts
        self.ahead = ahead or Ahead(enabled=False)
        self.announced: set[str] = (
            set()
        )  # Systems of which that is known by a look at their batches.
        self._shared: dict[tuple[object, ...], object] = {}
        self._sharing = threading.Lock()  # `ahead` asks as well.
        self.partitioning = make_partitioning(config, task.model_config)
        # The ids that the softmax runs over, and the way back from ids to them, on every device.
        self.columns = arrays.put(
            OutputColumns(task.grammar.columns_C, task.grammar.column_of_V),
            self.partitioning.layout.everywhere,
        )
        # One search for the dev split of all stages, and for the training batches of those systems
        # that search without dropout: its programs are compiled once.
        self.generator = task.generator(self.partitioning.layout)
        self.evaluator = Evaluator(
            task, self.generator, oracle, corpus.dev, hosts, config.evaluate.dev_limit
        )
        self._examples = encode(corpus.train, task.format)
        self._unlabeled = [
            dataclasses.replace(example, unlabeled=True)
            for example in encode(corpus.unlabeled, task.format, gold=False)
        ]
        chance = config.data.augment
        self._augmenter = Augmenter(corpus.train, task.format, chance) if chance else None

    def batches(self, batch_size: int, seed: int, parts: int = 1) -> TrainingBatches:
        """The training split in an order of its own for each seed, with words hidden and mentions
        swapped as `config.data` says; a batch can be split over the devices, in `parts` parts."""
        return TrainingBatches(
            self._examples,
            batch_size,
            self.task.ladder,
            seed,
            own_B=own_rows(self.partitioning.layout, batch_size, parts),
            augmenter=self._augmenter,
            hide=self._hidden_words(),
        )

    def mixed_batches(
        self, batch_size: int, seed: int, share: float, parts: int = 1
    ) -> MixedBatches:
        """The same, where a share of the updates has unlabeled sentences: as they are written, and
        in an order of their own."""
        unlabeled = None
        if share > 0:
            unlabeled = TrainingBatches(
                self._unlabeled,
                batch_size,
                self.task.ladder,
                seed,
                own_B=own_rows(self.partitioning.layout, batch_size, parts),
            )
        return MixedBatches(self.batches(batch_size, seed, parts), unlabeled, share)

    def gold_bucket(self, trees: int) -> int:
        """The size of bins for so many sentences of the training split, with gold alone."""
        nodes = [len(example.target) for example in self._examples]
        return gold_bucket(nodes, trees, self.config.loader.node_buckets[-1])

    def shared(self, key: tuple[object, ...], make: Callable[[], _Compiled]) -> _Compiled:
        """What was made before for the same key, or what `make` makes now: systems that need the
        same programs compile them once."""
        with self._sharing:
            if key not in self._shared:
                self._shared[key] = make()
            return cast(_Compiled, self._shared[key])

    def compile_search(
        self, generator: Generator, batches: Iterable[Batch], key: jax.Array | None = None
    ) -> None:
        """Compiles ahead the search of batches like these; `key` as for the search itself."""
        for batch in batches:
            inputs = shapes_on(search_input(batch), self.partitioning.layout.batch)
            self.ahead.compile(generator.search, self.partitioning.param_shapes, inputs, key)

    def _hidden_words(self) -> Hide | None:
        """None where a format has nothing to show of a word but the word.

        In `aligned` a position is a word: its own embedding plus those of its ends and its shape.
        With the first one hidden, it looks like a word that training does not have.
        """
        chance, tokenizer = self.config.data.hide_words, self.task.format.tokenizer
        if chance == 0 or self.task.format.name != "aligned" or not tokenizer.has_features:
            return None
        return Hide(chance, tokenizer.unk_id, (tokenizer.pad_id, tokenizer.eos_id))

    def stage_0_params(self) -> Params:
        """What stage 1 starts from: the best of stage 0, here or in `nll.checkpoint`, or, without
        any stage 0, the initial parameters. Raises UserError as `read_start`."""
        # A folder that `nll.checkpoint` names comes first, whatever `nll.enabled` says.
        elsewhere = self.config.nll.checkpoint
        if not elsewhere and not self.config.nll.enabled:
            return initial_params(self.task, self.partitioning.params)
        begun = self.hosts.broadcast(self._begun() if self.hosts.main else None)
        shapes = self.partitioning.param_shapes
        with self._stage_0() as checkpoints:
            self._start, params = read_start(
                checkpoints, begun, shapes, self.hosts, self._console, own=not elsewhere
            )
        return params

    def _begun(self) -> dict[str, int | None]:
        """The systems of stage 1 that have checkpoints, and what each started from."""
        found = {}
        for system in self.config.systems:
            if saved_steps(self.workdir, system):
                meta = recorded_meta(self.workdir, system)
                found[system] = meta.origin if meta else None
        return found

    def _stage_0(self) -> Checkpoints:
        elsewhere, tie = self.config.nll.checkpoint, self.config.checkpoint.tie
        workdir = expanded(elsewhere, "config.nll.checkpoint") if elsewhere else self.workdir
        # By this run's `tie`: what is best there may be another one than that run itself took.
        return Checkpoints(workdir, "nll", tie=tie, read_only=True, hosts=self.hosts)

    def stage_0_meta(self) -> Meta:
        """What is known of the parameters that `stage_0_params` has returned: their step, and their
        reward@1 on dev, unless nobody has measured it, or by another measure: `nll.checkpoint` may
        be of other data, or have another reward."""
        step, elsewhere = self._start, self.config.nll.checkpoint
        if step is None:
            return Meta()
        if elsewhere:
            path = expanded(elsewhere, "config.nll.checkpoint") / configs.CONFIG_FILE
            differing = configs.differing_keys(configs.load_dumped(path), self.config)
            if any(key.startswith(("data.", "reward.", "generate.k")) for key in differing):
                return Meta(origin=step)
        with self._stage_0() as checkpoints:
            looks = checkpoints.evaluations()
        reward = next((one.metrics["reward@1"] for one in looks if one.step == step), None)
        return Meta(start=reward, origin=step)

    def name_sentence(self, index: int) -> str:
        """Where a sentence of training stands, as `file:line`; its number where it came from none.
        Those without labels are numbered behind the others."""
        sentences = (*self.corpus.train, *self.corpus.unlabeled)
        return sentences[index].source or f"sentence {index}"
