"""What a distilled labeler gives for its time: greedy, against its teacher's consensus of ten.

    python benchmarks/distill.py --teacher=runs/mine --student=runs/mine_distilled --reward=f0.5

Labels the dev split with the teacher (its stage 0) by `map` and by `consensus`, both with the beam
of its config, and by `consensus` with each of --beams; and with the student by `map`, with a beam
of 1 and with the config's. reward@1 is the mean reward of the first answer, sentences_per_second
the rate of `Labeler.label_all` without compilation, speedup that rate over the one of the teacher's
consensus.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# What stands beside this file is `benchmarks.NAME`, wherever Python was started.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import measure
from groot_jax import Labeler
from groot_jax import config as configs
from groot_jax.data.corpus import read_corpus
from groot_jax.data.labeling import Sentence
from groot_jax.errors import exit_on_user_error
from groot_jax.evaluation.metrics import TripleReward, one_by_one
from groot_jax.reward.rewards import RewardSpec, make_reward


def labeler(workdir: Path, system: str | None, k: int | None, score: TripleReward) -> Labeler:
    """A system of a work directory; `k`: its beam, without: that of its config."""
    config = configs.load_dumped(workdir / configs.CONFIG_FILE)
    if k is not None:
        with config.unlocked():
            config.generate.k = k
    return Labeler.load(workdir, system=system, config=config, score=score)


def row_of(
    name: str, labeler: Labeler, rule: str, sentences: Sequence[Sentence], score: TripleReward
) -> measure.Row:
    """reward@1 and rate of one labeler on the sentences, after one pass that compiles."""
    words = [sentence.words for sentence in sentences]
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        found = labeler.label_all(words, k=1, decide=rule)
        seconds.append(time.perf_counter() - begun)
    first = [found_.labelings[0].labeling if found_.labelings else () for found_ in found]
    rewards = score([(y, s.labeling, s.words) for y, s in zip(first, sentences, strict=True)])
    return {
        "labeler": name,
        "reward@1": measure.rounded(float(np.mean(rewards)), 4),
        "sentences_per_second": measure.rounded(len(sentences) / seconds[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, required=True, help="work directory of stage 0")
    parser.add_argument("--student", type=Path, required=True, help="that of the distilled system")
    parser.add_argument("--system", help="the student's; without: the last one trained there")
    parser.add_argument("--reward", default="f0.5", help="of consensus and of the column (f0.5)")
    parser.add_argument(
        "--beams", type=int, nargs="*", default=[4, 2], help="narrower ones of the teacher (4 2)"
    )
    parser.add_argument("--limit", type=int, default=0, help="only so many dev sentences; 0: all")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line")
    args = parser.parse_args()
    config = configs.load_dumped(args.student / configs.CONFIG_FILE)
    score = one_by_one(make_reward(RewardSpec(**{**config.reward, "name": args.reward})))
    corpus = read_corpus(config)
    sentences = corpus.dev[: args.limit] if args.limit else corpus.dev
    teacher = labeler(args.teacher, "nll", None, score)
    teacher_k = configs.load_dumped(args.teacher / configs.CONFIG_FILE).generate.k
    rows = [
        row_of(f"teacher, k = {teacher_k}, consensus", teacher, "consensus", sentences, score),
        row_of(f"teacher, k = {teacher_k}, map", teacher, "map", sentences, score),
    ]
    for k in args.beams:
        narrow = labeler(args.teacher, "nll", k, score)
        rows.append(row_of(f"teacher, k = {k}, consensus", narrow, "consensus", sentences, score))
    for k in dict.fromkeys((config.generate.k, 1)):
        student = labeler(args.student, args.system, k, score)
        rows.append(row_of(f"student, k = {k}, map", student, "map", sentences, score))
    for row in rows:
        rate = float(row["sentences_per_second"])
        row["speedup"] = measure.rounded(rate / float(rows[0]["sentences_per_second"]), 3)
    measure.show(rows)
    measure.finish(measure.device() | {"results": rows}, args.json)


if __name__ == "__main__":
    exit_on_user_error(main)
