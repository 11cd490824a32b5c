"""JSON lines: an object a line, in the forms of `objects`."""

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
    """Reads a file of JSON lines; blank lines are ignored, bad ones go to `problems`."""
    found = Found()
    lines = read_lines(path)
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
                whole = line.startswith("[") and number == len(lines) == 1
                mend = _advice(line, lines) if whole else "mend the line"
                problems.add(f"{path}:{number}: {error}; {mend}")
    return found.read("JSON lines")


def _advice(line: str, lines: list[str | None]) -> str:
    first = next((other for other in lines if other and other.strip()), "").strip()
    if first.startswith("[") or first == "{":
        return (
            "the file is one JSON document; write one object a line, as `jq -c '.[]'` does of a "
            "list"
        )
    if not line.lstrip().startswith("{") or not line.rstrip().endswith("}"):
        return (
            "if it is a column file, take --config.data.reader=columns; else write one object a "
            f"line: {FORM}"
        )
    return f"write one object a line: {FORM}"
