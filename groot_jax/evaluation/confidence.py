"""How sure a beam is: probabilities of its labelings, confidences of their spans, and how true they
are. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from groot_jax.data.labeling import Labeling, Sentence, Span
from groot_jax.evaluation.metrics import Beam

# Temperatures to choose from, a step about a tenth: 0.5, 0.55, ..., 5.
TEMPERATURES = tuple(round(float(t), 2) for t in np.geomspace(0.5, 5.0, 25))
BINS = 15  # Of equal width, as Guo et al. (arXiv 1706.04599) have them.
# Sums of probabilities are equal up to so many digits: .7 + .2 + .1 is .9999999999999999.
DIGITS = 12


def probabilities(beam: Beam, temperature: float = 1.0) -> np.ndarray:
    """The beam's normalised probabilities, softmax(s / temperature) over its candidates, [K].

    A candidate of unknown score gets 0; all alike where no score is known.
    """
    s_K = np.array([candidate.score for candidate in beam], np.float64) / temperature
    s_K = np.where(np.isnan(s_K), -np.inf, s_K)
    # Without a known score the softmax would be 0 / 0.
    if not np.isfinite(s_K).any():
        return np.full(len(beam), 1 / max(len(beam), 1))
    # Less the highest: s of a long sentence may be -1000, and exp(-1000) is 0.
    weights_K = np.exp(s_K - s_K.max())
    return weights_K / weights_K.sum()


def labeling_probabilities(beam: Beam, temperature: float = 1.0) -> dict[Labeling, float]:
    """Probability of each distinct labeling: outputs that parse alike count together.

    These are shares of the beam, not of all outputs: of K candidates they add up to 1.
    """
    by_labeling: dict[Labeling, float] = {}
    for candidate, p in zip(beam, probabilities(beam, temperature), strict=True):
        by_labeling[candidate.labeling] = by_labeling.get(candidate.labeling, 0.0) + float(p)
    return by_labeling


def span_confidences(beam: Beam, temperature: float = 1.0) -> dict[Span, float]:
    """For each span of the beam, the sum of the probabilities of the labelings that hold it."""
    return confidences_of(labeling_probabilities(beam, temperature))


def confidences_of(chances: Mapping[Labeling, float]) -> dict[Span, float]:
    """As `span_confidences`, of the probabilities of labelings."""
    # {A, B} with .6 and {A} with .4: A has 1, B has .6.
    by_span: dict[Span, float] = {}
    for labeling, p in chances.items():
        for span in labeling:
            by_span[span] = by_span.get(span, 0.0) + p
    return by_span


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
