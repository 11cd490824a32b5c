"""How a model from scratch starts, where it is not to start as T5 did.

T5's initialisers are made for a hundred billion tokens. A labeler has a hundred thousand, and with
them T5's start is the larger part of what it has to undo: see `Start`. Pure functions.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey

from groot_jax.model.config import T5Config
from groot_jax.model.layers import Params, relative_position_bucket


class Start(NamedTuple):
    """What T5's initial parameters are changed by.

    embedding: factor of the embedding. With T5's deviation of 1 and a learning rate of 1e-3, a word
      that is seen ten times stays the noise that it began as; a tenth of it makes words ten times
      as quick.
    residual: factor of the last kernels (`o`, `wo`) of each block's branches, which would drown an
      embedding as small.
    local: bias with which the first heads of the encoder attend to one neighbour each, the word
      before, the one after, the second before, ...: `_OFFSETS`, seven at most (at 8 exp(8) = 3,000
      times as much as to each of the others). A labeler has to know its neighbours, and the
      position of each has to be learned otherwise.
    """

    embedding: float
    residual: float
    local: float


# Of the first heads, in order; further heads look everywhere.
_OFFSETS = (-1, 1, -2, 2, 0, -3, 3)


def started(config: T5Config, params: Params, start: Start) -> Params:
    """T5's initial `params` as `start` would have them; a tree of the same shapes."""
    # A table's row is a bucket: with 32 of them -1, 1, -2 lie in rows 1, 17, 2 of the encoder's,
    # and head h gets `local` in row bucket_H[h]. Offsets below 8 have a row each, so that `local`
    # lifts one neighbour and no other.
    heads = min(config.num_heads, len(_OFFSETS))
    bucket_H = relative_position_bucket(
        jnp.array(_OFFSETS[:heads]),
        True,
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
    )

    def change(path: tuple[DictKey, ...], x: jax.Array) -> jax.Array:
        # ("encoder", "block", "0", ..., "o", "kernel") -> "o", "kernel".
        *_, layer, leaf = (part.key for part in path)
        if layer == "shared":
            return x * start.embedding
        if layer in ("o", "wo") and leaf == "kernel":
            return x * start.residual
        if layer == "relative_attention_bias" and path[0].key == "encoder":
            return x.at[bucket_H, jnp.arange(heads)].add(start.local)
        return x

    return jax.tree.map_with_path(change, params)
