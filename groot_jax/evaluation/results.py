"""W/results.json and the table of a terminal, made of evaluation records; it scores nothing.

W/results.json holds, of the best checkpoint of each system (see `records.read_records`),
    {"systems": {"groot": {"test": metrics, "dev": metrics}, "groot+mbr": ...},
     "differences": {"baseline": name, split: {system: {metric: paired bootstrap}}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from groot_jax.evaluation.bootstrap import paired_bootstrap
from groot_jax.evaluation.records import Record, read_records, system_name
from groot_jax.runtime.files import write_text

# Columns of a results table: key, heading, whether more is better.
COLUMNS = (
    ("reward@1", "rew@1", True),
    ("mean_reward@10", "mean@10", True),
    ("max_reward@10", "max@10", True),
    ("span_precision", "P", True),
    ("span_recall", "R", True),
    ("span_f1", "F1", True),
    ("exact_match", "exact", True),
    ("malformed@10", "malf", False),
)
# Per-sentence figures that are compared with the baseline's.
COMPARED = ("reward@1", "mean_reward@10", "max_reward@10")


def differences(
    records: Sequence[Record], baseline: str, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """Paired bootstrap of each system against a baseline: {split: {system: {metric: ...}}}.

    Left out are systems that did not score the same number of sentences.
    """
    base = {
        r["split"]: r.get("per_sentence", {})
        for r in records
        if system_name(r["system"], r["decide"]) == baseline
    }
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        name, split = system_name(record["system"], record["decide"]), record["split"]
        against = base.get(split, {})
        rows = {
            metric: paired_bootstrap(values, against[metric], resamples, seed)
            for metric, values in record.get("per_sentence", {}).items()
            if metric in COMPARED and len(against.get(metric, ())) == len(values) > 0
        }
        if name != baseline and rows:
            result.setdefault(split, {})[name] = rows
    return result


def compose_results(
    records: Sequence[Record], baseline: str = "nll_continued", resamples: int = 1000
) -> dict[str, Any]:
    """The content of results.json; a baseline that was not evaluated gives no differences."""
    systems: dict[str, dict[str, Any]] = {}
    for record in records:
        name = system_name(record["system"], record["decide"])
        systems.setdefault(name, {})[record["split"]] = {
            **record["metrics"],
            "reward": record.get("reward"),
            "step": record["step"],
            "seconds": record.get("seconds"),
        }
    compared = differences(records, baseline, resamples)
    differing = {"baseline": baseline, **compared} if compared else {}
    return {"systems": systems, "differences": differing}


def write_results(
    workdir: str | Path, baseline: str = "nll_continued", resamples: int = 1000
) -> dict[str, Any]:
    """Merges W/eval/*.json into W/results.json and returns its content."""
    results = compose_results(read_records(workdir), baseline, resamples)
    text = json.dumps(results, indent=1, allow_nan=False)
    write_text(Path(workdir) / "results.json", text + "\n")
    return results


def best_values(results: Mapping[str, Any], split: str) -> dict[str, str]:
    """The best figure of each column, as printed, so that equal figures are all best."""
    best = {}
    for key, _, more in COLUMNS:
        values = [
            systems[split][key]
            for systems in results["systems"].values()
            if split in systems and systems[split].get(key) is not None
        ]
        if values:
            best[key] = figure(max(values) if more else min(values))
    return best


def figure(value: float | None) -> str:
    """A metric as it is printed."""
    return "–" if value is None else f"{value:.3f}"


def results_table(results: Mapping[str, Any], split: str = "test") -> Table:
    """Systems as rows, the main metrics as columns, the best of each column in bold.

    `results` is the content of results.json.
    """
    rewards = {
        str(systems[split]["reward"])
        for systems in results["systems"].values()
        if split in systems and systems[split].get("reward")
    }
    title = f"{split} split" + (f", reward {', '.join(sorted(rewards))}" if rewards else "")
    # Fits 80 columns with the longest of the usual names.
    table = Table(title=title, box=None, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("system", no_wrap=True)
    for _, heading, _ in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    best = best_values(results, split)
    for name, systems in results["systems"].items():
        if split in systems:
            cells = [figure(systems[split].get(key)) for key, _, _ in COLUMNS]
            marked = [
                f"[bold]{cell}[/bold]" if cell == best.get(key) else cell
                for cell, (key, _, _) in zip(cells, COLUMNS, strict=True)
            ]
            table.add_row(escape(name), *marked)
    return table
