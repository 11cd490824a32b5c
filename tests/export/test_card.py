"""README.md of an export tells what the labeler was trained on, and how good it is."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from groot_jax.data.card import DataCard, write_card
from groot_jax.evaluation.records import Record, write_eval
from groot_jax.export.card import model_card
from groot_jax.runtime.files import write_text
from groot_jax.trained import Trained
from tests.export.conftest import MakeTrained

# Gold and rank 1 of six sentences: 6 spans of gold, 5 predicted, 4 of them right.
GOLD = [[[0, 1, "color"]], [[0, 1, "size"]], [[1, 2, "color"]], [], [[0, 2, "size"]], [[0, 1, "a"]]]
GOLD[5].append([2, 3, "color"])
FOUND = [GOLD[0], [[0, 1, "color"]], GOLD[2], [], GOLD[4], GOLD[5][:1]]


def evaluated(trained: Trained, workdir: Path, f1: float = 8 / 11) -> Trained:
    """The labeler with an evaluation of its checkpoint in a work directory."""
    record: Record = {
        "system": trained.system,
        "decide": "map",
        "split": "test",
        "step": trained.step,
        "checkpoint": "best",
        "reward": "f1",
        "metrics": {
            "reward@1": 0.7,
            "span_f1": f1,
            "span_precision": 4 / 5,
            "span_recall": 4 / 6,
            "exact_match": 4 / 6,
        },
        "per_sentence": {"reward@1": [1.0, 0.0, 1.0, 1.0, 1.0, 2 / 3]},
        "seconds": 1.0,
        "num_sentences": 6,
        "samples": [],
    }
    write_eval(workdir, record)
    lines = [
        json.dumps({"gold": gold, "decided": {"map": {"spans": found}}})
        for gold, found in zip(GOLD, FOUND, strict=True)
    ]
    place = workdir / "predictions" / f"{trained.system}-test-{trained.step}.jsonl"
    write_text(place, "\n".join(lines) + "\n")
    return dataclasses.replace(trained, workdir=workdir)


def test_figures_have_intervals(make_trained: MakeTrained, tmp_path: Path) -> None:
    """Those of sums over all spans, too, as F1 is."""
    card = model_card(evaluated(make_trained("tag_only"), tmp_path), "transformers")
    assert "6 sentences of test; reward: `f1`" in card
    rows = dict(re.findall(r"^\| (.+) \| (0\.\d+ .*) \|$", card, re.MULTILINE))
    assert len(rows) == 5
    for name, text in rows.items():
        value, low, high = map(float, re.findall(r"[\d.]+", text))
        assert 0 < low < value < high <= 1, (name, text)
    assert rows["F1 over all spans"].startswith("0.7273 [")


def test_predictions_of_another_evaluation_give_no_interval(
    make_trained: MakeTrained, tmp_path: Path
) -> None:
    trained = evaluated(make_trained("tag_only"), tmp_path, f1=0.5)
    assert "| F1 over all spans | 0.5000 |" in model_card(trained, "transformers")
    for path in (tmp_path / "predictions").iterdir():
        path.write_text("{")
    assert "| precision over all spans | 0.8000 |" in model_card(trained, "transformers")


def test_the_data_are_those_of_the_runs_card(make_trained: MakeTrained, tmp_path: Path) -> None:
    more = {"words": 1, "longest": 1, "unwritable": {"words": 0, "examples": []}, "read": None}
    splits = {
        "train": {"sentences": 1200, "spans": {"color": 1300, "size": 7}, "also_in_train": 0}
        | more,
        "dev": {"sentences": 9, "spans": {}, "also_in_train": 3} | more,
    }
    write_card(tmp_path, DataCard({"splits": splits, "notes": ["dev: 9 sentences carved"]}))
    card = model_card(
        dataclasses.replace(make_trained("tag_only"), workdir=tmp_path), "transformers"
    )
    assert "1,200 sentences; spans: color 1,300, size 7;" in card
    assert "9 sentences; spans: none; 3 sentences stand in train too;" in card
    assert "- test: none" in card and "- dev: 9 sentences carved" in card
    # Without one, as of an earlier version, the splits are named alone.
    assert "- test: `its own`" in model_card(make_trained("tag_only"), "transformers")
