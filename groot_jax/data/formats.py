"""The text formats, one class each, and their names. May not know of models or arrays; no JAX."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from groot_jax.data.format import TAG, Format, Pairs, Source
from groot_jax.data.tokenizer import Tokenizer, tag_labels
from groot_jax.errors import UserError


class SentinelTag(Format):
    """`<extra_id_0> O <extra_id_1> artist <extra_id_2> I`; one sentinel before each source word.

    The format of Raman et al., arXiv 2203.08378, with simplified-inside tags.
    """

    name = "sentinel_tag"
    literals_per_word = 1

    def __init__(self, tokenizer: Tokenizer, types: Sequence[str]) -> None:
        self._sentinels = list(tokenizer.sentinels)
        self._index = {id_: i for i, id_ in enumerate(self._sentinels)}
        super().__init__(tokenizer, types, len(self._sentinels))

    def literals(self) -> set[int]:
        return {*self._sentinels, self.tokenizer.eos_id}

    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        self.check(words)
        # Two words: <extra_id_0> TAG <extra_id_1> TAG EOS.
        pairs = ((sentinel, TAG) for sentinel in self._sentinels[: len(words)])
        return (*(id_ for pair in pairs for id_ in pair), self._eos)

    def source(self, words: Sequence[str]) -> Source:
        self.check(words)
        ids: list[int] = []
        for sentinel, word in zip(self._sentinels, words, strict=False):
            ids.append(sentinel)
            ids.extend(self.tokenizer.word(word))
        return Source((*ids, self._eos), ((),) * (len(ids) + 1))

    def _split(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]:
        n = len(words)
        # What training writes: all sentinels in order, each with a tag of one piece.
        if len(ids) == 2 * n and ids[::2] == self._sentinels[:n]:
            tags = list(map(self._tag_of_piece.get, ids[1::2]))
            if None not in tags:
                return list(enumerate(tags)), True
        # Anything else is cut at its sentinels: noise s2 object type s0 O has its cuts at 1, 4 and
        # 6, the end, and gives (2, object_type) (0, O), unclean because of the noise.
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

    # An output of n words has n + 1 ids, where `sentinel_tag` has 2n + 1 or more.
    name = "fused_sentinel"
    literals_per_word = 0
    fused_width = 1

    def __init__(self, tokenizer: Tokenizer, types: Sequence[str]) -> None:
        super().__init__(tokenizer.with_whole_pieces(tag_labels(types).values()), types)

    def literals(self) -> set[int]:
        return {self.tokenizer.eos_id}

    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        self.check(words)
        return (TAG,) * len(words) + (self._eos,)

    def source(self, words: Sequence[str]) -> Source:
        self.check(words)
        ids: list[int] = []
        fused: list[tuple[int, ...]] = []
        # Words of two pieces and of one: ids a b c EOS, fused (s0) () (s1) ().
        for sentinel, word in zip(self._sentinels, words, strict=False):
            pieces = self.tokenizer.word(word)
            ids.extend(pieces)
            fused.append((sentinel,))
            fused.extend([()] * (len(pieces) - 1))
        return Source((*ids, self._eos), (*fused, ()))

    def fused_target(self, num_words: int) -> tuple[int, ...]:
        return (*self._sentinels[:num_words], 0)

    def _split(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]:
        return list(enumerate(map(self._tag_of_piece.get, ids))), True


class TagOnly(Format):
    """`O; artist; I`: the tags in the order of the words, which the model must count."""

    name = "tag_only"

    def __init__(self, tokenizer: Tokenizer, types: Sequence[str]) -> None:
        # Where every tag is one piece, ids need nothing between them: each is a tag.
        self._separator: int | None = None
        if any(len(tokenizer.tag(label)) > 1 for label in tag_labels(types).values()):
            tokenizer, self._separator = _literal(tokenizer, ";")
        self.literals_per_word = int(self._separator is not None)
        super().__init__(tokenizer, types, sys.maxsize)

    def words_in(self, length: int) -> int:
        return super().words_in(length + self.literals_per_word)  # No separator after the last tag.

    def literals(self) -> set[int]:
        separator = set() if self._separator is None else {self._separator}
        return {self.tokenizer.eos_id} | separator

    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        self.check(words)
        if self._separator is None:
            return (TAG,) * len(words) + (self._eos,)
        # Two words: TAG ; TAG ; without its last item, then EOS.
        return (*((TAG, self._separator) * len(words))[:-1], self._eos)

    def _split(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]:
        if self._separator is None:
            return list(enumerate(map(self._tag_of_piece.get, ids))), True
        # a b ; c ; -> (a b) (c) (): a separator at the end has an empty tag after it, which no
        # label is, so that such an output is not well-formed.
        parts: list[list[int]] = [[]]
        for id_ in ids:
            if id_ == self._separator:
                parts.append([])
            else:
                parts[-1].append(id_)
        return list(enumerate(map(self._tag_of_ids, parts))), True


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

    def __init__(self, tokenizer: Tokenizer, types: Sequence[str]) -> None:
        super().__init__(tokenizer.with_whole_pieces(tag_labels(types).values()), types)
        # The word itself is the position's id; the other features are fused to it.
        self.fused_width = self.tokenizer.num_features - 1

    def source(self, words: Sequence[str]) -> Source:
        self.check(words)
        bags = [self.tokenizer.features(word) for word in words]
        return Source((*(bag[0] for bag in bags), self._eos), (*(bag[1:] for bag in bags), ()))

    def aligned(self, num_words: int) -> tuple[int, ...]:
        # The last step, which writes EOS, reads the position of the source's EOS.
        return tuple(range(num_words + 1))


class InputTag(Format):
    """`Add [O] Kent [artist] James [I]`: each word again, then its tag in brackets. A reader knows
    the words, so that it finds its way whatever they contain."""

    name = "input_tag"
    literals_per_word = 3  # A piece of the word and two brackets.

    def __init__(self, tokenizer: Tokenizer, types: Sequence[str]) -> None:
        tokenizer, self._open = _literal(tokenizer, "[")
        tokenizer, self._close = _literal(tokenizer, "]")
        super().__init__(tokenizer, types, sys.maxsize)
        self.columns_C = None  # An output copies words: any piece may come.

    def literals(self) -> set[int]:
        return {self._open, self._close, self.tokenizer.eos_id}

    def template(self, words: Sequence[str]) -> tuple[int, ...]:
        self.check(words)
        out: list[int] = []
        for word in words:
            out.extend((*self.tokenizer.word(word), self._open, TAG, self._close))
        return (*out, self._eos)

    def _split(self, ids: list[int], words: Sequence[str]) -> tuple[Pairs, bool]:
        # Each word with its bracket is searched for from where the last one ended. Words a b c and
        # the output a [O] x c [I] give (0, O) (2, I): b is not ahead and is left out, x is skipped
        # and makes the output unclean.
        pairs: Pairs = []
        clean, cursor = True, 0
        for place, word in enumerate(words):
            head = [*self.tokenizer.word(word), self._open]
            start = _find(ids, head, cursor)
            if start < 0:
                continue
            clean = clean and start == cursor
            start += len(head)
            end = _find(ids, [self._close], start)
            end = len(ids) if end < 0 else end
            pairs.append((place, self._tag_of_ids(ids[start:end])))
            clean = clean and end < len(ids)
            cursor = min(end + 1, len(ids))
        return pairs, clean and cursor == len(ids)


FORMATS: dict[str, Callable[[Tokenizer, Sequence[str]], Format]] = {
    format_.name: format_ for format_ in (SentinelTag, FusedSentinel, TagOnly, Aligned, InputTag)
}


def make_format(name: str, tokenizer: Tokenizer, types: Iterable[str]) -> Format:
    """The format of that name for a corpus's types.

    Use the format's own `tokenizer` afterwards: it may hold more whole pieces than the one given.
    Raises UserError for an unknown name, and for types that the tokenizer cannot tell apart.
    """
    if name not in FORMATS:
        raise UserError(f"text.format: no format {name!r}; there are {', '.join(FORMATS)}")
    format_ = FORMATS[name](tokenizer, tuple(types))
    for tag, pieces in format_.tags.items():
        # Labels hold neither brackets nor `;` (see `tag_labels`), but a vocabulary may write one of
        # their letters with that very piece: where such a tag ends could not be seen.
        if not format_.literals().isdisjoint(pieces):
            raise UserError(
                f"type {tag!r}: its label holds a piece that format {name} needs between tags; "
                "rename the type, or use text.format=fused_sentinel"
            )
    return format_


def _literal(tokenizer: Tokenizer, text: str) -> tuple[Tokenizer, int]:
    """The one piece that writes `text` right after another piece; a new one where there is none."""
    # By itself a bracket may be two pieces to SentencePiece, the mark of a word's start and the
    # bracket: the last one is what follows other pieces.
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
