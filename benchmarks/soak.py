"""Trains for a time with scoring processes, a watching evaluation beside it, and follows both.

    python benchmarks/soak.py --minutes=60 [--workdir=FOLDER] [-- more flags of groot_jax.train]

Samples the resident memory of the training, of all its children (the scoring processes) and of
`groot_jax.evaluate --watch`, and counts the files of the work directory. Ends with one JSON object:
for each process the slope of its memory in MiB an hour over the second half (the first warms up),
the files at the half and at the end, and the programs that training compiled in either half, by
JAX's own log. A status other than that of the signal that ends them is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
TRAINING = (
    *("--config=configs/retail.py", "--config.systems=groot"),
    *("--config.reward.workers=2", "--config.nll.epochs=1"),
)
LONG = "--config.groot.epochs=1000"
EVERY = 2.0  # Seconds between two samples.
COMPILED = "Finished XLA compilation"


def memory(process: psutil.Process) -> float:
    """Resident MiB; 0 where the process is gone."""
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def sample(jobs: dict[str, subprocess.Popen]) -> dict[str, float]:
    """MiB of each job, and of the children of the training together."""
    found = {name: memory(psutil.Process(job.pid)) for name, job in jobs.items()}
    children = psutil.Process(jobs["training"].pid).children(recursive=True)
    found["scoring processes"] = sum(map(memory, children))
    return found


def slopes(samples: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """MiB an hour of each series, by least squares."""
    hours = np.array([seconds for seconds, _ in samples]) / 3600
    return {
        name: round(float(np.polyfit(hours, [values[name] for _, values in samples], 1)[0]), 2)
        for name in samples[0][1]
    }


def follow(workdir: Path, minutes: float, more: list[str]) -> dict[str, object]:
    """Runs both jobs for so long and says what was seen."""
    env = {**os.environ, "JAX_LOG_COMPILES": "1"}
    python = [sys.executable, "-m"]
    log = workdir.parent / "training.log"
    with log.open("w") as out, (workdir.parent / "evaluation.log").open("w") as other:
        train = [*python, "groot_jax.train", f"--workdir={workdir}", *TRAINING, LONG, *more]
        watch = [*python, "groot_jax.evaluate", f"--workdir={workdir}", "--watch", "--split=dev"]
        jobs = {
            name: subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)
            for name, command, file in (("training", train, out), ("evaluation", watch, other))
        }
        begun = time.monotonic()
        samples: list[tuple[float, dict[str, float]]] = []
        half: tuple[int, int] | None = None
        try:
            while (now := time.monotonic() - begun) < 60 * minutes:
                for name, job in jobs.items():
                    if job.poll() is not None:
                        sys.exit(f"error: {name} ended with status {job.returncode}; see {log}")
                samples.append((now, sample(jobs)))
                if half is None and now >= 30 * minutes:
                    half = (log.read_text().count(COMPILED), files(workdir))
                time.sleep(EVERY)
        finally:
            for job in jobs.values():
                job.send_signal(signal.SIGTERM)
            for job in jobs.values():
                job.wait()
    assert half is not None
    compiled, held = half
    return {
        "minutes": minutes,
        "mib_an_hour": slopes([item for item in samples if item[0] >= 30 * minutes]),
        "mib_at_the_end": {name: round(value, 1) for name, value in samples[-1][1].items()},
        "programs_compiled": [compiled, log.read_text().count(COMPILED) - compiled],
        "files": [held, files(workdir)],
    }


def files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workdir", type=Path, help="a new folder; without: a temporary one")
    parser.add_argument("more", nargs="*", help="more flags of groot_jax.train, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = args.workdir or Path(folder) / "run"
        workdir.parent.mkdir(parents=True, exist_ok=True)
        print(json.dumps(follow(workdir.resolve(), args.minutes, args.more)))


if __name__ == "__main__":
    main()
