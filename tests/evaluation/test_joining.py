"""Beams of windows joined: exactly where they lie apart, by confidence where they overlap."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from configs.default import get_config
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Candidate, Sentence, Span, make_labeling
from groot_jax.data.ladder import Ladder
from groot_jax.data.lengths import Windows
from groot_jax.data.tokenizer import train_tokenizer
from groot_jax.evaluation.evaluator import Evaluator
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


def test_a_window_without_an_output_leaves_the_words_it_shares_to_its_neighbours():
    found = beam((0.6, [(5, 6, "x")]), (0.4, [(0, 1, "a")]))
    after, cuts = join_windows(BOUNDS, [found, []], 4)
    assert cuts == [6] and not any(c.well_formed for c in after)
    assert [(c.labeling, c.score) for c in after] == [(c.labeling, c.score) for c in found]
    before, cuts = join_windows(BOUNDS, [[], found], 4)
    assert cuts == [3] and before[1].labeling == (Span(3, 4, "a"),)
    neither, _ = join_windows(BOUNDS, [[], []], 4)
    assert neither == [Candidate((), 0.0, False, -1)]


class Process:
    """One of two processes of an evaluation: it finds some of the pieces, and speaks JSON."""

    k, count = 4, 2

    def __init__(self, pieces: dict[int, Beam], others: str = "[]") -> None:
        self.pieces, self.others, self.sent = pieces, others, ""

    def own_rows(self, size: int) -> np.ndarray:
        return np.ones(size, bool)

    def label(self, params: object, batches: object) -> dict[int, Beam]:
        return self.pieces

    def collect(self, value: object) -> list[object] | None:
        self.sent = json.dumps(value)
        return [json.loads(self.sent), json.loads(self.others)] if self.others else None


def test_windows_that_two_processes_have_searched_are_joined_in_the_first():
    tokenizer = train_tokenizer([Sentence(tuple("abcdef"), ())], ("x",), 50, num_sentinels=6)
    format_ = make_format("tag_only", tokenizer, ("x",))
    config = get_config()
    config.text.long_sentences, config.text.overlap = "window", 3
    task: Any = SimpleNamespace(
        config=config,
        format=format_,
        windows=Windows(format_, config, 6),
        ladder=Ladder(config.loader.source_buckets, config.loader.target_buckets),
    )
    # Pieces 0, then 1 and 2 of the long sentence, then 3.
    sentences = [Sentence(tuple("ab"), ()), Sentence(tuple("abcdefabc"), ()), Sentence(("a",), ())]
    left = beam((0.5, [(5, 6, "x")]), (0.5, []))
    right = beam((0.9, [(2, 4, "x")]), (0.1, []))
    short = beam((0.7, [(0, 1, "x")]), (0.3, []))

    def found(process: Any) -> dict[int, Beam]:
        return Evaluator(task, process, cast(Any, None), sentences, process)._found(None)

    second = Process({2: right, 3: short}, others="")
    assert found(second) == {2: short}
    first = Process({0: short, 1: left}, others=second.sent)
    beams = found(first)
    wanted, _ = join_windows(BOUNDS, [left, right], 4)
    assert beams[0] == short and {*beams} == {0, 1}
    assert beams[1] == wanted and wanted[0].labeling == make_labeling([(5, 7, "x")], 9)
