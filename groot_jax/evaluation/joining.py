"""The beams of a sentence's overlapping windows as one beam of the sentence.

Each word is labeled by one window: where two windows overlap, a cut parts their words, at the place
where the two are surest together. What a window says on its own side of its cuts is taken as it
says it, and windows are independent of each other: probabilities multiply. It searches nothing.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from groot_jax.data.labeling import Candidate, Labeling, Span
from groot_jax.data.windows import Bounds
from groot_jax.evaluation.metrics import Beam
from groot_jax.reward.space import DIGITS, labeling_probabilities

_LEAST = 1e-9  # A probability of which a logarithm is taken, at least.


def join_windows(
    bounds: Sequence[Bounds], beams: Sequence[Beam], width: int
) -> tuple[Beam, list[int]]:
    """The best `width` labelings of the whole sentence, and the cuts between the windows.

    `bounds` as `window_bounds` gives them, `beams` of each window with its own positions. Scores
    are sums over the windows of log p(what the window says between its cuts), the sum over its
    beam. One window keeps its beam as it is; none, an empty sentence, has nothing found for
    certain. One of several whose search has ended no output says nothing, malformed, and leaves
    what it shares to its neighbours.
    """
    if not bounds:
        return [Candidate((), 0.0, True, -1)], []
    if len(bounds) == 1:
        return beams[0], []
    moved = [_moved(beam, start) for beam, (start, _) in zip(beams, bounds, strict=True)]
    cuts = [0]
    for left, right, (_, high), (low, _) in zip(moved, moved[1:], bounds, bounds[1:], strict=False):
        cuts.append(_cut(left, right, max(low, cuts[-1]), high))
    cuts.append(bounds[-1][1])
    joined: Beam = [Candidate((), 0.0, True, -1)]
    for beam, start, end, window in zip(moved, cuts, cuts[1:], bounds, strict=False):
        part = beam if window == (start, end) else _between(beam, start, end)
        joined = _pairs(joined, part or [Candidate((), 0.0, False, -1)], width)
    return joined, cuts[1:-1]


def _moved(beam: Beam, offset: int) -> Beam:
    return [
        Candidate(
            tuple(Span(s + offset, e + offset, type_) for s, e, type_ in candidate.labeling),
            candidate.score,
            candidate.well_formed,
            -1,
        )
        for candidate in beam
    ]


def _cut(left: Beam, right: Beam, low: int, high: int) -> int:
    """The place of [low, high] where both windows are surest: the product of the probabilities of
    what the left one says of each word before it, and the right one of each after it, and that no
    span of either lies across it. Of equals, the one nearest to the middle."""
    if high <= low:
        return low
    if not (left and right):  # A search that has ended no output is not sure of anything.
        return high if left else low
    chances = [labeling_probabilities(beam) for beam in (left, right)]
    sure = [_word_confidences(chance, low, high) for chance in chances]

    def value(cut: int) -> float:
        whole = (_whole_at(chance, cut) for chance in chances)
        words = (*sure[0][: cut - low], *sure[1][cut - low :])
        return round(sum(math.log(max(p, _LEAST)) for p in (*whole, *words)), DIGITS)

    middle = (low + high) / 2
    return min(range(low, high + 1), key=lambda cut: (-value(cut), abs(cut - middle), cut))


def _word_confidences(chances: dict[Labeling, float], low: int, high: int) -> list[float]:
    """Of each word the probability of the likeliest that is said of it: a span, or none."""
    by_word: list[dict[Span | None, float]] = [{} for _ in range(low, high)]
    for labeling, p in chances.items():
        said: list[Span | None] = [None] * (high - low)
        for span in labeling:
            for i in range(max(span.start, low), min(span.end, high)):
                said[i - low] = span
        for found, span_or_none in zip(by_word, said, strict=True):
            found[span_or_none] = found.get(span_or_none, 0.0) + p
    return [max(found.values()) for found in by_word]


def _whole_at(chances: dict[Labeling, float], cut: int) -> float:
    """The probability that no span lies across a place."""
    return sum(
        p
        for labeling, p in chances.items()
        if not any(span.start < cut < span.end for span in labeling)
    )


def _between(beam: Beam, start: int, end: int) -> Beam:
    """What a window says of the words `start` to `end`: its labelings without their other spans,
    those that become alike as one, by score.

    Labelings with a span across an end are left out where there are others.
    """

    def across(candidate: Candidate) -> bool:
        return any(
            span.start < place < span.end for span in candidate.labeling for place in (start, end)
        )

    kept = [candidate for candidate in beam if not across(candidate)] or beam
    groups: dict[Labeling, list[Candidate]] = {}
    for candidate in kept:
        inside = tuple(s for s in candidate.labeling if start <= s.start and s.end <= end)
        groups.setdefault(inside, []).append(candidate)
    parts = [
        Candidate(
            labeling,
            float(np.logaddexp.reduce([candidate.score for candidate in group])),
            any(candidate.well_formed for candidate in group),
            -1,
        )
        for labeling, group in groups.items()
    ]
    return sorted(parts, key=lambda candidate: -candidate.score)


def _pairs(left: Beam, right: Beam, width: int) -> Beam:
    """The best pairs of what stands before and after: their scores add up."""
    # s is a log probability, and windows are labeled one without the other: p(a) p(b) is s(a) +
    # s(b). The best `width` pairs are all among those of the two beams of `width`.
    pairs = heapq.nlargest(
        width, ((a.score + b.score, a, b) for a in left for b in right), itemgetter(0)
    )
    return [
        Candidate(a.labeling + b.labeling, score, a.well_formed and b.well_formed, -1)
        for score, a, b in pairs
    ]
