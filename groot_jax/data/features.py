"""What is known of a word: the word itself, letters at its ends, its shape.

A model from scratch sees most words a handful of times. `zz top`, `Zagreb` and `2nd` are recognised
by their ends and their shape long before they are known as words: it is what a CRF lives on. Each
feature is a row of the embedding, and a word's embedding is the sum of its features' rows. Pieces
of a word beside them brought nothing on dev of the built-in corpus.
May not know of models or arrays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_ENDS = (1, 2, 3, 4)  # Letters of the prefixes and suffixes.
# A feature that was seen once is noise, and would be a third of all rows: on retail 4,000 of 11,400
# features.
_MIN_COUNT = 2


def word_features(word: str) -> tuple[str, ...]:
    """Names of a word's features, the word itself first: at most `MOST_FEATURES`.

    >>> word_features("Nike")
    ('=nike', 'n-', 'ni-', 'nik-', '-e', '-ke', '-ike', '~Xxx')
    """
    lower = word.lower()
    # Shorter than the word: the whole of it is the first feature already.
    prefixes = (f"{lower[:n]}-" for n in _ENDS if n < len(lower))
    suffixes = (f"-{lower[-n:]}" for n in _ENDS if n < len(lower))
    return (f"={lower}", *prefixes, *suffixes, f"~{shape(word)}")


# A word of five letters or more has ten: itself, its shape, four prefixes and four suffixes.
MOST_FEATURES = 2 + 2 * len(_ENDS)


def shape(word: str) -> str:
    """Letters as `x` or `X`, digits as `d`, runs cut to two: `McDonald's` is `XxXxx'x`."""
    # McDonald's -> XxXxxxxx'x -> XxXxx'x: without the cut, words of each length had a shape.
    kinds = "".join(
        "d" if c.isdigit() else "X" if c.isupper() else "x" if c.isalpha() else c for c in word
    )
    return re.sub(r"(.)\1{2,}", r"\1\1", kinds)


def common_features(words: Iterable[str], most: int) -> list[str]:
    """The `most` commonest features, those that occur often enough to learn something about.

    Commonest first; among equally common ones by name, so that ids are the same in every run.
    """
    # Word by word and not occurrence by occurrence: the 74,000 words of retail's 12,000 queries
    # are 4,200 different ones.
    counts: Counter[str] = Counter()
    for word, times in Counter(words).items():
        for feature in word_features(word):
            counts[feature] += times
    known = (name for name, times in counts.items() if times >= _MIN_COUNT)
    return sorted(known, key=lambda name: (-counts[name], name))[:most]


def feature_ids(word: str, ids: dict[str, int], unknown: int) -> tuple[int, ...]:
    """Ids of a word's features, `unknown` for a word that is none itself; others are left out.

    With ids for `=red`, `r-` and `~xx`, the word `rose` has those of unknown, `r-` and `~xx`.
    """
    own, *others = word_features(word)
    return (ids.get(own, unknown), *(ids[name] for name in others if name in ids))
