"""JSON lines, an object a line, or one JSON document that is a list of objects: in the forms of
`objects`."""

from __future__ import annotations

import json
from pathlib import Path

from groot_jax.data.readers.objects import FORM, Found, Objects
from groot_jax.data.readers.reading import (
    BOM,
    Problems,
    Read,
    mark_within,
    not_text,
    read_lines,
)


def read_jsonl(path: Path, objects: Objects, problems: Problems) -> Read:
    """Reads a file of JSON lines, or one that is a list of such objects as a whole or holds it as
    its `data`. Blank lines are ignored; bad lines, or objects by their number from 1, go to
    `problems`."""
    found = Found()
    lines = read_lines(path)
    if (items := _document(lines)) is not None:
        for number, item in enumerate(items, start=1):
            try:
                found.add(item, (str(path), number), objects)
            except (ValueError, RecursionError) as error:
                problems.add(f"{path}: object {number}: {error}; mend the object")
        return found.read("a JSON list")
    for number, line in enumerate(lines, start=1):
        if line is None:
            problems.add(not_text(path, number))
        elif line.startswith(BOM):
            problems.add(mark_within(path, number))
        elif line.strip():
            try:
                found.add(json.loads(line), (str(path), number), objects)
            except json.JSONDecodeError as error:
                problems.add(f"{path}:{number}: not JSON ({error}); {_advice(line, lines)}")
            # A line of 100,000 `[` is valid so far, and deeper than Python goes.
            except (ValueError, RecursionError) as error:
                problems.add(f"{path}:{number}: {error}; mend the line")
    return found.read("JSON lines")


def _document(lines: list[str | None]) -> list | None:
    """The objects of a file that is one JSON document; None for JSON lines, and for what is no
    JSON, whose lines are then named."""
    shown = [line for line in lines if line and line.strip()]
    # {"words": ...} in the first of many lines is an object a line, of which there may be millions.
    if not shown or None in lines or not (shown[0].lstrip()[0] == "[" or _starts_one(shown)):
        return None
    try:
        whole = json.loads("\n".join(line or "" for line in lines))
    except (ValueError, RecursionError):
        return None
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]  # {"version": ..., "data": [...]}, as `datasets` takes it, too.
    if not isinstance(whole, list) or not all(isinstance(item, dict | list) for item in whole):
        return None
    return whole


def _starts_one(shown: list[str]) -> bool:
    return len(shown) == 1 or shown[0].strip() == "{"


def _advice(line: str, lines: list[str | None]) -> str:
    first = next((other for other in lines if other and other.strip()), "").strip()
    if first.startswith("[") or first == "{":
        return (
            "the file is neither an object a line nor, as a whole, a list of objects; "
            f"wanted is {FORM}"
        )
    if not line.lstrip().startswith("{") or not line.rstrip().endswith("}"):
        return (
            "if it is a column file, take --config.data.reader=columns; else write one object a "
            f"line: {FORM}"
        )
    return f"write one object a line: {FORM}"
