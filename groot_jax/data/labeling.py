"""Spans, labelings, sentences and candidates: the words in which host code talks about labels.

A labeling is a sorted tuple of non-overlapping typed spans over word positions, end exclusive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Words `start` to `end` (exclusive) carry the label `type`."""

    start: int
    end: int
    type: str


# `fly to new york` with (2, 4, city). A tuple and sorted, so that equal labelings compare equal and
# are one key of a dict.
Labeling = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words with their gold labeling; `source` says where it came from, as `file:line`."""

    words: tuple[str, ...]
    labeling: Labeling
    source: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One output of the beam: its lenient parse, its score s (nan: unknown), whether it was
    well-formed, and the beam slot that holds its ids (-1: none)."""

    labeling: Labeling
    score: float = math.nan
    well_formed: bool = True
    slot: int = -1


def half_character(words: Iterable[str]) -> str | None:
    """The first word with a lone surrogate, which JSON can spell and nothing can write, or None."""
    return next((word for word in words if any("\ud800" <= c <= "\udfff" for c in word)), None)


def make_labeling(spans: Iterable[tuple[int, int, str]], num_words: int) -> Labeling:
    """Sorts spans into a labeling.

    Raises ValueError when a span is empty, leaves the sentence or overlaps another.
    """
    # Sorted by start, so that overlaps are overlaps of neighbours.
    labeling = tuple(sorted(Span(*span) for span in spans))
    end = 0
    for span in labeling:
        if span.start >= span.end:
            raise ValueError(f"span {tuple(span)} is empty")
        if span.start < 0 or span.end > num_words:
            raise ValueError(f"span {tuple(span)} leaves the sentence of {num_words} words")
        if span.start < end:
            raise ValueError(f"span {tuple(span)} overlaps the one before it")
        end = span.end
    return labeling


def word_tags(labeling: Labeling, num_words: int) -> list[str]:
    """The simplified-inside tags of a labeling: a span's type on its first word, `I` on its
    others, `O` elsewhere (Raman et al., arXiv 2203.08378).

    (1, 3, artist) of four words -> O artist I O. Spans of one type may touch: (0, 1, x) (1, 2, x)
    -> x x. BIO writes two tags a type and `O`; here it is one a type, `I` and `O`: 79 types of ATIS
    have 81 tags instead of 159.
    """
    # A second span of a type right after the first needs no B-: its type says that it begins.
    tags = ["O"] * num_words
    for start, end, type_ in labeling:
        tags[start] = type_
        for i in range(start + 1, end):
            tags[i] = "I"
    return tags


def labeling_of_word_tags(tags: Sequence[str]) -> tuple[Labeling, bool]:
    """Inverse of `word_tags`, leniently: an `I` with no span before it is O.

    Returns the labeling and whether there was no such orphan `I`: I x I O y -> (1, 3, x) (4, 5, y)
    and False.
    """
    spans: list[Span] = []
    start, type_, clean = 0, "", True
    for i, tag in enumerate(tags):
        # An open span ends before any tag but `I`: that of the next span, or `O`.
        if tag == "I":
            clean = clean and bool(type_)
            continue
        if type_:
            spans.append(Span(start, i, type_))
        start, type_ = i, ("" if tag == "O" else tag)
    if type_:
        spans.append(Span(start, len(tags), type_))
    return tuple(spans), clean
