"""Feeds one of `targets.TARGETS` for a time with atheris, which follows coverage.

    pip install atheris
    python tests/fuzz/run_atheris.py "json lines" [SECONDS]

No part of `make test`. It ends with a traceback and the bytes at the first exception that is no
UserError; `-runs` and what else libFuzzer takes may follow.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=["groot_jax", "tests.fuzz"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"error: name one of {', '.join(map(repr, TARGETS))}")
    name, seconds, *more = [*sys.argv[1:], "60"][: max(2, len(sys.argv) - 1)]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[name]):
            (Path(folder) / str(number)).write_bytes(seed)
        flags = [f"-max_total_time={seconds}", "-max_len=400", *more, folder]
        atheris.Setup([sys.argv[0], *flags], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
