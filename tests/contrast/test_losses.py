"""Every loss against plain numpy loops, and the facts that all of them share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_jax.contrast.losses import LOSSES, LossSettings, ScoredPools, contrast

TAU, RANK_MARGIN = 0.3, 0.05


def settings_of(**changes) -> LossSettings:
    return LossSettings((), TAU, RANK_MARGIN)._replace(**changes)


def loss(name: str, pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """One loss as an update takes it."""
    return contrast(pools, settings._replace(weights=((name, 1.0),)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def plain(name: str, s: np.ndarray, r: np.ndarray, n: np.ndarray, normalise: bool = False) -> float:
    """The formulas of one sentence, written as loops."""
    pairs = [(i, j) for i in range(len(r)) for j in range(len(r)) if r[i] > r[j] + 1e-6]
    if not pairs:
        return 0.0
    gaps = [(r[i] - r[j]) / TAU - (s[i] - s[j]) for i, j in pairs]
    if name == "margin":
        return float(np.mean([max(0.0, g) for g in gaps]))
    if name == "logistic":
        return float(np.mean([np.logaddexp(0.0, g) for g in gaps]))
    if name == "squared":
        return float(np.mean([g * g for g in gaps]))
    if name == "listwise":
        q, p = softmax(r / TAU), softmax(s)
        return float(sum(q * (np.log(q) - np.log(p))))
    if name == "rank":
        place = [sum(r[j] > r[i] + 1e-6 for j in range(len(r))) for i in range(len(r))]
        v = s / n
        return float(
            np.mean(
                [max(0.0, RANK_MARGIN * (place[j] - place[i]) - (v[i] - v[j])) for i, j in pairs]
            )
        )
    if name == "risk":
        return float(sum(softmax(s) * (1 - r)))
    if name == "reinforce":
        advantage = r - r.mean()
        if normalise:
            advantage = advantage / (r.std() + 1e-6)
        return float(-np.mean(advantage * s))
    raise AssertionError(name)


@st.composite
def pools(draw):
    # One shape, so that each loss is compiled once; the mask makes the pools of all sizes.
    B, M = 3, 6
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = rng.uniform(-30, 0, (B, M)).astype(np.float32)
    rewards = rng.choice([0.0, 0.25, 0.5, 2 / 3, 1.0], (B, M)).astype(np.float32)
    mask = rng.random((B, M)) < draw(st.sampled_from([0.3, 0.8, 1.0]))
    lengths = rng.integers(1, 20, (B, M)).astype(np.int32)
    arrays: Any = (scores, rewards, mask, lengths)
    return ScoredPools(*arrays)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=30, deadline=None)
@given(pools())
def test_each_loss_equals_its_formula_in_numpy(name, pool):
    got = np.asarray(loss(name, ScoredPools(*map(jnp.asarray, pool)), settings_of()))
    for b, mask in enumerate(pool.mask_BxM):
        s, r, n = (x[b][mask].astype(np.float64) for x in (pool[0], pool[1], pool[3]))
        np.testing.assert_allclose(got[b], plain(name, s, r, n), rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(pools())
def test_reinforce_with_normalised_advantages_equals_its_formula(pool):
    got = np.asarray(
        loss(
            "reinforce", ScoredPools(*map(jnp.asarray, pool)), settings_of(reinforce_normalise=True)
        )
    )
    for b, mask in enumerate(pool.mask_BxM):
        s, r, n = (x[b][mask].astype(np.float64) for x in (pool[0], pool[1], pool[3]))
        want = plain("reinforce", s, r, n, normalise=True)
        np.testing.assert_allclose(got[b], want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=20, deadline=None)
@given(pools(), st.integers(0, 2**32 - 1))
def test_the_order_of_candidates_does_not_matter(name, pool, seed):
    order = np.random.default_rng(seed).permutation(pool.scores_BxM.shape[1])
    shuffled = ScoredPools(*(x[:, order] for x in pool))
    a = loss(name, ScoredPools(*map(jnp.asarray, pool)), settings_of())
    b = loss(name, ScoredPools(*map(jnp.asarray, shuffled)), settings_of())
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("junk", [-np.inf, np.nan, 1e9])
@pytest.mark.parametrize("name", LOSSES)
def test_masked_slots_have_no_influence_and_exactly_zero_gradient(name, junk):
    rng = np.random.default_rng(0)
    scores = rng.uniform(-9, 0, (3, 5)).astype(np.float32)
    rewards = rng.random((3, 5)).astype(np.float32)
    mask = np.ones((3, 5), bool)
    mask[0, 3:] = mask[2] = False
    lengths = np.full((3, 5), 7, np.int32)
    dirty = np.where(mask, scores, junk).astype(np.float32)

    def total(s, r):
        return loss(
            name, ScoredPools(s, r, jnp.asarray(mask), jnp.asarray(lengths)), settings_of()
        ).sum()

    value, grad = jax.value_and_grad(total)(jnp.asarray(dirty), np.where(mask, rewards, junk))
    assert np.isfinite(value)
    grad = np.asarray(grad)
    assert (grad[~mask] == 0).all()
    assert (grad[mask] != 0).any()
    clean, clean_grad = jax.value_and_grad(total)(jnp.asarray(scores), rewards)
    np.testing.assert_allclose(value, clean, rtol=1e-6)
    np.testing.assert_allclose(grad[mask], np.asarray(clean_grad)[mask], rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_pool_with_one_distinct_reward_has_no_loss_and_no_gradient(name):
    pool = ScoredPools(
        jnp.array([[-1.0, -2.0, -5.0]]),
        jnp.full((1, 3), 0.5),
        jnp.ones((1, 3), bool),
        jnp.full((1, 3), 4),
    )
    value, grad = jax.value_and_grad(
        lambda s: loss(name, pool._replace(scores_BxM=s), settings_of()).sum()
    )(pool.scores_BxM)
    assert value == 0 and (grad == 0).all()


@pytest.mark.parametrize("name", ["margin", "squared", "listwise"])
def test_scores_in_proportion_to_rewards_satisfy_the_loss(name):
    rewards = np.array([[1.0, 0.6, 0.2, 0.0]], np.float32)
    pool = ScoredPools(
        jnp.asarray(rewards / TAU - 11.0),
        jnp.asarray(rewards),
        jnp.ones((1, 4), bool),
        jnp.full((1, 4), 5),
    )
    np.testing.assert_allclose(loss(name, pool, settings_of()), [0.0], atol=1e-5)


def test_losses_that_weigh_by_probability_do_not_see_an_unlikely_correction():
    """The reason for `margin`: a good candidate at -25 nats gets a gradient from it alone."""
    pool = ScoredPools(
        jnp.array([[-1.0, -1.5, -25.0]]),
        jnp.array([[0.5, 0.2, 0.9]]),
        jnp.ones((1, 3), bool),
        jnp.full((1, 3), 5),
    )

    def gradient(name):
        total = lambda s: loss(name, pool._replace(scores_BxM=s), settings_of()).sum()  # noqa: E731
        return abs(float(jax.grad(total)(pool.scores_BxM)[0, 2]))

    assert gradient("risk") < 1e-6 < 0.1 < gradient("margin")


def test_the_contrast_is_the_weighted_sum_of_its_losses():
    rng = np.random.default_rng(1)
    pool = ScoredPools(
        jnp.asarray(rng.uniform(-9, 0, (4, 5)), jnp.float32),
        jnp.asarray(rng.random((4, 5)), jnp.float32),
        jnp.ones((4, 5), bool),
        jnp.full((4, 5), 6),
    )
    weights = (("margin", 0.3), ("risk", 5.0), ("rank", 0.0))
    got = contrast(pool, settings_of(weights=weights))
    want = 0.3 * loss("margin", pool, settings_of()) + 5 * loss("risk", pool, settings_of())
    np.testing.assert_allclose(got, want, rtol=1e-6)
