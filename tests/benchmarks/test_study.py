"""The grid of benchmarks/study.py: its plan, what it refuses, its tables from made-up records."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import study as command
from benchmarks.study_grid import Cell, Study, load
from benchmarks.study_page import make_page
from benchmarks.study_tables import (
    CHOSEN,
    FIGURES,
    PROMISES,
    SHIPPED,
    Found,
    calibrations,
    chance_error,
    glance,
    kept,
    paired,
    promises,
    read,
    rows_of,
    wins,
)
from groot_jax.config import load as load_config
from groot_jax.errors import UserError
from groot_jax.evaluation.decisions import RULES
from groot_jax.evaluation.records import Record, write_eval

SMALL: dict[str, Any] = {"sets": ("retail", "atis"), "rewards": ("f1", "f0.5"), "seeds": (0, 1)}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, **SMALL, systems=("groot", "crf"))


def finish(study: Study, cell: Cell, state: str = "finished", **changes: Any) -> None:
    """A record as the process of a cell leaves it."""
    record: dict[str, Any] = {"state": state, "wall_seconds": 90.0, "cpu_seconds": 60.0}
    record |= {"tries": 1, "settings": study.settings(cell)}
    path = study.record_path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | changes))


def score(
    study: Study, cell: Cell, rule: str, values: dict[str, Sequence[float]], **metrics: Any
) -> None:
    """A record of an evaluation, of a system with these figures of its sentences."""
    systems = ("nll", "nll_continued") if cell.system == "base" else (cell.system,)
    for system in systems:
        means = {key: float(np.mean(value)) for key, value in values.items()}
        record = Record(
            system=system,
            decide=rule,
            split=cell.action,
            step=1,
            checkpoint="best",
            reward=cell.reward,
            metrics=means | metrics,
            per_sentence={key: list(value) for key, value in values.items()},
            seconds=1.0,
            num_sentences=40,
            samples=[],
        )
        write_eval(study.scores(cell), record)


# ---- The plan ---------------------------------------------------------------------------------


def test_what_does_not_depend_on_the_reward_is_trained_once(study: Study) -> None:
    trainings = list(study.trainings())
    # Of 2 sets: the CRF once each, base once a seed, GROOT once a seed and reward.
    assert [sum(c.system == s for c in trainings) for s in ("crf", "base", "groot")] == [2, 4, 8]
    assert len({cell.name for cell in trainings}) == len(trainings) == 14
    scorings = list(study.scorings("dev"))
    assert [sum(c.system == s for c in scorings) for s in ("crf", "base", "groot")] == [4, 8, 8]
    # What is needed comes before, and the first seed is whole before the second begins.
    for i, cell in enumerate(trainings):
        assert all(needed in trainings[:i] for needed in study.needs(cell))
    seeds = [cell.seed for cell in trainings if cell.seed is not None]
    assert seeds == sorted(seeds)
    assert all(len(study.needs(cell)) == 1 for cell in scorings)


def test_every_training_leaves_test_alone_and_takes_its_stage_0_from_its_seed(study: Study) -> None:
    for cell in study.trainings():
        if cell.system == "crf":
            continue
        job, argv = study.argv(cell)
        assert job == "train" and "--split=none" in argv and f"--config.seed={cell.seed}" in argv
        given = [word for word in argv if word.startswith("--config.nll.checkpoint=")]
        base = study.root / "runs" / f"{cell.set}-base-{cell.seed}"
        assert given == ([] if cell.system == "base" else [f"--config.nll.checkpoint={base}"])
        # The job takes these flags.
        flags = [
            word.removeprefix("--config.").split("=", 1) for word in argv[2:] if "config." in word
        ]
        config = load_config(argv[0].removeprefix("--config="), [(k, v) for k, v in flags])
        assert config.reward.name == (cell.reward or "f1")
    homes = [study.home(cell) for cell in study.trainings()]
    assert len({*homes}) == len(homes)
    folders = [study.scores(cell) for cell in study.scorings("dev")]
    assert len({*folders}) == len(folders)


def test_a_quick_study_divides_the_updates_and_has_a_place_of_its_own(tmp_path: Path) -> None:
    quick = Study(tmp_path, quick=8)
    flags = dict(word.split("=") for word in quick.shortened("retail"))
    config = load("retail")
    assert float(flags["--config.nll.epochs"]) == config.nll.epochs / 8
    assert float(flags["--config.groot.epochs"]) == config.groot.epochs / 8
    assert quick.root != Study(tmp_path).root and quick.root.is_relative_to(tmp_path)
    cell = Cell("train", "retail", "base", seed=0)
    assert quick.minutes(cell) < Study(tmp_path).minutes(cell)


def test_the_list_says_what_is_there_and_scales_what_is_left(study: Study) -> None:
    first, second = list(study.trainings())[2:4]
    finish(study, first)
    finish(study, second, "begun")
    text = command.listing(study, "dev")
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "finished" in lines[first.name] and "1.5 min" in lines[first.name]
    assert "interrupted" in lines[second.name] and "missing" in lines["atis-crf-f1-dev"]
    assert text.splitlines()[-1].startswith("1 of 34 cells are finished")
    assert study.calibration([first, second]) == pytest.approx(1.5 / study.minutes(first))


# ---- What is refused --------------------------------------------------------------------------


def test_test_is_refused_while_a_cell_is_missing(study: Study) -> None:
    cells = [*study.trainings(), *study.scorings("dev")]
    for cell in cells[:-1]:
        finish(study, cell)
    with pytest.raises(UserError, match=r"1 of 34 cells .* \(atis-groot-f0\.5-1-dev\).* --partial"):
        command.wanted(study, "test", False)
    assert len(command.wanted(study, "test", True)) == 20
    finish(study, cells[-1])
    wanted = command.wanted(study, "test", False)
    assert wanted == list(study.scorings("test"))
    # Of what is not trained nothing is scored, whatever is asked.
    finish(study, Cell("train", "atis", "crf"), "failed")
    left = [c.name for c in wanted if c not in command.wanted(study, "test", True)]
    assert left == ["atis-crf-f1-test", "atis-crf-f0.5-test"]


def test_it_is_kept_which_cells_read_test_and_when(study: Study) -> None:
    cells = list(study.scorings("test"))
    finish(study, cells[0])
    command.note_test(study, cells[:3], True)
    for cell in cells:
        finish(study, cell)
    command.note_test(study, cells, False)  # Nothing is left to be read: no line.
    (line,) = (study.root / "test_read.jsonl").read_text().splitlines()
    noted = json.loads(line)
    assert noted["cells"] == [cell.name for cell in cells[1:3]] and noted["partial"]
    assert noted["time"] and noted["versions"]["jax"]


def test_cells_of_other_settings_are_not_mixed(study: Study) -> None:
    finish(study, next(study.trainings()))
    study.check()
    common = ("--config.groot.tau=0.2",)
    # Nothing of its own is there yet.
    Study(study.workdir, **SMALL, systems=("groot",), common=common).check()
    with pytest.raises(UserError, match=r"retail-crf-train was made with .*groot\.tau=0\.2"):
        Study(study.workdir, **SMALL, systems=("crf",), common=common).check()


@pytest.mark.parametrize("text", ["", "[]", '{"state": "finished"}', "{"])
def test_a_damaged_record_is_named(study: Study, text: str) -> None:
    cell = next(study.trainings())
    finish(study, cell)
    study.record_path(cell).write_text(text)
    with pytest.raises(UserError, match=r"retail-crf-train\.json is not .* remove it"):
        study.state(cell)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sets=retial"], "there is no configs/retial.py"),
        (["--sets=retail,retail"], "each once"),
        (["--rewards="], "each once"),
        (["--rewards=f-one"], "no name of a built-in reward"),
        (["--rewards=f05"], "there is no reward 'f05'"),
        (["--systems=grot"], "grot is none of groot, no_corrections, risk, crf"),
        (["--systems=nll_continued"], "nll_continued is none of"),
        (["--seeds=a"], "whole numbers"),
        (["--jobs=0"], "--jobs=0 has to be 1 or more"),
        (["--quick=0"], "--quick=0 has to be 1 or more"),
    ],
)
def test_a_mistyped_grid_is_refused_before_anything_begins(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        command.main([f"--workdir={tmp_path / 'w'}", *flags])
    assert not (tmp_path / "w").exists()


# ---- Running ----------------------------------------------------------------------------------


class Process:
    """Stands in for the process of a cell: ends at the second look."""

    def __init__(self, study: Study, cell: Cell, fails: bool) -> None:
        self.returncode, self._looks = int(fails), 0
        self._end = lambda: finish(study, cell, "failed" if fails else "finished")

    def poll(self) -> int | None:
        self._looks += 1
        if self._looks < 2:
            return None
        self._end()
        return self.returncode


def test_cells_wait_for_what_they_need_and_a_failure_takes_only_its_own(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Cell] = []
    side_by_side: list[int] = []

    def start(study: Study, cell: Cell, jobs: int, words: Sequence[str]) -> Process:
        assert all(study.finished(needed) for needed in study.needs(cell))
        begun.append(cell)
        side_by_side.append(sum(study.state(c) == "missing" for c in begun))
        path = command.log_path(study, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a line\nthe last line\n")
        return Process(study, cell, fails=cell.name == "atis-base-0-train")

    monkeypatch.setattr(command, "start", start)
    monkeypatch.setattr(command, "_POLL", 0.0)
    done = Cell("train", "retail", "crf")
    finish(study, done)
    cells = command.wanted(study, "dev", False)
    failed = command.run(study, cells, 2, [])
    assert done not in begun and max(side_by_side) == 2
    # Two scorings of atis-base-0, and GROOT from it under two rewards, trained and scored.
    assert len(failed) == 1 + 2 + 2 + 2 and all("atis" in cell.name for cell in failed)
    assert len(begun) == len({*begun}) == len(cells) - 1 - (len(failed) - 1)
    # The same again does what failed, and only that.
    begun.clear()
    command.run(study, cells, 1, [])
    assert [cell.name for cell in begun] == ["atis-base-0-train"]


# ---- Tables -----------------------------------------------------------------------------------

NAMES = [figure for figure, _ in FIGURES]


def scored(study: Study, rises: dict[str, float], split: str = "dev") -> Found:
    """Records of all cells: NLL continued has .5 throughout, others what `rises` says above it."""
    rng = np.random.default_rng(0)
    for cell in study.scorings(split):
        for rule in ("map", "threshold") if cell.system == "crf" else RULES:
            system = "nll_continued" if cell.system == "base" else cell.system
            name = system if rule == "map" else f"{system}+{rule}"
            noise = rng.normal(0, 0.001, 40)
            values = {key: 0.5 + rises.get(name, 0.0) + noise - noise.mean() for key in NAMES}
            if cell.system == "crf":
                values = {"reward@1": values["reward@1"]}
            chosen = {"dev_chose": "consensus" if cell.seed == 1 else "map"}
            score(study, cell, rule, values, **({} if cell.system == "crf" else chosen))
        finish(study, cell)
    return read(study, split)


def test_promises_hold_or_fall_short_by_the_shipped_rule(study: Study) -> None:
    # Seed 0 ships map (+.010), seed 1 consensus (+.040): .025 above NLL continued.
    found = scored(study, {"groot": 0.01, "groot+consensus": 0.04, "crf+threshold": 0.03})
    verdicts: dict[tuple[str, str, str], Any] = {
        (item.set, item.reward, item.promise.title): (item.holds, item.difference["difference"])
        for item in kept(found)
    }
    assert len(verdicts) == 2 * (5 + 4)
    holds, difference = verdicts["atis", "f0.5", "rank 1, precision counts"]
    assert holds and difference == pytest.approx(0.025, abs=1e-6)
    assert verdicts["atis", "f1", "rank 1, recall counts"][0]
    assert verdicts["retail", "f1", "rank 1, CRF"] == (False, pytest.approx(-0.005, abs=1e-6))
    assert verdicts["retail", "f1", "rank 1, no training"][0]
    assert verdicts["retail", "f1", "mean@10"] == (False, pytest.approx(0.025, abs=1e-6))
    assert verdicts["retail", "f0.5", "max@10"][0]
    rows = [[cell.strip() for cell in line.split("|")] for line in promises(found).splitlines()]
    said = {(row[1].split(":")[0], row[2]): row[3:5] for row in rows[2:]}
    assert said["rank 1, precision counts", "f0.5"] == ["2 of 2 sets", ""]
    count, short = said["rank 1, CRF", "f1"]
    assert count == "0 of 2 sets" and "retail -0.005 [-0.005, -0.005]; atis -0.005 [" in short


def test_a_glance_has_what_a_user_would_have_instead_and_the_rules_that_are_shipped(
    study: Study,
) -> None:
    found = scored(study, {"groot": 0.01, "groot+consensus": 0.04, "crf+threshold": 0.03})
    rows = [[cell.strip() for cell in line.split("|")] for line in glance(found).splitlines()]
    assert len(rows) == 2 + 4 and {len(row) for row in rows} == {13}
    row = dict(zip(rows[0], rows[2], strict=True))
    assert (row["set"], row["reward"]) == ("retail", "f1")
    assert (row["CRF + threshold"], row["NLL continued, map"]) == ("0.530", "0.500")
    # Seed 0 ships map (+.010), seed 1 consensus (+.040).
    assert (row["GROOT, map"], row[CHOSEN]) == ("0.510", "0.525")
    assert row["which, seeds"] == "map 1, consensus 1" and row["Δ rank 1"].startswith("+0.025 [")
    assert row["mean@10, both"] == "0.500, 0.525"
    del found["retail", "f1"]["crf+threshold"]  # It may not have been asked for.
    assert len(glance(found).splitlines()) == 6
    del found["retail", "f1"][SHIPPED]
    assert len(glance(found).splitlines()) == 5


def test_the_rule_that_is_shipped_is_the_one_that_dev_has_chosen_last(study: Study) -> None:
    scored(study, {})
    for cell in study.scorings("test"):
        if cell.system == "groot":
            for rule in RULES:  # As dev had it when test was scored.
                score(study, cell, rule, {key: [0.5] for key in NAMES}, dev_chose="threshold")
        finish(study, cell)
    shipped = read(study, "test")["retail", "f1"][SHIPPED]
    assert {seed: record["decide"] for seed, record in shipped.items()} == {
        0: "map",
        1: "consensus",
    }


@pytest.mark.parametrize(
    ("title", "difference", "low", "holds"),
    [
        ("rank 1, precision counts", 0.0199, 0.01, True),  # .020 as it is printed
        ("rank 1, precision counts", 0.0194, 0.01, False),
        ("rank 1, precision counts", 0.03, -0.001, False),
        ("rank 1, recall counts", -0.0004, -0.01, True),
        ("rank 1, recall counts", -0.0006, -0.01, False),
        ("rank 1, CRF", 0.0, -0.01, False),
        ("rank 1, CRF", 0.001, -0.01, True),
        ("rank 1, no training", -0.003, -0.01, True),
        ("rank 1, no training", -0.004, -0.01, False),
        ("mean@10", 0.05, 0.04, True),
        ("mean@10", 0.049, 0.04, False),
        ("max@10", -0.005, -0.01, True),
        ("max@10", -0.006, -0.01, False),
    ],
)
def test_where_a_promise_begins_to_hold(
    title: str, difference: float, low: float, holds: bool
) -> None:
    (promise,) = (promise for promise in PROMISES if promise.title == title)
    given: Any = {"difference": difference, "interval": [low, 0.1]}
    assert promise.holds(given) == holds


def test_the_win_table_counts_what_is_sure(study: Study) -> None:
    found = scored(study, {"groot": 0.01, "groot+mbr": -0.01, "crf": -0.02})
    rows = {
        line.split(" | ")[0].strip("| "): line for line in wins(found, rows_of(study)).splitlines()
    }
    assert rows["groot"].count("4 / 0 / 0") == 3 and rows["groot+mbr"].count("0 / 0 / 4") == 3
    assert rows["crf"].count("0 / 0 / 4") == 1  # It has no list.
    assert "nll_continued" not in rows


def test_a_system_without_a_seed_is_compared_with_each_and_seeds_are_paired(study: Study) -> None:
    found = scored(study, {"groot": 0.01})["retail", "f1"]
    alone = paired(found["groot"], found["crf"], "reward@1")
    assert alone is not None and alone["difference"] == pytest.approx(0.01, abs=1e-6)
    assert paired(found["groot"], found["crf"], "mean_reward@10") is None
    # Only seed 1 is there on both sides.
    found["groot"][1]["per_sentence"]["reward@1"] = [0.9] * 40
    one = paired({1: found["groot"][1], 7: found["groot"][0]}, found["nll_continued"], "reward@1")
    assert one is not None and one["difference"] == pytest.approx(0.4, abs=1e-3)
    assert paired({7: found["groot"][0]}, found["nll_continued"], "reward@1") is None


def test_the_page_names_what_is_missing_and_shows_what_is_there(study: Study) -> None:
    scored(study, {"groot": 0.01})
    whole = make_page(study, "dev", "c", {})
    plot, tables = whole.files["study_dev.svg"], whole.files["study_dev.md"]
    assert "Not there" not in whole.text and tables.count("| groot |") == 4
    assert all(f"({name})" in whole.text for name in whole.files)
    assert plot.count("<circle") == 4 * 3 and plot.startswith("<svg")
    study.record_path(Cell("dev", "atis", "groot", "f1", 0)).unlink()
    study.record_path(Cell("dev", "atis", "groot", "f1", 1)).unlink()
    part = make_page(study, "dev", "c", {})
    assert (
        "**Not there, and in no figure below:** atis-groot-f1-0-dev, atis-groot-f1-1-dev."
        in part.text
    )
    assert part.files["study_dev.md"].count("| groot |") == 3 and SHIPPED.endswith(CHOSEN)
    empty = make_page(Study(study.workdir / "new"), "test", "c", {})
    assert not empty.files and "and 240 more" in empty.text


def test_calibration_is_a_mean_over_rewards_and_seeds_and_halved_or_not(study: Study) -> None:
    found = scored(study, {})
    systems, other = found["retail", "f1"], found["retail", "f0.5"]
    for seed, before, after in ((0, 0.04, 0.01), (1, 0.02, 0.02)):
        systems["groot"][seed]["metrics"]["calibration"] = calibration(before, after)
    systems["nll_continued"][0]["metrics"]["calibration"] = calibration(0.02, 0.01)
    # Of 100 spans at .9 a binomial strays by 2.372 in the mean.
    assert calibrations(found).splitlines()[2:] == [
        "| retail | nll_continued | 0.0200 | 0.0100 | 0.0237 | halved |",
        "| retail | groot | 0.0300 | 0.0150 | 0.0237 | halved |",
    ]
    other["groot"][1]["metrics"]["calibration"] = calibration(0.03, 0.018)
    assert "| groot | 0.0300 | 0.0160 | 0.0237 | not halved |" in calibrations(found)


def calibration(before: float, after: float) -> dict[str, Any]:
    return {"error_at_1": before, "error": after, "bins": [(100, 0.9, 0.9 + after), (0, 0.0, 0.0)]}


@pytest.mark.parametrize(
    "bins", [[(1, 0.5)], [(7, 0.02), (0, 0.0), (3, 1.0)], [(40, 0.25), (60, 0.999), (5, 0.4)]]
)
def test_the_error_that_true_confidences_show_is_that_of_the_binomial(
    bins: list[tuple[int, float]],
) -> None:
    def strays(n: int, p: float) -> float:
        return sum(
            math.comb(n, k) * p**k * (1 - p) ** (n - k) * abs(k / n - p) for k in range(n + 1)
        )

    spans = sum(n for n, _ in bins)
    expected = sum(n * strays(n, p) for n, p in bins if n) / spans
    assert chance_error([(n, p, 0.0) for n, p in bins]) == pytest.approx(expected)
    assert chance_error([]) == 0


def test_the_page_takes_its_place_in_a_file_and_no_other(study: Study, tmp_path: Path) -> None:
    scored(study, {})
    page = make_page(study, "dev", "c", {})
    docs = tmp_path / "docs"
    docs.mkdir()
    path = docs / "results.md"
    path.write_text("mine\n")
    with pytest.raises(UserError, match=r"results\.md has no lines .*study begins"):
        command.write_page(page, docs, study)
    assert path.read_text() == "mine\n"
    path.write_text(f"before\n{command.BEGIN}\na page of before\n{command.END}\nafter\n")
    for _ in range(2):
        command.write_page(page, docs, study)
    text = path.read_text()
    assert text.startswith(f"before\n{command.BEGIN}\n") and text.endswith(
        f"{command.END}\nafter\n"
    )
    assert "of before" not in text and text.count("## The grid") == 1
    assert (docs / "study_dev.md").read_text() == page.files["study_dev.md"]
    assert command.write_page(page, None, study) == study.root / "results.md"


# ---- End to end -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cell_is_trained_and_scored_in_processes_of_its_own_and_not_again(tmp_path: Path) -> None:
    pytest.importorskip("pycrfsuite")
    words = [f"--workdir={tmp_path}", "--sets=retail", "--rewards=utility", "--seeds=0"]
    words += ["--systems=crf", "--config.data.train_limit=300"]
    # Sentences over the limit are no fault here, as they are none in a training.
    words += ["--config.text.long_sentences=window", "--config.text.max_words=6"]
    _, study = command.parse(words)
    cells = [Cell("train", "retail", "crf"), Cell("dev", "retail", "crf", "utility")]
    assert command.run(study, cells, 1, words) == []
    records = [study.record(cell) for cell in cells]
    assert all(record["cpu_seconds"] > 0 and record["tries"] == 1 for record in records)
    rows = read(study, "dev")["retail", "utility"]
    assert {*rows} == {"crf", "crf+threshold"}
    figures = [rows[name][None]["metrics"]["reward@1"] for name in ("crf", "crf+threshold")]
    assert 0.1 < figures[0] <= figures[1] < 0.9
    assert command.run(study, cells, 1, words) == []
    assert [study.record(cell) for cell in cells] == records
