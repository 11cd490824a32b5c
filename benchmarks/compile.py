"""What a training spends on compiling: programs and seconds, by the function that is compiled.

    python benchmarks/compile.py [--json] [--config=configs/retail.py] [--override=--config.K=V ...]

Runs `groot_jax.train` to its end in processes of its own: `cold` with an empty compilation cache,
`warm` with what that one has left. JAX itself says what it does (`jax.monitoring`). A row is a
function of the job; what JAX compiles for single operations is put together as `small`.

Columns: programs, how many were asked for; ahead, those of them that a thread compiled before they
were called (`--no-ahead` leaves all to their calls); from_disk, those that the cache had; trace_s,
lower_s and xla_s, seconds in which Python traced them, they were lowered to StableHLO, and XLA
compiled or loaded them; waited_s, those of the three that were spent in the job's own thread, which
trains nothing meanwhile; share, waited_s of the seconds of the whole run. Functions that are traced
within one another count for the outer one alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax

from benchmarks import measure, runs
from groot_jax import train
from groot_jax.errors import exit_on_user_error
from groot_jax.training.ahead import Ahead

# Less than that in XLA is a program of a few operations: a copy, a sum, a key.
_SMALL = 0.3
_TINY = (
    # Of 1,500 sentences of test, all of which the close searches, 142 have so few words.
    "--config.text.max_words=3",
    "--config.data.policy=skip",
    "--config.data.train_limit=160",
    "--config.evaluate.dev_limit=8",
    "--config.evaluate.decide=map",
    "--config.evaluate.bootstrap=10",
    "--config.generate.k=2",
    "--config.groot.pool.size=3",
    "--config.groot.pool.beams=2",
    "--config.model.preset=pico",
    "--config.nll.epochs=1",
    "--config.loader.source_buckets=(32,)",
    "--config.loader.target_buckets=(24,)",
    "--config.systems=",
)
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace_s",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower_s",
    "/jax/core/compile/backend_compile_duration": "xla_s",
}


class Watch:
    """Sums up what `jax.monitoring` reports while a job runs."""

    def __init__(self) -> None:
        self.programs: list[dict[str, Any]] = []  # each with its name and seconds
        self.hits = 0
        # Of the program that each thread is at.
        self._traced: defaultdict[int, dict[str, float]] = defaultdict(dict)
        self._lowered: defaultdict[int, float] = defaultdict(float)
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)

    def _event(self, event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            self.hits += 1

    def _duration(self, event: str, duration_secs: float, **facts: str | int) -> None:
        kind = _EVENTS.get(event)
        name = str(facts.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
        thread = threading.get_ident()
        traced = self._traced[thread]
        if kind == "trace_s":
            traced[name] = traced.get(name, 0.0) + duration_secs
        elif kind == "lower_s":
            self._lowered[thread] += duration_secs
        elif kind == "xla_s":
            # Tracing, lowering and compiling of one program follow each other. What was traced
            # besides is part of it: its own time has theirs in it.
            program = {
                "name": name,
                "ahead": threading.current_thread() is not threading.main_thread(),
                "trace_s": traced.pop(name, max(traced.values(), default=0.0)),
                "lower_s": self._lowered.pop(thread, 0.0),
                "xla_s": duration_secs,
            }
            traced.clear()
            self.programs.append(program)


def watched(argv: Sequence[str]) -> dict[str, Any]:
    """Runs a training in this process; its seconds, and the programs that it asked for."""
    watch, begun = Watch(), time.perf_counter()
    train.main(list(argv))
    return {
        "seconds": time.perf_counter() - begun,
        "programs": watch.programs,
        "from_disk": watch.hits,
    }


def rows_of(found: dict[str, Any], run: str) -> list[measure.Row]:
    """A row for each function, the one that takes longest first, and one for all of them."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    # A program from the cache takes no time to speak of, whatever it is: told by its tracing.
    for program in found["programs"]:
        large = program["xla_s"] > _SMALL or program["trace_s"] > _SMALL / 2
        groups[program["name"] if large else "small"].append(program)
    rows = []
    for name, members in [*groups.items(), ("all", found["programs"])]:
        stages = ("trace_s", "lower_s", "xla_s")
        sums = {key: sum(m[key] for m in members) for key in stages}
        waited = sum(m[key] for m in members for key in stages if not m["ahead"])
        rows.append(
            {
                "run": run,
                "function": name,
                "programs": len(members),
                "ahead": sum(m["ahead"] for m in members),
                "from_disk": found["from_disk"] if name == "all" else None,
                **{key: round(value, 2) for key, value in sums.items()},
                "waited_s": round(waited, 2),
                "share": round(waited / found["seconds"], 3),
            }
        )
    return sorted(rows, key=lambda row: (row["function"] == "all", -row["xla_s"]))


def main() -> None:
    parser = measure.arguments(__doc__, sizes="")
    retail = str(runs.CONFIGS / "retail.py")
    parser.add_argument("--config", default=retail, help="the experiment (configs/retail.py)")
    parser.add_argument("--override", action="append", default=[], help="--config.KEY=VALUE")
    parser.add_argument("--no-ahead", action="store_true", help="leave all to their calls")
    parser.add_argument("--once", default="", help=argparse.SUPPRESS, metavar="FILE")
    parser.add_argument("--workdir", default="", help=argparse.SUPPRESS)
    args = measure.parse(parser)
    overrides = [f"--config.model.dtype={args.dtype}", *args.override]
    if args.quick:
        overrides += _TINY
    if args.no_ahead:
        for name in ("compile", "run"):
            setattr(Ahead, name, lambda *_: None)
    if args.once:
        argv = [f"--config={args.config}", f"--workdir={args.workdir}", *overrides]
        Path(args.once).write_text(json.dumps(watched(argv)), encoding="utf-8")
        return
    rows, results = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for run in ("cold", "warm"):
            file = Path(folder) / f"{run}.json"
            cache = f"--override=--config.compilation_cache={folder}/cache"
            command = [
                *(sys.executable, __file__, f"--config={args.config}", f"--once={file}"),
                *(f"--workdir={folder}/{run}", f"--dtype={args.dtype}", cache),
                *(f"--override={text}" for text in args.override),
                *(["--quick"] if args.quick else []),
                *(["--no-ahead"] if args.no_ahead else []),
            ]
            subprocess.run(command, check=True, env=dict(os.environ), stdout=sys.stderr)
            found = json.loads(file.read_text(encoding="utf-8"))
            rows += rows_of(found, run)
            results[run] = {"seconds": round(found["seconds"], 2), **rows[-1]}
    measure.show(rows)
    measure.finish(measure.device() | {"results": results, "rows": rows}, args.json)


if __name__ == "__main__":
    exit_on_user_error(main)
