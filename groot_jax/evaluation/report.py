"""The report of a work directory: one self-contained HTML file, no network, no other file.

Everything comes from W/eval/*.json, W/metrics.jsonl, W/data_card.json, W/jobs.jsonl and
W/config.json; nothing is scored here. Text reaches the page through the template's escaping only,
whatever a sentence holds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from groot_jax.data.card import read_card
from groot_jax.errors import UserError
from groot_jax.evaluation.plots import (
    PALETTE,
    Series,
    chart,
    reliability_lines,
    reward_by_rank,
    system_styles,
    thin,
)
from groot_jax.evaluation.records import (
    Json,
    Record,
    read_jobs,
    read_metrics,
    read_records,
    read_samples,
    system_name,
)
from groot_jax.evaluation.results import (
    COLUMNS,
    Results,
    best_values,
    dev_choices,
    figure,
    notes_of,
)
from groot_jax.evaluation.type_tables import type_tables
from groot_jax.runtime.files import write_text
from groot_jax.runtime.json_files import finite, read_bytes

# Keys of metrics.jsonl that say where a line stands, not what was measured.
PLACE = ("step", "epoch", "seconds")
# The curves that a reader sees at once, in this order; the others are folded away.
FIRST_CURVES = ("loss", "reward@1", "mean_reward")
# Labelings of a sentence whose way through the evaluations is shown, at most.
_SHOWN_LABELINGS = 15
# Of every reported reward: key of its figures, title.
MATRIX = (("reward@1", "rank 1"), ("mean_reward@10", "mean@10"), ("max_reward@10", "max@10"))


def write_report(workdir: Path, results: Results) -> Path:
    """Writes W/report/index.html from what is in the work directory, of which `write_results` has
    made `results`, and returns its path.

    Raises UserError where nothing was evaluated yet.
    """
    records = read_records(workdir)
    if not records:
        raise UserError(
            f"{workdir / 'eval'} holds no evaluation to report: run "
            f"`python -m groot_jax.evaluate --workdir={workdir}` first"
        )
    names = list(results["systems"])
    # Test first.
    splits = sorted({record["split"] for record in records}, key=lambda split: split != "test")
    lines = read_metrics(workdir)
    # A system may have been trained and not been evaluated, and the other way round. Those of the
    # tables come first, so that a system has one color in both kinds of chart.
    styles = system_styles(list(dict.fromkeys([*names, *(line["system"] for line in lines)])))
    config = read_bytes(workdir / "config.json") or b""
    html = template("report.html.j2").render(
        title=workdir.resolve().name,
        palette=PALETTE,
        names=names,
        splits=splits,
        rewards=sorted({record["reward"] for record in records}),
        counts={record["split"]: record["num_sentences"] for record in records},
        columns=COLUMNS,
        results=results,
        best={split: best_values(results, split) for split in splits},
        worse={split: notes_of(results, split) for split in splits},
        chosen={split: dev_choices(results, split) for split in splits},
        rank_charts={
            split: chart(series, "rank", whole_x=True)
            for split in splits
            if (series := reward_by_rank(results, split))
        },
        reliability={
            split: chart(series, "confidence")
            for split in splits
            if (series := reliability_lines(results, split))
        },
        types=type_tables(results, splits),
        curves=learning_curves(lines, styles),
        matrices={split: reward_matrices(results, split) for split in splits},
        browser=browser_data(records, names, splits),
        changes=list_changes(read_samples(workdir)),
        config=config.decode(errors="replace"),
        card=read_card(workdir),
        jobs=read_jobs(workdir),
        # The last line of a system has the seconds of all of them.
        times={line["system"]: line["seconds"] for line in lines if "seconds" in line},
    )
    path = workdir / "report" / "index.html"
    write_text(path, html)
    return path


@cache
def template(name: str) -> Template:
    """A page of templates/."""
    # A name that the template misspells ends in an error, not in a hole in the page.
    environment = Environment(
        loader=PackageLoader("groot_jax.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    return environment.get_template(name)


def learning_curves(lines: Sequence[Json], styles: Mapping[str, tuple[int, str]]) -> list[Json]:
    """One chart for each number of metrics.jsonl, stage 0 (`nll`) apart from the rest.

    Their losses and numbers of steps do not compare. Dev is solid, train dashed; the last line of
    a step counts, since a resumed run writes some again. `main` marks the charts to show first.
    """
    # {(stage, key): {(system, split): {step: value}}}: a chart, its lines, their points. A later
    # value of a step takes the place of the one before.
    values: dict[tuple[str, str], dict[tuple[str, str], dict[float, float]]] = {}
    for line in lines:
        system, split = line["system"], line["split"]
        stage = "stage 0" if system == "nll" else "after stage 0"
        for key, value in line.items():
            # A training that diverged has written NaN, which has no place in a chart.
            if key in PLACE or not finite(value):
                continue
            by_line = values.setdefault((stage, key), {})
            by_line.setdefault((system, split), {})[float(line["step"])] = float(value)

    def place(item: tuple[str, str]) -> tuple[bool, int, str]:
        stage, key = item
        order = FIRST_CURVES.index(key) if key in FIRST_CURVES else len(FIRST_CURVES)
        return (stage != "stage 0", order, key)

    # Thousands of points would make the page slow and the line no clearer: means of neighbours.
    curves = []
    for stage, key in sorted(values, key=place):
        series = [
            Series(
                f"{system} ({split})",
                tuple(thin(sorted(points.items()))),
                styles[system][0],
                "" if split == "dev" else "4 3",
                faint=split != "dev",
            )
            for (system, split), points in values[stage, key].items()
        ]
        curves.append(
            {
                "title": f"{key}, {stage}",
                # With the terms of a weighted sum: "reward@1/f0.5".
                "main": key.partition("/")[0] in FIRST_CURVES,
                "chart": chart(series, "step"),
            }
        )
    return curves


def list_changes(lines: Sequence[Json]) -> list[Json]:
    """How the lists of a few dev sentences changed while a system was trained, from the lines of
    W/samples.jsonl: a row a labeling, the last list first, then what is no longer in it.

    [{"index", "words", "gold", "systems": [{"name", "steps", "rows": [{"spans", "reward", "ranks",
    "change"}]}]}]: `ranks` one a step, None where it is not in the list; `change` from the first
    evaluation to the last: places risen, negative if fallen, "new", or "gone".
    """
    # {index: {system: {step: sample}}}. A later line of a step takes the place of the one before.
    found: dict[int, dict[str, dict[int, Json]]] = {}
    for line in lines:
        for sample in line["sentences"]:
            by_step = found.setdefault(sample["index"], {}).setdefault(line["system"], {})
            by_step[line["step"]] = sample
    changes = []
    for _, by_system in sorted(found.items()):
        first = next(iter(next(iter(by_system.values())).values()))
        changes.append(
            {key: first[key] for key in ("index", "words", "gold")}
            | {"systems": [_changes(name, steps) for name, steps in by_system.items()]}
        )
    return changes


def _changes(name: str, by_step: Mapping[int, Json]) -> Json:
    steps = sorted(by_step)
    # [{labeling: rank}] of each step; a labeling as text, to be a key.
    ranks: list[dict[str, int]] = []
    known: dict[str, Json] = {}
    for step in steps:
        candidates = by_step[step]["candidates"]
        ranks.append({str(c["spans"]): rank for rank, c in enumerate(candidates, 1)})
        known |= {str(c["spans"]): c for c in candidates}

    def change(key: str) -> int | str:
        if key not in ranks[-1]:
            return "gone"
        return ranks[0][key] - ranks[-1][key] if key in ranks[0] else "new"

    def place(key: str) -> list[float]:
        # Where it is now; of those that are gone, who was there last and highest.
        return [one.get(key, math.inf) for one in reversed(ranks)]

    rows = [
        {
            **{field: known[key][field] for field in ("spans", "reward")},
            "ranks": [one.get(key) for one in ranks],
            "change": change(key),
        }
        for key in sorted(known, key=place)[:_SHOWN_LABELINGS]
    ]
    return {"name": name, "steps": steps, "rows": rows}


def reward_matrices(results: Results, split: str) -> list[Json]:
    """Systems (with the reward they were trained for) against every reported reward.

    One matrix for each column of MATRIX; a cell is its value and its place, 0 to 1, in its column.
    """
    rows = {name: s[split] for name, s in results["systems"].items() if split in s}
    # Systems may have been evaluated with other lists of rewards: a column for each that some has.
    rewards = list(
        dict.fromkeys(r for metrics in rows.values() for r in metrics.get("rewards", ()))
    )
    matrices = []
    for key, title in MATRIX:
        table = {
            name: [metrics.get("rewards", {}).get(reward, {}).get(key) for reward in rewards]
            for name, metrics in rows.items()
        }
        # Cells are tinted by their place between the worst and the best of their column: .80, .85
        # and .90 are 0, .5 and 1. Rewards are of different scales, so columns do not compare.
        columns = [
            [v for v in column if v is not None] for column in zip(*table.values(), strict=True)
        ]
        ranges = [(min(c), max(c)) if c else (0.0, 0.0) for c in columns]
        matrices.append(
            {
                "title": title,
                "rewards": rewards,
                "rows": [
                    (
                        name,
                        rows[name]["reward"],
                        [
                            (v, (v - low) / (high - low) if v is not None and high > low else 0.0)
                            for v, (low, high) in zip(values, ranges, strict=True)
                        ],
                    )
                    for name, values in table.items()
                ],
            }
        )
    return matrices


def browser_data(records: Sequence[Record], names: Sequence[str], splits: Sequence[str]) -> Json:
    """The samples of all systems joined by sentence, for the page's script.

    Types are ordered by how often they occur, so that frequent ones get the plainest marks.
    """
    types: Counter[str] = Counter()
    # {split: {position in it: {"index", "words", "gold", "by": {system: what it found}}}}
    sentences: dict[str, dict[int, Json]] = {split: {} for split in splits}
    for record in records:
        for sample in record["samples"]:
            index = sample["index"]
            new = {"index": index, "words": sample["words"], "gold": sample["gold"], "by": {}}
            sentence = sentences[record["split"]].setdefault(index, new)
            # Another system's file may be of another corpus or another split seed.
            if sentence["words"] != sample["words"]:
                continue
            sentence["by"][system_name(record)] = {
                "candidates": sample["candidates"],
                "corrections": sample["corrections"],
                # Records of earlier versions have none.
                "consensus": sample.get("consensus", []),
            }
            types.update(span[2] for span in sample["gold"])
            # Types that only a system has named come last, with a count of 0.
            for candidate in sample["candidates"]:
                types.update({span[2]: 0 for span in candidate["spans"]})
    return {
        "types": [type_ for type_, _ in types.most_common()],
        "systems": list(names),
        "splits": {
            split: [by_index[index] for index in sorted(by_index)]
            for split, by_index in sentences.items()
        },
    }
