"""The benchmarks as the tests call them: tiny, in a process of their own, their JSON read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *flags: str) -> dict[str, Any]:
    """The JSON of `benchmarks/<name>.py --quick --json`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--json", *flags],
        cwd=ROOT.parent,  # They find the project by themselves.
        # Threads of torch that share a core wait for each other, for seconds.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def positive(value: Any) -> bool:
    return isinstance(value, float) and value > 0
