"""Learning-rate schedules and optimizers, from optax, as the config names them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from groot_jax.contrast.update import Params


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


def make_optimizer(
    optimizer: ConfigDict, stage: ConfigDict, clip: float, num_steps: int
) -> optax.GradientTransformation:
    """AdamW or Adafactor (Shazeer and Stern, arXiv 1804.04235; without momentum and without its
    scaling by the parameter) with the stage's schedule, after clipping by global norm (0 = none).

    Both take `learning_rate * weight_decay` of a parameter off it in each step (Loshchilov and
    Hutter, arXiv 1711.05101), but nothing off layer-norm scales and relative biases.
    """
    schedule = make_schedule(stage, num_steps)
    if optimizer.name == "adafactor":
        # The parts of optax.adafactor: its own decay is added behind the learning rate, a hundredth
        # a step at .01 however small the rate is.
        decay = optax.add_decayed_weights(optimizer.weight_decay, _decayed)
        core = optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            *([decay] if optimizer.weight_decay else []),
            optax.scale_by_learning_rate(schedule, flip_sign=False),
            optax.scale(-1.0),
        )
        return optax.chain(optax.clip_by_global_norm(clip), core) if clip else core
    return _adamw(optimizer, schedule, clip)


def _adamw(
    optimizer: ConfigDict, schedule: optax.Schedule, clip: float
) -> optax.GradientTransformation:
    """optax.adamw behind optax.clip_by_global_norm: their state, and but for rounding their
    updates, in a third of the instructions.

    Theirs divides each element by the norm and by both bias corrections, and works out the learning
    rate for each parameter anew. Here what all elements share is one number, so that an element
    costs a square root and a division.
    """
    b1, b2 = optimizer.b1, optimizer.b2
    core = optax.adamw(schedule, b1=b1, b2=b2, weight_decay=optimizer.weight_decay, mask=_decayed)
    theirs = optax.chain(optax.clip_by_global_norm(clip), core) if clip else core

    def update(
        grads: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.OptState]:
        assert params is not None
        adam, *rest, scheduled = state[1] if clip else state
        scale = 1.0
        if clip:
            # Clipped first: one huge gradient would otherwise stay in the second moment for some 50
            # updates (b2 = .98) and make all of them small.
            # By products: a sum of squares is compiled as two passes, with the squares in memory.
            norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
            scale = jnp.where(norm < clip, 1.0, clip / norm)
        count = optax.safe_increment(adam.count)
        # The first moment is 1 - b1^n of what it estimates after n updates, the second 1 - b2^n.
        rate = schedule(scheduled.count)
        step = rate / (1 - b1**count)
        correction = 1 / (1 - b2**count)
        mu = jax.tree.map(lambda g, m: b1 * m + ((1 - b1) * scale) * g, grads, adam.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * jnp.square(scale * g), grads, adam.nu)

        def change(m: jax.Array, v: jax.Array, p: jax.Array, decayed: bool) -> jax.Array:
            moved = -step * m / (jnp.sqrt(v * correction) + 1e-8)
            decay = optimizer.weight_decay if decayed else 0.0
            return moved - rate * decay * p if decay else moved

        updates = jax.tree.map(change, mu, nu, params, _decayed(params))
        new = (
            adam._replace(count=count, mu=mu, nu=nu),
            *rest,
            scheduled._replace(count=optax.safe_increment(scheduled.count)),
        )
        return updates, (state[0], new) if clip else new

    return optax.GradientTransformation(theirs.init, update)


def _decayed(params: Params) -> Params:
    """True for each parameter that decays, in the parameters' tree."""

    def decay(path: tuple, _: object) -> bool:
        names = "/".join(str(getattr(part, "key", part)) for part in path)
        # decoder/block/0/layer/0/layer_norm/weight: 1, and not 0, is where a scale does nothing.
        return "layer_norm" not in names and "relative_attention_bias" not in names

    return jax.tree_util.tree_map_with_path(decay, params)
