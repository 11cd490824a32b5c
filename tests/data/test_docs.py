"""The table of formats in docs/data.md: every example reads as the page says, and needs what the
page says that it needs."""

from __future__ import annotations

import re
import subprocess
import sys
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


# A file of each kind, what training says of it, and the words and spans that the page's program
# makes of it.
OTHER = {
    "csv": (
        'Sentence #,Word,POS,Tag\nSentence: 1,in,IN,O\n,Rome,NN,B-LOC\nSentence: 2,",",X,O\n',
        "looks like CSV",
        ["in Rome", ","],
    ),
    "csv of two": (
        'sentence_id,word,tag\n1,in,O\n1,Rome,B-LOC\n2,"""",O\n',
        "looks like CSV",
        ["in Rome", '"'],
    ),
    "brat": (
        "T1\tLOC 16 20\tRome\nR1\tin Arg1:T1 Arg2:T1\nT2\tPER 0 3;4 5\tA B\n",
        "looks like the .ann file of brat",
        ["nothing here", "in Rome"],
    ),
    "marks": (
        "in <LOC>Rome</LOC>\nnothing here\na < b & c\n",
        "looks like text with marks",
        ["in Rome", "nothing here"],
    ),
    "CoNLL-U": (
        "# text = in Rome\n1\tin\tin\tADP\t_\t_\t0\troot\t_\t_\n1-2\tinR\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "2\tRome\tR\tPROPN\t_\t_\t1\tobl\t_\tNER=B-LOC|SpaceAfter=No\n\n",
        "looks like CoNLL-U",
        ["in Rome"],
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_files_are_named_and_the_page_shows_how_to_write_them(tmp_path, name):
    text, says, sentences = OTHER[name]
    message = error_of(tmp_path, text)
    assert says in message and "docs/data.md#other-files" in message
    section = PAGE.read_text(encoding="utf-8").split("\n## Other files\n")[1].split("\n## ")[0]
    programs = re.findall("```python\n(.*?)```", section, re.DOTALL)
    order = ("csv", "brat", "marks", "CoNLL-U")
    program = programs[order.index(name.split()[0])]
    file = tmp_path / "file.txt"
    file.write_text("nothing here\nin Rome\n" if name == "brat" else text)
    (tmp_path / "file.ann").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
    )
    corpus = load(tmp_path, done.stdout)
    assert [" ".join(s.words) for s in corpus.train][: len(sentences)] == sentences
    assert [s.words[y.start : y.end] for s in corpus.train for y in s.labeling] == [("Rome",)]


def test_plain_text_is_told_from_columns(tmp_path):
    message = error_of(tmp_path, "We flew to Rome .\nIt rained\nNobody knows why , of course\n")
    assert "as those of plain text do" in message and "docs/data.md#other-files" in message


def test_the_table_has_every_format():
    assert len(rows()) == 24
