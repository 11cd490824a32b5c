"""What each part of stage 1 brings: GROOT with one thing changed, on dev.

    python benchmarks/contrast.py --configs retail mit_restaurant --seeds 0 1 --reward f0.5 \\
        --workdir runs/contrast

Stage 0 and NLL continued are trained once a config and seed, by the training job itself, and GROOT
from there once for each line of `CHANGES`, with its settings, or with what benchmarks/ideas.py puts
in the place of a part of the package. The cells, one a config, are means
over the seeds: reward@1 by `map` and by `consensus`, mean@10 and max@10. The lines below the first,
the defaults, show their difference from it.

The last column holds each line against a rule that was written before the first run. A change is
kept where it lifts consensus at rank 1 by at least .001 in the mean over the configs, lowers it by
at most .001 on any, and lowers mean@10 and max@10 by at most .005 on any. One that lowers consensus
in the mean with the first seed is dropped then, without the others.

Runs that are there already are not run again, so that the same command continues, and a new line
costs its own runs alone. Nothing here reads test. What the command does not know, such as
`--config.nll.epochs=10`, is handed to every training: give it a --workdir of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
    "margin .5": ("groot.loss.margin=0.5",),
    "2 epochs": ("groot.epochs=2.0",),
    "negatives count half": (),
    "positives count half": (),
    "a barrier under gold's tokens": (),
    "candidates of crossed folds": ("groot.generate_dropout=0.0",),
    "R-Drop in stage 0": (),
    "SAM in stage 0": (),
    "the mean of two runs": (),
}
# What no setting does is in benchmarks/ideas.py, by these names there.
IDEAS = {
    "negatives count half": "half_negatives",
    "positives count half": "half_positives",
    "a barrier under gold's tokens": "barrier",
    "candidates of crossed folds": "crossed",
}
# What changes stage 0: its name, an idea, and settings.
OF_STAGE_0: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "R-Drop in stage 0": ("rdrop", "", ("nll.rdrop=1.0",)),
    "SAM in stage 0": ("sam", "sam", ()),
}
# reward@1 by two rules, then the list's mean and best.
COLUMNS = (
    ("map", "reward@1"),
    ("consensus", "reward@1"),
    ("map", "mean_reward@10"),
    ("map", "max_reward@10"),
)
HEADS = ("map", "consensus", "mean@10", "max@10")


def run_job(job: str, flags: Sequence[str], idea: str = "", idea_of: str = "") -> None:
    """`idea_of`: the work directories that the idea is about."""
    start = ["benchmarks/ideas.py", idea] if idea else ["-m", f"groot_jax.{job}"]
    command = [sys.executable, *start, *flags]
    environment = os.environ | {"GROOT_IDEA": idea_of}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def train(workdir: Path, flags: Sequence[str], idea: str = "", idea_of: str = "") -> None:
    """Trains where that has not been finished; an interrupted run goes on from its checkpoint."""
    status = workdir / "status.json"
    if not status.exists() or json.loads(status.read_text())["state"] != "finished":
        run_job("train", [f"--workdir={workdir}", "--split=none", *flags], idea, idea_of)


def figures(
    workdir: Path, system: str, output: Path, flags: Sequence[str], mean_with: Path | None = None
) -> list[float]:
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
        words = [*start, "--config.evaluate.decide=map,consensus", *flags]
        if mean_with is None:
            run_job("evaluate", words)
        else:
            run_job("evaluate", words, "average", str(mean_with))
        rules = found()
    return [rules[rule][figure] for rule, figure in COLUMNS]


def continued(
    config: str, seed: int, reward: str, folder: Path, start: Sequence[str]
) -> list[float]:
    """The four figures of NLL continued."""
    base = folder / f"{config}-{seed}-base"
    train(base, [*start, "--config.systems=nll_continued"])
    scores = folder / f"{config}-{seed}-base-{reward}"
    flags = [f"--config.reward.name={reward}", f"--output={scores}"]
    return figures(base, "nll_continued", scores, flags)


def changed(
    config: str, seed: int, change: str, reward: str, folder: Path, start: Sequence[str]
) -> list[float]:
    """The four figures of GROOT with one change."""

    def home(name: str) -> Path:
        return folder / f"{config}-{seed}-{name}"

    base, idea, idea_of = home("base"), IDEAS.get(change, ""), ""
    if change in OF_STAGE_0:
        short, idea_of_stage_0, settings = OF_STAGE_0[change]
        base = home(f"base-{short}")
        settings = tuple(f"--config.{setting}" for setting in settings)
        train(base, [*start, "--config.systems=()", *settings], idea_of_stage_0)
    if idea == "crossed":
        folds = {fold: home(f"base-{fold}") for fold in ("fold_0", "fold_1")}
        for fold, workdir in folds.items():
            train(workdir, [*start, "--config.systems=()"], fold)
        idea_of = ",".join(map(str, folds.values()))
    name = "".join(c if c.isalnum() else "_" for c in change)
    workdir = home(f"{reward}-{name}")
    flags = [*start, "--config.systems=groot", f"--config.reward.name={reward}"]
    flags += [f"--config.nll.checkpoint={base}"]
    flags += [f"--config.{setting}" for setting in CHANGES[change]]
    if change == "the mean of two runs":
        # The defaults' own and one of the same stage 0 with other draws: order, swaps, dropout.
        train(workdir, [*flags, f"--config.seed={seed + 1000}"])
        scores = home(f"{reward}-{name}-scores")
        first = home(f"{reward}-the_defaults")
        return figures(first, "groot", scores, [f"--output={scores}"], workdir)
    train(workdir, flags, idea, idea_of)
    return figures(workdir, "groot", workdir, ())


def kept(differences: np.ndarray) -> bool:
    """By the rule above. Differences from the defaults, [configs, 4] in the order of COLUMNS."""
    _, consensus, mean, best = differences.T
    return bool(
        consensus.mean() >= 0.001
        and consensus.min() >= -0.001
        and min(mean.min(), best.min()) >= -0.005
    )


def promising(differences: np.ndarray) -> bool:
    """Of the first seed's differences: whether the other seeds are worth their time."""
    return bool(differences[:, 1].mean() >= 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", default=["retail", "mit_restaurant"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--reward", default="f0.5")
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--workdir", type=Path, default=Path("runs/contrast"))
    parser.add_argument("--jobs", type=int, default=1, help="configs trained side by side (1)")
    args, common = parser.parse_known_args()
    if unknown := [word for word in common if not word.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    changes = list(dict.fromkeys(["the defaults", *args.changes]))
    folder = args.workdir.absolute()

    def cell(name: str, config: str, seed: int) -> list[float]:
        start = [f"--config=configs/{config}.py", f"--config.seed={seed}", *common]
        if name == "NLL continued":
            return continued(config, seed, args.reward, folder, start)
        return changed(config, seed, name, args.reward, folder, start)

    def row(name: str, seed: int) -> np.ndarray:
        """[configs, 4] of one line and seed."""
        with ThreadPoolExecutor(args.jobs) as pool:  # Which wait for processes.
            cells = pool.map(lambda config: cell(name, config, seed), args.configs)
            return np.array(list(cells))

    heads = [f"{config}: {', '.join(HEADS)}" for config in args.configs]
    print(f"| | {' | '.join(heads)} | seeds | kept |")
    print("|---|" + "---|" * (len(args.configs) + 2))

    def show(name: str, rows: Sequence[np.ndarray], form: str, verdict: str = "") -> None:
        mean = np.mean(rows, axis=0)
        cells = [", ".join(form.format(value) for value in config) for config in mean]
        print(f"| {name} | {' | '.join(cells)} | {len(rows)} | {verdict} |", flush=True)

    show("NLL continued", [row("NLL continued", seed) for seed in args.seeds], "{:.4f}")
    defaults = [row("the defaults", seed) for seed in args.seeds]
    show("the defaults", defaults, "{:.4f}")
    for name in changes[1:]:
        differences: list[np.ndarray] = []
        for seed, default in zip(args.seeds, defaults, strict=True):
            differences.append(row(name, seed) - default)
            if not promising(differences[0]):
                break
        whole = len(differences) == len(args.seeds)
        verdict = whole and kept(np.mean(differences, axis=0))
        show(name, differences, "{:+.4f}", "yes" if verdict else "no")


if __name__ == "__main__":
    main()
