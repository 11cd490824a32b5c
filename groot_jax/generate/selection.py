"""Choosing continuations: the best of many, exactly, and the list of those that have ended."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from groot_jax.generate.walk import take
from groot_jax.mesh.layout import by_sentence

NEG_INF = -jnp.inf
# Columns of a block: 32,128 of them are 251 blocks.
_BLOCK = 128


class Finished(NamedTuple):
    """Ended candidates, best first by `rank`."""

    rank_BxK: jax.Array  # ranked score, -inf = none
    score_BxK: jax.Array  # their s(y)
    row_BxK: jax.Array  # of the trail: that of their last chunk
    slot_BxK: jax.Array  # beam that fed it
    ended_BxK: jax.Array  # whether EOS followed


def best_continuations(
    score_BxK: jax.Array, logit_BxKxC: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """The `count` highest score + logit of each row with their places k * C + c, best first,
    float32 and int32 [B, J = count].

    Exact, ties by the lower place, and in two levels where rows are long: the best lie in the
    `count` blocks with the largest maxima, since any block beyond those is beaten by one element of
    each. The chosen blocks are kept in order, so that ties stay with the lower place. Rows that are
    shorter than `count` are filled up with -inf.
    """
    B, K, C = logit_BxKxC.shape
    # Two levels sort a number a block and then `count` blocks, one sorts K*C. For 10 beams,
    # count 20, over T5's 32,128 columns: 2,510 and 2,560 numbers instead of 321,280.
    if count * 8 * _BLOCK > K * C:
        total_BxX = (score_BxK[..., None] + logit_BxKxC).reshape(B, K * C)  # X = K*C
        missing = max(count - K * C, 0)
        return top_k(jnp.pad(total_BxX, ((0, 0), (0, missing)), constant_values=NEG_INF), count)
    # [B, K, C] -> [B, K, Y blocks, Z = 128 columns]
    padding = ((0, 0), (0, 0), (0, -C % _BLOCK))
    blocks_BxKxYxZ = jnp.pad(logit_BxKxC, padding, constant_values=NEG_INF).reshape(
        B, K, -1, _BLOCK
    )
    Y = blocks_BxKxYxZ.shape[2]
    highest_BxKxY = score_BxK[..., None] + blocks_BxKxYxZ.max(-1)
    _, block_BxJ = top_k(highest_BxKxY.reshape(B, K * Y), count)
    block_BxJ = jnp.sort(block_BxJ, axis=1)
    # [B, K*Y, Z] -> [B, J, Z], each with its beam's score: block k * Y + y is of beam k.
    few_BxJxZ = take(blocks_BxKxYxZ.reshape(B, K * Y, _BLOCK), block_BxJ)
    few_BxJxZ += take(score_BxK, block_BxJ // Y)[..., None]
    best_BxJ, at_BxJ = top_k(few_BxJxZ.reshape(B, -1), count)
    # Back from a place among the few to the block and to the column in it.
    block_BxJ = take(block_BxJ, at_BxJ // _BLOCK)
    column_BxJ = block_BxJ % Y * _BLOCK + at_BxJ % _BLOCK
    # Padding is -inf, and chosen only where too few continuations are legal: any column will do.
    return best_BxJ, block_BxJ // Y * C + jnp.minimum(column_BxJ, C - 1)


def top_k(x_BxX: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k`: values and places, [B, k] each, best first, ties by the lower place."""
    best = by_sentence(lambda rows_BxX: tuple(jax.lax.top_k(rows_BxX, k)), x_BxX)
    # XLA's CPU backend sorts whole rows, 60 times slower, where it sees slices of the k results.
    return jax.lax.optimization_barrier(best)


def merge(old: Finished, new: Finished) -> Finished:
    """The K best of both, the old first among equals."""
    # [B, K] and [B, K] -> [B, 2K] in every field.
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), old, new)
    _, pick_BxK = top_k(both.rank_BxK, old.rank_BxK.shape[1])
    return jax.tree.map(lambda x: take(x, pick_BxK), both)
