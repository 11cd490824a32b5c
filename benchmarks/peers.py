"""What people would pick instead: a CRF over word features, and spaCy's NER, on the same splits.

    python benchmarks/peers.py --config=configs/retail.py [--config=configs/snips.py ...]
        [--peers crf spacy] [--seeds 0 1 2] [--split test] [--json FILE]

Needs `pip install -e '.[peers]' -c constraints.txt`. A config's data are loaded as a training job
loads them (GROOT_DATA_DIR and all), so that train, dev and test are those of our own tables, and
the figures come out of the same metrics and rewards.

crf: linear chain, trained by python-crfsuite's L-BFGS; features in `word_features`. Deterministic.
spacy: the `ner` pipe of spaCy, from scratch, with spaCy's own training settings. It is evaluated on
dev after each epoch, and the best is kept. Its seed draws the weights, dropout and the order of the
sentences.

+threshold: spans whose confidence lies below a threshold are dropped, as our own decision rule of
that name does it. The threshold is the one of 0, 0.05, ..., 1 with the best mean reward on dev, for
f0.5 and for utility (a wrong span costs reward.wrong_cost missed ones) separately.

Prints a Markdown table a config. Columns: precision P, recall R and F1 over all spans, the share of
exact sentences, and the mean rewards f1, f0.5, f2 and utility of the one labeling that a peer gives
(f1 is our reward@1); the threshold, one a seed; and seconds of training and of tagging the split.
Seconds are those of CPU time, so that other jobs on the machine do not count; evaluations on dev
are part of a training. --json writes all figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.crf import train_crf
from benchmarks.peer import PEERS, Peer, require, score
from benchmarks.spacy_ner import train_spacy
from groot_jax import config as configs
from groot_jax.data.corpus import read_corpus
from groot_jax.data.labeling import Labeling, Sentence
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.evaluation.decisions import GRID
from groot_jax.reward.rewards import Reward, RewardSpec, make_reward

REWARDS = ("f1", "f0.5", "f2", "utility")
# Rewards under which it can pay to say less: a threshold is chosen for each.
CAUTIOUS = ("f0.5", "utility")
# Means over dev are equal up to so many digits: sums of floats in another order differ in the last.
_DIGITS = 12


# ---- Thresholds and figures -------------------------------------------------------------------


class Tagged(NamedTuple):
    """What a peer said of one sentence, and how sure it was of each span."""

    labeling: Labeling
    confidences: tuple[float, ...]

    def above(self, threshold: float) -> Labeling:
        """The spans that are left; as in our own rule, rounding costs none of them at 1."""
        pairs = zip(self.labeling, self.confidences, strict=True)
        return tuple(span for span, confidence in pairs if confidence >= threshold - 1e-9)


def choose_threshold(
    sentences: Sequence[Sentence],
    tagged: Sequence[Tagged],
    reward: Reward,
    grid: Sequence[float] = GRID,
) -> float:
    """The threshold of `grid` with the best mean reward, the lowest on a tie; to be asked on dev.

    With the default grid 0 is among them, so that keeping everything is a choice.
    """
    # A grid of 21 thresholds gives 21 means; argmax takes the first of equal ones, the lowest.
    means = [
        statistics.fmean(
            reward(said.above(threshold), sentence.labeling, sentence.words)
            for sentence, said in zip(sentences, tagged, strict=True)
        )
        for threshold in grid
    ]
    return float(grid[int(np.argmax(np.round(means, _DIGITS)))])


@dataclass(frozen=True)
class Result:
    """One row: a peer of one seed (None: it draws nothing), with or without a threshold.

    Seconds of CPU time. `tagging_seconds`: from words to labelings, for a threshold with the
    confidences.
    """

    config: str
    split: str
    kind: str
    seed: int | None
    decide: str  # map, as our own rule of the single best is called, or a reward of CAUTIOUS.
    threshold: float
    training_seconds: float
    tagging_seconds: float
    facts: dict[str, float]
    metrics: dict[str, Any]

    @property
    def system(self) -> str:
        return self.kind if self.decide == "map" else f"{self.kind}+threshold ({self.decide})"


def measure(
    peer: Peer,
    dev: Sequence[Sentence],
    sentences: Sequence[Sentence],
    rewards: Mapping[str, Reward],
    **named: Any,
) -> list[Result]:
    """The rows of one trained peer on `sentences`: as it is, and with the thresholds of `dev`.

    Gold of `sentences` is used for the metrics alone.
    """
    # CPU seconds of the split that is measured; what is done to dev below belongs to choosing.
    begun = time.process_time()
    labelings = peer.tag(sentences)
    tagging = time.process_time() - begun
    confidences = peer.confidences(sentences, labelings)
    with_confidences = time.process_time() - begun
    tagged = [Tagged(*pair) for pair in zip(labelings, confidences, strict=True)]
    dev_labelings = peer.tag(dev)
    dev_confidences = peer.confidences(dev, dev_labelings)
    dev_tagged = [Tagged(*pair) for pair in zip(dev_labelings, dev_confidences, strict=True)]
    # (rule, threshold, seconds): the labeling as it is, and one row for each threshold.
    rows = [("map", 0.0, tagging)]
    for name in CAUTIOUS:
        rows.append((name, choose_threshold(dev, dev_tagged, rewards[name]), with_confidences))
    return [
        Result(
            decide=decide,
            threshold=threshold,
            tagging_seconds=seconds,
            facts=peer.facts,
            metrics=score(sentences, [said.above(threshold) for said in tagged], rewards),
            **named,
        )
        for decide, threshold, seconds in rows
    ]


def compare(name: str, peers: Sequence[str], seeds: Sequence[int], split: str) -> list[Result]:
    """Trains and measures the peers on the data of one config."""
    config = configs.load(name)
    corpus = read_corpus(config)
    sentences = {"dev": corpus.dev, "test": corpus.test}[split]
    for needed, what in ((corpus.dev, "dev"), (sentences, split)):
        if not needed:
            raise UserError(
                f"{name}: its data have no {what} split, which the peers are chosen or measured "
                f"on; set config.data.{what} or config.data.{what}_fraction in that file"
            )
    # Four rewards with the config's own type weights and cost of a wrong span.
    spec = RewardSpec(**config.reward)
    rewards = {reward: make_reward(replace(spec, name=reward)) for reward in REWARDS}
    results = []
    for kind in peers:
        # L-BFGS from zero weights draws nothing: another seed would give the same chain.
        for seed in [None] if kind == "crf" else seeds:
            begun = time.process_time()
            peer: Peer = train_crf(corpus) if seed is None else train_spacy(corpus, seed)
            seconds = time.process_time() - begun
            rows = measure(
                peer,
                corpus.dev,
                sentences,
                rewards,
                config=name,
                split=split,
                kind=kind,
                seed=seed,
                training_seconds=seconds,
            )
            results += rows
            f1 = rows[0].metrics["span_f1"]
            drawn = "" if seed is None else f", seed {seed}"
            print(
                f"{name}: {kind}{drawn}: {seconds:.0f} s of training, {split} F1 {f1:.3f}",
                file=sys.stderr,
                flush=True,
            )
    return results


# ---- The command ------------------------------------------------------------------------------

COLUMNS = ("P", "R", "F1", "exact", *REWARDS)


def figures(result: Result) -> list[float]:
    """The numbers of a row, in the order of COLUMNS."""
    metrics = result.metrics
    spans = [metrics[key] for key in ("span_precision", "span_recall", "span_f1", "exact_match")]
    return spans + [metrics["rewards"][name]["reward@1"] for name in REWARDS]


def table(results: Sequence[Result]) -> str:
    """The Markdown table of one config; several seeds are one row, mean ± standard deviation."""
    # `spacy` -> its results of all seeds, `spacy+threshold (f0.5)` -> those with that threshold.
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.system, []).append(result)
    first = results[0]
    name = Path(first.config.partition(".py:")[0]).stem
    lines = [
        f"{name}, {first.split} split, {first.metrics['num_sentences']:,} "
        "sentences; f1 to utility are mean rewards of the one labeling:",
        "",
        "| system | " + " | ".join(COLUMNS) + " | threshold | training | tagging |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    for system, group in groups.items():
        cells = [spread(values) for values in zip(*map(figures, group), strict=True)]
        thresholds = [f"{result.threshold:g}" for result in group]
        cells.append("" if group[0].decide == "map" else ", ".join(thresholds))
        cells.append(f"{statistics.fmean(result.training_seconds for result in group):.0f} s")
        cells.append(f"{statistics.fmean(result.tagging_seconds for result in group):.1f} s")
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    seeds = sorted({result.seed for result in results if result.seed is not None})
    if len(seeds) > 1:
        lines += ["", f"± is the standard deviation over seeds {', '.join(map(str, seeds))}."]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation (n - 1) where there are several."""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def as_json(results: Sequence[Result]) -> str:
    """Every figure of every run, with the versions of what was compared."""
    packages = [PEERS[kind] for kind in dict.fromkeys(result.kind for result in results)]
    runs = [vars(result) | {"system": result.system} for result in results]
    document = {"versions": {name: version(name) for name in packages}, "runs": runs}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="FILE.py[:ARG]",
        help="whose data to compare on, such as configs/retail.py; may be given several times",
    )
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of spaCy (0)")
    parser.add_argument("--split", choices=("test", "dev"), default="test", help="measured on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all figures")
    args = parser.parse_args(argv)
    for kind, module in (("crf", "pycrfsuite"), ("spacy", "spacy")):
        if kind in args.peers:  # Now, rather than after the minutes that another one takes.
            require(kind, module)
    results: list[Result] = []
    for name in args.config:
        found = compare(name, args.peers, args.seeds, args.split)
        print(table(found), flush=True)
        results += found
        if args.json:  # After each config: what is there stays, should a later one fail.
            args.json.write_text(as_json(results), encoding="utf-8")


if __name__ == "__main__":
    exit_on_user_error(main)
