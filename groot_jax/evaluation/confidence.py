"""How sure a beam is of its spans, and how true that is. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groot_jax.data.labeling import Sentence, Span
from groot_jax.evaluation.metrics import Beam
from groot_jax.reward.space import DIGITS, confidences_of, labeling_probabilities

# Temperatures to choose from, a step about a tenth: 0.5, 0.55, ..., 5.
TEMPERATURES = tuple(round(float(t), 2) for t in np.geomspace(0.5, 5.0, 25))
BINS = 15  # Of equal width, as Guo et al. (arXiv 1706.04599) have them.


def span_confidences(beam: Beam, temperature: float = 1.0) -> dict[Span, float]:
    """For each span of the beam, the sum of the probabilities of the labelings that hold it."""
    return confidences_of(labeling_probabilities(beam, temperature))


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


def reliability(
    sentences: Sequence[Sentence], beams: Sequence[Beam], temperature: float = 1.0
) -> list[tuple[int, float, float]]:
    """Of each of `BINS` ranges of confidence: how many spans of the beams are in it, their mean
    confidence, and which share of them is gold."""
    count, total, right = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for sentence, beam in zip(sentences, beams, strict=True):
        for span, confidence in span_confidences(beam, temperature).items():
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
