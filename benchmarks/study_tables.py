"""The page of benchmarks/study.py: tables and plots from the records of evaluations.

Reads what was scored and scores nothing. A figure of a grid's cell is the mean over its seeds; an
interval is that of a paired bootstrap over the sentences, of their means over the seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.study_grid import Cell, Study
from groot_jax.evaluation.bootstrap import Difference, paired_bootstrap
from groot_jax.evaluation.decisions import RULES
from groot_jax.evaluation.records import Record, read_records, system_name

# A figure of the sentences, and the heading of its column.
FIGURES = (("reward@1", "rank 1"), ("mean_reward@10", "mean@10"), ("max_reward@10", "max@10"))
BASELINE = "nll_continued"
# The system as it is shipped: the rule is the one that dev chose for each seed.
CHOSEN = "dev's rule"
SHIPPED = f"groot+{CHOSEN}"
_RESAMPLES = 1000

# (set, reward) -> system -> seed -> record; what has no seed has None.
Found = dict[tuple[str, str], dict[str, dict[int | None, Record]]]


def read(study: Study, split: str) -> Found:
    """The records of all cells that are scored on a split."""
    found: Found = {}
    for cell in study.scorings(split):
        if not study.finished(cell):
            continue
        here = found.setdefault((cell.set, cell.reward), {})
        for record in read_records(study.scores(cell)):
            if record["split"] != split or record["reward"] != cell.reward:
                continue
            here.setdefault(system_name(record), {})[cell.seed] = record
            if record["metrics"].get("dev_chose") == record["decide"]:
                here.setdefault(f"{record['system']}+{CHOSEN}", {})[cell.seed] = record
    return found


def rows_of(study: Study) -> list[str]:
    """The systems of a table, in its order."""
    rows = []
    # Where the learning itself is compared, one rule is enough.
    for system, rules in (
        ("nll", RULES),
        (BASELINE, RULES),
        *((s, ("map",)) for s in study.systems if s not in ("groot", "crf")),
        *((s, (*RULES, CHOSEN)) for s in study.systems if s == "groot"),
        *((s, ("map", "threshold")) for s in study.systems if s == "crf"),
    ):
        rows += [system if rule == "map" else f"{system}+{rule}" for rule in rules]
    return rows


# ---- Comparing --------------------------------------------------------------------------------


def paired(
    left: Mapping[int | None, Record], right: Mapping[int | None, Record], figure: str
) -> Difference | None:
    """left - right over the seeds that both have; None where there is none.

    A system without a seed is the same in all of them.
    """
    seeds = (
        [*left] if None in right else [*right] if None in left else [s for s in left if s in right]
    )
    pairs = []
    for seed in seeds:
        a = left.get(seed, left.get(None))
        b = right.get(seed, right.get(None))
        assert a is not None and b is not None
        if figure not in a["per_sentence"] or figure not in b["per_sentence"]:
            return None
        pairs.append((a["per_sentence"][figure], b["per_sentence"][figure]))
    if not pairs:
        return None
    means = [np.mean(side, axis=0) for side in zip(*pairs, strict=True)]
    return paired_bootstrap(means[0], means[1], _RESAMPLES)


def shown(difference: Difference | None) -> str:
    if difference is None:
        return ""
    low, high = difference["interval"]
    return f"{difference['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def spread(records: Mapping[int | None, Record], figure: str) -> str:
    """Mean over the seeds, and their standard deviation (n - 1) where there are several."""
    values = [r["metrics"][figure] for r in records.values() if figure in r["metrics"]]
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


# ---- What is promised -------------------------------------------------------------------------


class Promise(NamedTuple):
    """One claim about the shipped pipeline: its figure less that of `other`."""

    title: str
    figure: str
    other: str
    rewards: tuple[str, ...]  # where it is claimed
    holds: Callable[[Difference], bool]
    claim: str


def _at_least(least: float) -> Callable[[Difference], bool]:
    # As it is printed: -.0004 is -.000, and nobody is to be told that this is below 0.
    return lambda d: round(d["difference"], 3) >= least


def _surely(least: float) -> Callable[[Difference], bool]:
    return lambda d: round(d["difference"], 3) >= least and d["interval"][0] > 0


_ALL = ("f1", "f0.5", "f2", "utility")
PROMISES = (
    Promise(
        *("rank 1, precision counts", "reward@1", BASELINE, ("f0.5", "utility"), _surely(0.02)),
        "at least +.020 over NLL continued (map), the interval above 0",
    ),
    Promise(
        *("rank 1, recall counts", "reward@1", BASELINE, ("f1", "f2"), _at_least(0.0)),
        "not below NLL continued (map)",
    ),
    Promise(
        *("rank 1, CRF", "reward@1", "crf+threshold", _ALL, _at_least(0.001)),
        "above the CRF with its threshold",
    ),
    Promise(
        *("rank 1, no training", "reward@1", f"{BASELINE}+consensus", _ALL, _at_least(-0.003)),
        "not more than .003 below NLL continued + consensus",
    ),
    Promise(
        *("mean@10", "mean_reward@10", BASELINE, ("f1",), _at_least(0.05)),
        "at least +.050 over NLL continued (map)",
    ),
    Promise(
        *("max@10", "max_reward@10", BASELINE, _ALL, _at_least(-0.005)),
        "not more than .005 below NLL continued (map)",
    ),
)


class Kept(NamedTuple):
    """What became of a promise in one set under one reward."""

    set: str
    reward: str
    promise: Promise
    difference: Difference

    @property
    def holds(self) -> bool:
        return self.promise.holds(self.difference)


def kept(found: Found) -> Iterator[Kept]:
    """Of each set and reward, each promise that is made there and whose both sides are scored."""
    for (name, reward), systems in found.items():
        for promise in PROMISES:
            if reward in promise.rewards and {SHIPPED, promise.other} <= {*systems}:
                difference = paired(systems[SHIPPED], systems[promise.other], promise.figure)
                if difference is not None:
                    yield Kept(name, reward, promise, difference)


def promises(found: Found) -> str:
    """The table of what holds, and how often each promise does."""
    items = list(kept(found))
    rows = [
        [
            *(item.set, item.reward, item.promise.title, shown(item.difference)),
            "holds" if item.holds else "falls short",
        ]
        for item in items
    ]
    lines = [markdown(("set", "reward", "promise", "GROOT by dev's rule less", "verdict"), rows)]
    for promise in PROMISES:
        for reward in promise.rewards:
            of = [item for item in items if item.promise is promise and item.reward == reward]
            if of:
                lines.append(
                    f"- {promise.title}, {reward} ({promise.claim}): holds on "
                    f"{sum(item.holds for item in of)} of {len(of)} sets."
                )
    return "\n".join(lines) + "\n"


def wins(found: Found, rows: Sequence[str]) -> str:
    """How often each system is surely above, level with or surely below the baseline: by the 95 %
    interval of the paired difference in each set under each reward."""
    lines = []
    for row in rows:
        cells = [row]
        for figure, _ in FIGURES:
            compared = [
                paired(systems[row], systems[BASELINE], figure)
                for systems in found.values()
                if row in systems and BASELINE in systems
            ]
            known = [d["interval"] for d in compared if d is not None]
            above = sum(low > 0 for low, _ in known)
            below = sum(high < 0 for _, high in known)
            cells.append(f"{above} / {len(known) - above - below} / {below}" if known else "")
        if row != BASELINE and any(cells[1:]):
            lines.append(cells)
    return markdown(("system", *(title for _, title in FIGURES)), lines)


def calibrations(found: Found) -> str:
    """The expected calibration error of span confidences, as the model has them and as dev has
    calibrated them, means over the seeds. A decision rule changes none of it."""
    rows = []
    for (name, reward), systems in found.items():
        for system in (BASELINE, "groot"):
            errors = [
                (calibration["error_at_1"], calibration["error"])
                for record in systems.get(system, {}).values()
                if (calibration := record["metrics"].get("calibration"))
            ]
            if not errors:
                continue
            before, after = (statistics.fmean(side) for side in zip(*errors, strict=True))
            verdict = "halved" if after <= before / 2 else "not halved"
            rows.append([name, reward, system, f"{before:.4f}", f"{after:.4f}", verdict])
    heads = ("set", "reward", "system", "not calibrated", "as predict prints it", "")
    return markdown(heads, rows)


# ---- The page ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """Markdown, and the plots beside it by their file name."""

    text: str
    plots: dict[str, str]


def figures_table(systems: Mapping[str, Mapping[int | None, Record]], rows: Sequence[str]) -> str:
    """One set under one reward: figures of each system and differences from the baseline."""
    lines = []
    for row in rows:
        if row not in systems:
            continue
        cells = [row, *(spread(systems[row], figure) for figure, _ in FIGURES)]
        for figure, _ in FIGURES:
            other = systems.get(BASELINE)
            # A list of ten keeps its ten under any rule but for rank 1.
            same = row == BASELINE or other is None
            cells.append("" if same else shown(paired(systems[row], other or {}, figure)))
        lines.append(cells)
    titles = [title for _, title in FIGURES]
    return markdown(("system", *titles, *(f"Δ {title}" for title in titles)), lines)


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
        f"{', '.join(map(str, study.seeds))}. Figures are means ± standard deviation over seeds; Δ "
        "is the difference from NLL continued by its most likely labeling (`nll_continued`), with "
        "the 95 % interval of a paired bootstrap over sentences, for these seeds. Stage 0, NLL "
        "continued and the CRF know nothing of the reward and are trained once a seed, the CRF "
        f"once a set. `{CHOSEN}` is what `predict` takes: of map, mbr, threshold and consensus the "
        "one with the best rank 1 on dev, chosen for each seed.",
        "",
    ]
    if split == "dev":
        lines += ["Dev has chosen checkpoints, thresholds and rules: it flatters all of them.", ""]
    if missing:
        names = ", ".join(cell.name for cell in missing[:20])
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        lines += [f"**Not there, and in no figure below:** {names}{more}.", ""]
    lines += ["### What is promised", "", promises(found)]
    lines += ["### Above, level, below", ""]
    lines += ["Of the sets and rewards, in how many a system is above NLL continued, level with"]
    lines += ["it, and below it, by the 95 % interval.", "", wins(found, rows)]
    plots = {}
    if found:
        name = f"study_{split}.svg"
        plots[name] = forest(found)
        lines += [f"![GROOT by dev's rule less NLL continued]({name})", ""]
    lines += ["### Expected calibration error of span confidences", "", calibrations(found)]
    for (name, reward), systems in found.items():
        lines += [f"### {name}, {reward}", "", figures_table(systems, rows)]
    lines += ["### What it took", "", costs(study), _versions(versions)]
    return Page("\n".join(lines), plots)


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
