"""Files of other tools through a whole run: each split in its own form, long sentences in windows,
text to characters, and what predict printed as training data."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from groot_jax.data.corpus import load_corpus
from tests.data.test_corpus import settings
from tests.jobs.support import Jobs, sentence


def iob1(item: dict[str, Any]) -> str:
    """As CoNLL-2003 has it: word, part of speech, phrase, entity."""
    rows = [[word, "NN", "I-NP", "O"] for word in item["words"]]
    before: tuple[int, str] = (-1, "")
    for start, end, type_ in item["spans"]:
        for i in range(start, end):
            rows[i][3] = f"I-{type_}"
        if before == (start, type_):
            rows[start][3] = f"B-{type_}"
        before = (end, type_)
    return "".join(" ".join(row) + "\n" for row in rows) + "\n"


def bilou(item: dict[str, Any]) -> str:
    tags = ["O" for _ in item["words"]]
    for start, end, type_ in item["spans"]:
        for i in range(start, end):
            tags[i] = f"I-{type_}"
        tags[start], tags[end - 1] = f"B-{type_}", f"L-{type_}"
        if end - start == 1:
            tags[start] = f"U-{type_}"
    return "".join(f"{w}\t{t}\n" for w, t in zip(item["words"], tags, strict=True)) + "\n"


def doccano(item: dict[str, Any]) -> str:
    text, places = "", []
    for word in item["words"]:
        text += " " if text else ""
        places.append((len(text), len(text) + len(word)))
        text += word
    label = [[places[s][0], places[e - 1][1], t] for s, e, t in item["spans"]]
    return json.dumps({"id": 1, "text": f"{text}!", "label": label}) + "\n"


@pytest.mark.slow
def test_files_of_other_tools_are_trained_on_and_what_predict_prints_is_read_again(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(5)
    items = [sentence(rng) for _ in range(80)]
    (tmp_path / "train.txt").write_text("-DOCSTART- -X- -X- O\n\n" + "".join(map(iob1, items[:48])))
    (tmp_path / "dev.txt").write_text("".join(map(bilou, items[48:64])))
    (tmp_path / "test.jsonl").write_text("".join(map(doccano, items[64:])))
    files = {"train": "train.txt", "dev": "dev.txt", "test": "test.jsonl"}
    workdir = tmp_path / "w"
    jobs.run(
        "train",
        workdir,
        *(f"--config.data.{split}={tmp_path / name}" for split, name in files.items()),
        "--config.systems=()",
        "--config.nll.epochs=1",
        "--config.text.split=unicode",
        # Most sentences are longer than a window.
        "--config.text.max_words=5",
        "--config.text.long_sentences=window",
        "--config.text.overlap=2",
    )
    said = capsys.readouterr().out
    spans = sum(len(item["spans"]) for item in items[:48])
    assert f"train: 48 sentences, {spans} spans of 3 types (" in said
    assert "words in column 1, tags in column 4 of 4, space, iob1" in said
    assert "words in column 1, tags in column 2 of 2, tab, bilou" in said
    assert "JSON lines, text and label" in said and "long sentences in" in said
    card = json.loads((workdir / "data_card.json").read_text())
    assert card["splits"]["train"]["read"]["sentences"] == 48
    assert card["splits"]["dev"]["sentences"] == 16
    apart = [card["splits"][split]["punctuation_apart"] for split in ("train", "test")]
    assert apart == [False, True]  # Only the texts of test have a mark.
    # `!` stands in no training sentence, neither as a word nor as an end of one.
    assert card["splits"]["test"]["unwritable"] == {"words": 16, "examples": ["!"]}
    results = json.loads((workdir / "results.json").read_text())
    assert results["systems"]["nll"]["test"]["num_sentences"] == 16
    assert "JSON lines, text and label" in (workdir / "report/index.html").read_text()

    path = tmp_path / "log.txt"
    path.write_text("".join(json.loads(doccano(item))["text"] + "\n" for item in items[64:]))
    jobs.run("predict", workdir, "-k", "2", str(path))
    printed = capsys.readouterr().out
    for line, answer in zip(path.read_text().splitlines(), printed.splitlines(), strict=True):
        answer = json.loads(answer)
        assert answer["words"][-1] == "!" and len(answer["words"]) > 3
        for span in answer["labelings"][0]["spans"]:
            assert span["text"] == line[span["start_char"] : span["end_char"]]
            words = answer["words"][span["start"] : span["end"]]
            assert span["text"].replace(" ", "") == "".join(words)
    (tmp_path / "corrected.jsonl").write_text(printed)
    data = settings(tmp_path, train=str(tmp_path / "train.txt"), dev="corrected.jsonl")
    again = load_corpus(data)
    assert [len(s.labeling) for s in again.dev] == [
        len(json.loads(line)["labelings"][0]["spans"]) for line in printed.splitlines()
    ]
