"""Span corruption, T5's objective for text without labels: what is masked, and what stands for it.

A sentence is a list of positions; some stretches of them (spans) are masked. The source has one
sentinel in the place of each span, the target has each sentinel followed by what it stands for,
then EOS (Raffel et al., arXiv 1910.10683, section 3.1.4). May not know of files, models or arrays
of batches; no JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from groot_jax.data.tokenizer import Tokenizer

Spans = list[tuple[int, int]]  # (start, end), end exclusive, in order, none next to another


class Position(NamedTuple):
    """A position of the encoder's input: the sum of the embeddings of `id` and `fused`; `pieces`
    are what the decoder writes where it is masked."""

    id: int
    fused: tuple[int, ...]
    pieces: tuple[int, ...]


class Corrupted(NamedTuple):
    """`source` and `target` are ids, EOS last; `fused` is as long as `source`."""

    source: tuple[int, ...]
    fused: tuple[tuple[int, ...], ...]
    target: tuple[int, ...]


class Corruption(NamedTuple):
    """How much is masked: a share `share` of the positions, in spans of `mean_span` on average."""

    share: float
    mean_span: float

    def counts(self, length: int, most_spans: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(masked positions, spans) that `draw` chooses between: the share rounded down, and up.

        At least one position is masked, and one is not where there are two or more. So the share
        of a sentence is never below 1 / `length`: a query of four words loses a quarter of them.
        """
        # .15 of 7 words are 1.05: one or two of them, two with a chance of .05 (see `draw`).
        low = int(self.share * length)
        found = []
        for masked in (low, low + 1):
            masked = min(max(masked, 1), max(length - 1, 1))
            spans = max(1, round(masked / self.mean_span))
            found.append((masked, min(spans, masked, length - masked + 1, most_spans)))
        return found[0], found[1]

    def draw(self, length: int, most_spans: int, rng: np.random.Generator) -> Spans:
        """Spans of a sentence of `length` positions, at least one.

        Which of the two counts is taken is drawn so that their mean is the share. (T5 rounds; its
        sentences have 512 pieces, ours may have seven words.) All cuts into spans, and all places
        for them, are equally likely. T5's own draw ends every sentence with a span, which would
        mask the last word and no other of a sentence that has but one.
        """
        # 6 of 40 positions in two spans, one way: cut the six after the second, lengths 2 and 4,
        # and choose two of the 35 gaps that the 34 others leave, say 3 and 10. The spans are then
        # (3, 5) and (12, 16): the second gap lies two positions further on.
        low, high = self.counts(length, most_spans)
        exact = self.share * length
        masked, spans = high if rng.random() < exact - int(exact) else low
        cuts = np.sort(rng.choice(masked - 1, spans - 1, replace=False)) + 1
        lengths = np.diff([0, *cuts.tolist(), masked]).tolist()
        # A span lies before, between or after positions that stay: at most one in each place.
        places = np.sort(rng.choice(length - masked + 1, spans, replace=False)).tolist()
        found, done = [], 0
        for place, size in zip(places, lengths, strict=True):
            found.append((place + done, place + done + size))
            done += size
        return found

    def longest(self, positions: Sequence[Position], most_spans: int) -> tuple[int, int]:
        """The most ids that source and target can have, EOS included, whatever is drawn."""
        # The longest target masks the positions of the most pieces, which is what nobody may draw,
        # but nothing drawn is longer.
        written = sorted((len(position.pieces) for position in positions), reverse=True)
        counts = self.counts(len(positions), most_spans)
        # Each span takes its positions out of the source and puts one sentinel there; EOS is the 1.
        return (
            max(len(positions) - masked + spans for masked, spans in counts) + 1,
            max(sum(written[:masked]) + spans for masked, spans in counts) + 1,
        )


def positions_of(words: Sequence[str], tokenizer: Tokenizer, by_word: bool) -> list[Position]:
    """A position for each word, with its features (format `aligned`), or for each piece."""
    if not by_word:
        return [Position(id_, (), (id_,)) for word in words for id_ in tokenizer.word(word)]
    # A masked word is written in pieces: there are a few thousand, and words are without end.
    bags = ((tokenizer.features(word), tokenizer.word(word)) for word in words)
    return [Position(bag[0], bag[1:], pieces) for bag, pieces in bags]


def corrupt(positions: Sequence[Position], spans: Spans, tokenizer: Tokenizer) -> Corrupted:
    """Masks `spans`; the first one's sentinel is `<extra_id_0>`, the second's `<extra_id_1>`.

    `Thank you <for inviting> me to your party <last> week` becomes `Thank you <extra_id_0> me to
    your party <extra_id_1> week`, and `<extra_id_0> for inviting <extra_id_1> last`.
    """
    source: list[int] = []
    fused: list[tuple[int, ...]] = []
    target: list[int] = []
    done = 0
    # The empty span at the end is for the positions after the last one; it has no sentinel.
    for number, (start, end) in enumerate([*spans, (len(positions), len(positions))]):
        source += [position.id for position in positions[done:start]]
        fused += [position.fused for position in positions[done:start]]
        if number < len(spans):
            sentinel = tokenizer.sentinels[number]
            source.append(sentinel)
            fused.append(())
            target.append(sentinel)
            target += [id_ for position in positions[start:end] for id_ in position.pieces]
        done = end
    eos = tokenizer.eos_id
    return Corrupted((*source, eos), (*fused, ()), (*target, eos))
