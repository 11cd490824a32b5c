"""Learning-rate schedules and optimizers, from optax, as the config names them."""

from __future__ import annotations

import jax
import optax
from ml_collections import ConfigDict


def make_schedule(stage: ConfigDict, num_steps: int) -> optax.Schedule:
    """Linear warmup to `learning_rate`, then the named decay to `final_scale` of it at the end.

    With n updates of warmup the first one has an nth of the rate, the nth all of it.
    """
    peak = stage.learning_rate
    warmup = min(int(stage.warmup * num_steps), max(num_steps - 1, 0))
    rest = max(num_steps - warmup, 1)
    if stage.schedule == "constant":
        decay = optax.constant_schedule(peak)
    elif stage.schedule == "linear":
        decay = optax.linear_schedule(peak, peak * stage.final_scale, rest)
    else:
        decay = optax.cosine_decay_schedule(peak, rest, alpha=stage.final_scale)
    if warmup == 0:
        return decay
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
    else:
        core = optax.adamw(
            schedule,
            b1=optimizer.b1,
            b2=optimizer.b2,
            weight_decay=optimizer.weight_decay,
            mask=_decayed,
        )
    return optax.chain(optax.clip_by_global_norm(clip), core) if clip else core


def _decayed(params: dict) -> dict:
    def decay(path: tuple, _: object) -> bool:
        names = "/".join(str(getattr(part, "key", part)) for part in path)
        return "layer_norm" not in names and "relative_attention_bias" not in names

    return jax.tree_util.tree_map_with_path(decay, params)
