"""How a column file is laid out: its separator, and which columns hold the words and the tags.

What a file does not show beyond doubt is asked for, with the setting that answers, and never
guessed: one column too many would train on other words in silence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from groot_jax.data.readers.reading import not_text, words_of
from groot_jax.data.tags import looks_like_tag, named, split_tag
from groot_jax.errors import UserError

DOCUMENT = "-DOCSTART-"  # CoNLL-2003 has it as the word of a line before each document.
# What CoNLL-2000 and CoNLL-2003 (English, German) call their phrases. Those sets have the columns
# word, part of speech, phrase and entity: two columns of tags, of which the last is meant.
_PHRASES = {
    *("NP", "VP", "PP", "ADVP", "SBAR", "ADJP", "PRT", "CONJP", "INTJ", "LST", "UCP"),
    *("NC", "VC", "PC"),
}


class Columns(NamedTuple):
    """How a column file is written; `auto` and 0 where the file itself shall tell."""

    order: str  # auto | tag_first | word_first
    separator: str  # auto | tab | space: any number of spaces and tabs
    comment: str  # prefix of lines to ignore; "" = none
    word: int  # number of the words' column, negative from the end; 0 = auto
    tag: int  # the same of the tags' column

    @classmethod
    def from_config(cls, data: ConfigDict) -> Columns:
        """As `config.data` has it."""
        return cls(
            data.column_order, data.separator, data.comment, data.word_column, data.tag_column
        )


class Layout(NamedTuple):
    """What `detect_layout` found; columns count from 0."""

    separator: str
    width: int
    word: int
    tag: int

    def __str__(self) -> str:
        return (
            f"words in column {self.word + 1}, tags in column {self.tag + 1} of {self.width}, "
            f"{self.separator}"
        )


class _Row(NamedTuple):
    sentence: int
    fields: list[str]


def fields_of(line: str, separator: str) -> list[str]:
    """The columns of a line."""
    if separator == "tab":
        return [field.strip(" ") for field in line.rstrip(" \t").split("\t")]
    return words_of(line)


def detect_layout(path: Path, lines: Sequence[str | None], columns: Columns) -> Layout:
    """Fills in what is `auto` or 0.

    `levi<tab>B-brand` -> tab, words in the first of two columns, tags in the second; `EU NNP B-NP
    I-ORG` -> space, the first and the last of four.

    Raises UserError, with the settings that say it, where columns cannot be told.
    """
    numbered: list[tuple[int, str]] = []  # lines with the number of their sentence
    sentence = 0
    for line in lines:
        if not line or not line.strip(" \t") or DOCUMENT in line:
            sentence += 1
        elif not (columns.comment and line.startswith(columns.comment)):
            numbered.append((sentence, line))
    separator = columns.separator
    if separator == "auto":
        # A word may hold spaces where tabs separate, so tabs decide wherever they are the rule.
        tabbed = sum("\t" in line.strip(" \t") for _, line in numbered)
        separator = "tab" if tabbed * 2 > len(numbered) else "space"
    rows = [_Row(n, fields_of(line, separator)) for n, line in numbered]
    # Lines of another width are mistakes, which are not to be asked and are reported later.
    width = Counter(len(row.fields) for row in rows).most_common(1)[0][0] if rows else 2
    rows = [row for row in rows if len(row.fields) == width]
    if not rows:
        return Layout(separator, 2, 0, 1)
    if width < 2:
        raise _unknown(path, lines, [line for _, line in numbered], rows, width)
    if columns.order != "auto":
        tag, word = (0, 1) if columns.order == "tag_first" else (width - 1, 0)
        return Layout(separator, width, word, tag)
    given = [
        _place(path, width, number, key)
        for number, key in ((columns.word, "word_column"), (columns.tag, "tag_column"))
    ]
    found = [given[1]] if given[1] is not None else _tag_columns(rows, width, given[0])
    if not found:
        raise _unknown(path, lines, [line for _, line in numbered], rows, width)
    tag, doubts = found[-1], _several_tags(rows, found)
    if given[0] is not None:
        word = given[0]
    else:
        word, doubt = _word_column(rows, width, tag, unsure=bool(doubts))
        doubts += doubt
    if doubts:
        raise UserError(f"{path}: {'; '.join(doubts)}")
    if word == tag:
        raise UserError(
            f"{path}: words and tags cannot both be in column {word + 1} of {width}: set "
            "config.data.word_column and config.data.tag_column to two columns"
        )
    return Layout(separator, width, word, tag)


def _place(path: Path, width: int, number: int, key: str) -> int | None:
    """A column counted from 0, of one counted from 1, or from -1 at the end; None: not given."""
    if number == 0:
        return None
    if abs(number) > width:
        raise UserError(
            f"{path}: config.data.{key} is {number}, but most lines have {width} columns; give one "
            "of them, and check config.data.separator"
        )
    return number - 1 if number > 0 else width + number


def _column(rows: Sequence[_Row], place: int) -> list[str]:
    return [row.fields[place] for row in rows]


def _share(values: Sequence[str], holds: Callable[[str], bool]) -> float:
    """The share of the values for which `holds` is true; it is asked once for equal ones."""
    counts = Counter(values)
    return sum(times for value, times in counts.items() if holds(value)) / len(values)


def _tag_columns(rows: Sequence[_Row], width: int, word: int | None) -> list[int]:
    """The columns that hold tags, in their order."""
    # Every second line must have a tag there; and what has half as many as the column with the
    # most may be meant as well. A corpus may have the word `O`, or `B-52`, but not so often.
    shares = {
        place: _share(_column(rows, place), looks_like_tag)
        for place in range(width)
        if place != word
    }
    most = max(shares.values())
    if most >= 0.5:
        return [place for place, share in shares.items() if share * 2 >= most]
    # Tags without a prefix, such as `NAME`: few different ones, and O among them.
    return [
        place
        for place in shares
        if "O" in (values := _column(rows, place)) and len({*values}) * 10 <= len(values)
    ]


def _several_tags(rows: Sequence[_Row], found: Sequence[int]) -> list[str]:
    """What has to be asked where several columns hold tags; nothing for CoNLL-2003."""
    if len(found) < 2:
        return []
    types = {
        place: {split_tag(tag).type for tag in {*_column(rows, place)}} - {""} for place in found
    }
    last, width = found[-1], len(rows[0].fields)
    phrases = [place for place in found if types[place] and types[place] <= _PHRASES]
    if last == width - 1 and phrases == found[:-1]:
        return []
    shown = " and ".join(
        f"{place + 1} ({', '.join(_few(tag for tag in _column(rows, place) if tag != 'O'))})"
        for place in found
    )
    settings = " or ".join(f"--config.data.tag_column={place + 1}" for place in found)
    return [f"of {width} columns, {shown} hold tags; say which is meant: {settings}"]


def _few(values: object) -> list[str]:
    distinct = list(dict.fromkeys(values))  # type: ignore[call-overload]
    return [*distinct[:3], *(["..."] if len(distinct) > 3 else [])] or ["O alone"]


def _word_column(rows: Sequence[_Row], width: int, tag: int, unsure: bool) -> tuple[int, list[str]]:
    """The words' column, and what has to be asked where it may be another one."""
    others = [place for place in range(width) if place != tag]
    if len(others) == 1:
        return others[0], []
    # Tags come after words in every set of more than two columns that we know.
    values = {place: _column(rows, place) for place in others}
    texts = [
        place
        for place in others
        if _share(values[place], _is_number) <= 0.5
        and (not unsure or _share(values[place], looks_like_tag) < 0.25)
    ]
    first = others[0]
    why = ""
    if first not in texts and texts:
        why = "counts words" if _counts_up(rows, first) else "holds numbers"
    elif tag == 0:
        why = f"stands between the tags and {len(others) - 1} more"
    else:
        # A column of sentences' or documents' names has few values, a column of words many: it is
        # the words that differ most, but for a lemma here or there.
        richer = [p for p in texts if len({*values[p]}) > 2 * len({*values[first]})]
        if richer:
            why = f"has fewer different values than column {richer[0] + 1}"
    if not why:
        return first, []
    settings = " or ".join(f"--config.data.word_column={p + 1}" for p in texts or others)
    return first, [
        f"column {first + 1} of {width} {why} ({', '.join(_few(values[first]))}); say which holds "
        f"the words: {settings}"
    ]


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "").isdigit()


def _counts_up(rows: Sequence[_Row], place: int) -> bool:
    steps = [
        row.fields[place] == str(int(before.fields[place]) + 1)
        for before, row in pairwise(rows)
        if before.sentence == row.sentence and before.fields[place].isdecimal()
    ]
    return all(steps) and bool(steps)


def _unknown(
    path: Path,
    lines: Sequence[str | None],
    content: Sequence[str],
    rows: Sequence[_Row],
    width: int,
) -> UserError:
    """What to say of a file in which no column holds tags."""
    if None in lines:
        return UserError(not_text(path, list(lines).index(None) + 1))
    advice = cause_of(content, width) or _tags_amiss(rows, width)
    if not advice and (other := _other_format(content, rows)):
        return UserError(f"{path}: {other}")
    shares = ", ".join(
        f"{_share(_column(rows, place), looks_like_tag):.0%} in column {place + 1}"
        for place in range(width)
    )
    advice = advice or (
        "name them with --config.data.tag_column and --config.data.word_column (numbers from 1, "
        "negative from the end), and --config.data.separator=tab or space"
    )
    return UserError(
        f"{path}: cannot tell which column holds the tags (such as O and B-type: {shares} of the "
        f"lines): {advice}"
    )


def _other_format(content: Sequence[str], rows: Sequence[_Row]) -> str:
    """What a file is that is no column file of words and tags, as far as its lines tell."""
    # A file may begin with a few lines that tell nothing.
    shown = content[:1000]

    def share(pattern: str) -> float:
        return sum(re.match(pattern, line) is not None for line in shown) / len(shown)

    where = "docs/data.md#other-files shows how to write it as what is read"
    # T1<tab>LOC 3 7<tab>Rome, and R1, E1, A1, #1 of relations, events, attributes and notes.
    if share(r"(T\d+\t\S+ \d+ \d+|[REAMN#*]\d*\t)") > 0.5:
        return f"it looks like the .ann file of brat; {where}"
    # A tag `B-PER` in the last of ten columns stands there among others: NER=B-PER|SpaceAfter=No.
    if share(r"#|\d+(-\d+)?(\t[^\t]+){9}$") > 0.9:
        return f"it looks like CoNLL-U, which has no column for tags of entities; {where}"
    if share(r".*<(\w+)[^<>]*>[^<>]+</\1>") > 0.1:
        return f"it looks like text with marks in it, as <LOC>Rome</LOC>; {where}"
    if 2 * len(rows) < len(content):
        return (
            "its lines differ in their number of columns, as those of plain text do; wanted is a "
            f"word and its tag a line, and a blank line after each sentence; {where}"
        )
    return ""


def _tags_amiss(rows: Sequence[_Row], width: int) -> str:
    """What is wrong with the tags of a column that has hardly one that is right."""
    for place in range(width):
        values = _column(rows, place)
        if _share(values, lambda value: bool(split_tag(value).complaint)) > 0.5:
            return next(filter(None, (split_tag(value).complaint for value in values)))
    return ""


def cause_of(content: Sequence[str], width: int) -> str:
    """Why lines fall into `width` columns where more were wanted, as far as their characters tell;
    nothing where they do not."""
    if not content:
        return ""
    if content[0].lstrip().startswith(("{", "[")):
        return "it begins like JSON: take --config.data.reader=jsonl, with one object a line"
    most = len(content) / 2
    for odd in {c for line in content[:100] for c in line if c.isspace()} - {" ", "\t", "\r"}:
        if sum(odd in line for line in content) > most:
            return f"its lines hold {named(odd)}, which parts no columns; put spaces or tabs there"
    for mark in (",", ";", "|"):
        counts = Counter(line.count(mark) for line in content)
        count, times = counts.most_common(1)[0]
        if count and times > most and width <= 2:
            return (
                f"it looks like CSV, with {mark!r} between columns; save it with tabs instead, and "
                "a blank line after each sentence: docs/data.md#other-files shows how"
            )
    return ""
