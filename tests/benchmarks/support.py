"""The benchmarks as the tests call them: tiny, and their JSON read."""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
# transformers' Flax T5, which they compare with, takes longer to import than most of them to run.
# So one process runs them one after the other, each as `python benchmarks/NAME.py` would: as the
# main module, and with a path on which it has to put the project itself.
_RUNNER = """
import contextlib, io, json, os, runpy, sys, traceback
path = sys.path.copy()
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # What a library prints by itself is no answer.
for line in sys.stdin:
    sys.argv[:] = json.loads(line)
    sys.path[:] = path
    answer = {"error": None}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except BaseException:
            answer["error"] = traceback.format_exc()
    answer |= {"out": out.getvalue(), "path": sys.path}
    print(json.dumps(answer), file=answers, flush=True)
"""


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@cache
def _runner() -> tuple[IO[str], IO[str]]:
    """What the process reads, and what it answers."""
    process = subprocess.Popen(
        [sys.executable, "-c", _RUNNER],
        cwd=ROOT.parent,  # They find the project by themselves.
        # Threads of torch that share a core wait for each other, for seconds.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, process)
    assert process.stdin and process.stdout
    return process.stdin, process.stdout


def run(name: str, *flags: str) -> dict[str, Any]:
    """The JSON of `benchmarks/<name>.py --quick --json`."""
    words, answers = _runner()
    script = str(ROOT / "benchmarks" / f"{name}.py")
    print(json.dumps([script, "--quick", "--json", *flags]), file=words, flush=True)
    assert select.select([answers], [], [], 600)[0], f"{script} took more than ten minutes"
    line = answers.readline()
    assert line, "the process that runs the benchmarks has ended; its standard error says why"
    answer = json.loads(line)
    assert answer["error"] is None, answer["error"]
    assert str(ROOT) in answer["path"], f"{script} does not find the project by itself"
    result: dict[str, Any] = json.loads(answer["out"].splitlines()[-1])
    return result


def positive(value: Any) -> bool:
    return isinstance(value, float) and value > 0
