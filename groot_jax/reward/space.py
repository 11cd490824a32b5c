"""What a beam says about a sentence: how likely its labelings are, and which others may be better.

Decision rules choose by it, and pools of training are made by it. Knows no gold and no reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from groot_jax.data.labeling import Candidate, Labeling, Span

# Sums of probabilities are equal up to so many digits: .7 + .2 + .1 is .9999999999999999.
DIGITS = 12
# Candidates of which `hypotheses` leaves out the least certain spans. On dev of `retail` and MIT
# Restaurant ten had the same reward at rank 1 as five.
_PRUNED = 5
# Labelings of a sentence among which training and the report look for what the beam lacks, at most.
HYPOTHESES = 64


def probabilities(beam: Sequence[Candidate], temperature: float = 1.0) -> list[float]:
    """The beam's normalised probabilities, softmax(s / temperature) over its K candidates.

    A candidate of unknown score gets 0; all alike where no score is known.
    """
    scores = [-math.inf if math.isnan(c.score) else c.score / temperature for c in beam]
    best = max(scores, default=-math.inf)
    # Without a known score the softmax would be 0 / 0.
    if best == -math.inf:
        return [1 / max(len(beam), 1)] * len(beam)
    # Less the highest: s of a long sentence may be -1000, and exp(-1000) is 0.
    weights = [math.exp(s - best) for s in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def labeling_probabilities(
    beam: Sequence[Candidate], temperature: float = 1.0
) -> dict[Labeling, float]:
    """Probability of each distinct labeling: outputs that parse alike count together.

    These are shares of the beam, not of all outputs: of K candidates they add up to 1.
    """
    by_labeling: dict[Labeling, float] = {}
    for candidate, p in zip(beam, probabilities(beam, temperature), strict=True):
        by_labeling[candidate.labeling] = by_labeling.get(candidate.labeling, 0.0) + p
    return by_labeling


def confidences_of(chances: Mapping[Labeling, float]) -> dict[Span, float]:
    """For each span, the sum of the probabilities of the labelings that hold it."""
    # {A, B} with .6 and {A} with .4: A has 1, B has .6.
    by_span: dict[Span, float] = {}
    for labeling, p in chances.items():
        for span in labeling:
            by_span[span] = by_span.get(span, 0.0) + p
    return by_span


def hypotheses(chances: Mapping[Labeling, float], limit: int) -> list[Labeling]:
    """At most `limit` labelings that may have the highest expected reward: those of the beam, and
    more that a model trained by likelihood never writes.

    A reward that punishes a wrong span asks for a labeling without the doubtful one, which is less
    likely than both the labeling that has it and the one with another in its place. So there are,
    beside the beam's own: of the first five the labelings without the least certain span, without
    the two least certain ones, and so on; and the most certain span, with it the next one that
    overlaps none of those before, and so on. Distinct, the beam's own first.
    """
    confidence = confidences_of(chances)
    found = dict.fromkeys(chances)
    for labeling in [*chances][:_PRUNED]:
        # {A .9, B .4, C .7} -> {A, C}, {A}, {}
        kept = sorted(labeling, key=lambda span: confidence[span])
        while kept:
            kept = kept[1:]
            found.setdefault(tuple(sorted(kept)))
    union: list[Span] = []
    for span in sorted(confidence, key=lambda span: -confidence[span]):
        if all(span.end <= other.start or other.end <= span.start for other in union):
            union.append(span)
            found.setdefault(tuple(sorted(union)))
    return [*found][:limit]
