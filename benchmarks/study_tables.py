"""The tables of benchmarks/study.py, from the records of evaluations.

Reads what was scored and scores nothing. A figure of a grid's cell is the mean over its seeds; an
interval is that of a paired bootstrap over the sentences, of their means over the seeds.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.study_grid import Study
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
        records = [r for r in read_records(study.scores(cell)) if r["reward"] == cell.reward]
        # Records of test know what dev had chosen by then.
        of_dev = [r for r in records if r["split"] == "dev"]
        chosen = {r["system"]: r["metrics"].get("dev_chose") for r in of_dev}
        for record in records:
            if record["split"] != split:
                continue
            here.setdefault(system_name(record), {})[cell.seed] = record
            if chosen.get(record["system"]) == record["decide"]:
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


def mean(records: Mapping[int | None, Record], figure: str) -> str:
    """Over the seeds."""
    values = [r["metrics"][figure] for r in records.values() if figure in r["metrics"]]
    return f"{statistics.fmean(values):.3f}" if values else ""


def spread(records: Mapping[int | None, Record], figure: str) -> str:
    """Mean over the seeds, and their standard deviation (n - 1) where there are several."""
    values = [r["metrics"][figure] for r in records.values() if figure in r["metrics"]]
    if len(values) < 2:
        return mean(records, figure)
    return f"{mean(records, figure)} ± {statistics.stdev(values):.3f}"


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
    """In how many sets each promise holds, and by how much it falls short in the others."""
    items = list(kept(found))
    rows = []
    for promise in PROMISES:
        for reward in promise.rewards:
            of = [item for item in items if item.promise is promise and item.reward == reward]
            if not of:
                continue
            short = [f"{i.set} {shown(i.difference)}" for i in of if not i.holds]
            rows.append(
                [
                    f"{promise.title}: {promise.claim}",
                    *(reward, f"{len(of) - len(short)} of {len(of)} sets", "; ".join(short)),
                ]
            )
    return markdown(("what is promised", "reward", "holds on", "falls short on"), rows)


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
    calibrated them, and what it would be if each were true: a set's means over rewards and seeds.
    A decision rule changes none of it."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        for system in (BASELINE, "groot"):
            errors = [
                (calibration["error_at_1"], calibration["error"], chance_error(calibration["bins"]))
                for (other, _), systems in found.items()
                for record in systems.get(system, {}).values()
                if other == name and (calibration := record["metrics"].get("calibration"))
            ]
            if not errors:
                continue
            before, after, chance = (statistics.fmean(side) for side in zip(*errors, strict=True))
            verdict = "halved" if after <= before / 2 else "not halved"
            rows.append([name, system, *(f"{e:.4f}" for e in (before, after, chance)), verdict])
    heads = ("set", "system", "not calibrated", "as predict prints it", "true ones would show", "")
    return markdown(heads, rows)


def chance_error(bins: Sequence[tuple[int, float, float]]) -> float:
    """The calibration error that bins of so many spans show by chance though every confidence is
    true: the mean over spans of E|X / n - p| for X ~ Binomial(n, p), p the mean confidence of a
    bin of n spans. Of 100 spans at .9 on average 2.4 too many or too few are right."""
    spans = sum(count for count, _, _ in bins)
    total = 0.0
    for n, p, _ in bins:
        # E|X - np| = 2 k C(n, k) p^k (1 - p)^(n - k + 1) with k = floor(np) + 1 (De Moivre 1730).
        k = math.floor(n * p) + 1
        if 0 < p < 1 and k <= n:
            log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
            total += 2 * k * math.exp(log + k * math.log(p) + (n - k + 1) * math.log1p(-p))
    return total / max(spans, 1)


def glance(found: Found) -> str:
    """A row for each set and reward: what a user would have without GROOT, and what GROOT as it is
    shipped has."""
    rows = []
    for (name, reward), systems in found.items():
        if not {SHIPPED, BASELINE} <= {*systems}:
            continue
        peer, base, ours = systems.get("crf+threshold", {}), systems[BASELINE], systems[SHIPPED]
        rules = Counter(record["decide"] for record in ours.values())
        rows.append(
            [
                *(name, reward, mean(peer, "reward@1"), mean(base, "reward@1")),
                mean(systems.get(f"{BASELINE}+consensus", {}), "reward@1"),
                mean(systems.get("groot", {}), "reward@1"),
                mean(ours, "reward@1"),
                ", ".join(f"{rule} {count}" for rule, count in rules.most_common()),
                shown(paired(ours, base, "reward@1")),
                *(f"{mean(base, key)}, {mean(ours, key)}" for key, _ in FIGURES[1:]),
            ]
        )
    heads = ["set", "reward", "CRF + threshold", "NLL continued, map", "+ consensus", "GROOT, map"]
    heads += [CHOSEN, "which, seeds", "Δ rank 1", "mean@10, both", "max@10, both"]
    return markdown(heads, rows)


def figures_table(systems: Mapping[str, Mapping[int | None, Record]], rows: Sequence[str]) -> str:
    """One set under one reward: figures of each system and differences from the baseline."""
    lines = []
    for row in rows:
        if row not in systems:
            continue
        cells = [row, *(spread(systems[row], figure) for figure, _ in FIGURES)]
        for figure, _ in FIGURES:
            other = systems.get(BASELINE)
            same = row == BASELINE or other is None
            cells.append("" if same else shown(paired(systems[row], other or {}, figure)))
        lines.append(cells)
    titles = [title for _, title in FIGURES]
    return markdown(("system", *titles, *(f"Δ {title}" for title in titles)), lines)
