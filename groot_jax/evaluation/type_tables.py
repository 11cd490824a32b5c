"""The report's tables of types: right, wrong in which way, taken for what. Counts are those of
`confusion`, figures those of `summarise`; nothing is counted here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groot_jax.evaluation.metrics import Summary
from groot_jax.evaluation.records import Json
from groot_jax.evaluation.results import Results, dev_choices

_SHOWN = 40  # Types of a matrix: of 200 it would have 40,000 cells.
OTHERS = "(others)"


def type_tables(results: Results, splits: list[str]) -> dict[str, list[Json]]:
    """Of each split that has spans, a table a system: as `map` decides, and as the rule does that
    dev chose; the last system trained first.

    {split: [{"name", "rows": [{"type", "gold", "predicted", "right", "precision", "recall", "f1",
    "shorter", "longer", "shifted", "other_type", "missed", "made_up"}], "types": [...],
    "matrix": [(gold type, cells by predicted type, then missed)]}]}; the last row of a matrix, of
    None, is of what was made up.
    """
    tables: dict[str, list[Json]] = {}
    for split in splits:
        chosen = dev_choices(results, split)
        shown = [
            (name, systems[split])
            for name, systems in reversed(results["systems"].items())
            if systems.get(split, {}).get("by_type") and _is_shown(name, chosen)
        ]
        if shown:
            tables[split] = [_table(name, metrics) for name, metrics in shown]
    return tables


def _is_shown(name: str, chosen: Mapping[str, str]) -> bool:
    system, _, rule = name.partition("+")
    return not rule or chosen.get(system) == rule


def _table(name: str, metrics: Summary) -> Json:
    # Records of earlier versions have no confusion.
    confusion = metrics.get("confusion")
    by_type: dict[str, Any] = metrics["by_type"]
    types = confusion["types"] if confusion else sorted(by_type, key=lambda t: -by_type[t]["gold"])
    rows = [_row(type_, by_type[type_], confusion) for type_ in types if type_ in by_type]
    shown = types if len(types) <= _SHOWN else [*types[: _SHOWN - 1], OTHERS]
    return {"name": name, "rows": rows, "types": shown, "matrix": _matrix(confusion, shown)}


def _row(type_: str, figures: Summary, confusion: Summary | None) -> Json:
    row: Json = {"type": type_} | figures
    # P = right / predicted, of which the files hold P and `predicted`.
    row["right"] = round(figures["precision"] * figures["predicted"])
    names = ("shorter", "longer", "shifted", "other_type", "missed", "made_up")
    if confusion is None:
        return row | dict.fromkeys(names)
    bounds = confusion["bounds"].get(type_, {})
    of_gold = {
        found: same + other for gold, found, same, other in confusion["cells"] if gold == type_
    }
    made_up = [n for gold, found, _, n in confusion["cells"] if gold is None and found == type_]
    others = sum(n for found, n in of_gold.items() if found not in (type_, None))
    counts = (others, of_gold.get(None, 0), sum(made_up))
    return (
        row | {b: bounds.get(b, 0) for b in names[:3]} | dict(zip(names[3:], counts, strict=True))
    )


def _matrix(
    confusion: Summary | None, types: list[str]
) -> list[tuple[str | None, list[Json | None]]]:
    if confusion is None:
        return []
    order: list[str | None] = [*types, None]
    cells: dict[tuple[str | None, str | None], tuple[int, int]] = {}
    for gold, found, same, other in confusion["cells"]:
        place = (gold if gold in order else OTHERS, found if found in order else OTHERS)
        before = cells.get(place, (0, 0))
        cells[place] = (before[0] + same, before[1] + other)
    most = max((sum(n) for (gold, found), n in cells.items() if gold != found), default=0) or 1
    rows: list[tuple[str | None, list[Json | None]]] = []
    for gold in order:
        row: list[Json | None] = []
        for found in order:
            same, other = cells.get((gold, found), (0, 0))
            # What was missed or made up has no bounds to agree.
            same, other = (other, 0) if gold is None or found is None else (same, other)
            cell = {"same": same, "other": other, "right": gold == found}
            row.append(cell | {"heat": (same + other) / most} if same + other else None)
        rows.append((gold, row))
    return rows
