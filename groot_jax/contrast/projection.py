"""Log-probabilities of tokens given hidden states.

Over a format's legal columns the logits of all positions are small. Over the whole vocabulary they
would be the largest array of an update by far, so there only the normalisers are computed over it,
some positions at a time, and again in the backward pass; a token's own logit is one dot product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from groot_jax.mesh.arrays import AnyArray
from groot_jax.mesh.layout import ways_of
from groot_jax.model.layers import Params
from groot_jax.model.t5 import T5, rows_at


class OutputColumns(NamedTuple):
    """The vocabulary columns that the softmax runs over, and the way back from ids to them."""

    columns_C: AnyArray  # int32 vocabulary ids, ascending
    column_of_V: AnyArray  # int32; -1: no output column. Columns 3 5: -1 -1 -1 0 -1 1 ...


# Logits that a device holds at a time, 64 MiB of float32.
_LOGITS = 1 << 24


def token_log_probs(
    model: T5,
    params: Params,
    hidden_BxNxD: jax.Array,
    label_BxE: AnyArray,
    columns: OutputColumns,
    node_BxE: AnyArray | None = None,
) -> tuple[jax.Array, jax.Array]:
    """log p of each label at its node, and the mean log p over all columns there, both float32
    [B, E].

    Without `node_BxE` label e belongs to node e. A label that is no output column has an arbitrary
    value and must not be counted: only padding is.
    """
    variables = {"params": params}
    if len(columns.columns_C) == model.config.vocab_size:
        return _whole_vocabulary(model, variables, hidden_BxNxD, label_BxE, node_BxE)
    logits_BxNxC = model.apply(variables, hidden_BxNxD, columns.columns_C, method=model.logits)
    norm_BxN = jax.nn.logsumexp(logits_BxNxC, axis=-1)
    # log p of a column is its logit less the normaliser; so is the mean of all.
    mean_BxN = logits_BxNxC.mean(-1) - norm_BxN
    column_BxE = jnp.maximum(columns.column_of_V[label_BxE], 0)
    if node_BxE is None:
        picked_BxE = jnp.take_along_axis(logits_BxNxC, column_BxE[..., None], axis=-1)[..., 0]
        return picked_BxE - norm_BxN, mean_BxN
    # One gather out of [B, N*C]: by nodes first, it would copy C logits for every edge.
    B, _, C = logits_BxNxC.shape
    place_BxE = node_BxE * C + column_BxE
    picked_BxE = jnp.take_along_axis(logits_BxNxC.reshape(B, -1), place_BxE, axis=1)
    return picked_BxE - _at(norm_BxN, node_BxE), _at(mean_BxN, node_BxE)


def _whole_vocabulary(
    model: T5,
    variables: dict[str, Params],
    hidden_BxNxD: jax.Array,
    label_BxE: AnyArray,
    node_BxE: AnyArray | None,
) -> tuple[jax.Array, jax.Array]:
    """As `token_log_probs`, without the logits of all positions at once."""
    norm_BxN = _some_positions_at_a_time(
        lambda logits_BxnxV: jax.nn.logsumexp(logits_BxnxV, axis=-1), model, variables, hidden_BxNxD
    )
    # The mean logit is one product with the mean of the weights, and needs no logits either.
    mean_BxN = model.apply(variables, hidden_BxNxD, method=model.mean_logit) - norm_BxN
    hidden_BxExD = hidden_BxNxD
    if node_BxE is not None:
        hidden_BxExD = rows_at(hidden_BxNxD, node_BxE)
        norm_BxN, mean_BxN = _at(norm_BxN, node_BxE), _at(mean_BxN, node_BxE)
    picked_BxE = model.apply(variables, hidden_BxExD, label_BxE, method=model.logit_of)
    return picked_BxE - norm_BxN, mean_BxN


def divergences(
    model: T5, params: Params, hidden_BxNxD: jax.Array, columns: OutputColumns
) -> jax.Array:
    """(KL(p, q) + KL(q, p)) / 2 of each pair of rows 2b and 2b + 1 at each position, float32
    [B / 2, N]; p and q are the distributions over the output columns there."""

    def apart(logits_BxnxC: jax.Array) -> jax.Array:
        logp_BxnxC = jax.nn.log_softmax(logits_BxnxC, axis=-1)
        logp, logq = logp_BxnxC.reshape(-1, 2, *logp_BxnxC.shape[1:]).swapaxes(0, 1)
        # sum of p (log p - log q) + q (log q - log p) = sum of (p - q) (log p - log q)
        return ((jnp.exp(logp) - jnp.exp(logq)) * (logp - logq)).sum(-1) / 2

    variables = {"params": params}
    if len(columns.columns_C) == model.config.vocab_size:
        return _some_positions_at_a_time(apart, model, variables, hidden_BxNxD)
    return apart(model.apply(variables, hidden_BxNxD, columns.columns_C, method=model.logits))


def _some_positions_at_a_time(
    read: Callable[[jax.Array], jax.Array],
    model: T5,
    variables: dict[str, Params],
    hidden_BxNxD: jax.Array,
) -> jax.Array:
    """`read` of the logits over the whole vocabulary, [B, N, V], which gives [.., N] for them, by
    parts of N small enough to be held."""
    B, N, D = hidden_BxNxD.shape
    # What a device holds of the logits of one position of all rows: 32 rows of T5's 32,128 columns
    # are a million, and 16 positions fit at a time.
    rows, columns_V = -(-B // ways_of("batch")), -(-model.config.vocab_size // ways_of("vocab"))
    turns = -(-N // max(1, _LOGITS // (rows * columns_V)))
    a_turn = -(-N // turns)  # As even as can be: 29 positions in two turns are 15 and 14.

    # Under checkpoint only hidden states are kept for the backward pass, not the logits.
    @jax.checkpoint
    def part(hidden_BxnxD: jax.Array) -> jax.Array:
        return read(model.apply(variables, hidden_BxnxD, method=model.logits))

    if turns == 1:
        return part(hidden_BxNxD)
    # [B, N, D] -> [turns, B, n = a_turn, D], whose last turn is padded, and back to [B, N].
    padded = jnp.pad(hidden_BxNxD, ((0, 0), (0, turns * a_turn - N), (0, 0)))
    parts = padded.reshape(B, turns, a_turn, D).swapaxes(0, 1)
    found = jax.lax.map(part, parts).swapaxes(0, 1)
    return found.reshape(len(found), -1)[:, :N]


def _at(x_BxN: jax.Array, node_BxE: AnyArray) -> jax.Array:
    """x[b, node[b, e]], [B, E]."""
    return jnp.take_along_axis(x_BxN, node_BxE, axis=1)
