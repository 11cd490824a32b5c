"""Prints the tables of docs/results.md from finished work directories, as Markdown.

    python benchmarks/results.py runs/mit_f1 runs/mit_f0.5

One table a work directory, a row a system. Columns: reward@1, mean@10, max@10 (reward of the first
answer, mean and best of ten), P, R, F1 over all spans, the share of exact sentences, each on test;
Δ, the difference from NLL continued with the 95 % interval of a paired bootstrap; and the seconds
that the system trained. Work directories that differ in their seed alone get one more table: mean
and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Document: TypeAlias = dict[str, Any]  # an object of JSON

# A metric's name in results.json, and the heading of its column.
COLUMNS = (
    ("reward@1", "reward@1"),
    ("mean_reward@10", "mean@10"),
    ("max_reward@10", "max@10"),
    ("span_precision", "P"),
    ("span_recall", "R"),
    ("span_f1", "F1"),
    ("exact_match", "exact"),
)
SYSTEMS = (
    "nll",
    "nll_continued",
    "nll+mbr",
    "nll_continued+mbr",
    "nll_continued+threshold",
    "risk",
    "no_corrections",
    "groot",
    "groot+mbr",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdirs", nargs="+", type=Path)
    workdirs = parser.parse_args().workdirs
    for workdir in workdirs:
        print(table(workdir))
    for group in seed_groups(workdirs):
        print(seeds_table(group))


def read(workdir: Path, name: str) -> Document:
    """A JSON file of a work directory. Raises FileNotFoundError where there is none yet."""
    return dict(json.loads((workdir / name).read_text(encoding="utf-8")))


def header(*more: str) -> list[str]:
    """The two lines above the rows: the systems, COLUMNS, the differences and `more`."""
    names = ["system", *(heading for _, heading in COLUMNS)]
    names += ["Δ reward@1", "Δ mean@10", "Δ max@10", *more]
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def table(workdir: Path) -> str:
    """The Markdown table of one work directory."""
    results, config = read(workdir, "results.json"), read(workdir, "config.json")
    times = seconds(workdir)
    differences = results["differences"].get("test", {})
    lines = [
        f"Reward {config['reward']['name']}, seed {config['seed']}, test split:",
        "",
        *header("training"),
    ]
    for name in SYSTEMS:
        metrics = results["systems"].get(name, {}).get("test")
        if metrics is None:
            continue
        cells = [f"{metrics[key]:.3f}" for key, _ in COLUMNS]
        cells += [difference(differences.get(name, {}).get(key)) for key in KEYS]
        cells.append(f"{times[name]:.0f} s" if name in times else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def seed_groups(workdirs: Sequence[Path]) -> list[list[Path]]:
    """Work directories of several seeds whose configs are the same otherwise."""
    # The config without its seed, as text -> seed -> work directory. Of two that are equal in all
    # of it the last counts, and one seed alone makes no group.
    groups: dict[str, dict[int, Path]] = {}
    for workdir in workdirs:
        config = read(workdir, "config.json")
        seed = config.pop("seed")
        config["nll"].pop("checkpoint")  # The path of the stage 0 of that seed.
        groups.setdefault(json.dumps(config, sort_keys=True), {})[seed] = workdir
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def seeds_table(workdirs: Sequence[Path]) -> str:
    """The Markdown table of several seeds: mean +- standard deviation (n - 1) of every figure, and
    of the differences from NLL continued."""
    runs = [read(workdir, "results.json") for workdir in workdirs]
    configs = [read(workdir, "config.json") for workdir in workdirs]
    merged: Document = over_seeds(runs)
    seeds = ", ".join(str(config["seed"]) for config in configs)
    lines = [
        f"Reward {configs[0]['reward']['name']}, mean ± standard deviation over seeds {seeds}, "
        "test split:",
        "",
        *header(),
    ]
    for name in SYSTEMS:
        # A system that not every seed has is not in `merged`.
        metrics = merged["systems"].get(name, {}).get("test")
        if metrics is None:
            continue
        compared = merged["differences"].get("test", {}).get(name, {})
        cells = [spread(metrics[key]) for key, _ in COLUMNS]
        cells += [spread(compared[k]["difference"], "+") if k in compared else "" for k in KEYS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def over_seeds(values: Sequence[Any]) -> Any:
    """Mean and standard deviation (n - 1) of every number that all results have, tree for tree.

    A number becomes {"mean", "std", "n"}, std None for one run; lists are cut to the shortest; the
    rest is dropped.
    """
    if all(isinstance(value, Mapping) for value in values):
        shared = [key for key in values[0] if all(key in value for value in values)]
        merged = {key: over_seeds([value[key] for value in values]) for key in shared}
        return {key: value for key, value in merged.items() if value is not None}
    if all(isinstance(value, (list, tuple)) for value in values):
        return [over_seeds(items) for items in zip(*values, strict=False)]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return {"mean": float(np.mean(values)), "std": std, "n": len(values)}
    return None


def spread(value: dict[str, float], sign: str = "") -> str:
    """Mean and standard deviation over seeds."""
    return f"{value['mean']:{sign}.3f} ± {value['std']:.3f}"


# Metrics whose difference from NLL continued is shown.
KEYS = ("reward@1", "mean_reward@10", "max_reward@10")


def difference(value: Document | None) -> str:
    """Difference from NLL continued with its 95 % interval."""
    if value is None:
        return ""
    low, high = value["interval"]
    return f"{value['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def seconds(workdir: Path) -> dict[str, float]:
    """Seconds of training of each system, evaluations on dev included."""
    # Lines count up as training goes on; the last one of a system has all of its seconds.
    found: dict[str, float] = {}
    for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "seconds" in entry:
            found[entry["system"]] = entry["seconds"]
    return found


if __name__ == "__main__":
    main()
