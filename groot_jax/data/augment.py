"""Mention replacement: training sentences whose spans name other things of the same type.

Dai and Adel, arXiv 2010.11683. What an epoch swaps is drawn for the whole training split at once,
and the lengths that come of it are sums over a table: 6 ms for 12,000 sentences, where to make and
encode them all takes 350. Words are put together for the sentences of one batch, when it is made.
Works on words and spans; the format is asked for lengths alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from groot_jax.data.format import Format
from groot_jax.data.labeling import Sentence, Span

Words = tuple[str, ...]


class Augmenter:
    """Swaps each span of a sentence, with a probability, for another mention of its type.

    `mentions`: type -> its distinct mentions, in the order in which `sentences` first have them.
    All but a span's own are equally likely, however often they occur, so that rare ones get into as
    many sentences as frequent ones. Where a type has one mention alone, its spans keep it.

    Arrays are over N sentences, their P spans in order, and M mentions, one type after another.
    """

    def __init__(self, sentences: Sequence[Sentence], format_: Format, probability: float) -> None:
        """`format_` says how long mentions are. UserError where it cannot hold a sentence's."""
        self.format = format_
        self._sentences = sentences
        self._probability = probability
        found: dict[str, dict[Words, int]] = {}  # type -> mention -> place among those of its type
        spans: list[tuple[str, int]] = []
        for sentence in sentences:
            for start, end, type_ in sentence.labeling:
                places = found.setdefault(type_, {})
                spans.append((type_, places.setdefault(sentence.words[start:end], len(places))))
        self.mentions = {type_: tuple(places) for type_, places in found.items()}
        self._flat = [words for listed in self.mentions.values() for words in listed]
        starts = accumulate(map(len, found.values()), initial=0)
        # {city: 4 mentions, artist: 3} -> mentions 0 to 3 are cities, 4 to 6 artists. A span whose
        # mention is the third artist: first 4, count 3, place 2, own 6.
        first = dict(zip(found, starts, strict=False))
        self._first_P = np.array([first[type_] for type_, _ in spans], int)
        self._count_P = np.array([len(found[type_]) for type_, _ in spans], int)
        self._place_P = np.array([place for _, place in spans], int)
        self._own_P = self._first_P + self._place_P
        self._end_N = np.cumsum([0, *(len(sentence.labeling) for sentence in sentences)])
        lengths = [self._lengths(words) for words in self._flat]
        self._length_Mx3 = np.array(lengths, int).reshape(-1, 3)

    def _lengths(self, words: Words) -> tuple[int, int, int]:
        return len(self.format.source(words).ids), self.format.max_target_length(words), len(words)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """mention_P: which mention each span gets, its own where it is not swapped."""
        # From the own mention on, round the list of its type, but not as far as to itself again:
        # place 2 of 3 and a shift of 1 or 2 -> place 0 or 1.
        shift_P = 1 + rng.integers(np.maximum(self._count_P - 1, 1))
        other_P = self._first_P + (self._place_P + shift_P) % self._count_P
        return np.where(rng.random(len(other_P)) < self._probability, other_P, self._own_P)

    def growth(self, mention_P: np.ndarray) -> np.ndarray:
        """[N, 3]: source tokens, tokens of the longest output and words that sentences gain.

        Formats encode word by word, so that a length is a constant and a share of each word: what
        two mentions have alone differs by as much as what sentences have with the one or the other.
        """
        gain_Px3 = self._length_Mx3[mention_P] - self._length_Mx3[self._own_P]
        # Sums over the spans of each sentence as differences of running sums: gains 2 0 1 of spans
        # in sentences 0 0 2 -> totals 0 2 2 3, ends 0 2 2 3 -> 2 0 1.
        total = np.concatenate([np.zeros((1, 3), int), gain_Px3.cumsum(0)])
        return total[self._end_N[1:]] - total[self._end_N[:-1]]

    def only(self, where_N: np.ndarray, mention_P: np.ndarray) -> np.ndarray:
        """The mentions drawn in the sentences `where_N`, in the others their own."""
        return np.where(np.repeat(where_N, np.diff(self._end_N)), mention_P, self._own_P)

    def sentence(self, index: int, mention_P: np.ndarray) -> Sentence:
        """Sentence `index` with the mentions drawn; the very one given where none is swapped."""
        sentence = self._sentences[index]
        here = slice(self._end_N[index], self._end_N[index + 1])
        drawn = mention_P[here]
        if (drawn == self._own_P[here]).all():
            return sentence
        # fly to [rome] now, with `new york` drawn -> fly to [new york] now: the words up to the
        # span, the mention, and at last the words after the last span.
        words: list[str] = []
        spans = []
        at = 0
        for span, mention in zip(sentence.labeling, drawn.tolist(), strict=True):
            words += sentence.words[at : span.start]
            start = len(words)
            words += self._flat[mention]
            spans.append(Span(start, len(words), span.type))
            at = span.end
        words += sentence.words[at:]
        return Sentence(tuple(words), tuple(spans), sentence.source)
