"""The jitted updates of both stages, as a config describes them.

Built here alone, so that what preflight compiles and benchmarks time is what training runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from functools import partial, wraps
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from groot_jax.contrast.losses import LossSettings
from groot_jax.contrast.projection import OutputColumns
from groot_jax.contrast.update import Metrics, NllBatch, PoolBatch, TrainState, groot_step, nll_step
from groot_jax.mesh.layout import use_layout
from groot_jax.model.t5 import T5
from groot_jax.training.setup import Partitioning

# Of a TPU's compiler: sums of gradients run behind the rest of the backward pass. By itself it adds
# all kernels' gradients up in one exchange at the end, which nothing is left to hide. It hides sums
# of single arrays alone; those below 1 MiB, norms say, are still put together.
_HIDDEN_SUMS: dict[str, bool | str] = {
    "xla_enable_async_all_reduce": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
    "xla_jf_crs_combiner_threshold_in_bytes": str(1 << 20),
}


class Step(Protocol):
    """A jitted update: (state, batch, key, columns) -> (the next state, metrics); that of stage 1
    takes `loss_settings` behind them.

    The state that it is given is gone afterwards: its memory becomes the next one's.
    """

    def __call__(
        self,
        state: TrainState,
        batch: NllBatch | PoolBatch,
        key: jax.Array,
        columns: OutputColumns,
        *losses: LossSettings,
    ) -> tuple[TrainState, Metrics]: ...

    def lower(self, *args: Any) -> Any:
        """What is compiled for arguments like these: arrays, or shapes with shardings."""
        ...

    def clear_cache(self) -> None:
        """Lets go of its compiled programs, which stay in memory otherwise."""
        ...


def jit_nll_step(
    stage: ConfigDict,
    optimizer: optax.GradientTransformation,
    partitioning: Partitioning,
    skip_nonfinite: bool = False,
) -> Step:
    """The update of stage 0, of an NllBatch; `stage` is `config.nll`, or `config.pretrain`.
    `skip_nonfinite`: see `_unless_nonfinite`."""
    step = partial(
        nll_step,
        model=T5(partitioning.model_config),
        optimizer=optimizer,
        average=stage.average,
        label_smoothing=stage.label_smoothing,
        rdrop=stage.rdrop,
    )
    return _jit(step, optimizer, partitioning, skip_nonfinite)


def losses_in_use(stages: Iterable[ConfigDict]) -> frozenset[str]:
    """The losses that some of these systems weigh above 0. A program has those alone: all nine
    take two seconds more to compile, of some seven for a small model."""
    return frozenset(name for stage in stages for name, weight in stage.loss.items() if weight > 0)


def loss_settings(stage: ConfigDict, names: Collection[str]) -> LossSettings:
    """The losses of `config.groot`, or of a variant of it, as host scalars to be placed; of their
    weights those of `names`, which systems that share a program have in common."""
    return LossSettings(
        {name: np.asarray(stage.loss[name], np.float32) for name in names},
        np.asarray(stage.tau, np.float32),
        np.asarray(stage.rank_margin, np.float32),
        np.asarray(stage.reinforce_normalise),
        np.asarray(stage.nll_weight, np.float32),
    )


def jit_groot_step(
    stage: ConfigDict,
    optimizer: optax.GradientTransformation,
    partitioning: Partitioning,
    skip_nonfinite: bool = False,
) -> Step:
    """The update of stage 1, of a PoolBatch; `stage` is `config.groot`, or a variant of it. Of what
    `loss_settings` holds it reads nothing: these are arguments."""
    # Stage 1 has a dropout of its own, `groot.dropout`; the model's is that of stage 0.
    step = partial(
        groot_step,
        model=T5(dataclasses.replace(partitioning.model_config, dropout_rate=stage.dropout)),
        optimizer=optimizer,
        average=stage.nll_average,
        accumulate=stage.accumulate,
    )
    return _jit(step, optimizer, partitioning, skip_nonfinite)


def _jit(
    step: partial[tuple[TrainState, Metrics]],
    optimizer: optax.GradientTransformation,
    partitioning: Partitioning,
    skip_nonfinite: bool,
) -> Step:
    @wraps(step.func)  # The program, and with it its place in the compilation cache, has its name.
    def laid_out(state: TrainState, *args: object) -> tuple[TrainState, Metrics]:
        with use_layout(partitioning.layout):
            found, metrics = step(state, *args)
        return (_unless_nonfinite(state, found, metrics) if skip_nonfinite else found), metrics

    # The next state lies as this one: otherwise the compiler would choose, and the second update
    # would compile anew. Metrics are scalars, which lie anywhere.
    shardings = (partitioning.state_shardings(optimizer), None)
    options = _HIDDEN_SUMS if _adds_over_links(partitioning.layout.mesh) else None
    found = jax.jit(laid_out, donate_argnums=0, out_shardings=shardings, compiler_options=options)
    return cast(Step, found)  # Its declared type lacks `clear_cache`.


def _adds_over_links(mesh: Mesh | AbstractMesh) -> bool:
    """Whether TPUs that hold all parameters exchange their gradients' sums, and nothing else."""
    if not isinstance(mesh, Mesh) or mesh.size == 1 or mesh.shape["data"] < mesh.size:
        return False
    return bool(mesh.devices.flat[0].platform == "tpu")


def _unless_nonfinite(before: TrainState, after: TrainState, metrics: Metrics) -> TrainState:
    """The state after an update; where its loss or gradient is not finite, the one before, of which
    the step alone goes on: the next update is of the next batch."""
    finite = jnp.isfinite(metrics["loss"][0]) & jnp.isfinite(metrics["grad_norm"][0])
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
    return dataclasses.replace(kept, step=after.step)
