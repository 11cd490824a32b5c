"""The table of formats in docs/data.md: every example reads as the page says, and needs what the
page says that it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_corpus import error_of, load

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def rows() -> list[tuple[str, str, dict[str, Any]]]:
    table = PAGE.read_text(encoding="utf-8").split("\n|---|---|---|\n")[1].split("\n\n")[0]
    found = []
    for line in table.splitlines():
        name, example, needs = (cell.strip() for cell in line.strip("|").split(" |")[:3])
        text = "\n".join(re.findall("`([^`]*)`", example)).replace("→", "\t")
        settings: dict[str, Any] = {}
        for key, value in re.findall(r"`data\.(\w+)=([^`]*)`", needs):
            settings[key] = int(value) if value.isdigit() else value
        if "tag_names" in settings:
            settings["tag_names"] = tuple(settings["tag_names"].split(","))
        found.append((name, text, settings))
    return found


@pytest.mark.parametrize(("name", "text", "needs"), rows(), ids=[name for name, _, _ in rows()])
def test_the_smallest_example_of_each_format_reads(tmp_path, name, text, needs):
    if "seq.in" in name:
        (tmp_path / "set").mkdir()
        for file, line in zip(("seq.in", "seq.out"), text.split("\n"), strict=True):
            (tmp_path / "set" / file).write_text(line + "\n")
        corpus = load(tmp_path, train="set")
    else:
        corpus = load(tmp_path, text + "\n", **needs)
    (sentence,) = corpus.train
    (span,) = sentence.labeling
    assert sentence.words[span.start : span.end] == ("Rome",)
    assert span.type == ("span" if "without types" in name else "LOC")
    if needs:
        assert error_of(tmp_path, text + "\n")


def test_the_table_has_every_format():
    assert len(rows()) == 24
