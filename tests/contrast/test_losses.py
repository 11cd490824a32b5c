"""Every loss against plain numpy loops, and the facts that all of them share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groot_jax.config import default_config
from groot_jax.config.uses import _WITH_TAU
from groot_jax.contrast.losses import LOSSES, LossSettings, ScoredPools, contrast

TAU, RANK_MARGIN = 0.3, 0.05


def settings_of(**changes) -> LossSettings:
    return LossSettings({}, TAU, RANK_MARGIN)._replace(**changes)


# Compiled as in an update, once a shape: operation by operation it would be hundreds of programs.
_contrast = jax.jit(contrast)


def loss(name: str, pools: ScoredPools, settings: LossSettings) -> jax.Array:
    """One loss as an update takes it."""
    return _contrast(pools, settings._replace(weights={name: 1.0}))


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
    all_pairs = len(r) * (len(r) - 1) / 2
    if name == "weighted_margin":
        return (
            sum((r[i] - r[j]) * max(0.0, g) for (i, j), g in zip(pairs, gaps, strict=True))
            / all_pairs
        )
    if name == "lambdarank":
        places = [1 + sum((s > s[i]) | ((s == s[i]) & (r < r[i]))) for i in range(len(r))]
        return (
            sum(
                (2 ** r[i] - 2 ** r[j])
                * abs(1 / np.log2(1 + places[i]) - 1 / np.log2(1 + places[j]))
                * np.log(1 + np.exp(s[j] - s[i]))
                for i, j in pairs
            )
            / all_pairs
        )
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


@pytest.mark.parametrize("name", ["margin", "weighted_margin", "squared", "listwise"])
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
    weights = {"margin": 0.3, "risk": 5.0, "rank": 0.0}
    got = _contrast(pool, settings_of(weights=weights))
    want = 0.3 * loss("margin", pool, settings_of()) + 5 * loss("risk", pool, settings_of())
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_loss_of_weight_0_is_silent_even_where_it_overflows_and_no_program_is_its_own():
    """0 times an infinite loss, or its infinite gradient, would be NaN."""
    pool = ScoredPools(
        jnp.array([[-1e30, -2.0, 3e38]]),
        jnp.array([[1.0, 0.5, 0.0]]),
        jnp.ones((1, 3), bool),
        jnp.full((1, 3), 4),
    )

    def graded(s, settings):
        total = lambda s: _contrast(pool._replace(scores_BxM=s), settings).sum()  # noqa: E731
        return jax.value_and_grad(total)(s)

    jitted: Any = jax.jit(graded)
    off = dict.fromkeys(LOSSES, 0.0)
    assert not np.isfinite(jitted(pool.scores_BxM, settings_of(weights=off | {"squared": 1.0}))[0])
    value, grad = jitted(pool.scores_BxM, settings_of(weights=off))
    assert value == 0 and (grad == 0).all()
    calm = jnp.array([[-1.0, -2.0, -3.0]])
    for name in LOSSES:
        alone = settings_of(weights=off | {name: 0.5}, tau=0.2)
        want = 0.5 * loss(name, pool._replace(scores_BxM=calm), settings_of(tau=0.2)).sum()
        np.testing.assert_allclose(jitted(calm, alone)[0], want, rtol=1e-5)
    assert jitted._cache_size() == 1


def test_the_config_knows_which_losses_read_tau():
    pool = ScoredPools(
        jnp.array([[-1.0, -2.0, -5.0]]),
        jnp.array([[0.5, 1.0, 0.0]]),
        jnp.ones((1, 3), bool),
        jnp.full((1, 3), 4),
    )
    warm, cold = settings_of(), settings_of(tau=0.1)
    assert {n for n in LOSSES if loss(n, pool, warm) != loss(n, pool, cold)} == set(_WITH_TAU)


def test_lambdarank_pulls_by_what_a_swap_changes_in_the_dcg():
    def pull(good):
        """On the candidate before the only good one, at ranks from 1 with a nat between them."""
        pool = ScoredPools(
            jnp.array([[0.0, -1.0, -2.0, -3.0, -4.0]]),
            jnp.zeros((1, 5)).at[0, good - 1].set(1.0),
            jnp.ones((1, 5), bool),
            jnp.full((1, 5), 4),
        )
        total = lambda s: loss("lambdarank", pool._replace(scores_BxM=s), settings_of()).sum()  # noqa: E731
        return jax.grad(total)(pool.scores_BxM)[0, good - 2]

    want = (1 - 1 / np.log2(3)) / (1 / np.log2(5) - 1 / np.log2(6))
    np.testing.assert_allclose(pull(2) / pull(5), want, rtol=1e-4)


def test_lambdarank_pulls_equal_scores_apart():
    grads = [
        jax.grad(
            lambda s, r=r: loss(
                "lambdarank",
                ScoredPools(s, r, jnp.ones((1, 2), bool), jnp.full((1, 2), 4)),
                settings_of(),
            ).sum()
        )(jnp.full((1, 2), -3.0))
        for r in (jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]))
    ]
    assert grads[0][0, 0] < 0 < grads[0][0, 1]
    np.testing.assert_array_equal(grads[0], grads[1][:, ::-1])


# ---- Which order the losses ask for where annotators disagree -----------------------------------


def expected(name: str, rewards: Any, p: float, scores: Any, normalise: bool = False) -> jax.Array:
    """The expected loss of each row of scores [N, M], where gold, and with it the rewards [2, M] of
    the candidates, is the first with chance p and otherwise the second."""
    N, M = scores.shape
    first, second = (
        loss(
            name,
            ScoredPools(
                scores,
                jnp.broadcast_to(jnp.asarray(r, jnp.float32), (N, M)),
                jnp.ones((N, M), bool),
                jnp.full((N, M), 5),
            ),
            settings_of(reinforce_normalise=normalise),
        )
        for r in rewards
    )
    return p * first + (1 - p) * second


def puts_first(name: str, p: float, a: float, b: float, normalise: bool = False) -> bool:
    """Whether the expected loss puts the first of two candidates first: with chance p it is better
    by a, and otherwise worse by b."""

    def at(d):
        scores = jnp.stack([d, jnp.zeros_like(d)], 1) - 9
        return expected(name, [[a, 0], [0, b]], p, scores, normalise)

    # The slope tells the side of the minimum, which itself may be flat and have no one place.
    falls = jax.grad(lambda d: at(d).sum())(jnp.zeros(1))[0] < 0
    # The lowest of a grid, as a second witness. `risk` and `reinforce` have theirs at its end.
    grid = np.linspace(-5, 5, 201)
    assert (grid[np.argmin(at(jnp.asarray(grid, jnp.float32)))] > 0) == falls
    return bool(falls)


def by_reward(p: float, a: float, b: float) -> float:
    return p * a - (1 - p) * b


def by_gain(p: float, a: float, b: float) -> float:
    return by_reward(p, 2**a - 1, 2**b - 1)


def by_vote(p: float, a: float, b: float) -> float:
    return p - 0.5


@pytest.mark.parametrize(
    ("name", "normalise", "order"),
    [
        ("weighted_margin", False, by_reward),
        ("squared", False, by_reward),
        ("risk", False, by_reward),
        ("reinforce", False, by_reward),
        ("lambdarank", False, by_gain),
        ("margin", False, by_vote),
        ("rank", False, by_vote),
        ("reinforce", True, by_vote),
    ],
)
@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.1, 1), st.floats(0.1, 1))
def test_a_pair_under_uncertain_gold_is_ordered_by(name, normalise, order, p, a, b):
    assume(abs(order(p, a, b)) > 0.03)
    assert puts_first(name, p, a, b, normalise) == (order(p, a, b) > 0)


@pytest.mark.parametrize(
    ("name", "p", "a", "b"),
    [
        ("margin", 0.6, 0.1, 0.5),
        ("rank", 0.6, 0.1, 0.5),
        ("logistic", 0.6, 0.1, 0.5),
        ("listwise", 0.6, 0.5, 1.0),
        ("lambdarank", 0.32, 1.0, 0.5),
    ],
)
def test_a_loss_that_does_not_follow_expected_reward(name, p, a, b):
    assert by_reward(p, a, b) < 0 and puts_first(name, p, a, b)
    # Swapped, it puts the better one last.
    assert by_reward(1 - p, b, a) > 0 and not puts_first(name, 1 - p, b, a)


def test_logistic_and_listwise_do_not_vote_either():
    assert not puts_first("logistic", 0.55, 0.1, 1.0)
    assert not puts_first("listwise", 0.55, 0.1, 1.0)


@pytest.mark.parametrize(
    ("name", "rewards", "p"),
    [
        # The 2 unequal pairs of the second gold count half each, the 3 of the first a third each.
        ("squared", [[0.0, 0.5, 1.0], [1.0, 0.0, 0.0]], 0.7),
        # The third candidate pulls the first along.
        ("weighted_margin", [[0.5, 1.0, 1.0], [1.0, 0.0, 0.75]], 0.68),
    ],
)
def test_among_three_candidates_two_of_near_expected_reward_may_be_swapped(name, rewards, p):
    first, second, _ = p * np.array(rewards[0]) + (1 - p) * np.array(rewards[1])
    assert first < second < first + 0.06
    # Hinges have their kinks at differences of multiples of .25 / tau, so the grid has the minimum.
    grid = np.arange(-20, 21) * 0.25 / TAU / 4
    scores = np.stack([np.zeros(41**2), *(x.ravel() for x in np.meshgrid(grid, grid))], 1)
    costs = np.asarray(expected(name, rewards, p, jnp.asarray(scores, jnp.float32)))
    ahead = scores[:, 0] > scores[:, 1]
    assert costs[ahead].min() + 1e-3 < costs[~ahead].min()


def test_every_loss_has_a_weight_in_the_config_and_every_weight_its_loss() -> None:
    assert set(LOSSES) == set(default_config().groot.loss)
