"""What a text format is: labelings to output ids and text and back.

`serialise` and `parse` work on text, `target` and `read` on ids; `template` is what the grammar of
generation is made of. May not know of models or arrays beyond numpy; no JAX.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from groot_jax.data.labeling import Labeling, labeling_of_word_tags, word_tags
from groot_jax.data.tokenizer import Tokenizer, plain_words
from groot_jax.errors import UserError

TAG = -1  # The item of a template that stands for a tag's pieces.
# A place in the sentence and the tag that an output gives it, None for a label nobody knows.
Pairs = list[tuple[int, str | None]]


class Source(NamedTuple):
    """Encoder input: `ids`, EOS last; `fused[i]` are ids whose embeddings are added to that of
    `ids[i]`: a sentinel, or what else is known of a word. Both have the same length."""

    ids: tuple[int, ...]
    fused: tuple[tuple[int, ...], ...]


class Format(ABC):
    """What all formats share. Tags are `O`, `I` (goes on with the span) and the types; a tag is
    written as its label, the type in plain words, in one or more pieces.

    tokenizer: the one given, with whole pieces added where the format needs them; use this one.
    tags: tag -> pieces. columns_C: sorted int32 ids that an output may hold, EOS included; None for
    the whole vocabulary. max_words: of a sentence; longer ones get a UserError, as do empty ones.
    literals_per_word: of a template, at least. fused_width: ids fused to a source position, at
    most.
    """

    name: str
    literals_per_word: int
    fused_width = 0

    def __init__(self, tokenizer: Tokenizer, types: Iterable[str], max_words: int) -> None:
        self.types = tuple(sorted(set(types)))
        self.tokenizer = tokenizer
        self.max_words = max_words
        self.labels = {"O": "O", "I": "I", **plain_words(self.types)}
        self.tags = {tag: tokenizer.tag(label) for tag, label in self.labels.items()}
        self._tag_of_label = {label: tag for tag, label in self.labels.items()}
        self._tag_of_pieces: dict[tuple[int, ...], str] = {}
        for tag, pieces in self.tags.items():
            if not pieces or tokenizer.unk_id in pieces:
                raise UserError(
                    f"type {tag!r}: the tokenizer cannot write its label {self.labels[tag]!r}; "
                    "rename the type, or use text.format=fused_sentinel or text.tokenizer=train"
                )
            other = self._tag_of_pieces.setdefault(pieces, tag)
            if other != tag:
                raise UserError(
                    f"types {other!r} and {tag!r} are the same pieces to the tokenizer; rename one"
                )
        self._longest_tag = max(map(len, self.tags.values()))
        self._tag_of_piece = {p[0]: tag for p, tag in self._tag_of_pieces.items() if len(p) == 1}
        self._eos, self._pad = tokenizer.eos_id, tokenizer.pad_id
        self.columns_C: np.ndarray | None = np.array(
            sorted({id_ for p in self.tags.values() for id_ in p} | self.literals()), np.int32
        )

    @abstractmethod
    def literals(self) -> set[int]:
        """Ids that a template may hold, EOS included (word pieces left out)."""

    @abstractmethod
    def serialise(self, labeling: Labeling, words: Sequence[str]) -> str:
        """The one text of a labeling."""

    @abstractmethod
    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        """What every well-formed output looks like: literal ids, TAG per word, EOS last."""

    @abstractmethod
    def source(self, words: Sequence[str]) -> Source: ...

    @abstractmethod
    def _split_text(self, text: str, words: Sequence[str]) -> tuple[Pairs, bool]:
        """(place, tag) pairs in the order of the text, and whether nothing else was in it."""

    @abstractmethod
    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]: ...

    def fused_target(self, num_words: int) -> tuple[int, ...] | None:
        """The sentinel added to the decoder's input at each step, 0 = none; None: not fused."""
        return None

    def aligned(self, num_words: int) -> tuple[int, ...] | None:
        """The source position whose encoder output is added to the decoder's input at each step;
        None: nothing is added."""
        return None

    def parse(self, text: str, words: Sequence[str]) -> tuple[Labeling, bool]:
        """Reads any text: a place's first label counts; missing or unknown ones are O, and so is
        an `I` with no span before it. True only for what `serialise` writes, spaces aside."""
        self.check(words)
        return _assemble(*self._split_text(text, words), len(words))

    def target(self, labeling: Labeling, words: Sequence[str]) -> tuple[int, ...]:
        """The ids of a labeling, EOS last."""
        tags = iter(self._tags(labeling, words))
        out: list[int] = []
        for item in self.template(words):
            if item == TAG:
                out.extend(self.tags[next(tags)])
            else:
                out.append(item)
        return tuple(out)

    def read(self, ids: Sequence[int] | np.ndarray, words: Sequence[str]) -> tuple[Labeling, bool]:
        """`parse` for ids, which end before the first EOS, or else the first pad."""
        self.check(words)
        ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        end = self._eos if self._eos in ids else self._pad
        if end in ids:
            ids = ids[: ids.index(end)]
        return _assemble(*self._split_ids(ids, words), len(words))

    def max_target_length(self, words: Sequence[str]) -> int:
        """Ids of the longest labeling of these words, EOS included."""
        return len(self.template(words)) + len(words) * (self._longest_tag - 1)

    def words_in(self, length: int) -> int:
        """The most words whose longest labeling fits into `length` ids, EOS included."""
        return (length - 1) // (self.literals_per_word + self._longest_tag)

    def check(self, words: Sequence[str]) -> None:
        """Raises UserError for a sentence that the format cannot hold."""
        if not words:
            raise UserError("a sentence without words cannot be labeled: drop it")
        if len(words) > self.max_words:
            start = " ".join(words[:8])
            raise UserError(
                f"the sentence {start!r}... has {len(words)} words, and format {self.name} takes "
                f"at most {self.max_words}, one sentinel each: split or drop it"
            )

    def _tags(self, labeling: Labeling, words: Sequence[str]) -> list[str]:
        self.check(words)
        tags = word_tags(labeling, len(words))
        for tag in tags:
            if tag not in self.tags:
                raise UserError(f"type {tag!r} is not among the types that the format was made for")
        return tags

    def _labels(self, labeling: Labeling, words: Sequence[str]) -> list[str]:
        return [self.labels[tag] for tag in self._tags(labeling, words)]

    def _tag_of_text(self, label: str) -> str | None:
        return self._tag_of_label.get(" ".join(label.split()))

    def _tag_of_ids(self, ids: list[int]) -> str | None:
        tag = self._tag_of_pieces.get(tuple(ids))
        # The same label in other pieces than the tokenizer's own is still that label.
        return tag if tag or not ids else self._tag_of_text(self.tokenizer.decode(ids))

    def _plain_source(self, words: Sequence[str]) -> Source:
        self.check(words)
        ids = (*(id_ for word in words for id_ in self.tokenizer.word(word)), self._eos)
        return Source(ids, ((),) * len(ids))


def _assemble(pairs: Pairs, clean: bool, num_words: int) -> tuple[Labeling, bool]:
    """The labeling of (place, tag) pairs, and whether they name each place once, in order."""
    found: dict[int, str | None] = {}
    for place, tag in pairs:
        found.setdefault(place, tag)
    in_order = [place for place, _ in pairs] == list(range(num_words))
    tags = [found.get(i) or "O" for i in range(num_words)]
    labeling, no_orphan = labeling_of_word_tags(tags)
    return labeling, clean and in_order and no_orphan and None not in found.values()
