"""The text formats, one class each, and their names. May not know of models or arrays; no JAX."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

from groot_jax.data.format import TAG, Format, Pairs, Source
from groot_jax.data.labeling import Labeling
from groot_jax.data.tokenizer import Tokenizer, plain_words
from groot_jax.errors import UserError

_SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]{0,3})>")
_Output = TypeVar("_Output", str, list[int])


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

    def _split_text(self, text: str, words: Sequence[str]) -> tuple[Pairs, bool]:
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

    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]:
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

    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]:
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

    def _split_text(self, text: str, words: Sequence[str]) -> tuple[Pairs, bool]:
        return list(enumerate(map(self._tag_of_text, text.split(";")))), True

    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        self.check(words)
        if self._separator is None:
            return (TAG,) * len(words) + (self._eos,)
        return (*((TAG, self._separator) * len(words))[:-1], self._eos)

    def source(self, words: Sequence[str]) -> Source:
        return self._plain_source(words)

    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]:
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

    def _split_text(self, text: str, words: Sequence[str]) -> tuple[Pairs, bool]:
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

    def _split_ids(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]:
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
) -> tuple[Pairs, bool]:
    """Reads head, label, close per word out of a text or of ids. A word whose head is not ahead is
    left out; what lies between is skipped, and makes the output unclean."""
    pairs: Pairs = []
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
