"""Lines to label: what each is taken for, what is wrong with it, and when it is handed out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from groot_jax.data import incoming
from groot_jax.data.incoming import BadLine, Incoming, LineParser, read_blocks
from groot_jax.errors import UserError


def check(words: Sequence[str], where: str) -> tuple[str, ...]:
    if "bad" in words:
        raise UserError(f"{where}: a bad word")
    return tuple(words)


def blocks_of(
    path: Path, data: bytes, size: int = 100, kind: str = "auto", strict: bool = False
) -> tuple[list[list[Any]], list[str]]:
    path.write_bytes(data)
    notes: list[str] = []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parse = LineParser("spaces", kind, notes.append)
        return [*read_blocks(descriptor, "f", check, size, parse, strict)], notes
    finally:
        os.close(descriptor)


def lines_of(path: Path, data: bytes, kind: str = "auto") -> list[Any]:
    blocks, _ = blocks_of(path, data, kind=kind)
    return [line for block in blocks for line in block]


# Each line alone, and what it is: words of text, words of an object, or an error.
AUTO: dict[str, Any] = {
    "red {jeans": ("red", "{jeans"),
    "{brand} jeans": ("{brand}", "jeans"),
    "{": ("{",),
    "  {red": ("{red",),
    '{"a": 1}': ('{"a":', "1}"),
    '{"query": "red jeans"}': ('{"query":', '"red', 'jeans"}'),
    '{"words": ["a"': ('{"words":', '["a"'),
    '{"text": "red", "x": NaN}': ('{"text":', '"red",', '"x":', "NaN}"),
    '{"text": "red", "x": -1e999}': ('{"text":', '"red",', '"x":', "-1e999}"),
    '["red", "jeans"]': ('["red",', '"jeans"]'),
    "7": ("7",),
    "null": ("null",),
    '{"text": "red jeans"}': ("red", "jeans"),
    ' {"words": ["new york"]}': ("new york",),
    '{"tokens": ["red"], "id": 3}': ("red",),
    '{"text": "red", "tokens": [{"text": "red"}]}': ("red",),
    '{"text": "Ann\'s", "tokens": [{"start": 0, "end": 3}, {"start": 3, "end": 5}]}': ("Ann", "'s"),
    '{"text": "Ann", "tokens": [{"start": 0, "end": 4}]}': "the token 0 to 4",
    '{"words": "red jeans"}': 'has no "words"',
    '{"words": [], "text": "red"}': (),
    '{"tokens": [7]}': 'has no "words"',
    '{"text": null}': 'has no "words"',
    "bad": "a bad word",
    "": (),
    " \t": (),
}


@pytest.mark.parametrize("line", AUTO)
def test_what_a_line_is_taken_for(tmp_path, line):
    (found,) = lines_of(tmp_path / "f", f"{line}\n".encode())
    if isinstance(AUTO[line], str):
        assert isinstance(found, BadLine) and found.number == 1
        assert found.error.startswith("f:1: ") and AUTO[line] in found.error
    else:
        assert isinstance(found, Incoming) and found.words == AUTO[line]


def test_a_line_that_only_looks_like_json_is_noted_once(tmp_path):
    _, notes = blocks_of(tmp_path / "f", b'red\n{x\n{y\n{"a": 1}\n')
    (note,) = notes
    assert note.startswith("f:2: is not JSON") and "--input=jsonl" in note
    assert blocks_of(tmp_path / "f", b'red\n{"text": "x"}\n')[1] == []
    found, (note,) = blocks_of(tmp_path / "f", b'[{"text": "red"}]\n')
    assert found[0][0].words == ('[{"text":', '"red"}]') and "f:1: is not an object" in note


def test_what_answers_would_not_show_of_text_is_noted_once():
    notes: list[str] = []
    parse = LineParser("spaces", note=notes.append, apart=True)
    parse("He left Rome .", "f:1")
    parse('{"words": ["Rome."]}', "f:2")
    for number in (3, 4):
        assert parse("He left Rome.", f"f:{number}").words == ("He", "left", "Rome.")
    (note,) = notes
    assert note.startswith("f:3: 'Rome.' is one word") and "text.split=unicode" in note
    for split, apart in (("unicode", True), ("spaces", False)):
        LineParser(split, note=notes.append, apart=apart)("He left Rome.", "f:1")
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("lines", "noted"),
    [
        (["EU NNP I-NP I-ORG", "rejects VBZ I-VP O", "", *["the DT O O"] * 9], "f:6"),
        (["the\tO", "Rome\tB-LOC"] * 9, "f:5"),
        (["plan B", "we chose plan B", "vitamin E", "who took vitamin C"] * 3, ""),
        (["O", "B", "I"] * 9, ""),
    ],
)
def test_a_column_file_given_as_text_is_noted_once(lines, noted):
    notes: list[str] = []
    parse = LineParser("spaces", note=notes.append)
    for number, line in enumerate(lines, 1):
        parse(line, f"f:{number}")
    assert [note.partition(": ")[0] for note in notes] == [noted] * bool(noted)


def test_after_a_line_of_json_another_that_begins_so_is_an_error(tmp_path):
    data = b'{"text": "red", "id": 1}\nblue\n{"text": "gr\n{"txt": "x", "id": 2}\n'
    first, second, third, fourth = lines_of(tmp_path / "f", data)
    assert isinstance(first, Incoming) and isinstance(second, Incoming)
    assert isinstance(third, BadLine) and third.error.startswith("f:3: is not JSON")
    assert isinstance(fourth, BadLine) and 'has no "words"' in fourth.error
    assert fourth.echoed == {"txt": "x", "id": 2}


def test_the_kind_of_lines_can_be_said(tmp_path):
    data = b'{"text": "red"}\n\nblue\n["a"]\n'
    text = lines_of(tmp_path / "f", data, "text")
    assert [line.words for line in text] == [('{"text":', '"red"}'), (), ("blue",), ('["a"]',)]
    one, empty, blue, listed = lines_of(tmp_path / "f", data, "jsonl")
    assert one.words == ("red",) and empty.words == ()
    assert blue.error.startswith("f:3: is not JSON")
    assert listed.error.startswith("f:4: is not an object")


def test_what_an_object_holds_besides_is_kept_for_its_answer(tmp_path):
    objects = [
        {"id": 1, "text": "red jeans", "tags": ["x"]},
        {"words": ["red"], "text": "a red one", "n": None},
        {"text": "a  b", "words": ["a", "b"], "labelings": [1], "decide": "map"},
        {"id": 4, "words": ["bad"]},
        {"id": 5, "words": [5]},
    ]
    data = "".join(json.dumps(item) + "\n" for item in objects).encode()
    found = lines_of(tmp_path / "f", data)
    assert [{**line.echoed} for line in found] == [
        {"id": 1, "tags": ["x"]},
        {"text": "a red one", "n": None},  # The words are another sentence's.
        {},
        {"id": 4},
        {"id": 5},
    ]
    assert found[1].text is None and found[2].offsets == ((0, 1), (3, 4))


@pytest.mark.parametrize("depth", [450, 990, 100_000])
def test_what_could_not_be_echoed_is_refused(tmp_path, depth):
    many = json.dumps({"text": "a", "x": [[]] * 2000})  # Many brackets, and not deep.
    deep = f'{{"text": "b", "x": {"[" * depth}{"]" * depth}}}'
    first, second = lines_of(tmp_path / "f", f"{many}\n{deep}\n".encode())
    assert first.words == ("a",)
    if depth == 450:
        assert json.loads(json.dumps({**second.echoed}))
    else:
        assert second.error.startswith("f:2: is not JSON")


def test_lines_come_in_blocks_and_bad_ones_keep_their_places(tmp_path):
    data = b"\xef\xbb\xbfa\r\nbad\ncaf\xe9\nd\ne"
    blocks, _ = blocks_of(tmp_path / "f", data, size=2)
    kinds = [[type(line).__name__ for line in block] for block in blocks]
    assert kinds == [["Incoming", "BadLine"], ["BadLine", "Incoming", "Incoming"]]
    assert blocks[0][0].words == ("a",) and blocks[1][0].error.startswith("f:3: is not UTF-8")
    with pytest.raises(UserError, match="f:2: a bad word"):
        blocks_of(tmp_path / "f", data, size=2, strict=True)


def test_a_long_line_is_read_in_pieces_and_one_without_end_is_refused(tmp_path, monkeypatch):
    reads = []

    def read(descriptor: int, size: int, real=os.read) -> bytes:
        reads.append(size)
        return real(descriptor, min(size, 1000))

    monkeypatch.setattr(incoming.os, "read", read)
    monkeypatch.setattr(incoming, "LONGEST_LINE", 50_000)
    # Among them one that ends with a read, and the longest that is let through.
    lengths = (999, 1000, 1, 50_000, 50_001, 200_000, 3)
    data = "".join("x" * length + "\n" for length in lengths).encode()
    found = lines_of(tmp_path / "f", data)
    assert [len(x.words[0]) if isinstance(x, Incoming) else x.error[:10] for x in found] == [
        *(999, 1000, 1, 50_000),
        *("f:5: is lo", "f:6: is lo"),
        3,
    ]
    assert len(reads) > 250
    # Of a line that nobody ends, no more is kept than shows that it is too long.
    path = tmp_path / "endless"
    path.write_bytes(b"y" * 500_000)
    descriptor = os.open(path, os.O_RDONLY)
    (whole,) = [line for line in incoming._lines(descriptor) if line is not None]
    os.close(descriptor)
    assert 50_000 < len(whole) <= 52_000


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 6, 7, 200])
def test_blocks_of_a_file_double_up_to_the_largest(tmp_path: Path, count: int) -> None:
    lines = [f"w{i}" for i in range(count)]
    blocks, _ = blocks_of(tmp_path / "f", "".join(f"{line}\n" for line in lines).encode(), 2)
    assert [" ".join(sentence.words) for block in blocks for sentence in block] == lines
    sizes = [len(block) for block in blocks]
    wanted = [2, 4, 8, 16, 32, *[2 * incoming.LARGEST] * 9]
    assert sizes[:-1] == wanted[: max(len(sizes) - 1, 0)]
    assert not sizes or 0 < sizes[-1] <= wanted[len(sizes) - 1]


def test_who_waits_is_answered_and_a_pause_makes_no_block_smaller() -> None:
    reading, writing = os.pipe()
    try:
        blocks = read_blocks(reading, "-", check, 2, LineParser())
        sizes: list[int] = []
        for lines in (b"a\nb\nc\nd\n", b"e\n", b"f\ng\nh\ni\n", b"j\n"):
            os.write(writing, lines)
            sizes.append(len(next(blocks)))
            while sizes[-1]:
                sizes.append(len(next(blocks)))
        # A block of two, what was there of one of four, the line that came alone, one of four. Each
        # time an empty one says that the next line would have to be waited for.
        assert sizes == [2, 2, 0, 1, 0, 4, 0, 1, 0]
    finally:
        os.close(writing)
        os.close(reading)
