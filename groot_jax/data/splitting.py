"""Text to words with their places in it: at spaces, or at Unicode's word boundaries.

The same for training on spans of characters and for prediction. Knows nothing of labels.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import regex

from groot_jax.data.labeling import Span

SPLITS = ("spaces", "unicode")

_SPACES = re.compile(r"[^ \t]+")
# Unicode Standard Annex 29: (?w) has \b stand at its word boundaries, which part punctuation from
# letters and leave `can't`, `3.14` and `U.S.A` whole. regex follows the standard's releases.
_UNICODE = regex.compile(r"(?w).+?\b", regex.DOTALL)
# The annex keeps runs of Katakana whole and parts other scripts without spaces into characters; a
# span of entities ends within such runs too: トヨタ in トヨタカローラ.
_SHOWN = regex.compile(r"[^\s\p{Cf}\p{Cc}](?:.*[^\s\p{Cf}\p{Cc}])?", regex.DOTALL)
_KATAKANA = regex.compile(r"\p{Script=Katakana}")


class SplitText(NamedTuple):
    """Words of a text; word i is the characters `offsets[i]`, (start, end) with end exclusive,
    counted in Unicode code points as Python counts them."""

    words: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]


def split_text(text: str, split: str) -> SplitText:
    """Parts a text by config.text.split.

    spaces: at spaces and tabs alone, as columns are parted; other Unicode spaces belong to their
    word. unicode: at the default word boundaries of Unicode Standard Annex 29, white space left
    out; Han, Kana, Thai, Lao, Khmer and Myanmar, which write no spaces, by character.

    >>> split_text("Ann's in Bonn.", "unicode").words
    ("Ann's", 'in', 'Bonn', '.')
    """
    places = _spaces(text) if split == "spaces" else _unicode(text)
    offsets = tuple(places)
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


def _characters(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The characters as a reader counts them, a letter with its marks as one."""
    for match in regex.finditer(r"\X", text[start:end]):
        yield start + match.start(), start + match.end()


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
