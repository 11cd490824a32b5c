"""The jitted updates of both stages, as a config describes them.

Built here alone, so that what preflight compiles and benchmarks time is what training runs.
"""

from __future__ import annotations

import dataclasses
from functools import partial, wraps
from typing import Any, Protocol

import jax
import optax
from ml_collections import ConfigDict

from groot_jax.contrast.losses import LossSettings
from groot_jax.contrast.update import TrainState, groot_step, nll_step
from groot_jax.mesh.layout import Layout, use_layout
from groot_jax.model.config import T5Config
from groot_jax.model.t5 import T5


class Step(Protocol):
    """A jitted update."""

    def __call__(self, state: TrainState, batch: Any, key: jax.Array, columns: Any) -> Any: ...

    def clear_cache(self) -> None:
        """Lets go of its compiled programs, which stay in memory otherwise."""
        ...


def jit_nll_step(
    stage: ConfigDict,
    model_config: T5Config,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    layout: Layout | None = None,
) -> Step:
    """(state, NllBatch, key, columns) -> (state, metrics); `stage` is `config.nll`.

    `layout` lays out the activations; without it the compiler alone decides."""
    step = partial(
        nll_step,
        model=T5(model_config),
        optimizer=optimizer,
        average=stage.average,
        label_smoothing=stage.label_smoothing,
    )
    return _jit(step, shardings, layout)


def jit_groot_step(
    stage: ConfigDict,
    model_config: T5Config,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    layout: Layout | None = None,
) -> Step:
    """(state, PoolBatch, key, columns) -> (state, metrics); `stage` is `config.groot`, or a
    variant of it."""
    step = partial(
        groot_step,
        model=T5(dataclasses.replace(model_config, dropout_rate=stage.dropout)),
        optimizer=optimizer,
        settings=LossSettings(
            loss_weights(stage), stage.tau, stage.rank_margin, stage.reinforce_normalise
        ),
        nll_weight=stage.nll_weight,
        average=stage.nll_average,
        accumulate=stage.accumulate,
    )
    return _jit(step, shardings, layout)


def _jit(step: partial[Any], shardings: TrainState, layout: Layout | None) -> Step:
    @wraps(step.func)
    def laid_out(*args: Any) -> Any:
        with use_layout(layout):
            return step(*args)

    # Its declared type lacks `clear_cache`.
    jitted: Any = jax.jit(laid_out, donate_argnums=0, out_shardings=(shardings, None))
    return jitted


def loss_weights(stage: ConfigDict) -> tuple[tuple[str, float], ...]:
    """The contrast losses and their weights, in the order of their names."""
    return tuple((name, float(weight)) for name, weight in stage.loss.items())
