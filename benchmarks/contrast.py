"""What each part of stage 1 brings: GROOT with one thing changed, on dev.

    python benchmarks/contrast.py --configs retail mit_restaurant --seeds 0 1 --reward f0.5 \\
        --workdir runs/contrast

Stage 0 and NLL continued are trained once a config and seed, by the training job itself, and GROOT
from there once for each line of `CHANGES`, with its settings. The cells, one a config, are means
over the seeds: reward@1 by `map` and by `consensus`, mean@10 and max@10. The lines below the first,
the defaults, show their difference from it.

The last column holds each line against a rule that was written before the first run. A change is
kept where it lifts consensus at rank 1 by at least .001 in the mean over the configs, lowers it by
at most .001 on any, and lowers mean@10 and max@10 by at most .005 on any.

Runs that are there already are not run again, so that the same command continues, and a new line
costs its own runs alone. Nothing here reads test. What the command does not know, such as
`--config.nll.epochs=10`, is handed to every training: give it a --workdir of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# What stands beside this file is `benchmarks.NAME`, wherever Python was started.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from groot_jax.evaluation.records import read_records

ROOT = Path(__file__).resolve().parent.parent

# What is changed -> the settings that change it. All else is the config's own.
CHANGES: dict[str, tuple[str, ...]] = {
    "the defaults": (),
    "weighted_margin 1.6": ("groot.loss.margin=0.0", "groot.loss.weighted_margin=1.6"),
    "lambdarank 4": ("groot.loss.margin=0.0", "groot.loss.lambdarank=4.0"),
    "4 labelings of consensus": ("groot.pool.consensus=4",),
    "expected reward .3": ("groot.expected=0.3",),
    "risk 2 beside margin": ("groot.loss.risk=2.0",),
    "2 epochs at half the rate": ("groot.epochs=2.0", "groot.learning_rate=5e-5"),
    "20 beams": ("generate.k=20", "groot.pool.beams=16", "groot.pool.size=24"),
    "weighted_margin 4": ("groot.loss.margin=0.0", "groot.loss.weighted_margin=4.0"),
    "average .99": ("optimizer.ema=0.99",),
    "tau .6": ("groot.tau=0.6",),
    "squared .05": ("groot.loss.margin=0.0", "groot.loss.squared=0.05"),
    "dropout .2": ("groot.dropout=0.2",),
    "lambda 1": ("groot.nll_weight=1.0",),
    "learning rate 2e-4": ("groot.learning_rate=2e-4",),
    "expected reward .6": ("groot.expected=0.6",),
    "4 epochs": ("groot.epochs=4.0",),
}
# reward@1 by two rules, then the list's mean and best.
COLUMNS = (
    ("map", "reward@1"),
    ("consensus", "reward@1"),
    ("map", "mean_reward@10"),
    ("map", "max_reward@10"),
)
HEADS = ("map", "consensus", "mean@10", "max@10")


def run_job(job: str, flags: Sequence[str]) -> None:
    command = [sys.executable, "-m", f"groot_jax.{job}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def train(workdir: Path, flags: Sequence[str]) -> None:
    """Trains where that has not been finished; an interrupted run goes on from its checkpoint."""
    status = workdir / "status.json"
    if not status.exists() or json.loads(status.read_text())["state"] != "finished":
        run_job("train", [f"--workdir={workdir}", "--split=none", *flags])


def figures(workdir: Path, system: str, output: Path, flags: Sequence[str]) -> list[float]:
    """The four figures of a system on dev, from its records, which are made where they lack."""

    def found() -> dict[str, dict[str, float]]:
        records = list(read_records(output)) if output.exists() else []
        return {
            record["decide"]: record["metrics"]
            for record in records
            if (record["system"], record["split"]) == (system, "dev")
        }

    rules = found()
    if "consensus" not in rules:
        start = [f"--workdir={workdir}", "--split=dev", f"--system={system}"]
        run_job("evaluate", [*start, "--config.evaluate.decide=map,consensus", *flags])
        rules = found()
    return [rules[rule][figure] for rule, figure in COLUMNS]


def rows_of(
    config: str, seed: int, changes: Sequence[str], reward: str, folder: Path, common: Sequence[str]
) -> Iterator[list[float]]:
    """NLL continued and the changes, each with its four figures, for one config and seed."""
    base = folder / f"{config}-{seed}-base"
    start = [f"--config=configs/{config}.py", f"--config.seed={seed}", *common]
    train(base, [*start, "--config.systems=nll_continued"])
    scores = folder / f"{config}-{seed}-base-{reward}"
    flags = [f"--config.reward.name={reward}", f"--output={scores}"]
    yield figures(base, "nll_continued", scores, flags)
    for change in changes:
        name = "".join(c if c.isalnum() else "_" for c in change)
        workdir = folder / f"{config}-{seed}-{reward}-{name}"
        settings = [f"--config.{setting}" for setting in CHANGES[change]]
        train(
            workdir,
            [
                *start,
                "--config.systems=groot",
                f"--config.reward.name={reward}",
                f"--config.nll.checkpoint={base}",
                *settings,
            ],
        )
        yield figures(workdir, "groot", workdir, ())


def kept(differences: np.ndarray) -> bool:
    """By the rule above. Differences from the defaults, [configs, 4] in the order of COLUMNS."""
    _, consensus, mean, best = differences.T
    return bool(
        consensus.mean() >= 0.001
        and consensus.min() >= -0.001
        and min(mean.min(), best.min()) >= -0.005
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", default=["retail", "mit_restaurant"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--reward", default="f0.5")
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--workdir", type=Path, default=Path("runs/contrast"))
    args, common = parser.parse_known_args()
    if unknown := [word for word in common if not word.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    changes = list(dict.fromkeys(["the defaults", *args.changes]))
    folder = args.workdir.absolute()
    runs = [
        [rows_of(config, seed, changes, args.reward, folder, common) for seed in args.seeds]
        for config in args.configs
    ]
    heads = [f"{config}: {', '.join(HEADS)}" for config in args.configs]
    print(f"| | {' | '.join(heads)} | kept |")
    print("|---|" + "---|" * (len(args.configs) + 1))
    first: np.ndarray | None = None
    for name in ("NLL continued", *changes):
        # A line is printed when its runs are done: [configs, seeds, 4] -> [configs, 4].
        row = np.mean([[next(run) for run in seeds] for seeds in runs], axis=1)
        verdict, form = "", "{:.4f}"
        if first is not None:
            row, form = row - first, "{:+.4f}"
            verdict = "yes" if kept(row) else "no"
        elif name == "the defaults":
            first = row
        cells = [", ".join(form.format(value) for value in config) for config in row]
        print(f"| {name} | {' | '.join(cells)} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
