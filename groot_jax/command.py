"""The console command: `groot train ...` is `python -m groot_jax.train ...`; so for each job."""

from __future__ import annotations

import runpy
import sys

from groot_jax import completion, config

JOBS = (
    *("train", "evaluate", "predict", "serve", "report", "export", "preflight", "pretrain"),
    "verify",
)
_USAGE = (
    f"usage: groot JOB ..., where JOB is {', '.join(JOBS)}; groot JOB --help explains it\n"
    "       groot completion prints a script for bash: source <(groot completion)\n"
    "       groot --version"
)


def main() -> None:
    """Runs the job that the first word names with the other words. Exits with status 2 and a line
    on stderr where there is none."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(_USAGE)
        return
    if name == "--version":
        print(config.version())
        return
    if name == "completion":
        completion.main(JOBS)
        return
    if name not in JOBS:
        print(_USAGE, file=sys.stderr)
        sys.exit(2)
    # Without its second word, `groot train --help` is what a job sees under `python -m`.
    del sys.argv[1]
    runpy.run_module(f"groot_jax.{name}", run_name="__main__", alter_sys=True)
