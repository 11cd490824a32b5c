"""The page of benchmarks/study.py: its text and its plot, and all figures on a page beside it.

Puts the tables of study_tables.py in order; compares nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.study_grid import Cell, Study
from benchmarks.study_tables import (
    BASELINE,
    CHOSEN,
    FIGURES,
    SHIPPED,
    Found,
    calibrations,
    figures_table,
    glance,
    markdown,
    paired,
    promises,
    read,
    rows_of,
    wins,
)
from groot_jax.evaluation.bootstrap import Difference


@dataclass(frozen=True)
class Page:
    """Markdown for a place in results.md, and the files beside it by their name: the plot, and the
    figures of all systems by all rules."""

    text: str
    files: dict[str, str]


def make_page(study: Study, split: str, command: str, versions: Mapping[str, str]) -> Page:
    """The page of a split."""
    found = read(study, split)
    rows = rows_of(study)
    missing = [cell for cell in study.scorings(split) if not study.finished(cell)]
    lines = [f"## The grid, {split} split", "", f"    {command}", ""]
    if study.quick > 1:
        lines += [f"**Shortened: all updates divided by {study.quick}.** No result to quote.", ""]
    lines += [
        f"Sets {', '.join(study.sets)}; rewards {', '.join(study.rewards)}; seeds "
        f"{', '.join(map(str, study.seeds))}. Figures are means over seeds; Δ "
        "is the difference from NLL continued by its most likely labeling (`nll_continued`), with "
        "the 95 % interval of a paired bootstrap over sentences, for these seeds. Stage 0, NLL "
        "continued and the CRF know nothing of the reward and are trained once a seed, the CRF "
        f"once a set. `{CHOSEN}` is what `predict` takes: of map, mbr and consensus the "
        "one with the best rank 1 on dev, chosen for each seed.",
        "",
    ]
    if split == "dev":
        lines += ["Dev has chosen checkpoints, thresholds and rules: it flatters all of them.", ""]
    if missing:
        names = ", ".join(cell.name for cell in missing[:20])
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        lines += [f"**Not there, and in no figure below:** {names}{more}.", ""]
    files = {}
    if found:
        plot, whole = f"study_{split}.svg", f"study_{split}.md"
        files = {plot: forest(found), whole: all_figures(found, rows, split)}
        lines += [glance(found)]
        lines += [f"All systems by all rules: [{whole}]({whole}).", ""]
        lines += [f"![GROOT by dev's rule less NLL continued]({plot})", ""]
    lines += ["### What is promised", "", promises(found)]
    lines += ["### Above, level, below", ""]
    lines += ["Of the sets and rewards, in how many a system is above NLL continued, level with"]
    lines += ["it, and below it, by the 95 % interval.", "", wins(found, rows)]
    lines += ["### Expected calibration error of span confidences", "", calibrations(found)]
    lines += ["### What it took", "", costs(study), _versions(versions)]
    return Page("\n".join(lines), files)


def all_figures(found: Found, rows: Sequence[str], split: str) -> str:
    """The page of all figures: a table for each set and reward."""
    lines = [f"# All systems by all rules, {split} split", ""]
    lines += [
        "Means over seeds ± their standard deviation. More on the columns and the differences:"
    ]
    lines += ["[results.md](results.md).", ""]
    for (name, reward), systems in found.items():
        lines += [f"## {name}, {reward}", "", figures_table(systems, rows)]
    return "\n".join(lines)


def _versions(versions: Mapping[str, str]) -> str:
    return "Made with " + ", ".join(f"{name} {value}" for name, value in versions.items()) + ".\n"


def costs(study: Study) -> str:
    """Minutes of the finished trainings: mean over a set's cells of one kind."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in study.trainings():
        if study.finished(cell):
            groups.setdefault((cell.set, cell.system), []).append(cell)
    rows = []
    for (name, system), cells in groups.items():
        records = [study.record(cell) for cell in cells]
        wall, cpu = (
            statistics.fmean(record[key] for record in records) / 60
            for key in ("wall_seconds", "cpu_seconds")
        )
        label = "nll and nll_continued" if system == "base" else system
        rows.append([name, label, str(len(cells)), f"{wall:.1f}", f"{cpu:.1f}"])
    heads = ("set", "trained", "how many", "minutes each", "CPU minutes each")
    return markdown(heads, rows)


# ---- The plot ---------------------------------------------------------------------------------

_ROW, _LEFT, _PANEL, _TOP = 18, 170, 200, 34
_COLOR, _INK, _LINE = "#2a78d6", "#777", "#bbb"


def forest(found: Found) -> str:
    """An SVG: a row for each set and reward, a panel a figure, and in it the difference of the
    shipped pipeline from the baseline, with its interval."""
    labels = [f"{name}, {reward}" for name, reward in found]
    height = _TOP + _ROW * len(labels) + 26
    width = _LEFT + (_PANEL + 20) * len(FIGURES)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="{_INK}">'
    ]
    for i, label in enumerate(labels):
        y = _TOP + _ROW * (i + 0.5)
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{label}</text>')
    for panel, (figure, title) in enumerate(FIGURES):
        values = [
            paired(systems[SHIPPED], systems[BASELINE], figure)
            if {SHIPPED, BASELINE} <= {*systems}
            else None
            for systems in found.values()
        ]
        parts += _panel(_LEFT + panel * (_PANEL + 20), title, values, height)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    left: int, title: str, values: Sequence[Difference | None], height: int
) -> Iterator[str]:
    ends = [end for value in values if value for end in value["interval"]]
    # Symmetric about 0, up to the next .02.
    limit = max(0.02, math.ceil(max(map(abs, ends), default=0.0) * 50) / 50)

    def x(value: float) -> float:
        return round(left + (value + limit) / (2 * limit) * _PANEL, 1)

    bottom = height - 22
    yield f'<text x="{x(0)}" y="16" text-anchor="middle">{title}</text>'
    for tick in (-limit, 0.0, limit):
        at = x(tick)
        yield f'<line x1="{at}" x2="{at}" y1="{_TOP - 8}" y2="{bottom}" stroke="{_LINE}"/>'
        yield f'<text x="{at}" y="{bottom + 15}" text-anchor="middle">{tick:+g}</text>'
    for i, value in enumerate(values):
        if value is None:
            continue
        y = _TOP + _ROW * (i + 0.5)
        low, high = value["interval"]
        yield (
            f'<line x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}" stroke="{_COLOR}" '
            'stroke-width="2"/>'
        )
        yield f'<circle cx="{x(value["difference"])}" cy="{y}" r="4" fill="{_COLOR}"/>'
