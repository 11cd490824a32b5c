"""How rank 1 is chosen from a beam: by s (`map`), by expected reward (`mbr`; over more labelings
than the beam holds, `consensus`), or span by span (`threshold`).

Each rule takes beams and returns beams, best first, so that every metric and every output is made
in one way. It needs no training, no model and may not change a candidate's score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from groot_jax.data.labeling import Candidate, Labeling, Sentence, Span
from groot_jax.errors import UserError
from groot_jax.evaluation.confidence import (
    Curve,
    choose_curve,
    choose_temperature,
    span_confidences,
)
from groot_jax.evaluation.metrics import Beam, TripleReward
from groot_jax.reward.space import DIGITS, hypotheses, labeling_probabilities

RULES = ("map", "mbr", "threshold", "consensus")
# Those that ask for rewards when they decide.
BY_REWARD = ("mbr", "consensus")
# Confidences to choose a threshold from: 0, 0.05, ..., 1.
GRID = tuple(i / 20 for i in range(21))
_PARTS = 4  # Of dev, each of which is decided by the confidence that the others choose.


@dataclass(frozen=True)
class Tuning:
    """What decisions need to know of a model, chosen on dev.

    `temperature`: what scores are divided by before they count as log probabilities, in
    `consensus` and in what a user is told. `threshold`: the confidence, at temperature 1, below
    which the rule of that name drops a span, for one reward; None: not chosen. `rule`: the one
    whose first answers have the highest mean reward, `map` where none was chosen. `curve`: what a
    span's confidence at `temperature` is worth, for what a user is told. `k`: labelings of a beam
    that all of this was chosen with, 0 where nobody knows.
    """

    temperature: float = 1.0
    threshold: float | None = None
    rule: str = "map"
    curve: Curve = ()
    k: int = 0


def mbr(sentences: Sequence[Sentence], beams: Sequence[Beam], score: TripleReward) -> list[Beam]:
    """Orders each beam by expected reward, sum over u of p(u) R(y, u); ties keep their order.

    Minimum Bayes risk (Kumar and Byrne 2004) with the beam as the space of hypotheses and of
    references. All pairs are scored in one call.
    """
    weights = [labeling_probabilities(beam) for beam in beams]
    expected = _expected_rewards(sentences, weights, [[*chances] for chances in weights], score)
    return [_by_value(beam, values) for beam, values in zip(beams, expected, strict=True)]


def consensus(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    score: TripleReward,
    temperature: float = 1.0,
    limit: int = 64,
) -> list[Beam]:
    """Puts that of at most `limit` `hypotheses` first whose expected reward is the highest; the
    others follow as `mbr` orders them, with the beam's probabilities at this temperature.

    A labeling that the beam does not hold has an unknown score. The beam does not grow: its last
    candidate leaves for a new one. All pairs are scored in one call.
    """
    weights = [labeling_probabilities(beam, temperature) for beam in beams]
    spaces = [hypotheses(chances, limit) for chances in weights]
    decided: list[Beam] = []
    expected = _expected_rewards(sentences, weights, spaces, score)
    for beam, chances, values in zip(beams, weights, expected, strict=True):
        ordered = _by_value(beam, {labeling: values.get(labeling, -1.0) for labeling in chances})
        if values:
            best = max(values, key=lambda labeling: round(values[labeling], DIGITS))
            ordered = _led_by(Candidate(best), ordered)
        decided.append(ordered)
    return decided


def _expected_rewards(
    sentences: Sequence[Sentence],
    weights: Sequence[dict[Labeling, float]],
    spaces: Sequence[Sequence[Labeling]],
    score: TripleReward,
) -> list[dict[Labeling, float]]:
    """Of each hypothesis of each sentence the sum over u of p(u) R(hypothesis, u)."""
    # With hypotheses h1, h2 and references u1, u2: R(h1, u1), R(h1, u2), R(h2, u1), R(h2, u2), read
    # back in this order below. A reward need not be symmetric: precision of (h, u) is recall of
    # (u, h). With ten candidates `mbr` asks for 100 rewards a sentence, `consensus` for about 150.
    triples = [
        (hypothesis, reference, sentence.words)
        for sentence, references, space in zip(sentences, weights, spaces, strict=True)
        for hypothesis in space
        for reference in references
    ]
    rewards = score(triples)
    if len(rewards) != len(triples):
        raise UserError(
            f"the reward returned {len(rewards)} values for {len(triples)} candidates; it has to "
            "return one for each, in their order"
        )
    values = iter(rewards)
    return [
        {hypothesis: sum(p * next(values) for p in references.values()) for hypothesis in space}
        for references, space in zip(weights, spaces, strict=True)
    ]


def _by_value(beam: Beam, values: dict[Labeling, float]) -> Beam:
    # The sort is stable, so that ties keep the order of s.
    return sorted(beam, key=lambda candidate: -round(values[candidate.labeling], DIGITS))


def _led_by(new: Candidate, beam: Beam) -> Beam:
    """The beam with the labeling of `new` first: as its own candidate where it holds one."""
    held = [candidate for candidate in beam if candidate.labeling == new.labeling]
    others = [candidate for candidate in beam if candidate.labeling != new.labeling]
    return [*(held or [new]), *others][: len(beam)]


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
    return _led_by(replace(best, labeling=labeling, score=float("nan"), slot=-1), beam)


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
    return float(GRID[int(np.argmax(np.round(means, DIGITS)))])


def choose_rule(
    sentences: Sequence[Sentence], decided: Mapping[str, Sequence[Beam]], score: TripleReward
) -> str:
    """The rule whose first answers have the best mean reward, the first in `RULES` on a tie; to be
    chosen on dev. `decided`: what each rule makes of dev.

    `threshold` has no say beside a rule of expected reward. Its one confidence for all sentences
    was chosen for its reward on the same sentences, so that it looks better here than it is.
    """
    known = [rule for rule in RULES if rule in decided]
    if any(rule in BY_REWARD for rule in known):
        known = [rule for rule in known if rule != "threshold"]
    firsts = [[beam[0].labeling if beam else () for beam in decided[rule]] for rule in known]
    # Rules agree on most sentences: each labeling is scored once.
    triples = [
        [(y, sentence.labeling, sentence.words) for y, sentence in zip(ys, sentences, strict=True)]
        for ys in firsts
    ]
    unique = list(dict.fromkeys(triple for of_rule in triples for triple in of_rule))
    rewards = dict(zip(unique, score(unique), strict=True))
    means = [np.mean([rewards[triple] for triple in of_rule]) for of_rule in triples]
    return known[int(np.argmax(np.round(means, DIGITS)))]


def _crossed_threshold(
    sentences: Sequence[Sentence], beams: Sequence[Beam], score: TripleReward
) -> list[Beam]:
    """What `threshold` makes of each quarter with the confidence that the others choose: what it is
    worth on sentences that have not chosen it."""
    decided: list[Beam] = [*beams]
    for part in range(_PARTS):
        others = [n for n in range(len(beams)) if n % _PARTS != part]
        if not others:  # A single sentence.
            break
        confidence = choose_threshold(
            [sentences[n] for n in others], [beams[n] for n in others], score
        )
        decided[part::_PARTS] = threshold(beams[part::_PARTS], confidence)
    return decided


def tune(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    score: TripleReward,
    rules: Sequence[str] = RULES,
    limit: int = 64,
) -> tuple[Tuning, dict[str, list[Beam]]]:
    """What `decide` needs, chosen on dev for one model and one reward, and which of `rules` is the
    best there; and what each of them makes of dev, where there is a choice.

    `limit`: `config.decide.hypotheses`.
    """
    temperature = choose_temperature(sentences, beams)
    tuning = Tuning(
        temperature=temperature,
        threshold=choose_threshold(sentences, beams, score),
        curve=choose_curve(sentences, beams, temperature),
        k=max((len(beam) for beam in beams), default=0),
    )
    if len(rules) == 1:
        return replace(tuning, rule=rules[0]), {}
    decided = {rule: decide(rule, sentences, beams, score, tuning, limit) for rule in rules}
    judged = dict(decided)
    if {*rules} == {"map", "threshold"}:
        judged["threshold"] = _crossed_threshold(sentences, beams, score)
    return replace(tuning, rule=choose_rule(sentences, judged, score)), decided


def decide(
    rule: str,
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    score: TripleReward,
    tuning: Tuning = Tuning(),
    limit: int = 64,
) -> list[Beam]:
    """Applies a rule of `config.evaluate.decide`; `limit`: `config.decide.hypotheses`."""
    if rule == "mbr":
        return mbr(sentences, beams, score)
    if rule == "consensus":
        return consensus(sentences, beams, score, tuning.temperature, limit)
    if rule == "threshold":
        assert tuning.threshold is not None
        return threshold(beams, tuning.threshold)
    assert rule == "map", rule
    return list(beams)
