"""Text to words with their places in it: at spaces, at Unicode's word boundaries, or at those and
around all punctuation.

The same for training on spans of characters and for prediction. Knows nothing of labels.
"""

from __future__ import annotations

import bisect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import regex

from groot_jax.data.labeling import Span

SPLITS = ("spaces", "unicode", "punctuation")

_SPACES = re.compile(r"[^ \t]+")
# Unicode Standard Annex 29: (?w) has \b stand at its word boundaries, which part punctuation from
# letters and leave `can't`, `3.14` and `U.S.A` whole. regex follows the standard's releases.
_UNICODE = regex.compile(r"(?w).+?\b", regex.DOTALL)
# The annex keeps runs of Katakana whole and parts other scripts without spaces into characters; a
# span of entities ends within such runs too: トヨタ in トヨタカローラ.
_SHOWN = regex.compile(r"[^\s\p{Cf}\p{Cc}](?:.*[^\s\p{Cf}\p{Cc}])?", regex.DOTALL)
_KATAKANA = regex.compile(r"\p{Script=Katakana}")
# O'Connor's -> O ' Connor ' s. A family of emoji, joined by characters without a shape, has no
# letter and stays whole.
_LETTER = regex.compile(r"[\p{L}\p{N}]")
_LETTERS = regex.compile(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}\p{Cf}]*|\X")


class SplitText(NamedTuple):
    """Words of a text; word i is the characters `offsets[i]`, (start, end) with end exclusive,
    counted in Unicode code points as Python counts them."""

    words: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]


def split_text(text: str, split: str) -> SplitText:
    """Parts a text by config.text.split.

    spaces: at spaces and tabs alone, as columns are parted; other Unicode spaces belong to their
    word. unicode: at the default word boundaries of Unicode Standard Annex 29, white space left
    out; Han, Kana, Thai, Lao, Khmer and Myanmar, which write no spaces, by character. punctuation:
    the words of `unicode` parted further, into runs of letters and digits and single other
    characters.

    >>> split_text("Ann's in Bonn.", "unicode").words
    ("Ann's", 'in', 'Bonn', '.')
    >>> split_text("Ann's", "punctuation").words
    ('Ann', "'", 's')
    """
    places = {"spaces": _spaces, "unicode": _unicode, "punctuation": _punctuation}[split]
    offsets = tuple(places(text))
    return SplitText(tuple(text[start:end] for start, end in offsets), offsets)


def _spaces(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _SPACES.finditer(text))


def _unicode(text: str) -> Iterator[tuple[int, int]]:
    for match in _UNICODE.finditer(text):
        # White space, and what has no shape, such as a zero-width space, is no word.
        shown = _SHOWN.search(match.group())
        if shown is None:
            continue
        start, end = match.start() + shown.start(), match.start() + shown.end()
        if _KATAKANA.search(match.group()):
            yield from _characters(text, start, end)
        else:
            yield start, end


def _punctuation(text: str) -> Iterator[tuple[int, int]]:
    for start, end in _unicode(text):
        if not _LETTER.search(text, start, end):
            yield start, end
            continue
        for match in _LETTERS.finditer(text, start, end):
            if _SHOWN.search(match.group()):
                yield match.span()


def _characters(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The characters as a reader counts them, a letter with its marks as one."""
    for match in regex.finditer(r"\X", text[start:end]):
        yield start + match.start(), start + match.end()


def words_of_tokens(text: str, tokens: object) -> SplitText | None:
    """The words that Prodigy and spaCy say a text has: objects with `start` and `end`, characters
    of the text. Tokens of white space alone are no words. None for what are no such objects.

    Raises ValueError for a token that leaves the text, is empty, or begins before the last one
    ends.

    >>> words_of_tokens("O'Neil's", [{"start": 0, "end": 6}, {"start": 6, "end": 8}]).words
    ("O'Neil", "'s")
    """
    if not isinstance(tokens, list) or not tokens or not all(map(_is_token, tokens)):
        return None
    offsets: list[tuple[int, int]] = []
    before = 0
    for token in tokens:
        start, end = token["start"], token["end"]
        said = token.get("text", text[start:end])
        if not before <= start < end <= len(text) or said != text[start:end]:
            raise ValueError(
                f"the token {said!r}, characters {start} to {end}, is not what the text has there"
                if 0 <= start < end <= len(text) and start >= before
                else f"the token {start} to {end} is empty, leaves the text of {len(text)} "
                "characters, or begins before the last one ends"
            )
        before = end
        if not text[start:end].isspace():
            offsets.append((start, end))
    return SplitText(tuple(text[start:end] for start, end in offsets), tuple(offsets))


def _is_token(value: Any) -> bool:
    return isinstance(value, Mapping) and all(type(value.get(k)) is int for k in ("start", "end"))


_MARKS = ",;:!?."
# What is said of text whose words are not as those of training were; {} is one of them.
APART = (
    "{!r} is one word here, and in training punctuation stood apart: --config.text.split=unicode "
    "parts text so"
)


def stands_apart(words: Mapping[str, int]) -> bool:
    """Whether punctuation stands apart from words, as in CoNLL's files: of all marks that are words
    or end one, nine of ten are words. `words`: how often each occurs. A full stop at the end of a
    word tells nothing, for it may be that of an abbreviation."""
    alone = sum(count for word, count in words.items() if word.strip(_MARKS) == "")
    ending = sum(count for word, count in words.items() if _ends_with(word, _MARKS[:-1]))
    return alone > 9 * ending


def attached(words: Sequence[str]) -> str:
    """The first word of a text that ends with a mark which is no part of it; nothing if none does.
    A full stop within a text may be that of an abbreviation."""
    if found := next((word for word in words if _ends_with(word, _MARKS[:-1])), ""):
        return found
    return words[-1] if words and _ends_with(words[-1], _MARKS) else ""


def warn_of_attached(words: Sequence[str], split: str, apart: bool) -> None:
    """A Python warning, whose place is the caller's caller, where `attached` finds a word of a text
    that was parted at spaces, and training had punctuation `apart`. Python shows a place once."""
    if apart and split == "spaces" and (word := attached(words)):
        warnings.warn(APART.format(word), stacklevel=3)


def _ends_with(word: str, marks: str) -> bool:
    return word.endswith(tuple(marks)) and any(map(str.isalnum, word))


def spans_of_words(
    spans: Sequence[tuple[int, int, str]], text: str, offsets: Sequence[tuple[int, int]]
) -> list[Span]:
    """Spans of characters as spans of words; white space at the ends of a span is no part of it.

    Raises ValueError, with both offsets, for a span that begins or ends within a word.
    """
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    found = []
    for start, end, type_ in spans:
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"the span {start} to {end} ({type_}) is empty or leaves the text of {len(text)} "
                "characters"
            )
        # Of the words that the span shares a character with, the first and the one after the last.
        first, last = bisect.bisect_right(ends, start), bisect.bisect_left(starts, end)
        if first >= last:
            raise ValueError(f"the span {start} to {end} ({type_}) holds no word")
        for at in (first, last - 1):
            if starts[at] < start or ends[at] > end:
                raise ValueError(
                    f"the span {start} to {end} ({text[start:end]!r}, {type_}) cuts the word "
                    f"{text[starts[at] : ends[at]]!r}, characters {starts[at]} to {ends[at]}"
                )
        found.append(Span(first, last, type_))
    return found
