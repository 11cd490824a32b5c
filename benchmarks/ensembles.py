"""What several labelers of one data set decide together, on dev: one row each, then all of them.

    python benchmarks/ensembles.py --reward=f0.5 runs/seed0:nll_continued runs/seed1:nll_continued

Each labeler writes its k best labelings of each sentence, and each scores those of all. Together
they give a labeling the mean of its scores, the logarithm of the geometric mean of its
probabilities; the ten with the highest count as a beam. `map` and `consensus` are rewards of rank 1
by these rules, at the temperature that dev chose for the row; `Brier` is the mean of (confidence -
1 if the span is right, else 0)^2 there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks import measure
from groot_jax import Labeler
from groot_jax import config as configs
from groot_jax.data.corpus import read_corpus
from groot_jax.data.labeling import Candidate, Sentence
from groot_jax.errors import exit_on_user_error
from groot_jax.evaluation.confidence import choose_temperature, span_confidences
from groot_jax.evaluation.decisions import consensus
from groot_jax.evaluation.metrics import Beam, TripleReward, one_by_one
from groot_jax.reward.rewards import RewardSpec, make_reward

_ROWS = 64  # Sentences, or labelings, of a batch.


def scored(labelers: Sequence[Labeler], dev: Sequence[Sentence], k: int) -> list[list[Beam]]:
    """By labeler and sentence: all labelings that any of them has written, as it scores them."""
    words = [sentence.words for sentence in dev]
    written = [labeler.label_all(words, k, "map", _ROWS) for labeler in labelers]
    unions = [
        list(dict.fromkeys(one.labeling for found in written for one in found[i].labelings))
        for i in range(len(dev))
    ]
    flat = [Sentence(words[i], y) for i, union in enumerate(unions) for y in union]
    beams: list[list[Beam]] = []
    for labeler in labelers:
        by_place = labeler._scores.given(labeler._params, flat, _ROWS)
        scores = iter([by_place[place] for place in range(len(flat))])
        beams.append([[Candidate(y, next(scores)) for y in union] for union in unions])
    return beams


def together(beams: Sequence[list[Beam]], k: int) -> list[Beam]:
    """The k labelings of each sentence with the highest mean score, best first."""
    merged: list[Beam] = []
    for of_sentence in zip(*beams, strict=True):
        means = np.mean([[c.score for c in beam] for beam in of_sentence], axis=0)
        beam = [Candidate(c.labeling, s) for c, s in zip(of_sentence[0], means, strict=True)]
        merged.append(sorted(beam, key=lambda c: -c.score)[:k])
    return merged


def row_of(
    name: str, dev: Sequence[Sentence], beams: list[Beam], score: TripleReward
) -> measure.Row:
    """Temperature, Brier score and rewards of rank 1."""
    temperature = choose_temperature(dev, beams)

    def reward(decided: Sequence[Beam]) -> float | None:
        triples = [(b[0].labeling, s.labeling, s.words) for b, s in zip(decided, dev, strict=True)]
        return measure.rounded(float(np.mean(score(triples))), 4)

    errors = [
        (confidence - (span in sentence.labeling)) ** 2
        for sentence, beam in zip(dev, beams, strict=True)
        for span, confidence in span_confidences(beam, temperature).items()
    ]
    return {
        "labeler": name,
        "temperature": temperature,
        "Brier": measure.rounded(float(np.mean(errors)), 4),
        "map": reward(beams),
        "consensus": reward(consensus(dev, beams, score, temperature)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labelers", nargs="+", metavar="WORKDIR[:SYSTEM]")
    parser.add_argument("--reward", default="f0.5")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line")
    args = parser.parse_args()
    places = [name.partition(":")[::2] for name in args.labelers]
    config = configs.load_dumped(Path(places[0][0]) / configs.CONFIG_FILE)
    score = one_by_one(make_reward(RewardSpec(**{**config.reward, "name": args.reward})))
    dev, k = read_corpus(config).dev, config.generate.k
    labelers = [Labeler.load(workdir, system=system or None) for workdir, system in places]
    beams = scored(labelers, dev, k)
    rows = [
        row_of(name, dev, together([beams[i]], k), score) for i, name in enumerate(args.labelers)
    ]
    means = {
        key: measure.rounded(float(np.mean([float(row[key] or 0) for row in rows])), 4)
        for key in ("Brier", "map", "consensus")
    }
    rows += [
        {"labeler": "mean of these", "temperature": None, **means},
        row_of("together", dev, together(beams, k), score),
    ]
    measure.show(rows)
    measure.finish(measure.device() | {"results": rows}, args.json)


if __name__ == "__main__":
    exit_on_user_error(main)
