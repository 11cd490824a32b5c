"""W/predictions/<system>-<split>-<step>.jsonl: all that a checkpoint answers on a split, a line a
sentence; it scores nothing.

{"index": place in the split, "source": "file:line", "words": [...], "gold": spans,
 "labelings": [{"spans", "score", "probability", "reward", "well_formed"}, ...], as the search ranks
 them, "decided": {"consensus": {"spans", "reward"}, ...}}: rank 1 of each decision rule. Spans are
[start, end, type]; a reward is null where none was asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from groot_jax.data.labeling import Labeling, Sentence
from groot_jax.evaluation.metrics import Beam, BeamScores, deduplicated
from groot_jax.evaluation.records import Json, spans_of
from groot_jax.reward.space import labeling_probabilities
from groot_jax.runtime.files import write_text

FOLDER = "predictions"


class Predictions:
    """Collects what the rules decide for the sentences of a split, and writes it."""

    def __init__(
        self, sentences: Sequence[Sentence], beams: Sequence[Beam], temperature: float
    ) -> None:
        """`beams` as the search has found them; `temperature`: that of their probabilities."""
        self._sentences, self._beams, self._temperature = sentences, beams, temperature
        self._rewards: list[dict[Labeling, float]] = [{} for _ in sentences]
        self._decided: dict[str, Sequence[Beam]] = {}

    def add(self, rule: str, decided: Sequence[Beam], scores: BeamScores, reward: str) -> None:
        """What a rule decides, with the scores of it under the reward of that name."""
        self._decided[rule] = decided
        rewards_NxK = scores.rewards_RxNxK[scores.names.index(reward)]
        for known, beam, rewards_K in zip(self._rewards, decided, rewards_NxK, strict=True):
            # Where the search has found nothing, that is what was scored.
            ranked = [c.labeling for c in deduplicated(beam)] or [()]
            known.update(zip(ranked, rewards_K[: len(ranked)].tolist(), strict=True))

    def write(self, folder: Path, system: str, split: str, step: int) -> Path:
        """Writes the file of a checkpoint, whole or not at all, and returns its path. Raises
        UserError where the disk refuses."""
        path = folder / FOLDER / f"{system}-{split}-{step}.jsonl"
        lines = (self._line(n) for n in range(len(self._sentences)))
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return path

    def _line(self, n: int) -> Json:
        sentence, beam, rewards = self._sentences[n], self._beams[n], self._rewards[n]
        chances = labeling_probabilities(beam, self._temperature)

        def reward(labeling: Labeling) -> float | None:
            return round(rewards[labeling], 6) if labeling in rewards else None

        firsts = {rule: d[n][0].labeling if d[n] else () for rule, d in self._decided.items()}
        return {
            "index": n,
            "source": sentence.source,
            "words": list(sentence.words),
            "gold": spans_of(sentence.labeling),
            "labelings": [
                {
                    "spans": spans_of(c.labeling),
                    "score": round(c.score, 6) if math.isfinite(c.score) else None,
                    "probability": round(chances[c.labeling], 6),
                    "reward": reward(c.labeling),
                    "well_formed": c.well_formed,
                }
                for c in deduplicated(beam)
            ],
            "decided": {
                rule: {"spans": spans_of(first), "reward": reward(first)}
                for rule, first in firsts.items()
            },
        }


def span_counts(
    folder: Path, system: str, split: str, step: int, rule: str
) -> dict[str, np.ndarray] | None:
    """What a rule's rank 1 holds of each sentence, [N] each: `right`, `predicted` and `gold` spans,
    `exact`, whether they are the same, and `sentences`, 1. None where there is no such file, and
    for a damaged or empty one."""
    keys = ("right", "predicted", "gold", "exact", "sentences")
    counts: dict[str, list[int]] = {key: [] for key in keys}
    path = folder / FOLDER / f"{system}-{split}-{step}.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            for line in map(json.loads, file):
                gold = {tuple(span) for span in line["gold"]}
                found = {tuple(span) for span in line["decided"][rule]["spans"]}
                values = (len(gold & found), len(found), len(gold), int(gold == found), 1)
                for count, value in zip(counts.values(), values, strict=True):
                    count.append(value)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if not counts["gold"]:
        return None
    return {key: np.array(values, np.float64) for key, values in counts.items()}
