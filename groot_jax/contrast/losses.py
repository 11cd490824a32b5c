"""Contrastive losses over one masked [B, M] score matrix, and the token losses of stage 0.

Pure functions of scores and rewards; may not know where the candidates came from. Each returns one
loss per sentence, [B]; the caller sums and divides, so that masks, accumulation and hosts give one
and the same mean. Pairs of equal reward are skipped, the order of the candidates does not matter,
and a masked slot has no influence and exactly zero gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

# Of a field: numpy on the host, jax.Array once placed or traced.
Array: TypeAlias = Any
# Rewards closer than this count as equal: they are sums of a few float32 terms.
TIE = 1e-6


class LossSettings(NamedTuple):
    """Knobs of the losses; `config.groot` explains them."""

    weights: tuple[tuple[str, float], ...]
    tau: float = 0.3
    rank_margin: float = 0.05
    reinforce_normalise: bool = False


class Pool(NamedTuple):
    """What a contrastive loss sees of a batch."""

    scores_BxM: Array  # s(y), differentiable
    rewards_BxM: Array
    mask_BxM: Array  # False: padding
    lengths_BxM: Array  # target tokens, for length-normalised scores


def _clean(pool: Pool) -> Pool:
    """Masked slots hold zeros, so that no loss meets an inf or NaN there and none flows back."""
    return pool._replace(
        scores_BxM=jnp.where(pool.mask_BxM, pool.scores_BxM, 0.0),
        rewards_BxM=jnp.where(pool.mask_BxM, pool.rewards_BxM, 0.0),
        lengths_BxM=jnp.where(pool.mask_BxM, pool.lengths_BxM, 1),
    )


def _pairs(pool: Pool) -> jax.Array:
    """1 where candidate i has the higher reward of the pair (i, j), [B, M, M]."""
    above = pool.rewards_BxM[:, :, None] > pool.rewards_BxM[:, None, :] + TIE
    real = pool.mask_BxM[:, :, None] & pool.mask_BxM[:, None, :]
    return (above & real).astype(jnp.float32)


def _mean_over_pairs(loss_BxMxM: jax.Array, pairs_BxMxM: jax.Array) -> jax.Array:
    count_B = pairs_BxMxM.sum((1, 2))
    return (loss_BxMxM * pairs_BxMxM).sum((1, 2)) / jnp.maximum(count_B, 1.0)


def _violation(pool: Pool, tau: float) -> jax.Array:
    """(R_i - R_j) / tau - (s_i - s_j), [B, M, M]."""
    s, r = pool.scores_BxM, pool.rewards_BxM
    return (r[:, :, None] - r[:, None, :]) / tau - (s[:, :, None] - s[:, None, :])


def margin(pool: Pool, settings: LossSettings) -> jax.Array:
    """Mean over pairs R_i > R_j of max(0, (R_i - R_j)/tau - (s_i - s_j))."""
    pool = _clean(pool)
    return _mean_over_pairs(jax.nn.relu(_violation(pool, settings.tau)), _pairs(pool))


def logistic(pool: Pool, settings: LossSettings) -> jax.Array:
    """Mean over pairs of softplus((R_i - R_j)/tau - (s_i - s_j))."""
    pool = _clean(pool)
    return _mean_over_pairs(jax.nn.softplus(_violation(pool, settings.tau)), _pairs(pool))


def squared(pool: Pool, settings: LossSettings) -> jax.Array:
    """Mean over pairs of ((R_i - R_j)/tau - (s_i - s_j))^2."""
    pool = _clean(pool)
    return _mean_over_pairs(jnp.square(_violation(pool, settings.tau)), _pairs(pool))


def _log_softmax(x_BxM: jax.Array, mask_BxM: jax.Array) -> jax.Array:
    """Log-softmax over the unmasked slots; 0 in the masked ones, and 0 for empty rows."""
    large = jnp.where(mask_BxM, x_BxM, -1e30)
    return jnp.where(mask_BxM, large - jax.nn.logsumexp(large, -1, keepdims=True), 0.0)


def _has_contrast(pool: Pool) -> jax.Array:
    """Whether a sentence's pool holds two unlike rewards, [B]."""
    return (_pairs(pool).sum((1, 2)) > 0).astype(jnp.float32)


def listwise(pool: Pool, settings: LossSettings) -> jax.Array:
    """KL( softmax(R/tau) || softmax(s) ) over the pool."""
    pool = _clean(pool)
    logp_BxM = _log_softmax(pool.scores_BxM, pool.mask_BxM)
    logq_BxM = _log_softmax(pool.rewards_BxM / settings.tau, pool.mask_BxM)
    kl_BxM = jnp.where(pool.mask_BxM, jnp.exp(logq_BxM) * (logq_BxM - logp_BxM), 0.0)
    return kl_BxM.sum(-1) * _has_contrast(pool)


def rank(pool: Pool, settings: LossSettings) -> jax.Array:
    """Mean over pairs of max(0, lambda * (j - i) - (s_i - s_j)) over ranks i < j by reward, with
    s divided by the number of tokens (BRIO, Liu et al., arXiv 2203.16804).

    Equal rewards share a rank: the number of candidates with a higher reward.
    """
    pool = _clean(pool)
    pairs_BxMxM = _pairs(pool)
    rank_BxM = pairs_BxMxM.sum(1)  # How many stand above each.
    s_BxM = pool.scores_BxM / pool.lengths_BxM
    gap_BxMxM = rank_BxM[:, None, :] - rank_BxM[:, :, None]
    wanted_BxMxM = settings.rank_margin * gap_BxMxM
    return _mean_over_pairs(
        jax.nn.relu(wanted_BxMxM - (s_BxM[:, :, None] - s_BxM[:, None, :])), pairs_BxMxM
    )


def risk(pool: Pool, settings: LossSettings) -> jax.Array:
    """Expected loss sum of softmax(s) * (1 - R) over the pool (MRT, Shen et al., 2016)."""
    pool = _clean(pool)
    p_BxM = jnp.where(pool.mask_BxM, jnp.exp(_log_softmax(pool.scores_BxM, pool.mask_BxM)), 0.0)
    return (p_BxM * (1.0 - pool.rewards_BxM)).sum(-1) * _has_contrast(pool)


def reinforce(pool: Pool, settings: LossSettings) -> jax.Array:
    """Mean over the pool of -(R - mean R) * s: policy gradient with the pool's mean as baseline.

    With `reinforce_normalise` the advantage is divided by the pool's standard deviation (GRPO, Shao
    et al., arXiv 2402.03300).
    """
    pool = _clean(pool)
    real_BxM = pool.mask_BxM.astype(jnp.float32)
    count_B = jnp.maximum(real_BxM.sum(-1), 1.0)
    mean_B = (pool.rewards_BxM * real_BxM).sum(-1) / count_B
    advantage_BxM = (pool.rewards_BxM - mean_B[:, None]) * real_BxM
    if settings.reinforce_normalise:
        deviation_B = jnp.sqrt(jnp.square(advantage_BxM).sum(-1) / count_B)
        advantage_BxM = advantage_BxM / (deviation_B[:, None] + 1e-6)
    return -(advantage_BxM * pool.scores_BxM).sum(-1) / count_B * _has_contrast(pool)


LOSSES: Mapping[str, Callable[[Pool, LossSettings], jax.Array]] = {
    "margin": margin,
    "listwise": listwise,
    "logistic": logistic,
    "squared": squared,
    "rank": rank,
    "risk": risk,
    "reinforce": reinforce,
}


def contrast(pool: Pool, settings: LossSettings) -> jax.Array:
    """The weighted sum of the losses that `settings.weights` names, one value a sentence, [B]."""
    total_B = jnp.zeros(pool.scores_BxM.shape[0], jnp.float32)
    for name, weight in settings.weights:
        if weight:
            total_B = total_B + weight * LOSSES[name](pool, settings)
    return total_B
