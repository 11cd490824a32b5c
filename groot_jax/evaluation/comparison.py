"""Several work directories side by side: figures, differences, settings and machines, from what
their evaluations have left. It scores nothing.

Figures stand in one table where they are of the same sentences and the same reward, and only there:
`groot report`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from groot_jax.data.card import read_card
from groot_jax.errors import UserError
from groot_jax.evaluation.bootstrap import Difference, paired_bootstrap
from groot_jax.evaluation.plots import PALETTE, Series, chart
from groot_jax.evaluation.records import Json, Record, read_jobs, read_records, system_name
from groot_jax.evaluation.report import template
from groot_jax.evaluation.results import COLUMNS, COMPARED, figure
from groot_jax.runtime.files import write_text

_SPLITS = ("test", "dev")


@dataclass(frozen=True)
class Compared:
    """A work directory: its records to report, and its `settings`, those that are not defaults."""

    name: str
    records: tuple[Record, ...]
    settings: Mapping[str, object]
    jobs: tuple[Json, ...]
    card: Mapping[str, Any] | None
    digests: Mapping[str, str]  # of its splits, for records of earlier versions, which have none
    worse: Mapping[str, str]  # systems whose best is below what they started from, and how

    @classmethod
    def read(
        cls,
        workdir: Path,
        name: str,
        settings: Mapping[str, object],
        worse: Mapping[str, str] | None = None,
    ) -> Compared:
        """Raises UserError where nothing was evaluated, or a file is damaged."""
        records = tuple(read_records(workdir))
        if not records:
            raise UserError(
                f"{workdir / 'eval'} holds no evaluation to compare: run "
                f"`python -m groot_jax.evaluate --workdir={workdir}` first"
            )
        digests: Mapping[str, str] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads((workdir / "task" / "task.json").read_text(encoding="utf-8"))
            digests = dict(facts["digests"])
        jobs, card = tuple(read_jobs(workdir)), read_card(workdir)
        return cls(name, records, settings, jobs, card, digests, worse or {})


def names_of(workdirs: Sequence[Path]) -> list[str]:
    """The last folders of paths that tell them apart: `seed_0` and `seed_1`, or `a/run`, `b/run`.
    Raises UserError for a folder that is named twice."""
    absolute = [path.resolve() for path in workdirs]
    for i, path in enumerate(absolute):
        if path in absolute[:i]:
            raise UserError(f"{workdirs[i]} is named twice: name each work directory once")
    for depth in range(1, max(len(path.parts) for path in absolute) + 1):
        names = ["/".join(path.parts[-depth:]) for path in absolute]
        if len({*names}) == len(names):
            return names
    return [str(path) for path in absolute]


@dataclass(frozen=True)
class Row:
    """A system of a work directory, or, where `spread` is there, the mean of some of them."""

    name: str
    system: str
    figures: Mapping[str, float | None]
    spread: Mapping[str, float | None] | None = None
    by_rank: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Group:
    """What was scored on the same sentences, by the same reward: rows by system, each system's
    followed by their means over seeds.

    `differences`: of a row from that of the same system in the first work directory.
    """

    split: str
    num_sentences: int
    reward: str
    rows: tuple[Row, ...]
    differences: tuple[tuple[Row, Mapping[str, Difference]], ...]
    notes: tuple[str, ...]  # what is wrong with systems


def groups_of(compared: Sequence[Compared], resamples: int) -> list[Group]:
    """The tables of a comparison, those of test first."""
    groups = []
    for split in _SPLITS:
        found: dict[object, list[tuple[Compared, Record]]] = {}
        for one in compared:
            for record in one.records:
                if record["split"] == split:
                    # What is trained for another reward has its mean reward in other units.
                    key = (_sentences_of(one, record), record["reward"])
                    found.setdefault(key, []).append((one, record))
        groups += [_group(split, members, resamples) for members in found.values()]
    return groups


def _sentences_of(one: Compared, record: Record) -> object:
    digest = record["metrics"].get("digest") or one.digests.get(record["split"])
    # Of unknown sentences nothing is known to be comparable but what lies in one folder.
    return digest or one.name


def _group(split: str, members: Sequence[tuple[Compared, Record]], resamples: int) -> Group:
    # By system, so that what is to be compared stands together; systems in the first one's order.
    order = list(dict.fromkeys(system_name(record) for _, record in members))
    members = sorted(members, key=lambda member: order.index(system_name(member[1])))
    rows, differences = [], []
    for _, same in groupby(members, key=lambda member: system_name(member[1])):
        (_, first), *others = of_system = list(same)
        rows += [_row(one.name, record) for one, record in of_system]
        rows += _means(of_system)
        for one, record in others:
            compared = {
                metric: paired_bootstrap(values, first["per_sentence"][metric], resamples)
                for metric, values in record["per_sentence"].items()
                if metric in COMPARED
                and len(first["per_sentence"].get(metric, ())) == len(values) > 0
            }
            if compared:
                differences.append((_row(one.name, record), compared))
    of_all = members[0][1]
    count, reward = of_all["num_sentences"], of_all["reward"]
    # Of a system's rules, each a member, one note.
    notes = dict.fromkeys(
        f"{one.name}, {system}: {one.worse[system]}"
        for one, record in members
        if (system := record["system"]) in one.worse
    )
    return Group(split, count, reward, tuple(rows), tuple(differences), tuple(notes))


def _row(name: str, record: Record) -> Row:
    metrics = record["metrics"]
    return Row(
        name,
        system_name(record),
        {key: metrics.get(key) for key, _, _ in COLUMNS},
        by_rank=tuple(metrics.get("reward_by_rank", ())),
    )


def _means(members: Sequence[tuple[Compared, Record]]) -> Iterator[Row]:
    """Of one system the mean over runs that differ in nothing but their seed, and its standard
    deviation, with N - 1."""
    runs: dict[str, list[Record]] = {}
    for one, record in members:
        settings = {key: value for key, value in one.settings.items() if key != "seed"}
        runs.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(record)
    for records in runs.values():
        if len(records) < 2:
            continue
        mean: dict[str, float | None] = {}
        spread: dict[str, float | None] = {}
        for key, _, _ in COLUMNS:
            values = [record["metrics"].get(key) for record in records]
            known = [value for value in values if value is not None]
            whole = len(known) == len(values)
            mean[key] = statistics.fmean(known) if whole else None
            spread[key] = statistics.stdev(known) if whole else None
        yield Row(f"mean of {len(records)} seeds", system_name(records[0]), mean, spread)


def settings_table(compared: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """The keys in which the work directories differ, with the value in each; empty: the default."""
    keys = sorted({key for one in compared for key in one.settings})
    rows = [(key, [str(one.settings.get(key, "")) for one in compared]) for key in keys]
    return [(key, values) for key, values in rows if len({*values}) > 1]


def terminal_tables(groups: Sequence[Group]) -> Iterator[Table]:
    """The groups for a terminal."""
    for group in groups:
        table = Table(
            title=_title(group),
            box=None,
            padding=(0, 0, 0, 1),
            pad_edge=False,
            title_justify="left",
            caption=escape("\n".join(group.notes)) or None,
            caption_justify="left",
        )
        table.add_column("system", overflow="fold")
        for _, heading, _ in COLUMNS:
            table.add_column(heading, justify="right", no_wrap=True)
        best = best_of(group)
        for system, rows in groupby(group.rows, key=lambda row: row.system):
            table.add_row(escape(system))
            for row in rows:
                cells = [figure(row.figures[key]) for key, _, _ in COLUMNS]
                marked = [
                    f"[bold]{cell}[/bold]" if row.spread is None and cell == best.get(key) else cell
                    for cell, (key, _, _) in zip(cells, COLUMNS, strict=True)
                ]
                table.add_row(f"  {escape(row.name)}", *marked)
                if row.spread is not None:
                    table.add_row("  ±", *(figure(row.spread[key]) for key, _, _ in COLUMNS))
        yield table


def _title(group: Group) -> str:
    return f"{group.split} split, {group.num_sentences:,} sentences, reward {group.reward}"


def best_of(group: Group) -> dict[str, str]:
    """The best figure of each column, as printed; see `results.best_values`."""
    best = {}
    for key, _, more in COLUMNS:
        rows = [row for row in group.rows if row.spread is None]
        values = [value for row in rows if (value := row.figures[key]) is not None]
        if values:
            best[key] = figure(max(values) if more else min(values))
    return best


def rank_chart(group: Group) -> Json | None:
    """The reward at each rank of every system, decision rules apart; None where there is none."""
    rows = [row for row in group.rows if "+" not in row.system and row.by_rank]
    systems = list(dict.fromkeys(row.system for row in rows))
    names = list(dict.fromkeys(row.name for row in rows))
    # A work directory has a color, a system a dash.
    dashes = ("", "7 3", "2 3", "10 3 2 3")
    lines = [
        Series(
            f"{row.name} {row.system}",
            tuple((rank, v) for rank, v in enumerate(row.by_rank, 1) if v is not None),
            names.index(row.name) % len(PALETTE),
            dashes[systems.index(row.system) % len(dashes)],
        )
        for row in rows
    ]
    lines = [line for line in lines if line.points]
    return chart(lines, "rank", whole_x=True) if lines else None


def write_page(path: Path, compared: Sequence[Compared], groups: Sequence[Group]) -> None:
    """Writes the comparison as one page that refers to nothing outside. Raises UserError where the
    disk refuses."""
    html = template("comparison.html.j2").render(
        title=", ".join(one.name for one in compared),
        palette=PALETTE,
        columns=COLUMNS,
        compared=compared,
        groups=[(group, _title(group), best_of(group), rank_chart(group)) for group in groups],
        settings=settings_table(compared),
        splits=("train", *_SPLITS),
    )
    write_text(path, html)
