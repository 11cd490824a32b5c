"""Labelings to output ids and text and back: one class per text format, behind `Format`.

`serialise` and `parse` work on text, `target` and `read` on ids; `template` is what the grammar of
generation is made of. May not know of models or arrays beyond numpy; no JAX.
"""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from groot_jax.data.labeling import Labeling, labeling_of_word_tags, word_tags
from groot_jax.data.tokenizer import Tokenizer, plain_words
from groot_jax.errors import UserError

TAG = -1  # The item of a template that stands for a tag's pieces.
_SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]{0,3})>")
# A place in the sentence and the tag that an output gives it, None for a label nobody knows.
_Pairs = list[tuple[int, str | None]]
_Output = TypeVar("_Output", str, list[int])


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
    def _split_text(self, text: str, words: Sequence[str]) -> tuple[_Pairs, bool]:
        """(place, tag) pairs in the order of the text, and whether nothing else was in it."""

    @abstractmethod
    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[_Pairs, bool]: ...

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


class SentinelTag(Format):
    """`<extra_id_0> O <extra_id_1> artist <extra_id_2> I`; one sentinel before each source word."""

    name = "sentinel_tag"
    literals_per_word = 1

    def __init__(self, tokenizer: Tokenizer, types: Iterable[str]) -> None:
        count = tokenizer.num_sentinels
        self._sentinels = [tokenizer.sentinel(i) for i in range(count)]
        self._index = {id_: i for i, id_ in enumerate(self._sentinels)}
        super().__init__(tokenizer, types, count)

    def literals(self) -> set[int]:
        return {*self._sentinels, self.tokenizer.eos_id}

    def serialise(self, labeling: Labeling, words: Sequence[str]) -> str:
        labels = self._labels(labeling, words)
        return " ".join(f"<extra_id_{i}> {label}" for i, label in enumerate(labels))

    def _split_text(self, text: str, words: Sequence[str]) -> tuple[_Pairs, bool]:
        before, *rest = _SENTINEL.split(text)
        pairs = [(int(rest[i]), self._tag_of_text(rest[i + 1])) for i in range(0, len(rest), 2)]
        return pairs, not before.strip()

    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        self.check(words)
        pairs = ((sentinel, TAG) for sentinel in self._sentinels[: len(words)])
        return (*(id_ for pair in pairs for id_ in pair), self._eos)

    def source(self, words: Sequence[str]) -> Source:
        self.check(words)
        ids: list[int] = []
        for sentinel, word in zip(self._sentinels, words, strict=False):
            ids.append(sentinel)
            ids.extend(self.tokenizer.word(word))
        return Source((*ids, self._eos), ((),) * (len(ids) + 1))

    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[_Pairs, bool]:
        n = len(words)
        if len(ids) == 2 * n and ids[::2] == self._sentinels[:n]:
            tags = list(map(self._tag_of_piece.get, ids[1::2]))
            if None not in tags:
                return list(enumerate(tags)), True
        cuts = [*(i for i, id_ in enumerate(ids) if id_ in self._index), len(ids)]
        pairs = [
            (self._index[ids[start]], self._tag_of_ids(ids[start + 1 : end]))
            for start, end in pairwise(cuts)
        ]
        return pairs, not self.tokenizer.decode(ids[: cuts[0]])


class FusedSentinel(SentinelTag):
    """The text of `SentinelTag`, but a sentinel is no token: its embedding is added to its word's
    first piece, and to the decoder's input where the word's tag is predicted. Tags are one piece.
    """

    name = "fused_sentinel"
    literals_per_word = 0
    fused_width = 1

    def __init__(self, tokenizer: Tokenizer, types: Iterable[str]) -> None:
        super().__init__(
            tokenizer.with_whole_pieces(["O", "I", *plain_words(types).values()]), types
        )

    def literals(self) -> set[int]:
        return {self.tokenizer.eos_id}

    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        self.check(words)
        return (TAG,) * len(words) + (self._eos,)

    def source(self, words: Sequence[str]) -> Source:
        self.check(words)
        ids: list[int] = []
        fused: list[tuple[int, ...]] = []
        for sentinel, word in zip(self._sentinels, words, strict=False):
            pieces = self.tokenizer.word(word)
            ids.extend(pieces)
            fused.append((sentinel,))
            fused.extend([()] * (len(pieces) - 1))
        return Source((*ids, self._eos), (*fused, ()))

    def fused_target(self, num_words: int) -> tuple[int, ...]:
        return (*self._sentinels[:num_words], 0)

    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[_Pairs, bool]:
        return list(enumerate(map(self._tag_of_piece.get, ids))), True


class TagOnly(Format):
    """`O; artist; I`: the tags in the order of the words, which the model must count."""

    name = "tag_only"

    def __init__(self, tokenizer: Tokenizer, types: Iterable[str]) -> None:
        types = list(types)
        labels = ["O", "I", *plain_words(types).values()]
        self._separator: int | None = None
        if any(len(tokenizer.tag(label)) > 1 for label in labels):
            tokenizer, self._separator = _literal(tokenizer, ";")
        self.literals_per_word = int(self._separator is not None)
        super().__init__(tokenizer, types, sys.maxsize)

    def words_in(self, length: int) -> int:
        return super().words_in(length + self.literals_per_word)  # No separator after the last tag.

    def literals(self) -> set[int]:
        separator = set() if self._separator is None else {self._separator}
        return {self.tokenizer.eos_id} | separator

    def serialise(self, labeling: Labeling, words: Sequence[str]) -> str:
        return "; ".join(self._labels(labeling, words))

    def _split_text(self, text: str, words: Sequence[str]) -> tuple[_Pairs, bool]:
        return list(enumerate(map(self._tag_of_text, text.split(";")))), True

    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        self.check(words)
        if self._separator is None:
            return (TAG,) * len(words) + (self._eos,)
        return (*((TAG, self._separator) * len(words))[:-1], self._eos)

    def source(self, words: Sequence[str]) -> Source:
        return self._plain_source(words)

    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[_Pairs, bool]:
        if self._separator is None:
            return list(enumerate(map(self._tag_of_piece.get, ids))), True
        runs: list[list[int]] = [[]]
        for id_ in ids:
            if id_ == self._separator:
                runs.append([])
            else:
                runs[-1].append(id_)
        return list(enumerate(map(self._tag_of_ids, runs))), True


class Aligned(TagOnly):
    """`O; artist; I`, but nothing has to be counted or found: a word is one source position, and
    the encoder's output there is added to the decoder's input at the step that predicts its tag.

    From scratch a decoder spends most of its training on finding its word, and its encoder on
    putting words together from pieces. Here both are given (aligned inputs: Liu and Lane, arXiv
    1609.01454). A word's embedding is the sum of those of what the tokenizer knows of it: the
    word, letters at its ends, its shape (its pieces, where it is a pretrained one). Tags are one
    piece.
    """

    name = "aligned"

    def __init__(self, tokenizer: Tokenizer, types: Iterable[str]) -> None:
        types = list(types)
        labels = ["O", "I", *plain_words(types).values()]
        super().__init__(tokenizer.with_whole_pieces(labels), types)
        self.fused_width = self.tokenizer.num_features - 1

    def source(self, words: Sequence[str]) -> Source:
        self.check(words)
        bags = [self.tokenizer.features(word) for word in words]
        return Source(
            (*(bag[0] for bag in bags), self._eos), (*(tuple(bag[1:]) for bag in bags), ())
        )

    def aligned(self, num_words: int) -> tuple[int, ...]:
        # The last step, which writes EOS, reads the position of the source's EOS.
        return tuple(range(num_words + 1))


class InputTag(Format):
    """`Add [O] Kent [artist] James [I]`: each word again, then its tag in brackets. A reader knows
    the words, so that it finds its way whatever they contain."""

    name = "input_tag"
    literals_per_word = 3  # A piece of the word and two brackets.

    def __init__(self, tokenizer: Tokenizer, types: Iterable[str]) -> None:
        tokenizer, self._open = _literal(tokenizer, "[")
        tokenizer, self._close = _literal(tokenizer, "]")
        super().__init__(tokenizer, types, sys.maxsize)
        self.columns_C = None

    def literals(self) -> set[int]:
        return {self._open, self._close, self.tokenizer.eos_id}

    def serialise(self, labeling: Labeling, words: Sequence[str]) -> str:
        labels = self._labels(labeling, words)
        return " ".join(f"{word} [{label}]" for word, label in zip(words, labels, strict=True))

    def _split_text(self, text: str, words: Sequence[str]) -> tuple[_Pairs, bool]:
        heads = [f"{' ' if i else ''}{word} [" for i, word in enumerate(words)]
        return _walk(text, heads, "]", str.find, self._tag_of_text)

    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        self.check(words)
        out: list[int] = []
        for word in words:
            out.extend((*self.tokenizer.word(word), self._open, TAG, self._close))
        return (*out, self._eos)

    def source(self, words: Sequence[str]) -> Source:
        return self._plain_source(words)

    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[_Pairs, bool]:
        heads = [[*self.tokenizer.word(word), self._open] for word in words]
        return _walk(ids, heads, [self._close], _find, self._tag_of_ids)


FORMATS: dict[str, Callable[[Tokenizer, Iterable[str]], Format]] = {
    format_.name: format_ for format_ in (SentinelTag, FusedSentinel, TagOnly, Aligned, InputTag)
}


def resolve_format(name: str, pretrained: bool, features: bool = False) -> str:
    """`text.format`, `auto` resolved: text for a pretrained T5, which has learned to read it;
    `aligned` from scratch, where there is nothing to keep, and where the pretrained model's own
    tokenizer has features of words: then it has learned to read those."""
    if name != "auto":
        return name
    return "sentinel_tag" if pretrained and not features else "aligned"


def make_format(name: str, tokenizer: Tokenizer, types: Iterable[str]) -> Format:
    """The format of that name for a corpus's types.

    Use the format's own `tokenizer` afterwards: it may hold more whole pieces than the one given.
    Raises UserError for an unknown name, and for types that the tokenizer cannot tell apart.
    """
    if name not in FORMATS:
        raise UserError(f"text.format: no format {name!r}; there are {', '.join(FORMATS)}")
    format_ = FORMATS[name](tokenizer, tuple(types))
    for tag, pieces in format_.tags.items():
        if not format_.literals().isdisjoint(pieces):
            raise UserError(
                f"type {tag!r}: its label holds a piece that format {name} needs between tags; "
                "rename the type, or use text.format=fused_sentinel"
            )
    return format_


def _assemble(pairs: _Pairs, clean: bool, num_words: int) -> tuple[Labeling, bool]:
    """The labeling of (place, tag) pairs, and whether they name each place once, in order."""
    found: dict[int, str | None] = {}
    for place, tag in pairs:
        found.setdefault(place, tag)
    in_order = [place for place, _ in pairs] == list(range(num_words))
    tags = [found.get(i) or "O" for i in range(num_words)]
    labeling, no_orphan = labeling_of_word_tags(tags)
    return labeling, clean and in_order and no_orphan and None not in found.values()


def _literal(tokenizer: Tokenizer, text: str) -> tuple[Tokenizer, int]:
    """The one piece that writes `text` right after another piece; a new one where there is none."""
    pieces = tokenizer.tag(text)
    if not pieces or pieces[-1] == tokenizer.unk_id or tokenizer.decode(pieces[-1:]) != text:
        tokenizer = tokenizer.with_whole_pieces([text])
        pieces = tokenizer.tag(text)
    return tokenizer, pieces[-1]


def _find(ids: list[int], part: list[int], start: int) -> int:
    """`str.find` for lists."""
    for i in range(start, len(ids) - len(part) + 1):
        if ids[i : i + len(part)] == part:
            return i
    return -1


def _walk(
    output: _Output,
    heads: list[_Output],
    close: _Output,
    find: Callable[[_Output, _Output, int], int],
    tag_of: Callable[[_Output], str | None],
) -> tuple[_Pairs, bool]:
    """Reads head, label, close per word out of a text or of ids. A word whose head is not ahead is
    left out; what lies between is skipped, and makes the output unclean."""
    pairs: _Pairs = []
    clean, cursor = True, 0
    for place, head in enumerate(heads):
        start = find(output, head, cursor)
        if start < 0:
            continue
        clean = clean and start == cursor
        start += len(head)
        end = find(output, close, start)
        end = len(output) if end < 0 else end
        pairs.append((place, tag_of(output[start:end])))
        clean = clean and end < len(output)
        cursor = min(end + len(close), len(output))
    return pairs, clean and cursor == len(output)
