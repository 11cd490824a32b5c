"""A labeler out to every format: the same best labelings, by whom, how good and how fast.

    GROOT_DATA_DIR=data .venv/bin/python benchmarks/export.py --workdir=runs/export \\
        [--transformers5=.venv/transformers5/bin/python] [--tokenizer=auto]

transformers 5 writes a small random T5 with the released vocabulary (data/t5_vocab/spiece.model).
From that folder both stages are trained on MIT Restaurant, the labeler is exported, and each
`labeling.py`, in a process of its own, labels 100 sentences of the test split, of which nothing but
the words is read, and the dev split, for F1. What is there is not made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groot_jax import Labeler
from groot_jax import config as configs
from groot_jax.data.corpus import load_corpus
from groot_jax.data.labeling import Labeling, Sentence, Span

K = 10
# Sizes that train in minutes on one core, with the vocabulary of released checkpoints and a head of
# its own, as they have. A start as that of a labeler from scratch (groot_jax/model/scratch.py): a
# small embedding and small branches, heads of the encoder that look at their neighbours, and
# cross-attention that begins at the sentinel which the decoder has just written.
_MAKE = """
import sys, torch
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer, set_seed
vocabulary, folder = sys.argv[1:]
set_seed(0)
shape = dict(d_model=64, d_kv=16, d_ff=128, num_heads=8, num_layers=2, num_decoder_layers=1)
model = T5ForConditionalGeneration(
    T5Config(
        vocab_size=32128, feed_forward_proj="gated-gelu", tie_word_embeddings=False, **shape
    )
)
with torch.no_grad():
    model.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn(32128, 64))
    for name, x in model.named_parameters():
        if name.endswith(("shared.weight", "SelfAttention.o.weight", "wo.weight")):
            x *= 0.3 if name.startswith("encoder") else 0.1
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    for head, bucket in enumerate((1, 17, 2, 18, 0, 3, 19)):
        bias[bucket, head] += 8
    for block in model.decoder.block:
        cross = block.layer[1].EncDecAttention
        cross.q.weight *= 3
        cross.k.weight.copy_(cross.q.weight)
model.save_pretrained(folder)
T5Tokenizer.from_pretrained(vocabulary).save_pretrained(folder)
"""
_SETTINGS = (
    "data.test=",
    "data.dev_fraction=0.02",
    "data.augment=0",
    "text.format=sentinel_tag",
    "model.dropout=0",
    "groot.dropout=0",
    "nll.learning_rate=3e-3",
    "groot.epochs=0.1",
    "groot.eval_every=0.1",
    "evaluate.dev_limit=100",
    "evaluate.decide=map",
    "systems=groot",
    "loader.rungs=2",
    "loader.node_buckets=512",
)
# Name of a row, the format, further flags, and which Python.
_ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("transformers 4.57", "transformers", ()),
    ("transformers 5", "transformers", ()),
    ("flax", "flax", ()),
    ("ctranslate2", "ctranslate2", ()),
    ("ctranslate2 int8", "ctranslate2", ("--quantization=int8",)),
    ("stablehlo", "stablehlo", ()),
)


def main() -> None:
    """Runs all of it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--transformers5", default=".venv/transformers5/bin/python")
    parser.add_argument("--tokenizer", default="auto", help="config.text.tokenizer")
    parser.add_argument("--epochs", type=float, default=4.0, help="of stage 0")
    parser.add_argument("--sentences", type=int, default=100, help="of test")
    args = parser.parse_args()
    base = args.workdir
    start, workdir = base / "start", base / "run"
    data = Path(os.environ["GROOT_DATA_DIR"])
    if not (start / "config.json").exists():
        vocabulary = str(data / "t5_vocab")
        subprocess.run([args.transformers5, "-c", _MAKE, vocabulary, str(start)], check=True)
    settings = [*_SETTINGS, f"model.init={start}", f"text.tokenizer={args.tokenizer}"]
    settings += [f"nll.epochs={args.epochs}", f"nll.eval_every={args.epochs / 2}"]
    flags = [f"--config.{setting}" for setting in settings]
    if not (workdir / "results.json").exists():
        config = "--config=configs/mit_restaurant.py"
        _job("train", config, f"--workdir={workdir}", *flags)
    config = configs.load_dumped(workdir / configs.CONFIG_FILE)
    config.data.test = "mit_restaurant/restauranttest.bio"
    corpus = load_corpus(config.data, config.text.max_words)
    words, dev = [s.words for s in corpus.test[: args.sentences]], corpus.dev
    words += [s.words for s in dev]
    file = base / "sentences.txt"
    file.write_text("".join(" ".join(some) + "\n" for some in words), encoding="utf-8")
    began = time.perf_counter()
    ours = Labeler.load(workdir).label_all(words, K, "map")
    seconds = time.perf_counter() - began
    beams = [[(s.labeling, s.score) for s in answer.labelings] for answer in ours]
    print("| | same best | same list | labelings in both | scores differ by | F1 | seconds |")
    print("|---|---|---|---|---|---|---|")
    print(f"| groot_jax | | | | | {_f1(beams, dev):.3f} | {seconds:.0f} |", flush=True)
    for name, kind, more in _ROWS:
        out = base / name.replace(" ", "_") if more else base / kind
        if not (out / "labeling.json").exists():
            _job("export", f"--workdir={workdir}", f"--out={out}", f"--format={kind}", *more)
        python = args.transformers5 if name == "transformers 5" else sys.executable
        began = time.perf_counter()
        done = subprocess.run(
            [python, "labeling.py", f"-k{K}", str(file.absolute())],
            cwd=out,
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - began
        (base / f"{name.replace(' ', '_')}.jsonl").write_text(done.stdout, encoding="utf-8")
        theirs = [_read(line) for line in done.stdout.splitlines()]
        row = _same(name, beams[: args.sentences], theirs[: args.sentences])
        print(f"{row} {_f1(theirs, dev):.3f} | {seconds:.0f} |", flush=True)


Beams = list[list[tuple[Labeling, float]]]


def _job(name: str, *flags: str) -> None:
    subprocess.run([sys.executable, "-m", f"groot_jax.{name}", *flags], check=True)


def _read(line: str) -> list[tuple[Labeling, float]]:
    found: list[dict[str, Any]] = json.loads(line)["labelings"]
    return [
        (tuple(Span(s["start"], s["end"], s["type"]) for s in one["spans"]), one["score"])
        for one in found
    ]


def _same(name: str, ours: Beams, theirs: Beams) -> str:
    """The row's beginning; on standard error, each sentence with another best labeling."""
    pairs = list(zip(ours, theirs, strict=True))
    for i, (a, b) in enumerate(pairs):
        if a[0][0] != b[0][0]:
            print(f"sentence {i}: {a[:2]} here, {b[:2]} there", file=sys.stderr)
    best = sum(a[0][0] == b[0][0] for a, b in pairs)
    lists = sum([y for y, _ in a] == [y for y, _ in b] for a, b in pairs)
    # Of the same labeling, wherever it stands.
    scores = [(score, dict(b)[y]) for a, b in pairs for y, score in a if y in dict(b)]
    most = max(abs(x - y) for x, y in scores)
    shared = len(scores) / sum(len(a) for a, _ in pairs)
    return f"| {name} | {best} of {len(pairs)} | {lists} | {100 * shared:.1f} % | {most:.1e} |"


def _f1(beams: Beams, sentences: Sequence[Sentence]) -> float:
    """Over all spans of rank 1, of the last beams, which are those of `sentences`."""
    found = [set(beam[0][0]) for beam in beams[-len(sentences) :]]
    gold = [set(sentence.labeling) for sentence in sentences]
    right = sum(len(a & b) for a, b in zip(found, gold, strict=True))
    return 2 * right / max(1, sum(map(len, found)) + sum(map(len, gold)))


if __name__ == "__main__":
    main()
