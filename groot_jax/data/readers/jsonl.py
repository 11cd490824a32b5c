"""JSON lines: {"words": [...], "spans": [[start, end, "type"], ...]}, or "tags" for "spans".

Other keys of an object are left alone; a line that lacks these is reported with file:line.
"""

from __future__ import annotations

import json
from pathlib import Path

from groot_jax.data.labeling import Sentence, half_character, make_labeling
from groot_jax.data.readers.reading import Problems, not_text, read_lines
from groot_jax.data.schemes import Tagged, check_type

_FORM = '{"words": [...], "spans": [[start, end, "type"], ...]} or {"words": [...], "tags": [...]}'


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_span(value: object) -> bool:
    # `type(...)`, for to `isinstance` true and false are whole numbers.
    return isinstance(value, list) and [type(item) for item in value] == [int, int, str]


def _sentence(item: object, path: Path, number: int) -> Tagged | Sentence:
    """One object of the file. Raises ValueError that says what is wrong with it."""
    if not isinstance(item, dict):
        raise ValueError(f"not an object of the form {_FORM}")
    # One of the two: both might disagree. And a sentence that names nothing has `"spans": []`; one
    # with neither key is more likely one that nobody labeled.
    labels = [key for key in ("spans", "tags") if key in item]
    if "words" not in item or len(labels) != 1:
        raise ValueError(f"its keys are {', '.join(item) or 'none'}; wanted is {_FORM}")
    if not _is_strings(item["words"]) or not item["words"] or not all(item["words"]):
        raise ValueError("`words` must be a list of one or more strings, none of them empty")
    words = tuple(item["words"])
    # JSON can spell "\ud800", half of a pair of UTF-16, and no file in UTF-8 can hold it.
    if half := half_character(words):
        raise ValueError(f"the word {half!r} holds a lone surrogate, half of a character")
    if labels == ["tags"]:
        if not _is_strings(item["tags"]) or len(item["tags"]) != len(words):
            raise ValueError(f"`tags` must be a list of {len(words)} strings, one for each word")
        return Tagged(words, tuple(item["tags"]), str(path), (number,) * len(words))
    if not isinstance(item["spans"], list) or not all(map(_is_span, item["spans"])):
        raise ValueError('`spans` must be a list of [start, end, "type"] with whole numbers')
    labeling = make_labeling(item["spans"], len(words))
    for span in labeling:
        if complaint := check_type(span.type):
            raise ValueError(complaint)
    return Sentence(words, labeling, f"{path}:{number}")


def read_jsonl(path: Path, problems: Problems) -> list[Tagged | Sentence]:
    """Reads a file of JSON lines; blank lines are ignored, bad ones go to `problems`."""
    sentences: list[Tagged | Sentence] = []
    for number, line in enumerate(read_lines(path), start=1):
        if line is None:
            problems.add(not_text(path, number))
        elif line.strip():
            try:
                sentences.append(_sentence(json.loads(line), path, number))
            except json.JSONDecodeError as error:
                problems.add(
                    f"{path}:{number}: not JSON ({error}); write one object a line: {_FORM}"
                )
            # A line of 100,000 `[` is valid so far, and deeper than Python goes.
            except (ValueError, RecursionError) as error:
                problems.add(f"{path}:{number}: {error}; mend the line")
    return sentences
