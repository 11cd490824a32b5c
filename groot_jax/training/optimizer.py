"""Learning-rate schedules and optimizers, from optax, as the config names them, and the moving
average of the parameters."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from groot_jax.contrast.update import Params, TrainState
from groot_jax.training.transforms import adamw, decayed, muon


def make_schedule(stage: ConfigDict, num_steps: int) -> optax.Schedule:
    """Linear warmup to `learning_rate`, then the named decay towards `final_scale` of it.

    With n updates of warmup the first one has an nth of the rate, the nth all of it. `num_steps`:
    updates of the stage, 1 or more.
    """
    # optax counts from 0, here up to `num_steps` - 1. Of 10 updates with warmup .2 and linear decay
    # to .1 the rates are, as shares of the peak: .5, 1, then 1, .8875, ... down to .2125. The decay
    # starts from the peak again, and .1 is what an update after the last would have.
    peak = stage.learning_rate
    # At most all updates but one: with warmup 1 the last of them is the decay's.
    warmup = min(int(stage.warmup * num_steps), num_steps - 1)
    rest = num_steps - warmup
    if stage.schedule == "constant":
        decay = optax.constant_schedule(peak)
    elif stage.schedule == "linear":
        decay = optax.linear_schedule(peak, peak * stage.final_scale, rest)
    else:
        decay = optax.cosine_decay_schedule(peak, rest, alpha=stage.final_scale)
    if warmup == 0:
        return decay
    # From peak / warmup and not from 0, where the first update would do nothing. `decay` is asked
    # with the count since the boundary.
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, decay], [warmup])


def learning_rates(stage: ConfigDict, num_steps: int) -> list[float]:
    """That of each of the `num_steps` updates, by one program for all of them."""
    rates = jax.jit(jax.vmap(make_schedule(stage, num_steps)))(np.arange(num_steps))
    return np.asarray(rates).tolist()


def make_optimizer(
    optimizer: ConfigDict, stage: ConfigDict, clip: float, num_steps: int
) -> optax.GradientTransformation:
    """The stage's: AdamW, Muon or Adafactor (Shazeer and Stern, arXiv 1804.04235; without momentum
    and without its scaling by the parameter), with the stage's schedule, after clipping by global
    norm (0: none).

    All take `learning_rate * weight_decay` of a parameter off it in each step (Loshchilov and
    Hutter, arXiv 1711.05101), but nothing off layer-norm scales and relative biases.
    `optimizer.ema` above 0: its state holds an average of the parameters, see `averaged`.
    """
    schedule = make_schedule(stage, num_steps)
    if stage.optimizer == "adafactor":
        # The parts of optax.adafactor: its own decay is added behind the learning rate, a hundredth
        # a step at .01 however small the rate is.
        decay = optax.add_decayed_weights(optimizer.weight_decay, decayed)
        core = optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            *([decay] if optimizer.weight_decay else []),
            optax.scale_by_learning_rate(schedule, flip_sign=False),
            optax.scale(-1.0),
        )
        whole = optax.chain(optax.clip_by_global_norm(clip), core) if clip else core
    else:
        make = {"adamw": adamw, "muon": muon}[stage.optimizer]
        b1, b2 = optimizer.b1, optimizer.b2
        whole = make(schedule, b1=b1, b2=b2, weight_decay=optimizer.weight_decay, clip=clip)
    return averaged(whole, optimizer.ema) if optimizer.ema else whole


class AveragedState(NamedTuple):
    """The state of `averaged`: `inner`, that of what it wraps; `average` of the parameters, in
    their shapes; `num_updates`, how many are in it."""

    inner: optax.OptState
    average: Params
    num_updates: jax.Array


def averaged(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """The optimizer, which keeps an exponential moving average of the parameters as well (Polyak
    and Juditsky 1992). The updates are its own: no parameter is changed by its average.

    After t updates the average is that of the parameters after each of them, the one after update
    i with the weight decay^(t - i), as the bias correction of Adam has it. So the decay has a
    warm-up: for decay .99 the newest parameters weigh 1, .5, .34 ... of the average, and .01 from
    some 500 updates on; what training began with never counts.
    """

    def init(params: Params) -> AveragedState:
        # Copied: an update takes the memory of its state, and can take none twice.
        copy = jax.tree.map(jnp.copy, params)
        return AveragedState(optimizer.init(params), copy, jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates, state: AveragedState, params: Params | None = None
    ) -> tuple[optax.Updates, AveragedState]:
        assert params is not None
        updates, inner = optimizer.update(updates, state.inner, params)
        count = state.num_updates + 1
        # (1 - d) / (1 - d^t): for d = .999 and few updates both are differences of almost equal
        # numbers, of which expm1 loses nothing.
        log = math.log(decay)
        share = math.expm1(log) / jnp.expm1(count * jnp.float32(log))
        average = jax.tree.map(
            lambda mean, new: mean + (share * (new - mean)).astype(mean.dtype),
            state.average,
            optax.apply_updates(params, updates),
        )
        return updates, AveragedState(inner, average, count)

    return optax.GradientTransformation(init, update)


def evaluated_params(state: TrainState) -> Params:
    """What a state is measured and used by: the average of its parameters where it keeps one. What
    goes on being trained, and generates in stage 1, is `state.params`."""
    averages = isinstance(state.opt_state, AveragedState)
    return state.opt_state.average if averages else state.params
