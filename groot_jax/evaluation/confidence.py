"""How sure a beam is of its spans, and how true that is. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TypeAlias

import numpy as np

from groot_jax.data.labeling import Sentence, Span
from groot_jax.evaluation.metrics import Beam
from groot_jax.reward.space import DIGITS, confidences_of, labeling_probabilities

# Temperatures to choose from, a step about a tenth: 0.5, 0.55, ..., 5.
TEMPERATURES = tuple(round(float(t), 2) for t in np.geomspace(0.5, 5.0, 25))
BINS = 15  # Of equal width, as Guo et al. (arXiv 1706.04599) have them.
# Ascending pairs of a confidence and the share of spans that are right at it; none: as it is.
Curve: TypeAlias = tuple[tuple[float, float], ...]
# Spans of dev that a step of a curve has at least. With 100 and 200 it was as true, on parts of dev
# that it was not made of.
_STEP = 50


def span_confidences(beam: Beam, temperature: float = 1.0, curve: Curve = ()) -> dict[Span, float]:
    """For each span of the beam, the sum of the probabilities of the labelings that hold it, or,
    with a curve, what that is worth."""
    found = confidences_of(labeling_probabilities(beam, temperature))
    if not curve:
        return found
    said, right = zip(*curve, strict=True)
    # Between two points by a straight line, beyond the first and the last as they are.
    worth = np.interp([*found.values()], said, right).tolist()
    return dict(zip(found, worth, strict=True))


def choose_temperature(sentences: Sequence[Sentence], beams: Sequence[Beam]) -> float:
    """The temperature of `TEMPERATURES` whose span confidences have the least Brier score, the mean
    of (confidence - 1 if the span is gold else 0)^2; 1 where no beam holds a span.

    To be chosen on dev. It is chosen for how true confidences are and not for the reward of what
    they decide: that has steps, and on dev of `retail` and MIT Restaurant, one half deciding for
    the other, it led `consensus` less far.
    """
    if not any(candidate.labeling for beam in beams for candidate in beam):
        return 1.0

    def brier(temperature: float) -> float:
        errors = [
            (confidence - (span in sentence.labeling)) ** 2
            for sentence, beam in zip(sentences, beams, strict=True)
            for span, confidence in span_confidences(beam, temperature).items()
        ]
        return round(float(np.mean(errors)), DIGITS)

    return min(TEMPERATURES, key=brier)


def choose_curve(
    sentences: Sequence[Sentence], beams: Sequence[Beam], temperature: float = 1.0
) -> Curve:
    """The ascending steps that fit confidences at this temperature best, by squared error: isotonic
    regression, by pooling adjacent violators (Zadrozny and Elkan 2002). To be chosen on dev; empty
    where it holds too few spans to tell.

    A temperature stretches all confidences alike. A model that the contrast has taught to spread
    its list by reward is too sure at .9 and not sure enough at .99: no temperature mends both.
    """
    # [sum of confidences, right ones, spans] of each step. Equal confidences stay together.
    steps: list[list[float]] = []
    last = -1.0
    for confidence, right in sorted(
        (confidence, span in sentence.labeling)
        for sentence, beam in zip(sentences, beams, strict=True)
        for span, confidence in span_confidences(beam, temperature).items()
    ):
        if not steps or (steps[-1][2] >= _STEP and confidence > last):
            steps.append([0.0, 0.0, 0.0])
        steps[-1] = [a + b for a, b in zip(steps[-1], (confidence, right, 1), strict=True)]
        last = confidence
    if len(steps) > 1 and steps[-1][2] < _STEP:
        steps.append([a + b for a, b in zip(steps.pop(), steps.pop(), strict=True)])
    # Shares .1 .4 .2 .9 of equally many: .4 and .2 are one step of .3.
    pooled: list[list[float]] = []
    for step in steps:
        while pooled and pooled[-1][1] * step[2] >= step[1] * pooled[-1][2]:
            step = [a + b for a, b in zip(pooled.pop(), step, strict=True)]
        pooled.append(step)
    if len(pooled) < 2:
        return ()
    # 50 right ones of 50 say .99, and not that the next one is right for sure (Krichevsky and
    # Trofimov 1981). Fewer of them than in the step before may not say less.
    shares = accumulate(((right + 0.5) / (n + 1) for _, right, n in pooled), max)
    return tuple(
        (round(c / n, 6), round(share, 6)) for (c, _, n), share in zip(pooled, shares, strict=True)
    )


def reliability(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    temperature: float = 1.0,
    curve: Curve = (),
) -> list[tuple[int, float, float]]:
    """Of each of `BINS` ranges of confidence: how many spans of the beams are in it, their mean
    confidence, and which share of them is gold."""
    count, total, right = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for sentence, beam in zip(sentences, beams, strict=True):
        for span, confidence in span_confidences(beam, temperature, curve).items():
            # .97 of 15 bins is in the last, and so is 1, whose own would be the sixteenth.
            bin_ = min(int(confidence * BINS), BINS - 1)
            count[bin_] += 1
            total[bin_] += confidence
            right[bin_] += span in sentence.labeling
    some = np.maximum(count, 1)
    return [
        (int(n), round(float(c), 6), round(float(r), 6))
        for n, c, r in zip(count, total / some, right / some, strict=True)
    ]


def calibration_error(bins: Sequence[tuple[int, float, float]]) -> float:
    """The expected calibration error of `reliability`: mean over spans of the difference between
    their bin's mean confidence and its share of gold; 0 without a span."""
    spans = sum(count for count, _, _ in bins)
    return sum(count * abs(mean - share) for count, mean, share in bins) / max(spans, 1)
