"""Learning-rate schedules and optimizers, from optax, as the config names them."""

from __future__ import annotations

import jax
import optax
from ml_collections import ConfigDict


def make_schedule(stage: ConfigDict, num_steps: int) -> optax.Schedule:
    """Linear warmup to `learning_rate`, then the named decay to `final_scale` of it at the end."""
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
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def make_optimizer(
    optimizer: ConfigDict, stage: ConfigDict, clip: float, num_steps: int
) -> optax.GradientTransformation:
    """AdamW or Adafactor with the stage's schedule, after clipping by global norm (0 = none).

    Layer-norm scales and relative biases are not decayed.
    """
    schedule = make_schedule(stage, num_steps)
    if optimizer.name == "adafactor":
        core = optax.adafactor(
            schedule,
            multiply_by_parameter_scale=False,
            weight_decay_rate=optimizer.weight_decay or None,
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
