"""Several work directories side by side: which figures stand together, and which may not."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from groot_jax import report
from groot_jax.config import dump, load
from groot_jax.data.labeling import Candidate, Sentence, make_labeling
from groot_jax.errors import UserError
from groot_jax.evaluation.comparison import Compared, groups_of, names_of, settings_table
from groot_jax.evaluation.metrics import one_by_one, per_sentence, score_beams, summarise, totals
from groot_jax.evaluation.records import Record, write_eval
from groot_jax.reward.rewards import RewardSpec, make_reward
from groot_jax.training.checksums import write_guarded
from groot_jax.training.evaluations import Evaluation, Meta
from tests.evaluation.test_report import Page

F1 = one_by_one(make_reward(RewardSpec(name="f1")))
GOLD = make_labeling([(0, 1, "color"), (1, 2, "brand")], 2)
WRONG = make_labeling([(0, 1, "size")], 2)


def evaluated(
    folder: Path, right: int, *overrides: tuple[str, str], system: str = "groot",
    sentences: int = 4, digest: str = "d0", split: str = "dev", reward: str = "f1",
) -> Path:  # fmt: skip
    """A work directory whose system is right on so many of its sentences."""
    folder.mkdir(exist_ok=True)
    dump(load("configs/retail.py", overrides), folder / "config.json")
    gold = [Sentence(("red", "levis"), GOLD)] * sentences
    labelings = [GOLD] * right + [WRONG] * (sentences - right)
    scores = score_beams(gold, [[Candidate(y, -0.1, True, 0)] for y in labelings], {"f1": F1})
    metrics = summarise(totals(scores, "f1"), "f1")
    record = Record(
        system=system,
        decide="map",
        split=split,
        step=100,
        checkpoint="best",
        reward=reward,
        metrics=metrics | ({"digest": digest} if digest else {}),
        per_sentence={key: values.tolist() for key, values in per_sentence(scores, "f1").items()},
        seconds=1.0,
        num_sentences=sentences,
        samples=[],
    )
    write_eval(folder, record)
    return folder


def compared(*folders: Path) -> list[Compared]:
    return [
        Compared.read(path, name, report.changes(report.configs.load_dumped(path / "config.json")))
        for path, name in zip(folders, names_of(folders), strict=True)
    ]


def test_seeds_have_a_mean_and_a_spread_and_other_settings_have_not(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / f"s{n}", n, ("seed", str(n))) for n in (1, 2, 4)]
    folders.append(evaluated(tmp_path / "cold", 3, ("groot.tau", "0.1")))
    # What may change within a work directory makes no other setting.
    folders.append(evaluated(tmp_path / "s5", 0, ("seed", "5"), ("loader.threads", "0")))
    (group,) = groups_of(compared(*folders), 50)
    assert [row.name for row in group.rows] == ["s1", "s2", "s4", "cold", "s5", "mean of 4 seeds"]
    values = [0.25, 0.5, 1.0, 0.0]
    mean = group.rows[-1]
    assert mean.figures["reward@1"] == pytest.approx(statistics.fmean(values))
    assert mean.spread is not None
    assert mean.spread["reward@1"] == pytest.approx(statistics.stdev(values))


def test_a_system_is_compared_with_the_first_that_has_it(tmp_path: Path) -> None:
    one, two = evaluated(tmp_path / "one", 1), evaluated(tmp_path / "two", 3)
    evaluated(two, 2, system="nll")
    three = evaluated(tmp_path / "three", 4, system="nll")
    (group,) = groups_of(compared(one, two, three), 50)
    found = {
        (row.system, row.name): differences["reward@1"]["difference"]
        for row, differences in group.differences
    }
    assert found == {("groot", "two"): 0.5, ("nll", "three"): 0.5}


def test_figures_of_other_sentences_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    one, two = evaluated(tmp_path / "one", 1), evaluated(tmp_path / "two", 3, digest="d1")
    three = evaluated(tmp_path / "three", 3)
    test = evaluated(tmp_path / "test", 3, split="test")
    exact = evaluated(tmp_path / "exact", 3, reward="exact")
    groups = groups_of(compared(one, two, three, test, exact), 50)
    rows = [(group.split, [row.name for row in group.rows][:2]) for group in groups]
    # As do those under another reward.
    assert rows == [
        *[("test", ["test"]), ("dev", ["one", "three"])],
        *[("dev", ["two"]), ("dev", ["exact"])],
    ]


def test_of_an_earlier_version_the_task_says_which_sentences_they_were(tmp_path: Path) -> None:
    one, two = evaluated(tmp_path / "one", 1), evaluated(tmp_path / "two", 3, digest="")
    three = evaluated(tmp_path / "three", 3, digest="")
    (two / "task").mkdir()
    (two / "task" / "task.json").write_text(json.dumps({"digests": {"dev": "d0"}}))
    groups = groups_of(compared(one, two, three), 50)
    # Of `three` nobody knows: it is compared with nothing.
    names = [[row.name for row in group.rows if row.spread is None] for group in groups]
    assert names == [["one", "two"], ["three"]]


def test_names_are_as_short_as_they_tell_apart(tmp_path: Path) -> None:
    a, b, c = tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / "other"
    assert names_of([a, c]) == ["run", "other"]
    assert names_of([a, b, c]) == ["a/run", "b/run", "b/other"]
    with pytest.raises(UserError, match="named twice"):
        names_of([a, b, a.parent / ".." / "a" / "run"])


def test_settings_that_differ_are_listed_and_others_are_not(tmp_path: Path) -> None:
    one = evaluated(tmp_path / "one", 1, ("seed", "3"), ("groot.tau", "0.1"))
    two = evaluated(tmp_path / "two", 1, ("seed", "3"))
    assert settings_table(compared(one, two)) == [("groot.tau", ["0.1", ""])]


def test_the_job_prints_tables_and_writes_one_harmless_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = evaluated(tmp_path / "one", 1), evaluated(tmp_path / "<b>two", 3)
    keys = ("job", "started", "command", "host", "devices", "python")
    job: dict[str, Any] = dict.fromkeys(keys, "x") | {"cpu": "<i>CPU", "cores": 2, "processes": 1}
    job["versions"] = {"groot_jax": "0.2.0", "jax": "0.10.2"}
    # The first is of another version, and says less.
    (one / "jobs.jsonl").write_text('{"job": "train"}\n' + json.dumps(job) + "\n")
    report.main([str(one), str(two)])
    out = capsys.readouterr().out
    assert "dev split, 4 sentences, reward f1" in out and "<b>two" in out and "0.750" in out
    page_path = tmp_path / "pages" / "comparison.html"
    report.main([str(one), str(two), f"--output={page_path}"])
    page = Page(page_path.read_text(encoding="utf-8"))
    assert not {"b", "i", "script"} & {tag for tag, _ in page.tags}
    text = " ".join(" ".join(page.text).split())
    assert "<b>two" in text and "<i>CPU" in text and "+0.500" in text
    assert sum(attributes.get("role") == "img" for _, attributes in page.tags) == 1
    for _, attributes in page.tags:
        assert "src" not in attributes and attributes.get("href", "#").startswith(("#", "data:,"))


def test_a_system_below_its_start_is_told_of_one_and_of_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = evaluated(tmp_path / "one", 1), evaluated(tmp_path / "two", 3)
    # As training leaves its meta beside the checkpoints.
    (two / "checkpoints" / "groot" / "8").mkdir(parents=True)
    looks = [Evaluation(step=8, metrics={"reward@1": 0.1})]
    meta = Meta(looks, start=0.988).to_json()
    write_guarded(two / "checkpoints" / "groot" / "meta.json", {"8": meta})
    page_path = tmp_path / "comparison.html"
    for argv, name in (([], "groot"), ([str(one), f"--output={page_path}"], "two, groot")):
        report.main([str(two), *argv])
        said = " ".join(capsys.readouterr().out.split())
        assert f"{name}: its best on dev (reward@1 0.100, at step 8) is worse than" in said
    assert "two, groot: its best on dev" in page_path.read_text(encoding="utf-8")
    # Results that are kept without their checkpoints know it all the same.
    shutil.rmtree(two / "checkpoints")
    for folders in ([two], [one, two]):
        report.main([*map(str, folders)])
        assert "groot: its best on dev (reward@1 0.100" in capsys.readouterr().out


def test_the_report_of_one_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = evaluated(tmp_path / "one", 1)
    report.main([str(one)])
    assert (one / "report" / "index.html").exists() and (one / "results.json").exists()
    assert str(one / "report" / "index.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["{one}", "--output=x.html"], "is for several work directories"),
        (["{one}", "{empty}"], "holds no evaluation to compare"),
        (["{one}", "{one}"], "named twice"),
        (["{one}", "no_such"], "is not a work directory"),
        (["--outptu=x"], "near: --output"),
        ([], "the following arguments are required: WORKDIR"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(tmp_path, argv, part) -> None:
    one, empty = evaluated(tmp_path / "one", 1), tmp_path / "empty"
    empty.mkdir()
    dump(load("configs/retail.py"), empty / "config.json")
    with pytest.raises(UserError, match=part) as caught:
        report.main([word.format(one=one, empty=empty) for word in argv])
    assert "\n" not in str(caught.value)


def test_names_of_work_directories_are_no_markup_of_the_terminal(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "[red]run", 1)
    console = Console(width=100, record=True, quiet=False)
    from groot_jax.evaluation.comparison import terminal_tables

    for table in terminal_tables(groups_of(compared(folder), 50)):
        console.print(table)
    assert "[red]run" in console.export_text()
