"""How rank 1 is chosen from a beam: by s (`map`), by expected reward (`mbr`), or span by span.

Each rule takes beams and returns beams, best first, so that every metric and every output is made
in one way. It needs no training, no model and may not change a candidate's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from groot_jax.data.labeling import Candidate, Labeling, Sentence, Span
from groot_jax.evaluation.metrics import Beam, TripleReward

# Confidences to choose a threshold from: 0, 0.05, ..., 1.
GRID = tuple(i / 20 for i in range(21))
# Sums of probabilities are equal up to so many digits: .7 + .2 + .1 is .9999999999999999.
_DIGITS = 12


def probabilities(beam: Beam) -> np.ndarray:
    """The beam's normalised probabilities, softmax(s) over its candidates, [K].

    A candidate of unknown score gets 0; all alike where no score is known.
    """
    s_K = np.array([candidate.score for candidate in beam], np.float64)
    s_K = np.where(np.isnan(s_K), -np.inf, s_K)
    # Without a known score the softmax would be 0 / 0.
    if not np.isfinite(s_K).any():
        return np.full(len(beam), 1 / max(len(beam), 1))
    # Less the highest: s of a long sentence may be -1000, and exp(-1000) is 0.
    weights_K = np.exp(s_K - s_K.max())
    return weights_K / weights_K.sum()


def labeling_probabilities(beam: Beam) -> dict[Labeling, float]:
    """Probability of each distinct labeling: outputs that parse alike count together.

    These are shares of the beam, not of all outputs: of K candidates they add up to 1.
    """
    by_labeling: dict[Labeling, float] = {}
    for candidate, p in zip(beam, probabilities(beam), strict=True):
        by_labeling[candidate.labeling] = by_labeling.get(candidate.labeling, 0.0) + float(p)
    return by_labeling


def span_confidences(beam: Beam) -> dict[Span, float]:
    """For each span of the beam, the sum of the probabilities of the labelings that hold it."""
    # {A, B} with .6 and {A} with .4: A has 1, B has .6.
    by_span: dict[Span, float] = {}
    for labeling, p in labeling_probabilities(beam).items():
        for span in labeling:
            by_span[span] = by_span.get(span, 0.0) + p
    return by_span


def mbr(sentences: Sequence[Sentence], beams: Sequence[Beam], score: TripleReward) -> list[Beam]:
    """Orders each beam by expected reward, sum over u of p(u) R(y, u); ties keep their order.

    Minimum Bayes risk (Kumar and Byrne 2004) with the beam as the space of hypotheses and of
    references. All pairs are scored in one call.
    """
    weights = [labeling_probabilities(beam) for beam in beams]
    # Of a sentence with labelings y1, y2: R(y1, y1), R(y1, y2), R(y2, y1), R(y2, y2), read back in
    # this order below. A reward need not be symmetric: precision of (y1, y2) is recall of (y2, y1).
    # A sentence asks for up to K * K rewards, 100 with ten candidates.
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
        # The sort is stable, so that ties keep the order of s.
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
    # {A, B} without B is {A}: where the beam holds that too, its candidate moves up.
    held = [candidate for candidate in beam if candidate.labeling == labeling]
    others = [candidate for candidate in beam if candidate.labeling != labeling]
    first: list[Candidate] = held or [replace(best, labeling=labeling, score=float("nan"))]
    return [*first, *others][: len(beam)]


def choose_threshold(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    score: TripleReward,
) -> float:
    """The confidence of `GRID` with the best mean reward at rank 1, the lowest on a tie.

    To be chosen on dev; 0 leaves every beam as it is.
    """
    triples = []
    for sentence, beam in zip(sentences, beams, strict=True):
        by_span = span_confidences(beam)
        for confidence in GRID:
            pruned = _pruned(beam, by_span, confidence)
            labeling = pruned[0].labeling if pruned else ()
            triples.append((labeling, sentence.labeling, sentence.words))
    # Three spans leave at most four different labelings along the grid's 21 confidences: each is
    # scored once.
    unique = list(dict.fromkeys(triples))
    rewards = dict(zip(unique, score(unique), strict=True))
    # [sentences * grid] -> [sentences, grid] -> [grid]
    means = np.array([rewards[t] for t in triples]).reshape(len(beams), len(GRID)).mean(axis=0)
    # argmax takes the first of equal means, and with it the lowest confidence.
    return float(GRID[int(np.argmax(np.round(means, _DIGITS)))])


def decide(
    rule: str,
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    score: TripleReward,
    confidence: float = 0.0,
) -> list[Beam]:
    """Applies a rule of `config.evaluate.decide`; `confidence` is for `threshold`."""
    if rule == "mbr":
        return mbr(sentences, beams, score)
    if rule == "threshold":
        return threshold(beams, confidence)
    assert rule == "map", rule
    return list(beams)
