"""Beams of windows joined: exactly where they lie apart, by confidence where they overlap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from groot_jax.data.labeling import Candidate, Span, make_labeling
from groot_jax.evaluation.joining import join_windows
from groot_jax.evaluation.metrics import Beam


def beam(*labelings: tuple[float, list[tuple[int, int, str]]]) -> Beam:
    return [
        Candidate(make_labeling(spans, 100), math.log(p), True, i)
        for i, (p, spans) in enumerate(labelings)
    ]


def test_windows_apart_give_the_best_pairs():
    left = beam((0.6, [(0, 1, "a")]), (0.3, []))
    right = beam((0.5, [(1, 2, "b")]), (0.4, []), (0.1, [(0, 1, "c")]))
    joined, cuts = join_windows([(0, 3), (3, 5)], [left, right], 4)
    wanted = sorted(
        (
            (
                a.score + b.score,
                a.labeling + tuple(Span(s + 3, e + 3, t) for s, e, t in b.labeling),
            )
            for a, b in itertools.product(left, right)
        ),
        reverse=True,
    )[:4]
    assert [(c.score, c.labeling) for c in joined] == wanted and cuts == [3]


def test_one_window_keeps_its_beam_and_none_has_nothing():
    left = beam((0.6, [(0, 1, "a")]), (0.3, []))
    assert join_windows([(0, 3)], [left], 1) == (left, [])
    assert join_windows([], [], 4) == ([Candidate((), 0.0, True, -1)], [])


# Windows (0, 6) and (3, 9), which share the words 3, 4 and 5.
BOUNDS = [(0, 6), (3, 9)]


@pytest.mark.parametrize(
    ("left", "right", "best"),
    [
        # A span that the left window cuts at its end is whole in the right one.
        ([(0.5, [(5, 6, "x")]), (0.5, [])], [(0.9, [(2, 4, "x")]), (0.1, [])], [(5, 7, "x")]),
        # The left window is sure of its span in the overlap, the right one sees its end alone.
        ([(0.9, [(2, 4, "x")]), (0.1, [])], [(0.4, [(0, 1, "x")]), (0.6, [])], [(2, 4, "x")]),
        # Both see the same: it is there once.
        ([(0.9, [(4, 5, "x")]), (0.1, [])], [(0.8, [(1, 2, "x")]), (0.2, [])], [(4, 5, "x")]),
        # They disagree; who is surer is right, whether of a span or of none.
        ([(0.6, [(4, 6, "x")]), (0.4, [])], [(0.99, []), (0.01, [(1, 3, "x")])], []),
        ([(0.99, [(3, 6, "x")]), (0.01, [])], [(0.6, []), (0.4, [(1, 3, "y")])], [(3, 6, "x")]),
    ],
)
def test_words_that_two_windows_share_are_labeled_by_the_surer_one(left, right, best):
    joined, cuts = join_windows(BOUNDS, [beam(*left), beam(*right)], 4)
    assert joined[0].labeling == make_labeling(best, 9)
    assert 3 <= cuts[0] <= 6
    assert len({c.labeling for c in joined}) == len(joined)
    assert [c.score for c in joined] == sorted((c.score for c in joined), reverse=True)
    for candidate in joined:
        make_labeling(candidate.labeling, 9)


def test_probabilities_of_what_a_window_says_between_its_cuts_add_up():
    left = beam((0.5, [(0, 1, "a"), (5, 6, "x")]), (0.3, [(0, 1, "a")]), (0.2, []))
    right = beam((0.98, [(2, 4, "x")]), (0.02, []))
    joined, _ = join_windows(BOUNDS, [left, right], 4)
    chances = {c.labeling: math.exp(c.score) for c in joined}
    both = make_labeling([(0, 1, "a"), (5, 7, "x")], 9)
    assert chances[both] == pytest.approx(0.8 * 0.98)
    assert sum(chances.values()) == pytest.approx(1)


def test_windows_of_one_mind_say_what_the_whole_says():
    rng = np.random.default_rng(0)
    for _ in range(20):
        starts = sorted(rng.choice(40, 6, replace=False).tolist())
        gold = [
            (s, min(s + 2, n), "x")
            for s, n in itertools.pairwise([*starts, 42])
            if min(s + 2, n) <= 40
        ]
        bounds = [(0, 16), (10, 26), (20, 40)]
        beams = [
            beam(
                (0.9, [(s - a, e - a, t) for s, e, t in gold if a <= s and e <= b]),
                (0.1, []),
            )
            for a, b in bounds
        ]
        joined, cuts = join_windows(bounds, beams, 3)
        assert cuts == sorted(cuts)
        # A span that one window does not hold whole its neighbour does.
        assert joined[0].labeling == make_labeling(gold, 42)
