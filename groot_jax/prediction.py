"""What a labeler answers: ranked labelings of a sentence with their scores. It may not search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from groot_jax.data.labeling import Labeling, Span
from groot_jax.evaluation.confidence import span_confidences
from groot_jax.evaluation.decisions import Tuning
from groot_jax.evaluation.metrics import Beam, deduplicated
from groot_jax.evaluation.records import Json
from groot_jax.reward.space import labeling_probabilities


@dataclass(frozen=True)
class ScoredLabeling:
    """One labeling of a sentence: its log probability s(y), and its share, 0 to 1, of the beam's
    probability at the temperature that dev chose.

    Of a labeling that the search has not written, the share is its probability over the beam's,
    beside their sum of 1.
    """

    labeling: Labeling
    score: float
    probability: float
    well_formed: bool


@dataclass(frozen=True)
class Prediction:
    """The labelings of a sentence, best first, by the rule `decide`, and how sure the beam is of
    each of their spans.

    `confidence` of a span: the sum of the probabilities of the beam's labelings that hold it, or,
    where dev has calibrated that, the share of such spans that were right.
    `text` and `offsets`, the places of its words in it, where text was labeled and not words.
    """

    words: tuple[str, ...]
    labelings: tuple[ScoredLabeling, ...]
    confidence: dict[Span, float]
    decide: str
    text: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None

    def to_json(self) -> Json:
        """What the job prints: figures rounded to six digits, spans with their words, and with
        the characters of the text that they are where there is one."""
        return {
            **self._sentence(),
            "decide": self.decide,
            "labelings": [
                {
                    "spans": self._spans(scored.labeling),
                    "score": round(scored.score, 6),
                    "probability": round(scored.probability, 6),
                    "well_formed": scored.well_formed,
                }
                for scored in self.labelings
            ],
        }

    def to_spans(self) -> Json:
        """The first labeling alone: words, the text where there is one, and spans as `to_json` has
        them."""
        best = self.labelings[0].labeling if self.labelings else ()
        return {**self._sentence(), "spans": self._spans(best)}

    def _sentence(self) -> Json:
        return {"words": list(self.words), **({} if self.text is None else {"text": self.text})}

    def _spans(self, labeling: Labeling) -> list[Json]:
        return [
            {
                "start": span.start,
                "end": span.end,
                "type": span.type,
                **self._characters(span),
                "confidence": round(self.confidence[span], 6),
            }
            for span in labeling
        ]

    def _characters(self, span: Span) -> Json:
        if self.text is None or self.offsets is None:
            return {"text": " ".join(self.words[span.start : span.end])}
        start, end = self.offsets[span.start][0], self.offsets[span.end - 1][1]
        return {"text": self.text[start:end], "start_char": start, "end_char": end}


def make_prediction(
    words: tuple[str, ...], beam: Beam, ordered: Beam, k: int, rule: str, tuning: Tuning
) -> Prediction:
    """`beam` as it was found, `ordered` as the rule has it."""
    temperature = tuning.temperature
    if not words:
        return Prediction(words, (), {}, rule)
    # Of the whole beam, before it is cut to k: an answer's figures do not depend on how many more
    # are asked for.
    chances = labeling_probabilities(beam, temperature)
    confidence = span_confidences(beam, temperature, tuning.curve)
    # What the search has not written has a share beside the beam's, by its own score.
    total = float(np.logaddexp.reduce([c.score / temperature for c in beam]))
    labelings = tuple(
        ScoredLabeling(
            c.labeling,
            c.score,
            chances.get(c.labeling, math.exp(min(0.0, c.score / temperature - total))),
            c.well_formed,
        )
        for c in deduplicated(ordered)[:k]
    )
    return Prediction(words, labelings, confidence, rule)
