"""What checkpoints cost training: sentences a second of GROOT's loop with a save every minute, and
without, pass by pass in turn.

    python benchmarks/saves.py [--json] [--every=60] [--rounds=3] [--steps=240] [--quick]

The loop is that of `benchmarks/loop.py`; the first pass compiles and is not counted. Of each save:
the seconds for which it blocks training, which are those of waiting for the update and copying its
arrays to the host, and apart from them those of the copy alone.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax

from benchmarks import loop, measure, runs
from benchmarks.timeline import Recorder
from groot_jax.errors import exit_on_user_error
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.evaluations import Meta
from groot_jax.training.loop import Update
from groot_jax.training.setup import device_setup


class Saver:
    """Saves so many seconds after the last time, as training does."""

    def __init__(self, checkpoints: Checkpoints, every: float) -> None:
        self._checkpoints, self._every = checkpoints, every
        self._last = time.perf_counter()
        self._saved = 0
        self.blocked: list[float] = []  # Seconds of each save, its update waited for.
        self.copied: list[float] = []

    def after(self, step: int, update: Update) -> None:
        self._checkpoints.poll()
        now = time.perf_counter()
        if now - self._last < self._every or self._checkpoints.writing:
            return
        jax.block_until_ready(update.state)
        waited = time.perf_counter()
        self._saved += 1  # Passes begin anew with step 1, and a step is saved once.
        self._checkpoints.save(self._saved, update.state, Meta(), update.flight)
        self._last = time.perf_counter()
        self.blocked.append(self._last - now)
        self.copied.append(self._last - waited)


def main() -> None:
    parser = measure.arguments(__doc__, sizes="")
    parser.add_argument("--config", default=str(runs.CONFIGS / "retail.py"), help="the experiment")
    parser.add_argument("--override", action="append", default=[], help="--config.KEY=VALUE")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between saves (60)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each kind (3)")
    parser.add_argument("--steps", type=int, default=240, help="updates of a pass (240)")
    parser.add_argument("--updates", type=int, default=400, help="of the short training (400)")
    parser.add_argument("--cache", default=str(runs.DEFAULT_CACHE), help="where it is kept")
    args = measure.parse(parser)
    overrides = [f"--config.model.dtype={args.dtype}", *args.override]
    if args.quick:
        overrides += loop.TINY
        args.steps, args.every, args.rounds = min(args.steps, 4), min(args.every, 0.01), 1
    config = loop.settings_of(args, overrides)
    device_setup(config)
    with tempfile.TemporaryDirectory() as folder, loop.observed_stage(config) as groot:
        loop.run_pass(groot, args.steps)
        found: dict[str, list[float]] = {"none": [], "saves": []}
        with Checkpoints(Path(folder), "groot", keep=2) as checkpoints:
            saver = Saver(checkpoints, args.every)
            for _ in range(args.rounds):
                for name, after in (("none", None), ("saves", saver.after)):
                    groot.recorder = Recorder()
                    one = loop.run_pass(groot, args.steps, after)
                    found[name].append(one.sentences_per_second)
    rows = [
        {"checkpoints": name, "sentences_per_second": measure.rounded(statistics.median(speeds))}
        for name, speeds in found.items()
    ]
    measure.show(rows, ("checkpoints", "sentences_per_second"))
    ratio = statistics.median(found["saves"]) / statistics.median(found["none"])
    result = {
        "ratio": measure.rounded(ratio, 3),
        "sentences_per_second": {k: [measure.rounded(x) for x in v] for k, v in found.items()},
        "every": args.every,
        "saves": len(saver.blocked),
        "blocked_seconds": [measure.rounded(seconds, 3) for seconds in saver.blocked],
        "copied_seconds": [measure.rounded(seconds, 3) for seconds in saver.copied],
        "config": runs.name_of(args.config),
        "steps": args.steps,
        "dtype": args.dtype,
    }
    measure.finish(measure.device() | result, args.json)


if __name__ == "__main__":
    exit_on_user_error(main)
