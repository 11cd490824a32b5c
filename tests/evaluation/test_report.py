"""A work directory's evaluations become one results file, one table and one harmless HTML page."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from groot_jax.data.card import CARD_FILE, make_card, read_card, write_card
from groot_jax.data.corpus import Corpus, SplitRead
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Candidate, Sentence, make_labeling
from groot_jax.data.tokenizer import train_tokenizer
from groot_jax.errors import UserError
from groot_jax.evaluation.confusion import confusion
from groot_jax.evaluation.metrics import one_by_one, per_sentence, score_beams, summarise, totals
from groot_jax.evaluation.plots import reliability_lines, system_styles, thin, ticks
from groot_jax.evaluation.records import (
    Record,
    make_samples,
    read_metrics,
    read_records,
    read_samples,
    sample_indices,
    write_eval,
)
from groot_jax.evaluation.report import list_changes, write_report
from groot_jax.evaluation.results import (
    dev_choices,
    known_worse,
    results_table,
    write_results,
)
from groot_jax.reward.rewards import RewardSpec, make_reward
from groot_jax.runtime.files import write_text

ATTACK = "</script><script>alert(1)</script>"
WORDS = ("black", ATTACK, "<b>jeans</b>", "&amp;", "'\"")
GOLD = make_labeling([(0, 1, "color"), (1, 3, "<i>product</i>")], 5)
REWARDS = {name: one_by_one(make_reward(RewardSpec(name=name))) for name in ("f1", "exact")}
RESAMPLES = 100


def record(system="groot", decide="map", split="test", step=100, checkpoint="best", good=True):
    sentences = [Sentence(WORDS, GOLD), Sentence(("levi",), make_labeling([(0, 1, "brand")], 1))]
    right = Candidate(GOLD, math.log(0.5), True, 0)
    wrong = Candidate(GOLD[:1], math.log(0.25), True, 1)
    first = [right, wrong] if good else [wrong, right]
    beams = [first, [Candidate((), -0.5, False, 0)]]
    scores = score_beams(sentences, beams, REWARDS)
    return Record(
        system=system,
        decide=decide,
        split=split,
        step=step,
        checkpoint=checkpoint,
        reward="f1",
        metrics=summarise(totals(scores, "f1"), "f1"),
        per_sentence={key: values.tolist() for key, values in per_sentence(scores, "f1").items()},
        seconds=1.5,
        num_sentences=2,
        samples=make_samples(sentences, beams, REWARDS["f1"], 10, 0.1),
    )


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    write_eval(tmp_path, record("groot"))
    write_eval(tmp_path, record("groot", decide="mbr"))
    write_eval(tmp_path, record("nll_continued", good=False))
    write_eval(tmp_path, record("groot", split="dev"))
    lines = [
        {"system": "nll", "step": 1, "epoch": 0.5, "split": "train", "loss": 3.0, "seconds": 1.0},
        {"system": "nll", "step": 2, "epoch": 1.0, "split": "train", "loss": 2.0, "seconds": 2.0},
        {"system": "nll", "step": 2, "epoch": 1.0, "split": "dev", "reward@1": 0.5},
        {"system": "nll_continued", "step": 4, "epoch": 1.0, "split": "dev", "reward@1": 0.6},
        {"system": "groot", "step": 4, "epoch": 1.0, "split": "dev", "reward@1": 0.7},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"system": "groot", "st'
    (tmp_path / "metrics.jsonl").write_text(text)
    (tmp_path / "config.json").write_text('{"note": "<script>"}')
    return tmp_path


class Page(HTMLParser):
    """Collects tags, attributes, text, and the content of each script."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.in_script = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.in_script = tag == "script"
        if self.in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        if self.in_script:
            self.scripts[-1] += data
        else:
            self.text.append(data)


def page_of(workdir: Path) -> Page:
    path = write_report(workdir, write_results(workdir, RESAMPLES))
    return Page(path.read_text(encoding="utf-8"))


def test_results_hold_each_system_and_split_under_the_documented_keys(workdir):
    results = write_results(workdir, RESAMPLES)
    assert results == json.loads((workdir / "results.json").read_text())
    assert set(results["systems"]) == {"nll_continued", "groot", "groot+mbr"}
    assert set(results["systems"]["groot"]) == {"test", "dev"}
    test = results["systems"]["groot"]["test"]
    assert test["reward_by_rank"] == pytest.approx([0.5, 2 / 3])
    assert test["exact_match"] == 0.5


def test_systems_stand_in_the_order_of_training_with_their_rules_behind_them(workdir):
    names = [(r["system"], r["decide"]) for r in read_records(workdir) if r["split"] == "test"]
    assert names == [("nll_continued", "map"), ("groot", "map"), ("groot", "mbr")]


def test_the_best_checkpoint_is_reported_and_otherwise_the_newest(tmp_path):
    for step, kind in [(100, "step"), (300, "latest"), (200, "best"), (150, "best")]:
        write_eval(tmp_path, record(step=step, checkpoint=kind))
    assert [(r["step"], r["checkpoint"]) for r in read_records(tmp_path)] == [(200, "best")]
    for path in (tmp_path / "eval").glob("*-[12]*.json"):
        path.unlink()
    assert [r["step"] for r in read_records(tmp_path)] == [300]


def test_a_best_checkpoint_stays_so_when_it_is_evaluated_as_the_latest(tmp_path):
    write_eval(tmp_path, record(checkpoint="best"))
    path = write_eval(tmp_path, record(checkpoint="latest"))
    assert path.name == "groot-test-100.json"
    assert json.loads(path.read_text())["checkpoint"] == "best"


def test_differences_are_paired_against_the_baseline(workdir):
    differences = write_results(workdir, RESAMPLES)["differences"]
    assert differences["baseline"] == "nll_continued"
    assert differences["test"]["groot"]["reward@1"]["difference"] == pytest.approx(1 / 6, abs=1e-6)
    assert "nll_continued" not in differences["test"]
    for path in (workdir / "eval").glob("nll_continued-*"):
        path.unlink()
    assert write_results(workdir, RESAMPLES)["differences"] == {}


def test_a_failed_write_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    write_text(tmp_path / "results.json", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"results\.json.*No space left"):
        write_text(tmp_path / "results.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "old"


def test_a_broken_evaluation_file_is_named(tmp_path):
    (tmp_path / "eval").mkdir()
    path = tmp_path / "eval" / "groot-test-7.json"
    whole = record(step=7)
    for text in ('{"system": "groot"', "[]", json.dumps({**whole, "checkpoint": "first"})):
        path.write_text(text)
        with pytest.raises(UserError, match=r"groot-test-7\.json"):
            read_records(tmp_path)
    path.write_text(json.dumps({key: value for key, value in whole.items() if key != "samples"}))
    with pytest.raises(UserError, match="'samples'"):
        read_records(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"groot-test-7\.json cannot be read \(Is a directory\)"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {}},
        {"metrics": {"reward@1": "x"}},
        {"metrics": {"reward@1": 0.5, "more": [float("inf")]}},
        {"metrics": {"reward@1": 0.5, "reward_by_rank": [[]]}},
        {"metrics": {"reward@1": 0.5, "rewards": {"f1": 3}}},
        {"metrics": {"reward@1": 0.5, "by_type": {"a": {}}}},
        {"metrics": {"reward@1": 0.5, "calibration": {"bins": 3}}},
        {"metrics": {"reward@1": 0.5, "confusion": {"types": [], "cells": [[1]], "bounds": {}}}},
        {"per_sentence": {"reward@1": ["a"]}},
        {"samples": [1]},
        {"samples": [{}]},
        {"samples": [{"index": 0, "words": [], "gold": [], "candidates": [{}]}]},
        *({"decide": "best"}, {"step": True}, {"seconds": "1"}, {"split": []}, {"step": 10**400}),
    ],
)
def test_a_record_of_another_shape_is_named_before_it_is_used(workdir, change):
    (workdir / "eval" / "groot-test-7.json").write_text(json.dumps({**record(step=7), **change}))
    with pytest.raises(UserError, match=r"groot-test-7\.json is not an evaluation's file"):
        page_of(workdir)


def test_a_record_with_reward_alone_makes_a_report(workdir):
    made = dict(record("nll")) | {"metrics": {"reward@1": 0.5}, "per_sentence": {}, "samples": []}
    (workdir / "eval" / "nll-test-1.json").write_text(json.dumps(made))
    assert "nll" in "".join(page_of(workdir).text)


@pytest.mark.parametrize(
    "line",
    [
        *(b"\xff", b"3", b"[]", b"{}", b'{"system": "nll", "split": "dev", "step": "x"}'),
        b'{"system": "nll", "split": "dev", "step": 3, "reward@1": []}',
        b'{"system": "nll", "split": "dev", "step": 3, "seconds": null}',
        b'{"system": "nll", "step": 3, "sentences": [{"index": 3}]}',
        b'{"job": "train", "versions": []}',
    ],
)
def test_damaged_lines_are_left_out_of_the_report_and_counted(workdir, line, capsys):
    before = page_of(workdir).text
    assert capsys.readouterr().err == ""
    for name in ("metrics.jsonl", "samples.jsonl", "jobs.jsonl"):
        path = workdir / name
        text = path.read_bytes() if path.exists() else b""
        path.write_bytes(line + b"\n" + text)
    assert page_of(workdir).text == before
    said = capsys.readouterr().err.splitlines()
    assert [s.partition(": ")[2] for s in said] == [
        "line 1 is not what training wrote, and left out; the others are read"
    ] * 3


@pytest.mark.parametrize(
    "text",
    [
        *(b"\xff", b"[]", b"{}", b'{"splits": 3, "notes": []}', b'{"splits": {"dev": {}}}'),
        b'{"splits": {}, "notes": 3}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_data_card_is_told_and_left_out(workdir, text, capsys):
    (workdir / CARD_FILE).write_bytes(text)
    assert read_card(workdir) is None
    assert "data_card.json is damaged" in capsys.readouterr().err
    page_of(workdir)


def test_numbers_that_no_chart_holds_are_left_out_of_it(workdir):
    with (workdir / "metrics.jsonl").open("a") as file:
        for value in ("1e308", "-1e308", "NaN", "null", "Infinity"):
            line = '{"system": "nll", "step": 3, "split": "dev", "reward@1": %s}'
            file.write("\n" + line % value)
        for step in (1, 2):  # A gradient that is almost nothing has a chart all the same.
            line = '{"system": "nll", "step": %d, "split": "dev", "grad_norm": %de-20}'
            file.write("\n" + line % (step, step))
    assert "grad_norm, stage 0" in "".join(page_of(workdir).text)


def test_the_table_has_a_row_a_system_and_marks_the_best(workdir):
    table = results_table(write_results(workdir, RESAMPLES), "test")
    console = Console(width=100, record=True)
    console.print(table)
    text = console.export_text()
    assert table.row_count == 3
    assert "groot+mbr" in text
    assert "0.500" in text
    (cells,) = [column for column in table.columns if column.header == "rew@1"]
    assert list(cells.cells) == ["0.333", "[bold]0.500[/bold]", "[bold]0.500[/bold]"]


def test_the_report_is_one_file_that_refers_to_nothing_outside(workdir):
    page = page_of(workdir)
    assert [path.name for path in (workdir / "report").iterdir()] == ["index.html"]
    html = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert tag not in ("iframe", "img", "object", "embed", "base")
        href = attributes.get("href", "#")
        assert href.startswith("#") or href == "data:,"


def test_no_text_of_the_corpus_or_the_config_becomes_markup(workdir):
    page = page_of(workdir)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    assert any('{"note": "<script>"}' in text for text in page.text)
    samples = json.loads(page.scripts[0])
    assert samples["splits"]["test"][0]["words"] == list(WORDS)
    assert "<i>product</i>" in samples["types"]
    assert "innerHTML" not in page.scripts[1]


def test_the_report_shows_the_data_card_where_there_is_one(workdir):
    assert "words the vocabulary lacks" not in " ".join(page_of(workdir).text)
    sentences = tuple(
        Sentence((word, "in"), make_labeling([(0, 1, "<b>LOC</b>")], 2))
        for word in ("Rome", "Oslo", "\u4eac")
    )
    read = SplitRead("a.txt", "words in column 1", 1234, {"<b>LOC</b>": 7}, 2, 5)
    corpus = Corpus(
        sentences[:1], sentences[:2], (), ("<b>LOC</b>",), ("a <note>",), read={"dev": read}
    )
    tokenizer = train_tokenizer(sentences[:2], ("LOC",), 100)
    card = make_card(corpus, corpus, make_format("tag_only", tokenizer, ("LOC",)))
    assert [*card.lines()] == ["dev: 1 of 2 sentences stand in train too"]
    corpus = dataclasses.replace(corpus, dev=sentences[1:])
    card = make_card(corpus, corpus, make_format("tag_only", tokenizer, ("LOC",)))
    assert [*card.lines()] == [
        "dev: 1 of 4 words hold characters that the vocabulary lacks, such as \u4eac"
    ]
    write_card(workdir, card)
    page = page_of(workdir)
    text = " ".join(" ".join(page.text).split())
    for wanted in ("dev 2 4 2 2 0 1 5", "<b>LOC</b> 2", "read from a.txt: words in", "a <note>"):
        assert wanted in text
    assert not {"b", "note"} & {tag for tag, _ in page.tags}


def test_the_report_shows_figures_curves_and_every_systems_candidates(workdir):
    page = page_of(workdir)
    text = " ".join(" ".join(page.text).split())
    for wanted in (
        "nll_continued",
        "groot+mbr",
        "0.333",
        "loss, stage 0",
        "reward@1, after stage 0",
    ):
        assert wanted in text
    # Two rank plots and three curves: nothing of the torn last line.
    assert sum(attributes.get("role") == "img" for _, attributes in page.tags) == 5
    samples = json.loads(page.scripts[0])
    sentence = samples["splits"]["test"][0]
    assert set(sentence["by"]) == {"nll_continued", "groot", "groot+mbr"}
    ranked = sentence["by"]["groot"]["candidates"]
    assert [c["reward"] for c in ranked] == pytest.approx([1.0, 0.66667])
    assert [c["probability"] for c in ranked] == pytest.approx([0.66667, 0.33333])
    assert sentence["by"]["groot"]["corrections"] == []  # Its rank 1 is gold.


def test_samples_hold_corrections_of_rank_1_and_penalised_rewards_of_malformed_outputs():
    brand = make_labeling([(0, 1, "brand")], 5)
    beam = [Candidate(brand, -1.0, True, 0), Candidate(GOLD[:1], -2.0, False, 1)]
    (sample,) = make_samples([Sentence(WORDS, GOLD)], [beam], REWARDS["f1"], 10, 0.1)
    assert [c["reward"] for c in sample["candidates"]] == [0.0, pytest.approx(0.56667)]
    shown = sample["corrections"]
    assert [[[0, 1, "color"]], 0.66667] in shown and len(shown) <= 4
    assert not any(spans in ([list(s) for s in GOLD], [[0, 1, "brand"]]) for spans, _ in shown)
    # The two spans exclude each other: all that can be made of them besides is nothing.
    assert sample["consensus"] == [[[], 0.0, 0.0]]


def test_the_best_of_each_column_is_marked_in_the_report(workdir):
    page = page_of(workdir)
    best = [attributes for tag, attributes in page.tags if attributes.get("class") == "best"]
    assert len(best) >= 8


def test_a_report_needs_an_evaluation_but_no_learning_curve(tmp_path):
    with pytest.raises(UserError, match=r"groot_jax\.evaluate"):
        page_of(tmp_path)
    write_eval(tmp_path, record())
    assert "no metrics.jsonl" in " ".join(page_of(tmp_path).text)


def test_a_torn_line_of_the_metrics_is_left_out(workdir):
    assert len(read_metrics(workdir)) == 5


def test_every_system_of_a_split_samples_the_same_spread_of_sentences():
    assert sample_indices(10, 4) == [0, 2, 5, 7]
    assert sample_indices(3, 60) == [0, 1, 2]
    assert sample_indices(0, 60) == []


def test_a_decision_rule_keeps_its_systems_color_and_has_its_own_dash():
    styles = system_styles(["nll", "nll+mbr", "groot", "groot+threshold"])
    assert styles["nll"][0] == styles["nll+mbr"][0] != styles["groot"][0]
    assert len({styles["nll"][1], styles["nll+mbr"][1], styles["groot+threshold"][1]}) == 3


def test_the_report_charts_how_true_confidences_are_for_systems_and_not_for_rules(tmp_path):
    bins = [(0, 0.0, 0.0)] * 13 + [(4, 0.9, 0.75), (2, 0.98, 1.0)]
    calibration = {
        "temperature": 1.5,
        "error": 0.0123,
        "error_at_1": 0.0456,
        "bins": bins,
        "bins_at_1": bins,
    }
    for decide in ("map", "mbr"):
        made = record("groot", decide=decide)
        made["metrics"]["calibration"] = calibration
        write_eval(tmp_path, made)
    write_eval(tmp_path, record("nll"))  # Of a version that wrote none.
    results = write_results(tmp_path, RESAMPLES)
    names = [line.name for line in reliability_lines(results, "test")]
    assert names == ["true confidence", "groot", "groot, not calibrated"]
    assert reliability_lines(results, "dev") == []
    html = write_report(tmp_path, results).read_text()
    assert "confidence 0.9: 0.75" in html
    assert "<td>1.50</td><td>0.012</td><td>0.046</td>" in html


def test_the_report_has_a_table_of_types_with_the_rule_of_dev_and_what_is_taken_for_what(tmp_path):
    sentences = [Sentence(WORDS, GOLD)]
    beams = [[Candidate(make_labeling([(0, 1, "color"), (1, 2, ATTACK)], 5), -1.0, True, 0)]]
    for decide in ("map", "mbr", "consensus"):
        made = record("groot", decide=decide)
        made["metrics"] |= {"dev_chose": "mbr", "confusion": confusion(sentences, beams)}
        write_eval(tmp_path, made)
    page = page_of(tmp_path)
    text = " ".join(" ".join(page.text).split())
    assert "test split, groot " in text and "test split, groot+mbr" in text
    assert "test split, groot+consensus" not in text
    # `<i>product</i>` was found under a type whose name is an attack, with other bounds.
    assert "<i>product</i> (1)" in text and ATTACK in text
    assert not {"b", "i"} & {tag for tag, _ in page.tags} and len(page.scripts) == 2


def test_the_report_says_which_jobs_ran_where_and_how_long_systems_took(workdir):
    assert "Minutes of training" not in " ".join(page_of(workdir).text)
    job: dict = {
        "job": "train",
        "started": "2026-01-31T12:00:00+00:00",
        "command": "groot train <b>",
    }
    job |= {"host": "node7", "cpu": "Some CPU", "cores": 4, "memory_gib": 8.0, "devices": "1 cpu"}
    job |= {"processes": 2, "python": "3.12.1", "versions": {"groot_jax": "0.2.0", "jax": "0.10.2"}}
    (workdir / "jobs.jsonl").write_text(json.dumps(job) + '\n{"job": "ev')
    with (workdir / "metrics.jsonl").open("a") as file:
        for seconds in (60.0, 90.0):
            line = {"system": "groot", "step": 4, "split": "dev", "seconds": seconds}
            file.write("\n" + json.dumps(line))
    page = page_of(workdir)
    text = " ".join(" ".join(page.text).split())
    assert "node7 Some CPU 4 1 cpu in 2 processes 3.12.1 groot_jax 0.2.0, jax 0.10.2" in text
    assert "nll 0.0, groot 1.5." in text and "groot train <b>" in text


def test_a_chart_that_stands_alone_is_as_wide_as_others(workdir):
    # auto-fit would stretch it over the page, and its text with it.
    page_of(workdir)
    html = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert "repeat(auto-fill" in html.partition(".grid {")[2].partition("}")[0]


def test_ticks_are_round_and_hold_the_range():
    assert ticks(0.43, 0.71) == [0.4, 0.5, 0.6, 0.7, 0.8]
    assert ticks(0, 1200)[0] == 0
    low, *_, high = ticks(3.0, 3.0)
    assert low < 3.0 < high
    odd = [(0, 1e-14), (1.0, 1.0 + 2e-16), (-1e-20, 2e-20), (0, 5e-324), (5e-323, 5e-323)]
    for low, high in [*odd, (1e99, 1e99), (-1e99, 1e99), (1e16, 1e16 + 2), (-3.0, -3.0)]:
        found = ticks(low, high)
        assert found[0] <= low and high <= found[-1] and len(found) == len({*found}) < 20


def test_thinning_keeps_short_lines_and_averages_long_ones():
    line = [(float(i), float(i % 2)) for i in range(1000)]
    assert thin(line[:100]) == line[:100]
    assert len(thin(line)) <= 150
    assert sum(y for _, y in thin(line)) / len(thin(line)) == pytest.approx(0.5, abs=0.01)


def sample(index: int, *candidates: tuple[list, float]) -> dict:
    return {
        "index": index,
        "words": list(WORDS),
        "gold": [list(span) for span in GOLD],
        "candidates": [{"spans": s, "score": -1.0, "reward": r} for s, r in candidates],
    }


A: list = [[0, 1, "color"]]
B: list = [[1, 3, ATTACK]]
C: list = []


def test_the_report_shows_who_rose_and_who_fell_in_the_lists_of_dev_sentences(workdir):
    lines = [
        {"system": "groot", "step": 2, "sentences": [sample(7, (A, 0.5), (B, 0.0))]},
        # The run was killed and made step 4 again: the later line counts.
        {"system": "groot", "step": 4, "sentences": [sample(7, (A, 0.5))]},
        {"system": "groot", "step": 4, "sentences": [sample(7, (B, 0.0), (C, 0.25))]},
        {"system": "nll", "step": 9, "sentences": [sample(7, (C, 0.25)), sample(3, (A, 0.5))]},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"system": "nll", "st'
    (workdir / "samples.jsonl").write_text(text)
    first, second = list_changes(read_samples(workdir))
    assert [first["index"], second["index"]] == [3, 7]
    groot, nll = second["systems"]
    assert groot["name"] == "groot" and groot["steps"] == [2, 4]
    rows = [(row["spans"], row["ranks"], row["change"]) for row in groot["rows"]]
    assert rows == [(B, [2, 1], 1), (C, [None, 2], "new"), (A, [1, None], "gone")]
    assert [(row["ranks"], row["change"]) for row in nll["rows"]] == [([1], 0)]
    page = page_of(workdir)
    shown = "".join(page.text)
    assert "How lists change" in shown and "▲ 1" in shown and "gone" in shown
    # Words and types reach the page as text.
    assert len(page.scripts) == 2 and ATTACK in shown


def test_a_report_without_samples_of_training_has_no_such_part(workdir):
    assert list_changes(read_samples(workdir)) == []
    assert "How lists change" not in "".join(page_of(workdir).text)


@pytest.mark.parametrize("rules", [("map", "consensus"), ("mbr", "consensus")])
def test_the_report_and_the_table_name_the_rule_that_dev_chose(tmp_path, rules):
    for rule in rules:
        made = record("groot", decide=rule, split="dev")
        made["metrics"]["dev_chose"] = "consensus"
        write_eval(tmp_path, made)
    results = write_results(tmp_path, RESAMPLES)
    assert dev_choices(results, "dev") == {"groot": "consensus"}
    assert "groot consensus" in str(results_table(results, "dev").caption)
    assert "which predict takes: groot consensus" in "".join(page_of(tmp_path).text)


WORSE = "its best on dev (reward@1 0.100, at step 4) is worse than [what] it started from (0.988)"


@pytest.mark.parametrize("rules", [("map", "consensus"), ("mbr",)])
def test_a_system_below_its_start_is_told_in_the_table_the_results_and_the_report(tmp_path, rules):
    for rule in rules:
        made = record("groot", decide=rule, split="dev")
        made["metrics"]["dev_chose"] = rules[-1]
        write_eval(tmp_path, made)
    write_eval(tmp_path, record("nll"))
    worse = {"groot": WORSE, "left_out": WORSE}
    results = write_results(tmp_path, RESAMPLES, worse)
    note = f"groot: {WORSE}"
    console = Console(width=200, record=True)
    console.print(results_table(results, "dev"))
    text = " ".join(console.export_text().split())
    assert text.endswith(f"{note} dev chose, for predict: groot {rules[-1]}")
    assert results_table(results, "test").caption is None  # It was not scored there.
    assert json.loads((tmp_path / "results.json").read_text())["worse"]["groot"] == WORSE
    assert known_worse(tmp_path) == worse
    html = Page(write_report(tmp_path, results).read_text(encoding="utf-8"))
    assert sum(text.strip() == note for text in html.text) == 1
    assert WORSE not in "".join(page_of(tmp_path).text)  # Made without it, it has none.


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"worse": {"groot": 3}}', "\udcff"])
def test_a_damaged_results_file_says_nothing_of_systems(tmp_path, text):
    (tmp_path / "results.json").write_text(text, errors="surrogateescape")
    assert known_worse(tmp_path) == {}
