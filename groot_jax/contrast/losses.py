"""Contrastive losses over one masked [B, M] score matrix.

Pure functions of scores and rewards; may not know where the candidates came from. Each returns one
loss per sentence, float32 [B]; the caller sums and divides, so that masks, accumulation and hosts
give one and the same mean. Pairs of equal reward are skipped, the order of the candidates does not
matter, and a masked slot has no influence and exactly zero gradient.

s_i is the log-probability of candidate i in nats, R_i its reward in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from groot_jax.mesh.arrays import AnyArray

# Rewards closer than this count as equal: they are sums of a few float32 terms.
TIE = 1e-6


Scalar: TypeAlias = float | AnyArray


class LossSettings(NamedTuple):
    """Knobs of the losses; `config.groot` explains them.

    They are arguments of an update, not parts of its program: systems that differ in nothing else,
    such as `risk` and `groot`, share what is compiled. The names in `weights` are part of it.
    """

    weights: Mapping[str, Scalar]  # of each loss by its name; 0: left out
    tau: Scalar = 0.3  # a difference in reward of tau asks for a nat
    rank_margin: Scalar = 0.05
    reinforce_normalise: bool | AnyArray = False
    nll_weight: Scalar = 0.0  # of the mean of -s(gold), beside the contrast


class ScoredPools(NamedTuple):
    """What a contrastive loss sees of a batch: a row a sentence, a slot a candidate of its pool."""

    scores_BxM: AnyArray  # s(y), differentiable
    rewards_BxM: AnyArray
    mask_BxM: AnyArray  # False: padding
    lengths_BxM: AnyArray  # target tokens, for length-normalised scores


def _clean(pools: ScoredPools) -> ScoredPools:
    """Masked slots hold zeros, so that no loss meets an inf or NaN there and none flows back.

    A mask on the loss alone would not do: the gradient of where(mask, f(s), 0) is 0 * f'(s), and
    0 * inf is NaN.
    """
    return pools._replace(
        scores_BxM=jnp.where(pools.mask_BxM, pools.scores_BxM, 0.0),
        rewards_BxM=jnp.where(pools.mask_BxM, pools.rewards_BxM, 0.0),
        lengths_BxM=jnp.where(pools.mask_BxM, pools.lengths_BxM, 1),
    )


def _pairs(pools: ScoredPools) -> AnyArray:
    """1 where candidate i has the higher reward of the pair (i, j), float32 [B, M, M].

    Rewards 1, .5, .5: rows [0 1 1], [0 0 0], [0 0 0].
    """
    # [B, M, 1] and [B, 1, M] -> [B, M, M]: candidate i in rows, j in columns.
    above = pools.rewards_BxM[:, :, None] > pools.rewards_BxM[:, None, :] + TIE
    real = pools.mask_BxM[:, :, None] & pools.mask_BxM[:, None, :]
    return (above & real).astype(jnp.float32)


def _mean_over_pairs(loss_BxMxM: jax.Array, pairs_BxMxM: AnyArray) -> jax.Array:
    """[B, M, M] and the 0 or 1 of `_pairs` -> [B]."""
    # A sentence without a pair has no loss: 0 / 1, where 0 / 0 would be NaN.
    count_B = pairs_BxMxM.sum((1, 2))
    return (loss_BxMxM * pairs_BxMxM).sum((1, 2)) / jnp.maximum(count_B, 1.0)


def _mean_over_all_pairs(loss_BxMxM: AnyArray, pools: ScoredPools) -> jax.Array:
    """The same, divided by all M (M - 1) / 2 pairs of a pool, those of equal reward as well.

    Rewards 1, .5, .5: by 3, where `_mean_over_pairs` divides by 2. See `weighted_margin` for why.
    """
    count_B = pools.mask_BxM.sum(-1)
    pairs_B = jnp.maximum(count_B * (count_B - 1) / 2, 1.0)
    return (loss_BxMxM * _pairs(pools)).sum((1, 2)) / pairs_B


def _differences(x_BxM: AnyArray) -> AnyArray:
    """x_i - x_j, [B, M, M]."""
    return x_BxM[:, :, None] - x_BxM[:, None, :]


def _violation(pools: ScoredPools, tau: Scalar) -> AnyArray:
    """(R_i - R_j) / tau - (s_i - s_j), [B, M, M]."""
    return _differences(pools.rewards_BxM) / tau - _differences(pools.scores_BxM)


def margin(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """Mean over pairs R_i > R_j of max(0, (R_i - R_j)/tau - (s_i - s_j)).

    At tau = 0.3, a candidate of reward 1 shall be 1.67 nats likelier than one of reward 0.5. Unlike
    the losses that weigh by probability, it moves a correction at -25 nats as much as one at -2.
    """
    return _mean_over_pairs(jax.nn.relu(_violation(pools, settings.tau)), _pairs(pools))


def weighted_margin(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """Sum over pairs R_i > R_j of D * max(0, D/tau - (s_i - s_j)) with D = R_i - R_j, divided by
    the number of all pairs of candidates, M (M - 1) / 2.

    Why D as a weight: where annotators disagree, gold is one draw from what they might say, and D
    of two given candidates is random. The loss is convex in d = s_i - s_j, so where its expectation
    falls at d = 0, the minimum is at d > 0 and i comes first. Which slope has it there?
    - `margin`: a draw with D > 0 costs max(0, D/tau - d), slope -1 at d = 0; one with D < 0 costs
      max(0, -D/tau + d), slope +1. Expected: -(P(D > 0) - P(D < 0)), a majority vote.
    - Here both are multiplied by |D|: slopes -|D| and +|D|, which is -D either way. Expected:
      -E[D], so that the candidate of higher expected reward goes first.
    With D = .1 for 60% of the annotators and -.5 for the others, E[D] is -.14: j goes first here,
    and i by a vote.

    Of the others, `risk` and `reinforce` are linear in R and see nothing but E[R]; `squared`
    regresses on E[D]/tau, as long as the number of unequal pairs, by which it divides, is the same
    for all golds. `rank` has slopes of one size, so it votes; those of `logistic` are sigmoid of
    |D|/tau, between .5 and 1, which is near a vote; those of `listwise` level off where |D| is far
    above tau; `lambdarank` follows E[2^R].

    Why all pairs: a divisor that depends on gold is random too, and makes some draws count for
    more. The sum of all D, for a weighted mean, would leave D/D = 1 to two candidates: a vote.

    This holds for a pair alone. In a pool the pulls of pairs add up: at equal scores s_i is pulled
    in proportion to E[R_i] less its mean over the pool, but the minimum over three candidates may
    still swap two of near expected reward. And the candidates are given only where the beam found
    them: gold itself and its corrections are in no pool but their own.
    """
    weights_BxMxM = _differences(pools.rewards_BxM)
    loss_BxMxM = weights_BxMxM * jax.nn.relu(_violation(pools, settings.tau))
    return _mean_over_all_pairs(loss_BxMxM, pools)


def logistic(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """Mean over pairs of softplus((R_i - R_j)/tau - (s_i - s_j)): `margin` without its kink."""
    return _mean_over_pairs(jax.nn.softplus(_violation(pools, settings.tau)), _pairs(pools))


def squared(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """Mean over pairs of ((R_i - R_j)/tau - (s_i - s_j))^2: a gap too large costs as much."""
    return _mean_over_pairs(jnp.square(_violation(pools, settings.tau)), _pairs(pools))


def _log_softmax(x_BxM: AnyArray, mask_BxM: AnyArray) -> jax.Array:
    """Log-softmax over the unmasked slots; 0 in the masked ones, and 0 for empty rows."""
    # Not -inf: an empty row would have the logsumexp -inf, and -inf less -inf is NaN.
    large = jnp.where(mask_BxM, x_BxM, -1e30)
    return jnp.where(mask_BxM, large - jax.nn.logsumexp(large, -1, keepdims=True), 0.0)


def _has_contrast(pools: ScoredPools) -> jax.Array:
    """1 where a sentence's pool holds two unlike rewards, float32 [B].

    Where all are alike there is nothing to prefer, but `listwise` would pull all scores together.
    """
    return (_pairs(pools).sum((1, 2)) > 0).astype(jnp.float32)


def listwise(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """KL( softmax(R/tau) || softmax(s) ) over the pool.

    At tau = 0.3, the rewards 1, .5, 0 ask for the shares .82, .15, .03.
    """
    logp_BxM = _log_softmax(pools.scores_BxM, pools.mask_BxM)
    logq_BxM = _log_softmax(pools.rewards_BxM / settings.tau, pools.mask_BxM)
    kl_BxM = jnp.where(pools.mask_BxM, jnp.exp(logq_BxM) * (logq_BxM - logp_BxM), 0.0)
    return kl_BxM.sum(-1) * _has_contrast(pools)


def rank(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """Mean over pairs of max(0, lambda * (j - i) - (s_i - s_j)) over ranks i < j by reward, with
    s divided by the number of tokens (BRIO, Liu et al., arXiv 2203.16804).

    Equal rewards share a rank: the number of candidates with a higher reward.
    """
    pairs_BxMxM = _pairs(pools)
    # How many stand above each: rewards 1, .5, .5 -> ranks 0, 1, 1.
    rank_BxM = pairs_BxMxM.sum(1)
    s_BxMxM = _differences(pools.scores_BxM / pools.lengths_BxM)
    # Entry (i, j) is rank j - rank i, positive where i is the better one.
    gap_BxMxM = rank_BxM[:, None, :] - rank_BxM[:, :, None]
    return _mean_over_pairs(jax.nn.relu(settings.rank_margin * gap_BxMxM - s_BxMxM), pairs_BxMxM)


def lambdarank(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """Sum over pairs R_i > R_j of
    (2^R_i - 2^R_j) * |1/log2(1 + rank_i) - 1/log2(1 + rank_j)| * log(1 + exp(-(s_i - s_j))),
    divided by M (M - 1) / 2, with the present ranks by s, from 1 (LiPO-lambda, Liu et al.,
    arXiv 2402.01878, which takes the sum: its lists are all of one length).

    The weight is what a swap of i and j would change in the list's discounted cumulative gain: .37
    of the gains' difference at ranks 1 and 2, .01 at 9 and 10. So the top of the list matters most.
    It is a constant to the gradient. There is no tau: no gap is wide enough.
    """
    s_BxMxM, r_BxMxM = _differences(pools.scores_BxM), _differences(pools.rewards_BxM)
    # A rank counts the real candidates above. Of equal scores the lower reward is above: sharing a
    # rank they would have the weight 0, and sorted they would come in the order of the pool.
    # Comparisons have no gradient, so none flows through the weights.
    above_BxMxM = (s_BxMxM > 0) | ((s_BxMxM == 0) & (r_BxMxM < 0))
    rank_BxM = 1.0 + (above_BxMxM & pools.mask_BxM[:, :, None]).sum(1)
    discount_BxMxM = jnp.abs(_differences(1 / jnp.log2(1.0 + rank_BxM)))
    gain_BxMxM = _differences(jnp.exp2(pools.rewards_BxM))
    loss_BxMxM = gain_BxMxM * discount_BxMxM * jax.nn.softplus(-s_BxMxM)
    return _mean_over_all_pairs(loss_BxMxM, pools)


def risk(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """Expected loss sum of softmax(s) * (1 - R) over the pool (minimum risk training, Shen et al.,
    arXiv 1512.02433)."""
    p_BxM = jnp.where(pools.mask_BxM, jnp.exp(_log_softmax(pools.scores_BxM, pools.mask_BxM)), 0.0)
    return (p_BxM * (1.0 - pools.rewards_BxM)).sum(-1) * _has_contrast(pools)


def reinforce(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """Mean over the pool of -(R - mean R) * s: policy gradient with the pool's mean as baseline.

    With `reinforce_normalise` the advantage is divided by the pool's standard deviation (GRPO, Shao
    et al., arXiv 2402.03300). In a pool of two it is then 1 and -1, whatever their rewards are.
    """
    real_BxM = pools.mask_BxM.astype(jnp.float32)
    count_B = jnp.maximum(real_BxM.sum(-1), 1.0)
    mean_B = (pools.rewards_BxM * real_BxM).sum(-1) / count_B
    advantage_BxM = (pools.rewards_BxM - mean_B[:, None]) * real_BxM
    deviation_B = jnp.sqrt(jnp.square(advantage_BxM).sum(-1) / count_B)
    normalised_BxM = advantage_BxM / (deviation_B[:, None] + 1e-6)
    advantage_BxM = jnp.where(settings.reinforce_normalise, normalised_BxM, advantage_BxM)
    # Advantages of a pool sum to 0: what shifts all scores alike changes nothing.
    return -(advantage_BxM * pools.scores_BxM).sum(-1) / count_B * _has_contrast(pools)


# By their names in config.groot.loss.
LOSSES: Mapping[str, Callable[[ScoredPools, LossSettings], jax.Array]] = {
    "margin": margin,
    "weighted_margin": weighted_margin,
    "listwise": listwise,
    "logistic": logistic,
    "squared": squared,
    "rank": rank,
    "lambdarank": lambdarank,
    "risk": risk,
    "reinforce": reinforce,
}


def contrast(pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """The weighted sum of the losses that `settings.weights` names, one value a sentence, [B].

    The losses see zeros in masked slots, whatever stood there. A loss of weight 0 sees masked slots
    alone: 0 times an overflow, or its gradient, would be NaN.
    """
    B, M = pools.scores_BxM.shape
    total_B = jnp.zeros(B, jnp.float32)
    if M < 2:  # Gold alone, in NLL continued: nothing to contrast, and nothing to compile.
        return total_B
    for name, loss in LOSSES.items():
        if name in settings.weights:
            weight = jnp.asarray(settings.weights[name], jnp.float32)
            seen = pools._replace(mask_BxM=pools.mask_BxM & (weight > 0))
            # For each loss anew: cleaned once, their gradients would add up in another order.
            total_B = total_B + weight * loss(_clean(seen), settings)
    return total_B
