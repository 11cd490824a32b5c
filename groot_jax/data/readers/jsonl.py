"""JSON lines: an object a line, in the forms of `objects`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from groot_jax.data.labeling import Sentence
from groot_jax.data.readers.objects import FORM, Objects, sentence_of
from groot_jax.data.readers.reading import (
    BOM,
    Problems,
    Read,
    mark_within,
    not_text,
    read_lines,
)
from groot_jax.data.schemes import Tagged


def read_jsonl(path: Path, objects: Objects, problems: Problems) -> Read:
    """Reads a file of JSON lines; blank lines are ignored, bad ones go to `problems`."""
    sentences: list[Tagged | Sentence] = []
    forms: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if line is None:
            problems.add(not_text(path, number))
        elif line.startswith(BOM):
            problems.add(mark_within(path, number))
        elif line.strip():
            try:
                sentence, form = sentence_of(json.loads(line), (str(path), number), objects)
            except json.JSONDecodeError as error:
                problems.add(f"{path}:{number}: not JSON ({error}); {_advice(line, lines)}")
            # A line of 100,000 `[` is valid so far, and deeper than Python goes.
            except (ValueError, RecursionError) as error:
                whole = line.startswith("[") and number == len(lines) == 1
                mend = _advice(line, lines) if whole else "mend the line"
                problems.add(f"{path}:{number}: {error}; {mend}")
            else:
                if sentence is None:
                    left_out[form] += 1
                else:
                    forms[form] += 1
                    sentences.append(sentence)
    return Read(sentences, described("JSON lines", forms, left_out))


def described(what: str, forms: Counter[str], left_out: Counter[str]) -> str:
    """`JSON lines, text and label; left out: 3 of answer reject`."""
    said = ", ".join((what, *(form for form, _ in forms.most_common())))
    if left_out:
        said += "; left out: " + ", ".join(f"{n} of {why}" for why, n in left_out.most_common())
    return said


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
