"""How rank 1 is chosen from a beam: by s (`map`), by expected reward (`mbr`), or span by span.

Each rule takes beams and returns beams, best first, so that every metric and every output is made
in one way. It needs no training, no model and may not change a candidate's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from groot_jax.data.labeling import Candidate, Labeling, Sentence, Span
from groot_jax.evaluation.metrics import Beam, Scorer

RULES = ("map", "mbr", "threshold")
# Confidences to choose a threshold from: 0, 0.05, ..., 1.
GRID = tuple(i / 20 for i in range(21))
# Sums of probabilities are equal up to so many digits.
_DIGITS = 12


def probabilities(beam: Beam) -> np.ndarray:
    """The beam's normalised probabilities, softmax(s) over its candidates, [K].

    A candidate of unknown score gets 0; all alike where no score is known.
    """
    s_K = np.array([candidate.score for candidate in beam], np.float64)
    s_K = np.where(np.isnan(s_K), -np.inf, s_K)
    if not np.isfinite(s_K).any():
        return np.full(len(beam), 1 / max(len(beam), 1))
    weights_K = np.exp(s_K - s_K.max())
    return weights_K / weights_K.sum()


def labeling_probabilities(beam: Beam) -> dict[Labeling, float]:
    """Probability of each distinct labeling: outputs that parse alike count together."""
    by_labeling: dict[Labeling, float] = {}
    for candidate, p in zip(beam, probabilities(beam), strict=True):
        by_labeling[candidate.labeling] = by_labeling.get(candidate.labeling, 0.0) + float(p)
    return by_labeling


def span_confidences(beam: Beam) -> dict[Span, float]:
    """For each span of the beam, the sum of the probabilities of the labelings that hold it."""
    by_span: dict[Span, float] = {}
    for labeling, p in labeling_probabilities(beam).items():
        for span in labeling:
            by_span[span] = by_span.get(span, 0.0) + p
    return by_span


def mbr(sentences: Sequence[Sentence], beams: Sequence[Beam], score: Scorer) -> list[Beam]:
    """Orders each beam by expected reward, sum over u of p(u) R(y, u); ties keep their order.

    Minimum Bayes risk (Kumar and Byrne 2004) with the beam as the space of hypotheses and of
    references. All pairs are scored in one call.
    """
    weights = [labeling_probabilities(beam) for beam in beams]
    values = iter(
        score(
            [
                (candidate, reference, sentence.words)
                for sentence, references in zip(sentences, weights, strict=True)
                for candidate in references
                for reference in references
            ]
        )
    )
    decided: list[Beam] = []
    for beam, references in zip(beams, weights, strict=True):
        expected = {
            candidate: sum(p * next(values) for p in references.values())
            for candidate in references
        }
        decided.append(sorted(beam, key=lambda c: -round(expected[c.labeling], _DIGITS)))
    return decided


def threshold(beams: Sequence[Beam], confidence: float) -> list[Beam]:
    """Puts rank 1 without its spans below a confidence first; the others keep their order.

    A pruned labeling that the beam holds keeps that candidate's score, any other has an unknown
    one. The beam does not grow: its last candidate leaves for a new one.
    """
    return [_pruned(beam, span_confidences(beam), confidence) for beam in beams]


def _pruned(beam: Beam, by_span: dict[Span, float], confidence: float) -> Beam:
    if not beam:
        return beam
    best = beam[0]
    # Sums of probabilities reach 1 only up to rounding; a span that all hold must survive 1.0.
    labeling = tuple(span for span in best.labeling if by_span[span] >= confidence - 1e-9)
    if labeling == best.labeling:
        return beam
    held = [candidate for candidate in beam if candidate.labeling == labeling]
    others = [candidate for candidate in beam if candidate.labeling != labeling]
    first: list[Candidate] = held or [replace(best, labeling=labeling, score=float("nan"))]
    return [*first, *others][: len(beam)]


def choose_threshold(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    score: Scorer,
    grid: Sequence[float] = GRID,
) -> float:
    """The confidence of `grid` with the best mean reward at rank 1, the lowest on a tie.

    To be chosen on dev; 0 leaves every beam as it is.
    """
    items = []
    for sentence, beam in zip(sentences, beams, strict=True):
        by_span = span_confidences(beam)
        for confidence in grid:
            pruned = _pruned(beam, by_span, confidence)
            labeling = pruned[0].labeling if pruned else ()
            items.append((labeling, sentence.labeling, sentence.words))
    distinct_items = list(dict.fromkeys(items))
    rewards = dict(zip(distinct_items, score(distinct_items), strict=True))
    means = np.array([rewards[item] for item in items]).reshape(len(beams), len(grid)).mean(axis=0)
    return float(grid[int(np.argmax(np.round(means, _DIGITS)))])


def decide(
    rule: str,
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    score: Scorer,
    confidence: float = 0.0,
) -> list[Beam]:
    """Applies the rule of a name in `RULES`; `confidence` is for `threshold`."""
    if rule == "map":
        return list(beams)
    if rule == "mbr":
        return mbr(sentences, beams, score)
    if rule == "threshold":
        return threshold(beams, confidence)
    raise ValueError(f"unknown decision rule {rule!r}: choose one of {', '.join(RULES)}")
