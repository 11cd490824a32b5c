"""The programs of training, compiled for devices that need not be there.

The very functions that the jobs run, lowered with shapes instead of arrays: no parameter is ever
allocated.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import Any, TypeVar

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.contrast.losses import LossSettings
from groot_jax.contrast.projection import OutputColumns
from groot_jax.contrast.update import NllBatch, PoolBatch, nll_batch
from groot_jax.data.ladder import Ladder
from groot_jax.errors import UserError
from groot_jax.generate.beam_search import loop_trips
from groot_jax.generate.grammar import plan_steps
from groot_jax.generate.inputs import search_input
from groot_jax.mesh.keys import new_key
from groot_jax.mesh.rows import padded_rows
from groot_jax.model.config import T5Config, released, run_settings
from groot_jax.model.pretrained import load_config
from groot_jax.runtime.files import expanded
from groot_jax.scaling.roofline import needed_flops
from groot_jax.scaling.workload import Workload
from groot_jax.task import Task, make_model_config, num_sentinels, resolve_format
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.setup import Partitioning
from groot_jax.training.steps import jit_groot_step, jit_nll_step, loss_settings, losses_in_use
from groot_jax.warm_start import labeler_of

Arrays = TypeVar("Arrays")

# Room in a trained tokenizer for pieces that stand for whole labels.
_LABELS = 64
# Updates of a stage: the learning rate's schedule holds their number, and no shape depends on it.
_UPDATES = 1000


def model_of(config: ConfigDict) -> tuple[T5Config, int]:
    """The model that `config` trains, and the size of its tokenizer's vocabulary, without network.

    A trained tokenizer is taken to have all of `text.vocab_size` and `text.max_features`. Raises
    UserError for a `model.init` that is neither a folder nor a released T5.
    """
    model = config.model
    if not model.init:
        text = config.text
        vocab = text.vocab_size + num_sentinels(config)
        features = text.max_features if resolve_format(config) == "aligned" else 0
        return make_model_config(model, vocab + features + _LABELS), vocab
    changes = run_settings(model)
    if (earlier := labeler_of(model)) is not None:
        shape = dataclasses.replace(earlier.model_config, **changes)
        return shape, earlier.format.tokenizer.base_size
    folder = expanded(model.init, "config.model.init")
    if folder.is_dir():
        shape = load_config(folder, **changes)
        # T5 pads its tokenizer's 32,100 pieces to 32,128 rows; ByT5 has an id for each of its 384.
        rows = shape.vocab_size
        return shape, rows if rows < 512 else rows - rows % 100
    known = released(model.init)
    if known is None:
        raise UserError(
            f"config.model.init={model.init} is neither a folder nor a released T5, T5 v1.1, "
            "Flan-T5, mT5 or ByT5, and preflight does not ask the network: name a folder with its "
            "config.json, or take config.model.preset with an empty config.model.init"
        )
    shape, pieces = known
    return dataclasses.replace(shape, **changes), pieces


def _device_bytes(shapes: object) -> int:
    """What a tree of shapes with shardings takes of one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    )


def _placed(tree: Arrays, sharding: NamedSharding) -> Arrays:
    """The shapes of a tree of arrays, laid out so: what stands for the arrays when lowered."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


@dataclasses.dataclass(frozen=True)
class Programs:
    """Lowers each step of a config for the devices of a partitioning.

    A step is "nll" (an update of stage 0), "generate" (the search) or "update" (the contrast).
    """

    config: ConfigDict
    model_config: T5Config
    partitioning: Partitioning
    workload: Workload

    @property
    def stage(self) -> ConfigDict:
        """The settings of stage 1: those of the first system that contrasts."""
        for system in self.config.systems:
            settings = configs.variant(self.config, system)
            if any(settings.loss.values()):
                return settings
        return self.config.groot

    @cached_property
    def _task(self) -> Task:
        # Lengths are those of the workload: no ladder of sizes has to be fitted.
        return Task(self.config, self.workload.format, Ladder((), ()), self.model_config, {})

    def rows(self, step: str) -> int:
        """Sentences in a batch of the step, over all devices."""
        return int(self.config.nll.batch_size if step == "nll" else self.stage.batch_size)

    def _padded_rows(self, step: str) -> int:
        """As training pads them: 10 sentences on 4 devices are 12 rows."""
        parts = 1 if step == "nll" else self.stage.accumulate
        return padded_rows(self.partitioning.layout, self.rows(step), parts)

    def lower(self, step: str) -> jax.stages.Lowered:
        """The step, ready to be compiled."""
        return self._lower_search() if step == "generate" else self._lower_update(step)

    def trips(self, step: str) -> tuple[int, ...]:
        """Turns of the loops whose number the compiler does not know, at most: the search's."""
        if step != "generate":
            return ()
        # Beams may all end earlier, so that a loop stops when they have.
        length = self.workload.size[1]
        plan = plan_steps(
            self.workload.format, self._task.grammar, length, self.config.generate.grammar
        )
        return loop_trips(plan.steps)

    def needed_flops(self, step: str) -> float:
        """FLOPs that the model asks for, over all devices; see `roofline.needed_flops`."""
        rows = self.rows(step)
        examples = self.workload.repeated(rows)
        sources = np.array([len(e.source) for e in examples], float)
        targets = np.array([len(e.target) for e in examples], float)
        # Node t of a target attends to t + 1 nodes, itself among them: 1 + 2 + ... + T.
        nodes, self_pairs = targets, targets * (targets + 1) / 2
        if step == "generate":
            # Each beam is a decoder of its own; they share the encoder's work on the sentence.
            k = self.config.generate.k
            nodes, self_pairs = k * nodes, k * self_pairs
        if step == "update":
            # Candidates share the nodes of their prefixes. Sentences repeat, and the mean of those
            # that differ stands for all.
            batch = self._pools(groups=1, rows=min(rows, len(self.workload.examples)))
            real_RxN = batch.forest.sentence_RxN >= 0
            share = 1 / len(batch.source_BxS)
            nodes = np.full(rows, real_RxN.sum() * share)
            # A node attends to itself and to one node at each depth above it.
            self_pairs = np.full(rows, (batch.forest.depth_RxN[real_RxN] + 1).sum() * share)
        columns = len(self._task.grammar.columns_C)
        backward = step != "generate"
        return needed_flops(self.model_config, sources, nodes, self_pairs, columns, backward)

    def state_bytes(self) -> tuple[int, int]:
        """Bytes on one device of the parameters, and of a training state with them."""
        optimizer = self._optimizer(self.stage, self.stage.clip)
        state = self.partitioning.state_shapes(optimizer)
        return _device_bytes(state.params), _device_bytes(state)

    def resident_bytes(self, step: str) -> int:
        """Bytes on one device of what lies beside a step's arguments: the moments of the optimizer
        while the search runs, and what stage 1 started from where it labels (`groot.teacher`)."""
        params, state = self.state_bytes()
        moments = state - params if step == "generate" else 0
        teaches = self.stage.unlabeled > 0 and self.stage.teacher == "start"
        return moments + (params if teaches and step != "nll" else 0)

    def _optimizer(self, stage: ConfigDict, clip: float) -> optax.GradientTransformation:
        return make_optimizer(self.config.optimizer, stage, clip, _UPDATES)

    def _lower_update(self, step: str) -> jax.stages.Lowered:
        batch: NllBatch | PoolBatch
        losses: tuple[LossSettings, ...] = ()
        if step == "nll":
            stage, clip, jit = self.config.nll, self.config.optimizer.clip, jit_nll_step
            batch = nll_batch(self.workload.batch(self._padded_rows(step)))
        else:
            stage, clip, jit = self.stage, self.stage.clip, jit_groot_step
            systems = [configs.variant(self.config, name) for name in self.config.systems]
            losses = (loss_settings(stage, losses_in_use([stage, *systems])),)
            # Bins of trees must not span two devices, nor two updates that are accumulated.
            groups = self.partitioning.layout.ways("batch") * stage.accumulate
            batch = self._pools(groups, self._padded_rows(step))
        layout = self.partitioning.layout
        key = jax.eval_shape(lambda: new_key(0))
        grammar = self._task.grammar
        columns = OutputColumns(grammar.columns_C, grammar.column_of_V)
        key, columns = _placed((key, columns), layout.everywhere)
        optimizer = self._optimizer(stage, clip)
        state = self.partitioning.state_shapes(optimizer)
        # Its declared type lacks `lower`.
        jitted: Any = jit(
            stage, optimizer, self.partitioning, self.config.optimizer.nonfinite == "skip"
        )
        return jitted.lower(
            state, _placed(batch, layout.batch), key, columns, *_placed(losses, layout.everywhere)
        )

    def _pools(self, groups: int, rows: int) -> PoolBatch:
        start_token = self.model_config.decoder_start_token_id
        return self.workload.pool_batch(rows, groups, self.stage.pool.size, start_token)

    def _lower_search(self) -> jax.stages.Lowered:
        generator = self._task.generator(self.partitioning.layout)
        inputs = search_input(self.workload.batch(self._padded_rows("generate")))
        return generator.search.lower(
            self.partitioning.param_shapes, _placed(inputs, self.partitioning.layout.batch), None
        )
