"""What checkpoints cost training: sentences a second of GROOT's loop with a save every minute, and
without, pass by pass in turn.

    python benchmarks/saves.py [--json] [--seconds=60] [--rounds=2] [--quick]

The loop is that of `benchmarks/loop.py`. A pass takes a minute, and in its midst has one save or
none; what comes before compiles and finds out how many updates that are. Of each save: the seconds
for which it blocks training, which are those of waiting for the update and copying its arrays to
the host, and apart from them those of the copy alone.
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
    """Saves once a pass, after so many updates, as training does."""

    def __init__(self, checkpoints: Checkpoints, at: int) -> None:
        self._checkpoints, self._at = checkpoints, at
        self.blocked: list[float] = []  # Seconds of each save, its update waited for.
        self.copied: list[float] = []

    def after(self, step: int, update: Update) -> None:
        self._checkpoints.poll()
        if step != self._at:
            return
        begun = time.perf_counter()
        jax.block_until_ready(update.state)
        waited = time.perf_counter()
        # Passes begin anew with step 1, and a step is saved once.
        self._checkpoints.save(len(self.blocked) + 1, update.state, Meta(), update.flight)
        done = time.perf_counter()
        self.blocked.append(done - begun)
        self.copied.append(done - waited)


def main() -> None:
    parser = measure.arguments(__doc__, sizes="")
    parser.add_argument("--config", default=str(runs.CONFIGS / "retail.py"), help="the experiment")
    parser.add_argument("--override", action="append", default=[], help="--config.KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a pass, about (60)")
    parser.add_argument("--rounds", type=int, default=2, help="passes of each kind (2)")
    parser.add_argument("--steps", type=int, default=240, help="updates that compile (240)")
    parser.add_argument("--updates", type=int, default=400, help="of the short training (400)")
    parser.add_argument("--cache", default=str(runs.DEFAULT_CACHE), help="where it is kept")
    args = measure.parse(parser)
    overrides = [f"--config.model.dtype={args.dtype}", *args.override]
    if args.quick:
        overrides += loop.TINY
        args.steps, args.seconds, args.rounds = min(args.steps, 4), min(args.seconds, 0.01), 1
    config = loop.settings_of(args, overrides)
    device_setup(config)
    with tempfile.TemporaryDirectory() as folder, loop.observed_stage(config) as groot:
        loop.run_pass(groot, args.steps)
        few = max(args.steps // 4, 2)
        seconds = loop.run_pass(groot, few).seconds
        steps = min(max(round(args.seconds * few / seconds), 2), groot.stage().total)
        found: dict[str, list[float]] = {"none": [], "saves": []}
        taken: list[float] = []
        with Checkpoints(Path(folder), "groot", keep=2) as checkpoints:
            saver = Saver(checkpoints, steps // 2)
            for _ in range(args.rounds):
                for name, after in (("none", None), ("saves", saver.after)):
                    groot.recorder = Recorder()
                    one = loop.run_pass(groot, steps, after)
                    taken.append(one.seconds)
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
        "pass_seconds": [measure.rounded(seconds) for seconds in taken],
        "saves": len(saver.blocked),
        "blocked_seconds": [measure.rounded(seconds, 3) for seconds in saver.blocked],
        "copied_seconds": [measure.rounded(seconds, 3) for seconds in saver.copied],
        "config": runs.name_of(args.config),
        "steps": steps,
        "dtype": args.dtype,
    }
    measure.finish(measure.device() | result, args.json)


if __name__ == "__main__":
    exit_on_user_error(main)
