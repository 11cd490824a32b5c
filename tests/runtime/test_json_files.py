"""Files of JSON are read as what was written; anything else is a sentence that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from groot_jax.errors import UserError
from groot_jax.runtime.json_files import (
    finite,
    misfit,
    number,
    or_none,
    parsed,
    read_bytes,
    read_lines,
    whole,
)

SHAPE = {"name": str, "step": whole, "spans?": [(whole, str)], str: or_none(number)}


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"name": "a", "step": 0}, ""),
        ({"name": "a", "step": 3, "spans": [[1, "x"], [2, "y"]], "loss": 0.5, "b": None}, ""),
        ({"name": "a", "step": 3, "loss": float("nan")}, ""),
        ([], "it is no object"),
        ({"step": 3}, "'name' is missing"),
        ({"name": 3, "step": 3}, "name is not as expected"),
        ({"name": "a", "step": True}, "step is not as expected"),
        ({"name": "a", "step": -1}, "step is not as expected"),
        ({"name": "a", "step": 3, "spans": {}}, "spans is not as expected"),
        ({"name": "a", "step": 3, "spans": [[1, "x"], [1]]}, "spans[1] is not as expected"),
        ({"name": "a", "step": 3, "spans": [[1, 2]]}, "spans[0][1] is not as expected"),
        ({"name": "a", "step": 3, "loss": "0.5"}, "loss is not as expected"),
        ({"name": "a", "step": 3, "loss": 10**400}, "loss is not as expected"),
    ],
)
def test_what_does_not_fit_is_told_by_its_place(value: object, wrong: str) -> None:
    assert misfit(value, SHAPE) == wrong


def test_places_of_nested_objects_are_told_and_unnamed_keys_pass() -> None:
    shape: dict[Any, Any] = {"splits": {str: {"read": {"place": {"a", "b"}}}}}
    assert misfit({"splits": {"dev": {"read": {"place": "a", "more": []}}}, "x": 3}, shape) == ""
    found = misfit({"splits": {"dev": {"read": {"place": "c"}}}}, shape)
    assert found == "splits.dev.read.place is not as expected"


@pytest.mark.parametrize("value", [1e300, -1e300, float("inf"), float("nan"), 10**400, True, "1"])
def test_only_numbers_that_can_be_computed_with_are_finite(value: object) -> None:
    assert not finite(value)
    assert finite(-0.5) and finite(7)


@pytest.mark.parametrize("text", [b"\xff", b"", b"{", b"[" * 100_000, b"3"])
def test_what_is_no_json_of_the_shape_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        parsed(text, SHAPE)


def test_lines_that_are_something_else_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_lines(path, SHAPE) == []
    good = '{"name": "a\u2028b", "step": 1}'.encode()
    path.write_bytes(good + b"\n" + good + b'\n{"name": "a", "st')
    assert [value["step"] for _, value in read_lines(path, SHAPE)] == [1, 1]
    assert capsys.readouterr().err == ""  # What a kill leaves is no damage.
    path.write_bytes(b"\n".join([good, b"\xff", b"3", b"{}", b"\0", b"[]", b"nan", good, b""]))
    assert [line.encode() for line, _ in read_lines(path, SHAPE)] == [good, good]
    err = capsys.readouterr().err
    assert err.startswith(f"{path}: 6 lines (2, 3, 4, 5, 6, ...) are not what training wrote")
    read_lines(path, SHAPE, warn=False)
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    folder, loop = tmp_path / "folder", tmp_path / "loop"
    folder.mkdir()
    loop.symlink_to(loop)
    for path, why in ((folder, "Is a directory"), (loop, "symbolic links"), (loop, "again")):
        with pytest.raises(UserError, match=why) as caught:
            read_lines(path, SHAPE)
        assert str(caught.value).startswith(f"{path} cannot be read (")
    assert read_bytes(tmp_path / "none") is None
