"""Candidates without a reward: a few are left out, many end the run in a sentence."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_jax.data.labeling import Candidate, Span
from groot_jax.errors import UserError
from groot_jax.reward.missing import WINDOW, Counts, OneEvaluation, Window
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.pool import PoolSettings, ScoringTask
from groot_jax.reward.rewards import RewardSpec

GOLD = (Span(0, 1, "A"), Span(2, 3, "B"))
FUNCTIONS = """
import os

def away(candidate, gold, words):
    # As a service: from a sentence on, or for one in many.
    if int(words[0]) >= FROM or int(words[0]) % EVERY == EVERY - 1: fail()
    return 0.5

def abstains(candidate, gold, words):
    return None if int(words[0]) >= FROM else 0.5

def away_batch(candidates, golds, words):
    return [away(*item) for item in zip(candidates, golds, words)]

for function in (away, abstains, away_batch): function.in_job = True
"""
RAISES = "def fail(): raise ConnectionError('service is away')\n"
LEAVES = "def fail(): os._exit(0)\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    names = iter("abcdef")

    def write(after: int = 10**9, every: int = 10**9, fail: str = RAISES) -> str:
        name = f"missing_{tmp_path.name}_{next(names)}"
        settings = f"FROM, EVERY = {after}, {every}\n"
        Path(f"{name}.py").write_text(settings + FUNCTIONS + fail)
        return name

    return write


def spec(name: str, **fields) -> RewardSpec:
    return replace(RewardSpec(name, retries=0, on_error="drop", workers=0), **fields)


def triples(count: int, start: int = 0):
    return [(GOLD[:1], GOLD, (str(n), "w", "w")) for n in range(start, start + count)]


def tasks(count: int, start: int = 0) -> list[ScoringTask]:
    """Of two calls each: gold's and that of the beam."""
    beam = [Candidate(GOLD[:1], -1.0, True, 0)]
    return [ScoringTask((str(n), "w", "w"), GOLD, beam, n) for n in range(start, start + count)]


SMALL = PoolSettings(corrections=False)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("function", ["away", "away_batch"])
def test_a_service_that_is_away_ends_training_after_a_hundred_candidates(
    module, workers, function, capfd
):
    name = f"{module(after=300)}:{function}"
    with Oracle(spec(name, workers=workers, batch="batch" in function)) as oracle:
        assert all(len(pool) == 2 for pool in oracle.submit(tasks(300), SMALL).result())
        pools = oracle.submit(tasks(48, 300), SMALL).result()  # 96 calls.
        assert not any(pools)
        with pytest.raises(UserError, match=r"(10[1-9]|11\d) were dropped.*max_dropped=0\.1"):
            oracle.submit(tasks(20, 348), SMALL).result()
    assert "service is away" in capfd.readouterr().err


def test_a_few_that_are_dropped_now_and_then_end_nothing(module):
    with Oracle(spec(f"{module(every=12)}:away")) as oracle:
        for start in range(0, 3000, 500):
            oracle.submit(tasks(500, start), SMALL).result()
            oracle.score(triples(100))
        assert oracle.counts["dropped"] > 300
        rows, counts = oracle.evaluate(triples(240))
        assert counts == Counts(240, 20, 0)
        assert [row for row in rows if row != [0.5]] == [[0.0]] * 20
    # The same share is too much where the config says so.
    with (
        Oracle(spec(f"{module(every=12)}:away", max_dropped=0.05)) as oracle,
        pytest.raises(UserError, match="of the 240 candidates of an evaluation.*20 were dropped"),
    ):
        oracle.evaluate(triples(240))


@pytest.mark.parametrize("ask", ["submit", "score", "evaluate"])
def test_none_for_every_candidate_ends_training_and_evaluations(module, ask):
    with (
        Oracle(spec(f"{module(after=0)}:abstains", on_error="stop")) as oracle,
        pytest.raises(UserError, match="none of the .*had a reward"),
    ):
        for _ in range(2):
            if ask == "submit":
                oracle.submit(tasks(300), SMALL).result()
            else:
                getattr(oracle, ask)(triples(600))


def test_none_for_most_candidates_is_no_error_and_an_evaluation_says_it(module, capfd):
    with Oracle(spec(f"{module(after=1)}:abstains", on_error="stop")) as oracle:
        oracle.submit([*tasks(1), *tasks(400, 1)], SMALL).result()
        _, counts = oracle.evaluate(triples(300))
    assert counts == Counts(300, 0, 299)
    said = capfd.readouterr().err
    assert "300 candidates of an evaluation 0 were dropped after errors and 299 had no" in said


def test_a_reward_that_always_ends_its_process_does_not_take_a_process_for_each_candidate(
    module, monkeypatch
):
    monkeypatch.setattr("groot_jax.reward.missing.WINDOW", 30)
    name = f"{module(after=0, fail=LEAVES)}:away"
    with (
        Oracle(spec(name, workers=1)) as oracle,
        pytest.raises(UserError, match="4 were dropped after errors"),
    ):
        oracle.score(triples(50))


def test_the_calls_of_an_evaluation_too_small_to_tell_are_not_judged(module):
    with Oracle(spec(f"{module(after=1)}:away")) as oracle:
        rows, counts = oracle.evaluate(triples(3))
    assert (rows, counts) == ([[0.5], [0.0], [0.0]], Counts(3, 2, 0))


def test_a_built_in_reward_is_never_judged():
    with Oracle(RewardSpec("exact")) as oracle:
        oracle.score(triples(1000))
        assert not oracle._window._chunks  # A training has millions of them.
        assert oracle.evaluate(triples(50))[1] == Counts()


chunks = st.lists(
    st.integers(0, 300).flatmap(
        lambda asked: st.tuples(st.just(asked), st.integers(0, asked), st.just(0))
    ),
    max_size=30,
)


@given(chunks, st.floats(0, 1))
def test_the_window_ends_exactly_where_its_last_calls_were_dropped_too_often(made, share):
    window, ended = Window(RewardSpec("m:f", max_dropped=share)), None
    for number, chunk in enumerate(made):
        try:
            window.add(Counts(*chunk))
        except UserError:
            ended = number
            break
    expected = None
    for number in range(len(made)):
        asked = dropped = 0
        for chunk in reversed(made[: number + 1]):  # The fewest that hold 1,000.
            if asked >= WINDOW:
                break
            asked, dropped = asked + chunk[0], dropped + chunk[1]
        if dropped > share * max(asked, WINDOW) or (asked >= WINDOW and dropped == asked):
            expected = number
            break
    assert ended == expected


@given(chunks, st.floats(0, 1))
def test_an_evaluation_ends_where_more_than_its_share_was_dropped(made, share):
    total = Counts(*(sum(chunk[i] for chunk in made) for i in range(3)))
    watch, ended = OneEvaluation(RewardSpec("m:f", max_dropped=share), total.asked), False
    for chunk in made:
        try:
            watch.add(Counts(*chunk))
        except UserError:
            ended = True
            break
    many = total.dropped > share * total.asked or total.dropped == total.asked
    assert ended == (total.asked >= 10 and many)
