"""How long who labels waits: from the start of `groot_jax.predict` to its first answer and to all.

    python benchmarks/predict.py [--json] [--workdir=W] [--queries=5000] [--rounds=5]

Without --workdir a model is trained for 400 updates on the built-in corpus, once; it is kept under
--cache. Each run is the command itself, in a process of its own that ends with the last answer, and
with a compilation cache of its own.

Rows: `first, cold`, one sentence with nothing compiled; `first, warm`, the same again; `many`,
--queries sentences of the built-in corpus from a file, everything compiled. Columns, medians over
the rounds (one of cold): seconds by the clock; cpu_s, processor time of all threads, which other
jobs on the machine change less; per_s, sentences in each second beyond those of `first, warm`;
per_cpu_s, the same by processor time.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure, runs
from groot_jax import config as configs
from groot_jax.data.corpus import read_corpus
from groot_jax.errors import UserError, exit_on_user_error

_SENTENCE = "black levi jeans for men\n"


def predicted(workdir: Path, text: str, cache: Path) -> tuple[float, float, int]:
    """(seconds, processor seconds, answers) of one `predict` on a file that holds `text`."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        command = [sys.executable, "-m", "groot_jax.predict", f"--workdir={workdir}", file.name]
        command += ["--decide=map", f"--config.compilation_cache={cache}"]
        paths = filter(None, (str(runs.ROOT), os.environ.get("PYTHONPATH")))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise UserError(f"predict failed: {done.stderr.strip()[-1000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, done.stdout.count("\n")


def main() -> None:
    parser = measure.arguments(__doc__, sizes="")
    parser.add_argument("--workdir", type=Path, help="a work directory of groot_jax.train")
    parser.add_argument("--queries", type=int, default=5000, help="sentences of `many` (5000)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each that is warm (5)")
    parser.add_argument("--cache", type=Path, default=runs.DEFAULT_CACHE, help=argparse.SUPPRESS)
    args = measure.parse(parser)
    updates, overrides = 400, []
    if args.quick:
        args.rounds, args.queries, updates = 1, 70, 2
        overrides = ["--config.data.train_limit=64", "--config.model.preset=pico"]
        overrides += ["--config.generate.k=2"]
        # One size of batch: one program a step.
        overrides += [f"--config.loader.{x}_buckets=(64,)" for x in ("source", "target")]
    retail = str(runs.CONFIGS / "retail.py")
    workdir = args.workdir or runs.short_run(retail, args.cache, updates, overrides)
    sentences = read_corpus(configs.load(retail, [])).train[: args.queries]
    many = "".join(" ".join(sentence.words) + "\n" for sentence in sentences)
    with tempfile.TemporaryDirectory() as folder:
        cold = predicted(workdir, _SENTENCE, Path(folder))
        if not args.quick:
            predicted(workdir, many, Path(folder))  # Compiles the sizes of batches.
        first, all_of_them = [], []
        for _ in range(args.rounds):
            first.append(predicted(workdir, _SENTENCE, Path(folder)))
            all_of_them.append(predicted(workdir, many, Path(folder)))
    rows: list[measure.Row] = []
    for name, found in (("first, cold", [cold]), ("first, warm", first), ("many", all_of_them)):
        seconds, cpu = (statistics.median(run[i] for run in found) for i in (0, 1))
        row: measure.Row = {"what": name, "answers": found[0][2], "seconds": round(seconds, 3)}
        rows.append(row | {"cpu_s": round(cpu, 3), "per_s": None, "per_cpu_s": None})
    for key, per in (("seconds", "per_s"), ("cpu_s", "per_cpu_s")):
        beyond = rows[2][key] - rows[1][key]
        rows[2][per] = measure.rounded(len(sentences) / beyond) if beyond > 0 else None
    measure.show(rows)
    measure.finish(measure.device() | {"rows": rows}, args.json)


if __name__ == "__main__":
    exit_on_user_error(main)
