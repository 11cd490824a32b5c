"""What a system takes spans for, and the file of all that it answers."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_jax.data.labeling import Candidate, Labeling, Sentence, Span, make_labeling
from groot_jax.evaluation.confusion import bounds_of, confusion, pairs_of
from groot_jax.evaluation.metrics import one_by_one, remembering, score_beams, summarise, totals
from groot_jax.evaluation.predictions import Predictions
from groot_jax.evaluation.results import make_results
from groot_jax.evaluation.type_tables import type_tables
from groot_jax.reward.rewards import RewardSpec, make_reward

SIZE = 9
WORDS = tuple("abcdefghi")
F1 = one_by_one(make_reward(RewardSpec(name="f1")))


def labeling(*spans: tuple[int, int, str]) -> Labeling:
    return make_labeling(spans, SIZE)


@st.composite
def labelings(draw: st.DrawFn) -> Labeling:
    cuts = sorted(draw(st.sets(st.integers(0, SIZE), max_size=6)))
    spans = [
        (start, end, draw(st.sampled_from("XYZ")))
        for start, end in pairwise(cuts)
        if draw(st.booleans())
    ]
    return labeling(*spans)


def test_spans_of_the_same_bounds_belong_together_then_those_that_share_most_words() -> None:
    gold = labeling((0, 1, "X"), (2, 5, "X"), (6, 8, "Y"), (8, 9, "Z"))
    # (1, 3) shares a word with (2, 5), (3, 7) two; (6, 8) is left with what (3, 7) leaves: nothing.
    found = labeling((0, 1, "Y"), (1, 3, "X"), (3, 7, "X"))
    assert [*pairs_of(gold, found)] == [
        (Span(0, 1, "X"), Span(0, 1, "Y")),
        (Span(2, 5, "X"), Span(3, 7, "X")),
        (Span(6, 8, "Y"), None),
        (Span(8, 9, "Z"), None),
        (None, Span(1, 3, "X")),
    ]


@given(labelings(), labelings())
def test_each_span_is_in_one_pair_and_what_is_right_is_paired_with_itself(
    gold: Labeling, found: Labeling
) -> None:
    pairs = [*pairs_of(gold, found)]
    assert Counter(a for a, _ in pairs if a) == Counter(gold)
    assert Counter(b for _, b in pairs if b) == Counter(found)
    for a, b in pairs:
        assert a is None or b is None or max(a.start, b.start) < min(a.end, b.end)
    assert {a for a, b in pairs if a == b} == {*gold} & {*found}


@pytest.mark.parametrize(
    ("found", "how"),
    [((2, 5), "same"), ((2, 4), "shorter"), ((3, 4), "shorter"), ((2, 6), "longer"),
     ((0, 9), "longer"), ((1, 4), "shifted"), ((4, 7), "shifted")],
)  # fmt: skip
def test_bounds_are_named_by_where_the_prediction_lies(found: tuple[int, int], how: str) -> None:
    assert bounds_of(Span(2, 5, "X"), Span(*found, "Y")) == how


GOLD = [
    labeling((0, 2, "brand"), (2, 4, "product"), (5, 6, "<color>")),
    labeling((0, 3, "product")),
    labeling((1, 2, "product")),
]
FOUND = [
    labeling((0, 2, "product"), (2, 3, "product"), (7, 8, "size")),
    labeling((0, 3, "product")),
    None,  # The search has found nothing.
]
SENTENCES = [Sentence(WORDS, gold, f"dev.txt:{n}") for n, gold in enumerate(GOLD, 1)]
BEAMS = [[] if y is None else [Candidate(y, math.log(0.5), True, 0)] for y in FOUND]


def test_the_table_counts_types_bounds_what_was_missed_and_what_was_made_up() -> None:
    counted = confusion(SENTENCES, BEAMS)
    assert counted == {
        "types": ["product", "brand", "<color>", "size"],
        "cells": [
            ["product", "product", 1, 1],
            ["product", None, 0, 1],
            ["brand", "product", 1, 0],
            ["<color>", None, 0, 1],
            [None, "size", 0, 1],
        ],
        "bounds": {"product": {"same": 1, "shorter": 1, "longer": 0, "shifted": 0}},
    }
    json.dumps(counted)


def test_the_rows_of_a_type_add_up_to_its_gold_and_its_predictions() -> None:
    scores = score_beams(SENTENCES, BEAMS, {"f1": F1})
    metrics = summarise(totals(scores, "f1"), "f1")
    shared = {"system": "groot", "decide": "map", "split": "dev", "step": 1, "checkpoint": "best"}
    shared |= {"reward": "f1", "per_sentence": {}, "seconds": 1.0, "num_sentences": 3}
    old = {**shared, "system": "nll", "metrics": metrics, "samples": []}
    new = {**shared, "metrics": metrics | {"confusion": confusion(SENTENCES, BEAMS)}, "samples": []}
    ours, theirs = type_tables(make_results([old, new], 10), ["test", "dev"])["dev"]  # type: ignore[list-item]
    assert (ours["name"], theirs["name"]) == ("groot", "nll")
    rows = {row["type"]: row for row in ours["rows"]}
    product = rows["product"]
    assert [product[key] for key in ("gold", "predicted", "right")] == [3, 3, 1]
    for row in ours["rows"]:
        of_bounds = row["shorter"] + row["longer"] + row["shifted"]
        assert row["gold"] == row["right"] + of_bounds + row["other_type"] + row["missed"]
    assert [row["made_up"] for row in ours["rows"]] == [0, 0, 0, 1]
    (_, *_, (last, cells)) = ours["matrix"]
    assert last is None and [c and c["same"] for c in cells] == [None, None, None, 1, None]
    # A record of an earlier version has P, R and F1, and no more.
    assert [row["f1"] for row in theirs["rows"]] and theirs["matrix"] == []
    assert {row["missed"] for row in theirs["rows"]} == {None}


def test_the_matrix_of_many_types_has_the_rare_ones_together() -> None:
    sentences, beams = [], []
    for n in range(60):
        # Type n comes 60 - n times, and is taken for the next one.
        sentences += [Sentence(("a",), make_labeling([(0, 1, f"t{n}")], 1))] * (60 - n)
        found = make_labeling([(0, 1, f"t{(n + 1) % 60}")], 1)
        beams += [[Candidate(found, 0.0, True, 0)]] * (60 - n)
    scores = score_beams(sentences, beams, {"f1": F1})
    metrics = summarise(totals(scores, "f1"), "f1") | {"confusion": confusion(sentences, beams)}
    results: Any = {"systems": {"nll": {"dev": metrics}}}
    (table,) = type_tables(results, ["dev"])["dev"]
    assert len(table["rows"]) == 60
    assert table["types"] == [*(f"t{n}" for n in range(39)), "(others)"]
    cells = [cell for _, row in table["matrix"] for cell in row if cell]
    assert sum(cell["same"] for cell in cells) == len(sentences)
    (others,) = (row for name, row in table["matrix"] if name == "(others)")
    # All 21 rare types, but the last, which is taken for the first.
    assert others[39]["same"] == sum(60 - n for n in range(39, 59)) and others[0]["same"] == 1


def test_all_answers_are_on_file_with_rewards_and_what_each_rule_decides(tmp_path: Path) -> None:
    gold = labeling((0, 2, "brand"))
    sentences = [Sentence(WORDS, gold, "dev.txt:1"), Sentence(("é\u2028",), (), "dev.txt:2")]
    a, b = (
        Candidate(labeling((0, 1, "brand")), math.log(0.6), True, 0),
        Candidate(gold, math.log(0.2)),
    )
    unknown = Candidate(labeling((4, 5, "size")), math.nan, False, -1)
    beams = [[a, b, a], []]
    predictions = Predictions(sentences, beams, temperature=1.0)
    for rule, first in (("map", [a, b]), ("consensus", [unknown, a])):
        decided = [first, []]
        scores = score_beams(sentences, decided, {"other": lambda t: [0.25] * len(t), "f1": F1})
        predictions.add(rule, decided, scores, "f1")
    path = predictions.write(tmp_path, "groot", "dev", 750)
    assert path == tmp_path / "predictions" / "groot-dev-750.jsonl"
    first, second = map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1])
    assert (first["index"], first["source"], first["gold"]) == (0, "dev.txt:1", [[0, 2, "brand"]])
    assert [one["reward"] for one in first["labelings"]] == [0.0, 1.0]
    # Copies of a labeling count together: 1.2 of 1.4.
    assert [one["probability"] for one in first["labelings"]] == [0.857143, 0.142857]
    assert first["decided"] == {
        "map": {"spans": [[0, 1, "brand"]], "reward": 0.0},
        "consensus": {"spans": [[4, 5, "size"]], "reward": 0.0},
    }
    assert second["words"] == ["é\u2028"] and second["labelings"] == []
    # Nothing is what was answered, and what gold has.
    assert second["decided"]["map"] == {"spans": [], "reward": 1.0}


def test_a_reward_is_asked_once_for_each_candidate() -> None:
    asked: list[int] = []

    def score(triples):
        asked.append(len(triples))
        return F1(triples)

    once = remembering(score)
    one, two = ((GOLD[0], GOLD[0], WORDS), (GOLD[1], GOLD[0], WORDS))
    assert once([one, two, one]) == F1([one, two, one])
    assert once([two, one]) == F1([two, one])
    assert asked == [2]
