"""What each part of the recipe from scratch brings: stage 0 with one thing changed, on dev.

    python benchmarks/recipe.py --configs retail mit_restaurant --seeds 0 1 --workdir runs/recipe

Each line of the table trains stage 0 alone, by the training job itself, with the settings of a
line of `CHANGES`. Its cells, one a config, read "reward@1 ± deviation, mean@k": the best reward at
rank 1 on dev (of the beam search of the job's own evaluations) and the mean over the list at that
evaluation, both means over the seeds, and the standard deviation of the former. It is compared with
the first line, the recipe itself.

Runs that are there already are not run again, so that the same command continues, and a new line
costs its own runs alone. Nothing here reads test. What the command does not know, such as
`--config.nll.epochs=10`, is handed to every job: give it a --workdir of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent

# What is changed -> the settings that change it. All else is the config's own.
CHANGES: dict[str, tuple[str, ...]] = {
    "the recipe": (),
    "no local heads": ("model.start.local=0",),
    "embeddings and branches as T5's": ("model.start.embedding=1.0", "model.start.residual=1.0"),
    "no mentions swapped": ("data.augment=0.0",),
    "no words hidden": ("data.hide_words=0.0",),
    "learning rate 2e-3": ("nll.learning_rate=2e-3",),
    "learning rate 5e-4": ("nll.learning_rate=5e-4",),
    "a head of its own": ("model.variant=v1_1",),
    "dropout .05": ("model.dropout=0.05",),
    "dropout .2": ("model.dropout=0.2",),
    "label smoothing .1": ("nll.label_smoothing=0.1",),
    "Adam's b2 .999": ("optimizer.b2=0.999",),
    "weight decay .1": ("optimizer.weight_decay=0.1",),
    "weight decay .1, 10 epochs": ("optimizer.weight_decay=0.1", "nll.epochs=10.0"),
    "learning rate to .01 of itself": ("nll.final_scale=0.01",),
    "10 epochs": ("nll.epochs=10.0",),
    "batches of 16": ("nll.batch_size=16",),
    "Adafactor": ("nll.optimizer=adafactor",),
    "Muon, learning rate 2e-3, batches of 64": (
        "nll.optimizer=muon",
        "nll.learning_rate=2e-3",
        "nll.batch_size=64",
    ),
    "no warm-up": ("nll.warmup=0.0",),
    "an encoder of 4 layers": ("model.encoder_layers=4",),
    "3 layers in the encoder, 1 in the decoder": (
        "model.encoder_layers=3",
        "model.decoder_layers=1",
    ),
    "4,000 features": ("text.max_features=4000",),
    "pieces of words, no features": ("text.max_features=0",),
    "fused_sentinel": ("text.format=fused_sentinel",),
    "tag_only": ("text.format=tag_only",),
}


def best_on_dev(workdir: Path) -> tuple[float, float]:
    """Reward at rank 1 and mean over the list at the evaluation with the highest of the former."""
    # A line of metrics.jsonl is an evaluation on dev or the means of some updates on train.
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["split"] == "dev"]
    best = max(evaluations, key=lambda line: line["reward@1"])
    return best["reward@1"], best["mean_reward"]


def trained(
    config: str, change: str, seed: int, folder: Path, common: Sequence[str] = ()
) -> tuple[float, float]:
    """Runs the job where its result is not there yet."""
    # `retail-learning_rate_2e_3-0`: a folder for each config, change and seed.
    name = "".join(c if c.isalnum() else "_" for c in change)
    workdir = folder / f"{config}-{name}-{seed}"
    status = workdir / "status.json"
    # A job that was interrupted goes on from its checkpoint.
    if not status.exists() or json.loads(status.read_text())["state"] != "finished":
        # No systems: stage 0 is all that is trained.
        settings = [f"--config.{item}" for item in (*CHANGES[change], f"seed={seed}")]
        command = [sys.executable, "-m", "groot_jax.train", f"--config=configs/{config}.py"]
        command += [f"--workdir={workdir}", "--split=none", "--config.systems=()"]
        command += [*common, *settings]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return best_on_dev(workdir)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", default=["retail", "mit_restaurant"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--changes", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--workdir", type=Path, default=Path("runs/recipe"))
    args, common = parser.parse_known_args()
    if unknown := [word for word in common if not word.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    print(f"| | {' | '.join(f'{c}: reward@1, mean@k' for c in args.configs)} |")
    print("|---|" + "---|" * len(args.configs))
    for change in args.changes:
        cells = []
        for config in args.configs:
            runs = [trained(config, change, seed, args.workdir, common) for seed in args.seeds]
            first, mean = np.mean(runs, 0)
            # The population's deviation (n): with two seeds, half of what lies between them.
            spread = f" ± {np.std([run[0] for run in runs]):.3f}" if len(runs) > 1 else ""
            cells.append(f"{first:.3f}{spread}, {mean:.3f}")
        print(f"| {change} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
