"""Column files: one word and its tag a line, a blank line between sentences.

Knows nothing of tag schemes. Lines that do not fit are reported with file:line, never guessed at.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from groot_jax.data.readers.reading import Problems, not_text, read_lines, words_of
from groot_jax.data.schemes import Tagged, looks_like_tag
from groot_jax.errors import UserError

_DOCUMENT = "-DOCSTART-"  # CoNLL-2003 has it as the word of a line before each document.


class Columns(NamedTuple):
    """How a column file is written; `auto` where the file itself shall tell."""

    order: str  # auto | tag_first | word_first
    separator: str  # auto | tab | space: any number of spaces and tabs
    comment: str  # prefix of lines to ignore; "" = none

    @classmethod
    def from_config(cls, data: ConfigDict) -> Columns:
        """As `config.data` has it."""
        return cls(data.column_order, data.separator, data.comment)


def _fields(line: str, separator: str) -> list[str]:
    if separator == "tab":
        return [field.strip(" ") for field in line.rstrip(" \t").split("\t")]
    return words_of(line)


def detect_columns(path: Path, lines: list[str | None], columns: Columns) -> tuple[Columns, int]:
    """Fills in what is `auto`, and returns it with the usual number of columns.

    `levi<tab>B-brand` and `EU NNP B-NP I-ORG` -> word_first, with tab and 2, with space and 4.

    Raises UserError when the tag's column cannot be told.
    """
    content = [line for line in lines if line and line.strip(" \t")]
    if columns.comment:
        content = [line for line in content if not line.startswith(columns.comment)]
    separator, order = columns.separator, columns.order
    if separator == "auto":
        # A word may hold spaces where tabs separate, so tabs decide wherever they are the rule.
        tabbed = sum("\t" in line.strip(" \t") for line in content)
        separator = "tab" if tabbed * 2 > len(content) else "space"
    rows = [_fields(line, separator) for line in content if _DOCUMENT not in line]
    # Lines of another width are mistakes, which are not to be asked and are reported later.
    width = Counter(len(row) for row in rows).most_common(1)[0][0] if rows else 2
    rows = [row for row in rows if len(row) == width]
    if order == "auto":
        # Most lines must have a tag there, and twice as many as in the other column: a corpus may
        # have the word `O`, or `B-52`, but not in every second line.
        first = sum(looks_like_tag(row[0]) for row in rows)
        last = sum(looks_like_tag(row[-1]) for row in rows)
        if width < 2 or max(first, last) * 2 < len(rows) or max(first, last) < 2 * min(first, last):
            if None in lines:
                raise UserError(not_text(path, lines.index(None) + 1))
            raise UserError(
                f"{path}: cannot tell which column holds the tags ({first} of {len(rows)} lines "
                f"have one in the first column, {last} in the last): set config.data.column_order "
                "to tag_first or word_first, and config.data.separator to tab or space"
            )
        order = "tag_first" if first > last else "word_first"
    return Columns(order, separator, columns.comment), max(width, 2)


def read_columns(path: Path, columns: Columns, problems: Problems) -> list[Tagged]:
    """The sentences of a column file, their tags not yet read; bad ones go to `problems`.

    With more than two columns, word_first takes the first as the word and the last as the tag
    (CoNLL); tag_first takes the first two. Blank lines may hold spaces and tabs; -DOCSTART- lines
    end a sentence. A line with another number of columns than most drops its sentence.
    """
    lines = read_lines(path)
    columns, width = detect_columns(path, lines, columns)
    tag_column, word_column = (0, 1) if columns.order == "tag_first" else (-1, 0)
    sentences: list[Tagged] = []
    words: list[str] = []
    tags: list[str] = []
    numbers: list[int] = []
    complaint = ""
    # The empty line at the end closes a last sentence that has none after it.
    for number, line in enumerate([*lines, ""], start=1):
        if line is not None:
            if columns.comment and line.startswith(columns.comment):
                continue
            fields = _fields(line, columns.separator) if line.strip(" \t") else []
            if not fields or _DOCUMENT in fields:
                if complaint:
                    problems.add(complaint)
                elif words:
                    sentences.append(Tagged(tuple(words), tuple(tags), str(path), tuple(numbers)))
                words, tags, numbers, complaint = [], [], [], ""
                continue
        # A bad line drops its whole sentence, and only the first of several is reported.
        if line is None:
            complaint = complaint or not_text(path, number)
        elif len(fields) != width or not fields[word_column]:
            complaint = complaint or (
                f"{path}:{number}: {line!r} is not {width} columns separated by "
                f"{columns.separator} as elsewhere in the file; mend it, or set "
                "config.data.separator, or config.data.comment if it is a comment"
            )
        else:
            words.append(fields[word_column])
            tags.append(fields[tag_column])
            numbers.append(number)
    return sentences
