"""Vocabularies of word pieces, as their libraries read them, behind `Pieces`.

May not know of words, tags or formats: that is `tokenizer.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import sentencepiece

MODEL_FILE = "spiece.model"  # T5's own name of it.


class Pieces(Protocol):
    """A base vocabulary. `encode` may return special ids for words that look like them; `decode`
    gets ids below `size` alone, none of them special. `sentinels`: ids of `<extra_id_0>`, ..."""

    size: int
    pad_id: int
    eos_id: int
    unk_id: int
    sentinels: tuple[int, ...]

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def save(self, folder: Path) -> None:
        """Writes files from which `load_tokenizer` makes the same vocabulary."""
        ...


def _sentinels(id_of: Callable[[str], int | None]) -> tuple[int, ...]:
    """Ids of `<extra_id_0>`, `<extra_id_1>`, ... up to the first that `id_of` does not know."""
    ids: list[int] = []
    while (id_ := id_of(f"<extra_id_{len(ids)}>")) is not None:
        ids.append(id_)
    return tuple(ids)


class SentencePieceVocabulary:
    """A SentencePiece model. Its sentinels are pieces of its own (mT5) or lie on top of it in
    descending order (T5: `<extra_id_0>` is the last).

    `num_sentinels`: how many lie on top, where the model has none. Raises ValueError for a model
    without T5's special ids.
    """

    def __init__(self, model: bytes, num_sentinels: int) -> None:
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._num_pieces = len(self._processor)
        self.pad_id, self.eos_id = self._processor.pad_id(), self._processor.eos_id()
        self.unk_id = self._processor.unk_id()
        # Arrays are padded with zeros, so that 0 must be no word.
        if self.pad_id != 0 or self.eos_id < 0:
            raise ValueError("pad is not id 0, or there is no EOS")
        self.sentinels = _sentinels(self._id_of)
        self.size = self._num_pieces
        if not self.sentinels:
            # T5: 32,000 pieces and 100 sentinels are 32,100 ids; `<extra_id_0>` is 32,099, and
            # `<extra_id_99>` is 32,000, the first above the pieces.
            self.size += num_sentinels
            self.sentinels = tuple(self.size - 1 - i for i in range(num_sentinels))

    def _id_of(self, name: str) -> int | None:
        """A piece's id, with the mark of a word's start (\\u2581) or without; None: no piece."""
        ids = (self._processor.piece_to_id(piece) for piece in (name, f"\u2581{name}"))
        return next((id_ for id_ in ids if id_ != self.unk_id), None)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: list[int]) -> str:
        # Sentinels on top are ids that SentencePiece does not know, and would stop at.
        return self._processor.decode([id_ for id_ in ids if id_ < self._num_pieces])

    def save(self, folder: Path) -> None:
        (folder / MODEL_FILE).write_bytes(self._model)


class HuggingFaceVocabulary:
    """Any other T5-like tokenizer of transformers, ByT5's above all.

    Raises ValueError for one without T5's special ids.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Fast tokenizers have a backend in Rust, and it alone can be told to read `</s>` in a
        # sentence as four characters; slow ones take that with each call, below.
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.encode_special_tokens = True
        self.pad_id, self.eos_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        self.unk_id = tokenizer.unk_token_id
        if self.pad_id != 0 or self.eos_id is None or self.unk_id is None:
            raise ValueError("pad is not id 0, or there is no EOS or unknown token")
        self.size = len(tokenizer)
        # Bytes carry no mark of a word's start; SentencePiece's pieces do.
        self._prefix = " " if type(tokenizer).__name__.startswith("ByT5") else ""
        self.sentinels = _sentinels(self._id_of)

    def _id_of(self, name: str) -> int | None:
        id_ = self._tokenizer.convert_tokens_to_ids(name)
        return None if id_ == self.unk_id else id_

    def encode(self, text: str) -> list[int]:
        if self._backend is not None:
            return self._backend.encode(text, add_special_tokens=False).ids
        # For `</s>` ByT5 then gives the bytes of a space, `<`, `/`, `s` and `>`.
        return self._tokenizer.encode(
            self._prefix + text, add_special_tokens=False, split_special_tokens=True
        )

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        self._tokenizer.save_pretrained(str(folder))
