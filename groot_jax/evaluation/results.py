"""W/results.json and the table of a terminal, made of evaluation records; it scores nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from rich.markup import escape
from rich.table import Table

from groot_jax.errors import UserError
from groot_jax.evaluation.bootstrap import Difference, paired_bootstrap
from groot_jax.evaluation.metrics import Summary
from groot_jax.evaluation.records import Record, read_records, system_name
from groot_jax.runtime.files import write_text
from groot_jax.runtime.json_files import parsed, read_bytes

# Columns of a results table: key, heading, whether more is better.
COLUMNS = (
    ("reward@1", "rew@1", True),
    ("mean_reward@10", "mean@10", True),
    ("max_reward@10", "max@10", True),
    ("span_precision", "P", True),
    ("span_recall", "R", True),
    ("span_f1", "F1", True),
    ("exact_match", "exact", True),
    ("malformed@10", "malformed", False),
)
# Per-sentence figures that are compared with the baseline's.
COMPARED = ("reward@1", "mean_reward@10", "max_reward@10")
# What all systems are compared with: as many updates more of stage 0 as GROOT takes in stage 1, so
# that a difference is not that of longer training.
BASELINE = "nll_continued"


class Results(TypedDict):
    """The content of W/results.json, of the best checkpoint of each system (see `read_records`)."""

    systems: dict[str, dict[str, Summary]]  # {"groot": {"test": metrics, "dev": metrics}, ...}
    differences: dict[str, Any]  # {"baseline": BASELINE, split: {system: {metric: Difference}}}
    # Systems whose best on dev is below what they started from: {"groot": "its best on dev ..."}
    worse: dict[str, str]


# Where nothing was evaluated.
NO_RESULTS: Results = {"systems": {}, "differences": {}, "worse": {}}


def differences(
    records: Sequence[Record], resamples: int
) -> dict[str, dict[str, dict[str, Difference]]]:
    """Paired bootstrap of each system against the baseline: {split: {system: {metric: ...}}}.

    Left out are systems that did not score the same number of sentences.
    """
    base = {r["split"]: r["per_sentence"] for r in records if system_name(r) == BASELINE}
    result: dict[str, dict[str, dict[str, Difference]]] = {}
    for record in records:
        name, split = system_name(record), record["split"]
        against = base.get(split, {})
        # As many figures are those of the same sentences: results of other data go to a folder of
        # their own.
        rows = {
            metric: paired_bootstrap(values, against[metric], resamples)
            for metric, values in record["per_sentence"].items()
            if metric in COMPARED and len(against.get(metric, ())) == len(values) > 0
        }
        if name != BASELINE and rows:
            result.setdefault(split, {})[name] = rows
    return result


def write_results(workdir: Path, resamples: int, worse: Mapping[str, str] | None = None) -> Results:
    """Merges W/eval/*.json, and what is wrong with a system, into W/results.json, and returns its
    content.

    A baseline that was not evaluated gives no differences. Raises UserError where a file is
    damaged, or the disk refuses.
    """
    results = make_results(read_records(workdir), resamples, worse)
    # NaN and infinity are not JSON, though Python would write them.
    text = json.dumps(results, indent=1, allow_nan=False)
    write_text(workdir / "results.json", text + "\n")
    return results


def known_worse(workdir: Path) -> dict[str, str]:
    """What W/results.json says is wrong with systems: for results whose checkpoints lie elsewhere.
    Nothing where it is not there, or damaged: it is written anew."""
    with suppress(UserError, ValueError):
        if (data := read_bytes(workdir / "results.json")) is not None:
            return dict(parsed(data, {"worse": {str: str}})["worse"])
    return {}


def make_results(
    records: Sequence[Record], resamples: int, worse: Mapping[str, str] | None = None
) -> Results:
    """The results of records in their order."""
    systems: dict[str, dict[str, Summary]] = {}
    for record in records:
        systems.setdefault(system_name(record), {})[record["split"]] = {
            **record["metrics"],
            "reward": record["reward"],
            "step": record["step"],
            "seconds": record["seconds"],
        }
    compared = differences(records, resamples)
    return {
        "systems": systems,
        "differences": {"baseline": BASELINE, **compared} if compared else {},
        "worse": dict(worse or {}),
    }


def best_values(results: Results, split: str) -> dict[str, str]:
    """The best figure of each column, as printed, so that equal figures are all best: .9141 and
    .9139 are both .914, and a star on one of them would claim a difference that nobody sees."""
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


def dev_choices(results: Results, split: str) -> dict[str, str]:
    """The decision rule that dev chose for each system: {"groot": "consensus"}."""
    # Each rule's figures have it, `map` first, which need not be among the rules.
    choices: dict[str, str] = {}
    for name, systems in results["systems"].items():
        if "dev_chose" in systems.get(split, {}):
            choices.setdefault(name.partition("+")[0], systems[split]["dev_chose"])
    return choices


def notes_of(results: Results, split: str) -> list[str]:
    """A line for each system of a split whose best is worse than what it started from."""
    # A rule may be all that a system was scored with: `groot+mbr`, and no `groot`.
    there = {name.partition("+")[0] for name, by in results["systems"].items() if split in by}
    return [f"{name}: {why}" for name, why in results["worse"].items() if name in there]


def figure(value: float | None) -> str:
    """A metric as it is printed; a dash where it is not defined, as tau of beams of one."""
    return "–" if value is None else f"{value:.3f}"


def results_table(results: Results, split: str) -> Table:
    """Systems as rows, the main metrics as columns, the best of each column in bold; below it what
    is wrong with a system, and the rules that dev chose."""
    rewards = {
        str(systems[split]["reward"]) for systems in results["systems"].values() if split in systems
    }
    title = f"{split} split" + (f", reward {', '.join(sorted(rewards))}" if rewards else "")
    # Fits 80 columns with the longest of the usual names.
    table = Table(title=title, box=None, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("system", no_wrap=True)
    for _, heading, _ in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    best = best_values(results, split)
    notes = notes_of(results, split)
    if chosen := dev_choices(results, split):
        rules = ", ".join(f"{system} {rule}" for system, rule in chosen.items())
        notes.append(f"dev chose, for predict: {rules}")
    if notes:
        table.caption, table.caption_justify = escape("\n".join(notes)), "left"
    for name, systems in results["systems"].items():
        if split in systems:
            # Printed figures are compared: see `best_values`.
            cells = [figure(systems[split].get(key)) for key, _, _ in COLUMNS]
            marked = [
                f"[bold]{cell}[/bold]" if cell == best.get(key) else cell
                for cell, (key, _, _) in zip(cells, COLUMNS, strict=True)
            ]
            table.add_row(escape(name), *marked)
    return table
