"""Prints the tables of docs/results.md from finished work directories, as Markdown.

    python benchmarks/results.py runs/mit_f1 runs/mit_f0.5

One table a work directory: every system on test, with the paired bootstrap of its difference from
NLL continued, and the seconds that each system trained.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

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
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("workdirs", nargs="+", type=Path)
    for workdir in parser.parse_args().workdirs:
        print(table(workdir))


def table(workdir: Path) -> str:
    """The Markdown table of one work directory."""
    results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    times = seconds(workdir)
    differences = results["differences"].get("test", {})
    lines = [
        f"Reward {config['reward']['name']}, seed {config['seed']}, test split:",
        "",
        "| system | "
        + " | ".join(heading for _, heading in COLUMNS)
        + " | Δ mean@10 | Δ reward@1 |"
        " training |",
        "|---" * (len(COLUMNS) + 4) + "|",
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


KEYS = ("mean_reward@10", "reward@1")


def difference(value: dict[str, Any] | None) -> str:
    """Difference from NLL continued with its 95 % interval."""
    if value is None:
        return ""
    low, high = value["interval"]
    return f"{value['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def seconds(workdir: Path) -> dict[str, float]:
    """Seconds of training of each system, looks at dev included."""
    found: dict[str, float] = {}
    for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "seconds" in entry:
            found[entry["system"]] = entry["seconds"]
    return found


if __name__ == "__main__":
    main()
