"""Invariants of pools over random beams, and what their settings leave out."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_jax.config.loading import default_config
from groot_jax.data.labeling import (
    Candidate,
    Sentence,
    Span,
    labeling_of_word_tags,
    make_labeling,
)
from groot_jax.evaluation.decisions import consensus
from groot_jax.reward.pool import PoolSettings, ScoringTask, build_pools
from groot_jax.reward.rewards import RewardSpec, make_reward
from groot_jax.reward.space import hypotheses, labeling_probabilities

WORDS = ("a", "b", "c", "d", "e", "f")
TAGS = st.sampled_from(["O", "O", "I", "A", "B"])
labelings = st.lists(TAGS, min_size=6, max_size=6).map(lambda tags: labeling_of_word_tags(tags)[0])
SCORES = st.sampled_from([-0.5, -1.0, -2.5, -7.0, math.nan])
F1 = make_reward(RewardSpec("f1"))


@st.composite
def beams(draw: st.DrawFn) -> list[Candidate]:
    items = draw(st.lists(st.tuples(labelings, SCORES, st.booleans()), max_size=12))
    return [Candidate(*item, slot) for slot, item in enumerate(items)]


settings = st.builds(
    PoolSettings,
    st.integers(1, 16),
    st.booleans(),
    st.integers(0, 8),
    st.booleans(),
    st.integers(0, 3),
)


def f1(triples, items):
    return [F1(*triple) for triple in triples]


def pool_of(gold, beam, chosen=PoolSettings(), penalty=0.1, seed=0):  # noqa: B008
    task = ScoringTask(WORDS, gold, beam)
    (pool,) = build_pools([task], f1, chosen, penalty, seed)
    return pool


@given(labelings, beams(), settings, st.integers(0, 3))
def test_a_pool_is_distinct_ranked_within_its_size_and_as_its_settings_say(
    gold, beam, chosen, seed
):
    pool = pool_of(gold, beam, chosen, seed=seed)
    assert len(pool) <= chosen.size
    assert len({entry.labeling for entry in pool}) == len(pool)
    keys = [(e.reward, -math.inf if math.isnan(e.score) else e.score) for e in pool]
    assert keys == sorted(keys, reverse=True)
    origins = [entry.origin for entry in pool]
    assert origins.count("gold") == int(chosen.gold)
    assert origins.count("beam") <= chosen.beams
    assert origins.count("consensus") <= chosen.consensus
    assert chosen.corrections or "correction" not in origins
    for entry in pool:
        assert make_labeling(entry.labeling, len(WORDS)) == entry.labeling
        assert (entry.origin == "gold") == (chosen.gold and entry.labeling == gold)
        plain = F1(entry.labeling, gold, WORDS)
        assert entry.reward == (plain if entry.well_formed else max(0.0, plain - 0.1))


@given(labelings, beams(), settings)
def test_parents_point_at_the_beam_entry_that_a_correction_mends(gold, beam, chosen):
    pool = pool_of(gold, beam, chosen)
    for entry in pool:
        if entry.origin != "correction":
            assert entry.parent == -1
            continue
        parent = pool[entry.parent]
        assert parent.origin == "beam"
        assert set(entry.labeling) <= set(parent.labeling) | set(gold)
        assert set(parent.labeling) & set(gold) <= set(entry.labeling)
        assert entry.labeling not in (gold, parent.labeling)
        assert entry.slot == -1
        assert math.isnan(entry.score)


@given(labelings, beams(), settings)
def test_an_entry_of_the_beam_carries_its_own_slot_score_and_form(gold, beam, chosen):
    for entry in pool_of(gold, beam, chosen):
        if entry.slot >= 0:
            own = beam[entry.slot]
            assert (own.labeling, own.well_formed) == (entry.labeling, entry.well_formed)
            assert repr(own.score) == repr(entry.score)
        assert (entry.slot >= 0) or entry.origin != "beam"


@given(labelings, beams())
def test_the_beam_entries_are_the_best_distinct_ones_by_s(gold, beam):
    chosen = PoolSettings(beams=3)
    taken = [entry for entry in pool_of(gold, beam, chosen) if entry.origin == "beam"]
    kept: dict = {}
    for c in beam:
        key = (c.well_formed, -math.inf if math.isnan(c.score) else c.score)
        if c.labeling != gold and (c.labeling not in kept or key > kept[c.labeling]):
            kept[c.labeling] = key
    wanted = sorted((score for _, score in kept.values()), reverse=True)[:3]
    got = sorted((-math.inf if math.isnan(e.score) else e.score for e in taken), reverse=True)
    assert got == wanted


@given(labelings, beams(), settings, st.integers(0, 3))
def test_the_same_seed_gives_the_same_pool(gold, beam, chosen, seed):
    assert repr(pool_of(gold, beam, chosen, seed=seed)) == repr(
        pool_of(gold, beam, chosen, seed=seed)
    )


GOLD = (Span(0, 1, "A"), Span(2, 3, "B"), Span(4, 5, "A"))
ONE = (Span(0, 1, "B"), Span(2, 3, "A"), Span(4, 5, "A"))
TWO = (Span(0, 2, "A"), Span(3, 4, "B"))


def test_the_well_formed_copy_of_a_labeling_wins_over_a_likelier_malformed_one():
    beam = [Candidate(ONE, -1.0, False, 0), Candidate(ONE, -3.0, True, 1), Candidate(ONE, -4.0)]
    (entry,) = [e for e in pool_of(GOLD, beam) if e.origin == "beam"]
    assert (entry.slot, entry.score, entry.well_formed) == (1, -3.0, True)
    assert entry.reward == F1(ONE, GOLD, WORDS)


def test_a_malformed_candidate_pays_the_penalty_down_to_zero():
    beam = [Candidate(ONE, -1.0, False, 0), Candidate((), -2.0, False, 1)]
    rewards = {e.slot: e.reward for e in pool_of(GOLD, beam, penalty=0.25) if e.slot >= 0}
    assert rewards == {0: pytest.approx(1 / 3 - 0.25), 1: 0.0}


def test_gold_found_by_the_beam_keeps_its_slot_and_a_malformed_copy_of_gold_does_not_count():
    found = pool_of(GOLD, [Candidate(ONE, -1.0, True, 0), Candidate(GOLD, -2.0, True, 1)])
    assert (found[0].origin, found[0].slot, found[0].score) == ("gold", 1, -2.0)
    lenient = pool_of(GOLD, [Candidate(GOLD, -2.0, False, 0)])
    assert (lenient[0].slot, lenient[0].reward, len(lenient)) == (-1, 1.0, 1)


def test_without_gold_the_beam_s_own_gold_is_a_candidate_and_no_correction_is_gold():
    chosen = PoolSettings(gold=False)
    beam = [Candidate(ONE, -1.0, True, 0), Candidate(GOLD, -2.0, True, 1)]
    assert ("beam", GOLD) in [(e.origin, e.labeling) for e in pool_of(GOLD, beam, chosen)]
    assert GOLD not in [e.labeling for e in pool_of(GOLD, beam[:1], chosen)]


def test_corrections_fill_the_pool_from_the_likeliest_candidate_on():
    beam = [Candidate(TWO, -2.0, True, 0), Candidate(ONE, -1.0, True, 1)]
    small = pool_of(GOLD, beam, PoolSettings(size=5))
    parents = [small[e.parent].slot for e in small if e.origin == "correction"]
    assert parents == [1, 1]
    wide = pool_of(GOLD, beam, PoolSettings(size=16))
    assert {wide[e.parent].slot for e in wide if e.origin == "correction"} == {0, 1}
    assert len(wide) == 16


def test_an_empty_beam_leaves_gold_alone_or_nothing():
    assert [e.origin for e in pool_of(GOLD, [])] == ["gold"]
    assert pool_of(GOLD, [], PoolSettings(gold=False)) == ()


def test_settings_are_those_of_the_config():
    assert PoolSettings(**default_config().groot.pool) == PoolSettings(16, True, 8, True)


def expected_reward(y, beam, temperature=1.0):
    """Sum over u of p(u) R(y, u), as a loop over the candidates."""
    known = [(c.labeling, c.score / temperature) for c in beam if not math.isnan(c.score)]
    if not known:
        known = [(c.labeling, 0.0) for c in beam]
    weights = [math.exp(s) for _, s in known]
    return sum(w * F1(y, u, WORDS) for w, (u, _) in zip(weights, known, strict=True)) / sum(weights)


@given(labelings, beams(), settings, st.sampled_from([0.25, 1.0]), st.sampled_from([1.0, 2.5]))
def test_the_expected_reward_is_mixed_in_for_every_entry(gold, beam, chosen, a, temperature):
    chosen = dataclasses.replace(chosen, expected=a, temperature=temperature)
    for entry in pool_of(gold, beam, chosen):
        mixed = (1 - a) * F1(entry.labeling, gold, WORDS)
        mixed += a * expected_reward(entry.labeling, beam, temperature) if beam else 0
        assert entry.reward == pytest.approx(max(0.0, mixed - 0.1 * (not entry.well_formed)))


@given(labelings, beams(), st.integers(1, 4))
def test_the_best_labelings_that_the_beam_lacks_join(gold, beam, count):
    pool = pool_of(gold, beam, PoolSettings(size=64, corrections=False, consensus=count))
    chances = labeling_probabilities(beam)
    lacking = [y for y in hypotheses(chances, 64) if y not in chances and y != gold]
    joined = [entry.labeling for entry in pool if entry.origin == "consensus"]
    assert len(joined) == min(count, len(lacking)) and {*joined} <= {*lacking}
    left = [expected_reward(y, beam) for y in lacking if y not in joined]
    worst = min((expected_reward(y, beam) for y in joined), default=math.inf)
    assert worst >= max(left, default=0.0) - 1e-9


def test_a_correction_that_no_hypothesis_replaces_is_not_lost():
    """Of A B C, gold lacks B: the correction without it is also what the beam may doubt."""
    beam = [Candidate(ONE, -1.0, True, 0), Candidate(TWO, -1.5, True, 1)]
    plain = {e.labeling for e in pool_of(GOLD, beam, PoolSettings(size=64))}
    for count in (1, 2):
        pool = pool_of(GOLD, beam, PoolSettings(size=64, consensus=count))
        assert plain <= {e.labeling for e in pool}


@given(beams(), st.integers(2, 16), st.integers(0, 8), st.sampled_from([1.0, 2.5]))
def test_without_gold_the_first_is_what_the_rule_consensus_chooses(beam, size, most, temperature):
    beam = sorted(
        (dataclasses.replace(c, well_formed=True) for c in beam if not math.isnan(c.score)),
        key=lambda c: -c.score,
    )
    pool = pool_of(None, beam, PoolSettings(size=size, beams=most, temperature=temperature))
    if not beam:
        assert pool == ()
        return
    score = lambda triples: [F1(*triple) for triple in triples]  # noqa: E731
    ((first, *_),) = consensus([Sentence(WORDS, ())], [beam], score, temperature)
    assert pool[0].labeling == first.labeling
    origins = [entry.origin for entry in pool]
    assert {*origins} <= {"beam", "consensus"} and len(pool) <= size
    assert origins.count("beam") <= most + (pool[0].origin == "beam")
    for entry in pool:
        assert entry.reward == pytest.approx(expected_reward(entry.labeling, beam, temperature))


def test_a_malformed_output_is_the_consensus_only_where_its_penalty_leaves_it_first():
    beam = [Candidate(ONE, -1.0, False, 0), Candidate(TWO, -9.0, True, 1)]
    chosen = PoolSettings(beams=0)
    assert pool_of(None, beam, chosen, penalty=0.1)[0].labeling == ONE
    strict = pool_of(None, beam, chosen, penalty=1.0)[0]
    assert strict.labeling != ONE and strict.reward > 0


def test_rewards_are_asked_of_all_sentences_at_once_and_each_with_the_number_of_its_own():
    tasks = [ScoringTask(WORDS, GOLD, [Candidate(ONE)], 0), ScoringTask(WORDS, (), [], 1)]
    asked = []

    def score(triples, items):
        asked.append(list(items))
        return f1(triples, items)

    pools = build_pools(tasks, score, PoolSettings(corrections=False), 0.1, 0)
    assert asked == [[0, 0, 1]] and [len(pool) for pool in pools] == [2, 1]
    assert repr(pools[0]) == repr(pool_of(GOLD, [Candidate(ONE)], PoolSettings(corrections=False)))
    asked.clear()
    tasks = [ScoringTask(WORDS, None, [Candidate(ONE)], 0), ScoringTask(WORDS, GOLD, [], 1)]
    build_pools(tasks, score, PoolSettings(expected=0.5, consensus=2), 0.1, 0)
    assert len(asked) == 1 and {*asked[0]} == {0, 1}
