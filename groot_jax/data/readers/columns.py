"""Column files: one word and its tag a line, a blank line between sentences.

Knows nothing of tag schemes. Lines that do not fit are reported with file:line, never guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from groot_jax.data.readers.layout import (
    DOCUMENT,
    Columns,
    Layout,
    cause_of,
    detect_layout,
    fields_of,
)
from groot_jax.data.readers.reading import (
    BOM,
    Problems,
    Read,
    mark_within,
    not_text,
    read_lines,
    words_of,
)
from groot_jax.data.schemes import Tagged
from groot_jax.data.tags import looks_like_tag

_COMMENT_MARKS = ("#", "//", "%")
# What the columns of a header are called; a word of a sentence may be one, a whole line is not.
_TITLES = {
    *("word", "words", "token", "tokens", "form", "text", "pos", "pos_tag", "chunk", "lemma"),
    *("tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "iob", "bio", "entity"),
    *("id", "index", "sentence", "sentence #", "sentence_id", "slot", "slots", "y", "target"),
}


def read_columns(path: Path, columns: Columns, problems: Problems) -> Read:
    """The sentences of a column file, their tags not yet read; bad ones go to `problems`.

    Blank lines may hold spaces and tabs; -DOCSTART- lines end a sentence. A line with another
    number of columns than most drops its sentence.
    """
    lines = read_lines(path)
    layout = detect_layout(path, lines, columns)
    check = _Lines(path, lines, columns, layout)
    sentences: list[Tagged] = []
    words: list[str] = []
    tags: list[str] = []
    numbers: list[int] = []
    complaint = ""
    comments = 0
    # The empty line at the end closes a last sentence that has none after it.
    for number, line in enumerate([*lines, ""], start=1):
        if line is not None:
            if columns.comment and line.startswith(columns.comment):
                comments += 1
                continue
            fields = fields_of(line, layout.separator) if line.strip(" \t") else []
            if not fields or DOCUMENT in fields:
                if complaint:
                    problems.add(complaint)
                elif words:
                    sentences.append(Tagged(tuple(words), tuple(tags), str(path), tuple(numbers)))
                words, tags, numbers, complaint = [], [], [], ""
                continue
        # A bad line drops its whole sentence, and only the first of several is reported.
        if line is None:
            complaint = complaint or not_text(path, number)
        elif said := check(number, line, fields):
            complaint = complaint or said
        else:
            words.append(fields[layout.word])
            tags.append(fields[layout.tag])
            numbers.append(number)
    said = f", {comments} comment lines" if comments else ""
    return Read(sentences, f"{layout}{said}")


class _Lines:
    """What is wrong with a line of one file, called by its number, its text and its fields."""

    def __init__(
        self, path: Path, lines: Sequence[str | None], columns: Columns, layout: Layout
    ) -> None:
        self._path, self._lines, self._layout = path, lines, layout
        self._comment = columns.comment
        content = (i for i, line in enumerate(lines, 1) if line and line.strip(" \t"))
        self._first = next(content, 0)

    @cached_property
    def _tags(self) -> set[str]:
        """What stands for tags in lines that do not begin as comments do. Few files need it."""
        layout = self._layout
        return {
            fields[layout.tag]
            for line in self._lines
            if line and not line.startswith(_COMMENT_MARKS)
            for fields in [fields_of(line, layout.separator)]
            if len(fields) == layout.width
        }

    def __call__(self, number: int, line: str, fields: Sequence[str]) -> str:
        """A sentence with file:line, or nothing."""
        layout, where = self._layout, f"{self._path}:{number}"
        if line.startswith(BOM):
            return mark_within(self._path, number)
        fits = len(fields) == layout.width and fields[layout.word]
        marked = not self._comment and line.startswith(_COMMENT_MARKS)
        if marked and not (fits and self._is_tag(fields[layout.tag])):
            # `# id 7 domain=en` -> '# id', for a word may begin with the mark too.
            first, *_ = marks = words_of(line)
            mark = " ".join(marks[:2]) if line.startswith(" ".join(marks[:2])) else first
            return (
                f"{where}: {line!r} looks like a comment: say how comments begin, "
                f"--config.data.comment={mark!r}, or mend the line"
            )
        if number == self._first and fits and self._is_header(fields):
            return f"{where}: {line!r} looks like a header, which no sentence has; remove the line"
        if fits:
            return ""
        reason = self._reason(line, fields)
        return (
            f"{where}: {line!r} is not {layout.width} columns separated by {layout.separator} as "
            f"elsewhere in the file; {f'{reason}; ' if reason else ''}mend it, or set "
            "config.data.separator, or config.data.comment if it is a comment"
        )

    def _is_tag(self, tag: str) -> bool:
        return looks_like_tag(tag) or tag in self._tags

    def _is_header(self, fields: Sequence[str]) -> bool:
        titles = [field.strip().lower() in _TITLES for field in fields]
        tag = fields[self._layout.tag]
        return all(titles) or (titles[self._layout.tag] and not looks_like_tag(tag))

    def _reason(self, line: str, fields: Sequence[str]) -> str:
        """Why a line has too few or too many columns, as far as it shows."""
        layout = self._layout
        if reason := cause_of([line], len(fields)):
            return reason
        # `work B-creative work` and `Ann B- PER`: what follows the tag is part of it.
        tags = [i for i, field in enumerate(fields) if looks_like_tag(field) or field == "B-"]
        last = layout.tag == layout.width - 1
        if len(fields) > layout.width and last and tags and 0 < tags[-1] < len(fields) - 1:
            tag = " ".join(fields[tags[-1] :])
            return (
                f"the tag {tag!r} seems to hold a space, which parts columns: write "
                f"{tag.replace(' ', '_')!r}, or separate columns by tabs"
            )
        return ""
