"""The programs of training, compiled for devices that need not be there.

The very functions that the jobs run, lowered with shapes instead of arrays: no parameter is ever
allocated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.contrast.projection import OutputColumns
from groot_jax.errors import UserError
from groot_jax.generate.beam_search import loop_trips
from groot_jax.generate.generator import Generator
from groot_jax.generate.grammar import make_grammar, plan_steps
from groot_jax.mesh.layout import batch_ways
from groot_jax.model.config import T5Config, preset, released, run_settings
from groot_jax.model.pretrained import load_config
from groot_jax.model.t5 import T5
from groot_jax.scaling import workload as workloads
from groot_jax.scaling.roofline import needed_flops
from groot_jax.scaling.workload import Workload
from groot_jax.task import make_model_config, num_sentinels, resolve_format
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.setup import Partitioning
from groot_jax.training.steps import jit_groot_step, jit_nll_step


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
        # Room for labels as pieces of their own.
        return make_model_config(model, vocab + features + 64), vocab
    changes = run_settings(model)
    if Path(model.init).is_dir():
        shape = load_config(model.init, **changes)
        return shape, _pieces_of(shape.vocab_size)
    known = released(model.init)
    if known is None:
        raise UserError(
            f"config.model.init={model.init} is neither a folder nor a released T5, T5 v1.1, "
            "Flan-T5 or mT5, and preflight does not ask the network: name a folder with its "
            "config.json, or take config.model.preset with an empty config.model.init"
        )
    size, variant, rows = known
    return preset(size, variant, rows, **changes), _pieces_of(rows)


def _pieces_of(rows: int) -> int:
    """T5 pads its tokenizer's 32100 pieces to 32128 rows, mT5 its 250100 to 250112."""
    return rows - rows % 100


def _device_bytes(shapes: Any) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    )


@dataclasses.dataclass(frozen=True)
class Programs:
    """Lowers each step of a config for the devices of a partitioning."""

    config: ConfigDict
    model_config: T5Config
    partitioning: Partitioning
    workload: Workload

    @property
    def stage(self) -> Any:
        """The settings of stage 1: those of the first system that contrasts."""
        for system in self.config.systems:
            settings = configs.variant(self.config, system)
            if any(settings.loss.values()):
                return settings
        return self.config.groot

    def rows(self, step: str) -> int:
        """Sentences in a batch of the step, over all devices."""
        return int(self.config.nll.batch_size if step == "nll" else self.stage.batch_size)

    def lower(self, step: str) -> Any:
        """`step` ("nll", "generate" or "update"), ready to be compiled."""
        return {"nll": self._nll, "generate": self._generate, "update": self._update}[step]()

    def trips(self, step: str) -> tuple[int, ...]:
        """Turns of the loops whose number the compiler does not know, at most: the search's."""
        if step != "generate":
            return ()
        length = self.workload.size[1]
        plan = plan_steps(
            self.workload.format, self._grammar(), length, self.config.generate.grammar
        )
        return loop_trips(plan.steps)

    def needed_flops(self, step: str) -> float:
        """FLOPs that the model asks for, over all devices; see `roofline.needed_flops`."""
        rows = self.rows(step)
        examples = [self.workload.examples[i % len(self.workload.examples)] for i in range(rows)]
        sources = np.array([len(e.source) for e in examples], float)
        targets = np.array([len(e.target) for e in examples], float)
        nodes, self_pairs = targets, targets * (targets + 1) / 2
        if step == "generate":
            k = self.config.generate.k
            nodes, self_pairs = k * nodes, k * self_pairs
        if step == "update":
            batch = self._pool_input(groups=1, rows=min(rows, len(self.workload.examples)))
            real_RxN = batch.forest.sentence_RxN >= 0
            share = rows / len(batch.source_BxS) / rows
            nodes = np.full(rows, real_RxN.sum() * share)
            self_pairs = np.full(rows, batch.forest.attend_RxNxN[real_RxN].sum() * share)
        return needed_flops(
            self.model_config,
            source_tokens=sources.sum(),
            source_pairs=(sources**2).sum(),
            nodes=nodes.sum(),
            self_pairs=self_pairs.sum(),
            cross_pairs=(nodes * sources).sum(),
            columns=len(self._grammar().columns_C),
            backward=step != "generate",
        )

    def state_bytes(self) -> tuple[int, int]:
        """Bytes on one device of the parameters, and of a training state with them."""
        stage = self.stage
        optimizer = make_optimizer(self.config.optimizer, stage, stage.clip, 1000)
        state = self.partitioning.state_shapes(optimizer)
        return _device_bytes(state.params), _device_bytes(state)

    def _nll(self) -> Any:
        stage = self.config.nll
        optimizer = make_optimizer(self.config.optimizer, stage, self.config.optimizer.clip, 1000)
        state = self.partitioning.state_shapes(optimizer)
        batch = self._placed(workloads.nll_input(self.workload, self.rows("nll")))
        step: Any = jit_nll_step(stage, optimizer, self.partitioning)
        return step.lower(state, batch, self._key(), self._columns())

    def _update(self) -> Any:
        stage = self.stage
        optimizer = make_optimizer(self.config.optimizer, stage, stage.clip, 1000)
        state = self.partitioning.state_shapes(optimizer)
        groups = batch_ways(self.partitioning.layout.batch) * stage.accumulate
        batch = self._pool_input(groups, self.rows("update"))
        step: Any = jit_groot_step(stage, optimizer, self.partitioning)
        return step.lower(state, self._placed(batch), self._key(), self._columns())

    def _pool_input(self, groups: int, rows: int) -> Any:
        return workloads.pool_input(
            self.workload,
            self.stage,
            rows=rows,
            groups=groups,
            buckets=self.config.loader.node_buckets,
            start_token=self.model_config.decoder_start_token_id,
        )

    def _generate(self) -> Any:
        settings = self.config.generate
        generator = Generator(
            T5(self.model_config),
            self.workload.format,
            self._grammar(),
            k=settings.k,
            use_grammar=settings.grammar,
            length_penalty=settings.length_penalty,
            layout=self.partitioning.layout,
        )
        inputs = workloads.search_input(self.workload, self.rows("generate"))
        params = self.partitioning.param_shapes
        return generator.search.lower(params, self._placed(inputs), None)

    def _grammar(self) -> Any:
        return make_grammar(
            self.workload.format, self.config.model.normalise, self.model_config.vocab_size
        )

    def _columns(self) -> OutputColumns:
        sizes = (len(self._grammar().columns_C), self.model_config.vocab_size)
        arrays: Any = (self._everywhere((size,), np.int32) for size in sizes)
        return OutputColumns(*arrays)

    def _key(self) -> jax.ShapeDtypeStruct:
        key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
        return self._everywhere(key.shape, key.dtype)

    def _everywhere(self, shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            tuple(shape), dtype, sharding=self.partitioning.layout.everywhere
        )

    def _placed(self, batch: Any) -> Any:
        """The shapes of a batch, its sentences over the devices."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=self.partitioning.layout.batch
            ),
            batch,
        )
