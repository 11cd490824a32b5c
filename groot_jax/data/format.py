"""What a text format is: labelings to output ids and back.

`target` writes ids and `read` reads them; `template` is what the grammar of generation is made of.
May not know of models or arrays beyond numpy; no JAX.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from groot_jax.data.labeling import Labeling, labeling_of_word_tags, word_tags
from groot_jax.data.tokenizer import Tokenizer, tag_labels
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

    def __init__(self, tokenizer: Tokenizer, types: Sequence[str], max_words: int) -> None:
        """Raises UserError for types that the tokenizer cannot write or cannot tell apart."""
        self.types = tuple(sorted(set(types)))
        self.tokenizer = tokenizer
        self.max_words = max_words
        labels = tag_labels(self.types)
        self.tags = {tag: tokenizer.tag(label) for tag, label in labels.items()}
        self._tag_of_label = {label: tag for tag, label in labels.items()}
        self._tag_of_pieces: dict[tuple[int, ...], str] = {}
        for tag, pieces in self.tags.items():
            # T5's vocabulary has no `í`. Were `país` written with the unknown id in its place, it
            # could not be told from any other label that lacks a letter there.
            if not pieces or tokenizer.unk_id in pieces:
                raise UserError(
                    f"type {tag!r}: the tokenizer cannot write its label {labels[tag]!r}; "
                    "rename the type, or use text.format=fused_sentinel or text.tokenizer=train"
                )
            # SentencePiece normalises text (NFKC): a type `fix` and one that is spelled with the
            # ligature `ﬁ` are two types to us and the same pieces to it.
            other = self._tag_of_pieces.setdefault(pieces, tag)
            if other != tag:
                raise UserError(
                    f"types {other!r} and {tag!r} are the same pieces to the tokenizer; rename one"
                )
        self._longest_tag = max(map(len, self.tags.values()))
        # Nearly all outputs of a trained model are read through this table, without a decode.
        self._tag_of_piece = {p[0]: tag for p, tag in self._tag_of_pieces.items() if len(p) == 1}
        self._eos, self._pad = tokenizer.eos_id, tokenizer.pad_id
        # The softmax may run over these alone. The 13 types of retail are 15 tags: with EOS 16
        # columns where a tag is one piece and nothing stands between tags, of 32,100 that T5 has.
        self.columns_C: np.ndarray | None = np.array(
            sorted({id_ for p in self.tags.values() for id_ in p} | self.literals()), np.int32
        )

    @abstractmethod
    def literals(self) -> set[int]:
        """Ids that a template may hold, EOS included (word pieces left out)."""

    @abstractmethod
    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        """What every well-formed output looks like: literal ids, TAG per word, EOS last.

        UserError for a sentence that the format cannot hold.
        """

    @abstractmethod
    def _split(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]:
        """(place, tag) pairs in the order of the output, and whether nothing else was in it."""

    def source(self, words: Sequence[str]) -> Source:
        """The encoder's input: the pieces of the words. UserError as `template`."""
        self.check(words)
        ids = (*(id_ for word in words for id_ in self.tokenizer.word(word)), self._eos)
        return Source(ids, ((),) * len(ids))

    def fused_target(self, num_words: int) -> tuple[int, ...]:
        """The sentinel added to the decoder's input at each step, 0 = none; (): never."""
        return ()

    def aligned(self, num_words: int) -> tuple[int, ...] | None:
        """The source position whose encoder output is added to the decoder's input at each step;
        None: nothing is added."""
        return None

    def target(self, labeling: Labeling, words: Sequence[str]) -> tuple[int, ...]:
        """The ids of a labeling, EOS last: the template with each TAG replaced by pieces.

        Raises UserError for a type that the format was not made for, and as `template`.
        """
        template = self.template(words)
        tags = word_tags(labeling, len(words))
        for tag in tags:
            if tag not in self.tags:
                raise UserError(f"type {tag!r} is not among the types that the format was made for")
        # Template s0 TAG s1 TAG EOS, tags `artist`, `I` -> s0 artist s1 I EOS.
        next_tag = iter(tags)
        out: list[int] = []
        for item in template:
            out.extend(self.tags[next(next_tag)] if item == TAG else [item])
        return tuple(out)

    def read(self, ids: Sequence[int], words: Sequence[str]) -> tuple[Labeling, bool]:
        """The labeling that any ids stand for, read leniently, and whether they are well-formed.

        They end before the first EOS, or else the first pad. A place's first tag counts; missing or
        unknown ones are O, and so is an `I` with no span before it. Well-formed is only what
        `target` writes, or the same labels in other pieces. UserError as `template`.
        """
        self.check(words)
        ids = list(ids)
        end = self._eos if self._eos in ids else self._pad
        if end in ids:
            ids = ids[: ids.index(end)]
        pairs, clean = self._split(ids, words)
        # Pairs (0, artist) (2, I) (0, object) of three words -> artist O I -> artist O O: place 0
        # has its first tag, place 1 none, and the `I` lost its span.
        found: dict[int, str | None] = {}
        for place, tag in pairs:
            found.setdefault(place, tag)
        in_order = [place for place, _ in pairs] == list(range(len(words)))
        tags = [found.get(i) or "O" for i in range(len(words))]
        labeling, no_orphan = labeling_of_word_tags(tags)
        return labeling, clean and in_order and no_orphan and None not in found.values()

    def max_target_length(self, words: Sequence[str]) -> int:
        """Ids of the longest labeling of these words, EOS included."""
        # The template has one item for each tag, which may become `_longest_tag` of them.
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
                f"at most {self.max_words}, one sentinel each: split or drop it, label it in "
                "windows (--config.text.long_sentences=window), or take "
                "--config.text.format=tag_only, which needs no sentinels"
            )

    def _tag_of_ids(self, ids: list[int]) -> str | None:
        tag = self._tag_of_pieces.get(tuple(ids))
        if tag or not ids:
            return tag
        # The same label in other pieces than the tokenizer's own is still that label.
        return self._tag_of_label.get(" ".join(self.tokenizer.decode(ids).split()))
