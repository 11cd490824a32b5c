"""What a labeler is worth to the next one: two types more, and another reward.

    .venv/bin/python benchmarks/warm_start.py --workdir=runs/warm

A labeler learns the built-in corpus without two of its types, from 1,000 sentences. Then all types
are learned for two epochs, from that labeler (model.init) and from scratch; and the labeler goes on
for F0.5, stage 1 alone. Figures are of dev. What is there is not made anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from groot_jax import config as configs
from groot_jax.data.corpus import load_corpus
from groot_jax.data.labeling import Sentence

_TRAIN, _DEV = 1000, 300
_SETTINGS = ("loader.rungs=1", "loader.node_buckets=512", "evaluate.decide=map", "generate.k=10")


def main() -> None:
    """Trains the four and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--without", default="material,size", help="types that come later")
    args = parser.parse_args()
    base: Path = args.workdir
    later = set(args.without.split(","))
    config = configs.load("retail")
    corpus = load_corpus(config.data, config.text.max_words)
    if missing := later - set(corpus.types):
        raise SystemExit(f"--without: no types {missing}; there are {', '.join(corpus.types)}")
    base.mkdir(parents=True, exist_ok=True)
    for name, dropped in (("few", later), ("all", set[str]())):
        for split, sentences in (("train", corpus.train[:_TRAIN]), ("dev", corpus.dev[:_DEV])):
            _write(base / f"{name}-{split}.jsonl", sentences, dropped)
    first = f"model.init={base / 'first'}"
    short = ("nll.epochs=2", "nll.eval_every=1", "systems=")
    _train(base, "first", "few", "nll.epochs=12", "groot.epochs=0.5", "systems=groot")
    _train(base, "more types, from the labeler", "all", first, *short)
    _train(base, "more types, from scratch", "all", *short)
    careful = ("nll.enabled=false", "reward.name=f0.5", "groot.epochs=1", "systems=groot")
    _train(base, "F0.5, from the labeler", "few", first, *careful)
    print("| | system | F1 over spans | precision | recall | mean F0.5 of rank 1 | of the list |")
    print("|---|---|---|---|---|---|---|")
    for name in (
        "first",
        "more types, from the labeler",
        "more types, from scratch",
        "F0.5, from the labeler",
    ):
        _show(base, name)


def _write(path: Path, sentences: Sequence[Sentence], dropped: set[str]) -> None:
    lines = []
    for sentence in sentences:
        spans = [list(span) for span in sentence.labeling if span.type not in dropped]
        lines.append(json.dumps({"words": sentence.words, "spans": spans}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def _folder(base: Path, name: str) -> Path:
    return base / name.replace(" ", "_").replace(",", "")


def _train(base: Path, name: str, data: str, *settings: str) -> None:
    workdir = _folder(base, name)
    if (workdir / "results.json").exists():
        return
    files = ",".join(f"{split}={(base / f'{data}-{split}.jsonl').absolute()}" for split in SPLITS)
    flags = [f"--config.{setting}" for setting in (*_SETTINGS, "data.test_fraction=0", *settings)]
    command = [sys.executable, "-m", "groot_jax.train", f"--workdir={workdir}"]
    subprocess.run([*command, f"--config=configs/columns.py:{files}", *flags], check=True)


SPLITS = ("train", "dev")


def _show(base: Path, name: str) -> None:
    results = json.loads((_folder(base, name) / "results.json").read_text(encoding="utf-8"))
    for system, splits in results["systems"].items():
        found = splits["dev"]
        careful = found["rewards"]["f0.5"]
        print(
            f"| {name} | {system} | {found['span_f1']:.3f} | {found['span_precision']:.3f} | "
            f"{found['span_recall']:.3f} | {careful['reward@1']:.3f} | "
            f"{careful['mean_reward@10']:.3f} |"
        )


if __name__ == "__main__":
    main()
