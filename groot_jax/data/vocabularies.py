"""Vocabularies of word pieces, as their libraries read them, behind `Pieces`.

May not know of words, tags or formats: that is `tokenizer.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sentencepiece
import tokenizers

from groot_jax.runtime.files import stands_for_another

MODEL_FILE = "spiece.model"  # T5's own name of it.
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
# What they say stands in any of them; the first has the last word. config.json is the model's, and
# names the tokenizer's class where there is nothing else: ByT5's.
_SETTINGS = (CONFIG_FILE, "special_tokens_map.json", "config.json")
T5_SENTINELS, BYTE_SENTINELS = 100, 125
_NOBODYS = "\ue000"  # For private use in Unicode: no text is expected to have it.
BYTE_CLASS = "ByT5Tokenizer"
_Made = TypeVar("_Made")


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

    def begins(self, other: TokenizersVocabulary) -> bool:
        """Whether `other` has these ids for the same pieces, and may have more."""
        special = {self.pad_id, self.eos_id, self.unk_id, *self.sentinels}
        return (
            other.size >= self.size
            and other.sentinels == self.sentinels
            and all(
                id_ in special or self._processor.id_to_piece(id_) == other.piece(id_)
                for id_ in range(self._num_pieces)
            )
        )

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: list[int]) -> str:
        # Sentinels on top are ids that SentencePiece does not know, and would stop at.
        return self._processor.decode([id_ for id_ in ids if id_ < self._num_pieces])

    def save(self, folder: Path) -> None:
        (folder / MODEL_FILE).write_bytes(self._model)


class TokenizersVocabulary:
    """A tokenizer.json, as the library tokenizers reads it; its special tokens by their names.

    Words are encoded as they stand in a sentence, after a space, whatever the file says of a text's
    beginning. Raises ValueError for one without T5's special ids.
    """

    def __init__(self, text: str, names: Mapping[str, str]) -> None:
        self._text, self._names = text, dict(names)
        file = _with_marks(json.loads(text))
        ids = tokenizers.Tokenizer.from_str(json.dumps(file)).get_vocab(with_added_tokens=True)
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(_without_names(file, names)))
        # A file may cut texts, or fill them up to a length.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # `</s>` in a sentence is four characters.
        self._tokenizer.encode_special_tokens = True
        missing = [kind for kind, name in names.items() if name not in ids]
        if missing:
            raise ValueError(f"{missing[0]}_token is {names[missing[0]]!r}, which it does not hold")
        self.pad_id, self.eos_id, self.unk_id = (ids[names[k]] for k in ("pad", "eos", "unk"))
        if self.pad_id != 0:
            raise ValueError(f"the id of {names['pad']!r} is {self.pad_id}, but has to be 0")
        self.size = max(ids.values()) + 1
        self.sentinels = _sentinels(lambda name: ids.get(name, ids.get(f"\u2581{name}")))
        self._prefix = "" if self._marks("a") or not self._marks(" a") else " "

    def _marks(self, text: str) -> bool:
        """Whether the first piece of a text says that a word starts there."""
        if self._tokenizer.normalizer is not None:
            text = self._tokenizer.normalizer.normalize_str(text)
        if self._tokenizer.pre_tokenizer is not None:
            parts = self._tokenizer.pre_tokenizer.pre_tokenize_str(text)
            text = parts[0][0] if parts else ""
        return text.startswith(("\u2581", "\u0120"))  # Of SentencePiece, and of byte-level BPE.

    def piece(self, id_: int) -> str | None:
        """The text of an id that is no special one."""
        return self._tokenizer.id_to_token(id_)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(self._prefix + text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False).replace(_NOBODYS, "")

    def save(self, folder: Path) -> None:
        (folder / TOKENIZER_FILE).write_text(self._text, encoding="utf-8")
        names = {f"{kind}_token": name for kind, name in self._names.items()}
        (folder / CONFIG_FILE).write_text(json.dumps(names, indent=1), encoding="utf-8")


def _with_marks(file: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json whose words all begin with the mark of a word's start.

    With `prepend_scheme: never` the first word of a text has none, and each word of a sentence is
    encoded as a text of its own: `red shoes` would be `red`, `shoes` instead of `▁red`, `▁shoes`.
    """

    def mend(node: Any) -> Any:
        if isinstance(node, list):
            return [mend(part) for part in node]
        if not isinstance(node, dict):
            return node
        if node.get("type") == "Metaspace":
            return node | {"prepend_scheme": "always"}
        return {key: mend(part) for key, part in node.items()}

    return file | {k: mend(file.get(k)) for k in ("pre_tokenizer", "decoder")}


def _without_names(file: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A unigram model whose special pieces no text is cut into, as SentencePiece does it.

    There they stand among the words with the score 0, the best there is: `</s>` in a sentence would
    be EOS, where `spiece.model` gives `▁`, unknown, `/`, `s`, `>`.
    """
    model = file.get("model")
    if not isinstance(model, dict) or model.get("type") != "Unigram":
        return file
    added = file.get("added_tokens") or []
    special = {*names.values(), *(token["content"] for token in added if token["special"])}
    vocabulary = [
        [f"{_NOBODYS}{piece}" if piece in special else piece, score]
        for piece, score in model["vocab"]
    ]
    # Renamed, not left out: what is not in the model has the next free id, in their order.
    renamed = [
        token | {"content": f"{_NOBODYS}{token['content']}", "special": True}
        if token["content"] in special
        else token
        for token in added
    ]
    return file | {"model": model | {"vocab": vocabulary}, "added_tokens": renamed}


class ByteVocabulary:
    """ByT5's: three special ids, the 256 bytes, then sentinels in ascending order. No file needed.

    Bytes carry no mark of a word's start, so that the space before a word is one of them.
    """

    pad_id, eos_id, unk_id = 0, 1, 2

    def __init__(self, num_sentinels: int = BYTE_SENTINELS) -> None:
        self.size = 259 + num_sentinels
        self.sentinels = tuple(range(259, self.size))

    def encode(self, text: str) -> list[int]:
        return [3 + byte for byte in f" {text}".encode()]

    def decode(self, ids: list[int]) -> str:
        return bytes(id_ - 3 for id_ in ids if 3 <= id_ < 259).decode("utf-8", "ignore")

    def save(self, folder: Path) -> None:
        settings = {"tokenizer_class": BYTE_CLASS, "extra_ids": len(self.sentinels)}
        (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")


# ---- Folders ----------------------------------------------------------------------------------


def tokenizer_files(names: Sequence[str]) -> list[str]:
    """Those of a folder's files from which `read_pieces` makes a vocabulary."""
    wanted = (MODEL_FILE, TOKENIZER_FILE, *_SETTINGS, ADDED_FILE)
    return [name for name in wanted if name in names]


def read_pieces(path: Path, num_sentinels: int | None = None) -> Pieces:
    """The vocabulary of a spiece.model, a tokenizer.json, or a folder that holds one, or ByT5's.

    `num_sentinels`: how many lie on top of a SentencePiece model; None: as the folder says. Raises
    OSError, ValueError, KeyError, TypeError or RuntimeError for what is none.
    """
    if path.is_file():
        if path.suffix == ".json":
            return _fast(path, {})
        return _made(path, lambda data: SentencePieceVocabulary(data, T5_SENTINELS))
    settings: dict[str, Any] = {}
    for name in reversed(_SETTINGS):  # The first of them has the last word.
        settings |= {k: v for k, v in read_object(path / name).items() if v is not None}
    extra = settings.get("extra_ids") or None
    if extra is not None and (type(extra) is not int or not 0 < extra <= 10_000):
        raise ValueError(f"extra_ids is {extra!r}, but has to be a whole number of 0 to 10000")
    model, file = path / MODEL_FILE, path / TOKENIZER_FILE
    if model.is_file():
        count = num_sentinels if num_sentinels is not None else extra or T5_SENTINELS
        pieces = _made(model, lambda data: SentencePieceVocabulary(data, count))
        if not file.is_file():
            instead = (
                f"{MODEL_FILE} does not know it, {TOKENIZER_FILE} would: write one with "
                "transformers' AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
            _check_added(path, settings, instead)
            return pieces
        other = _fast(file, settings)
        if not pieces.begins(other):
            raise ValueError(
                f"{MODEL_FILE} has {pieces.size} ids and {TOKENIZER_FILE} {other.size}, and they "
                "are not of the same pieces and sentinels: remove the one that the model was not "
                "trained with"
            )
        # With more ids it has words that were added later, which spiece.model lacks.
        return pieces if other.size == pieces.size else other
    if file.is_file():
        return _fast(file, settings)
    if settings.get("tokenizer_class") == BYTE_CLASS:
        named = [
            name
            for key in ("extra_special_tokens", "additional_special_tokens")
            for name in settings.get(key) or ()
            if "<extra_id_" in str(name)
        ]
        _check_added(path, settings, "ByT5's are bytes alone: choose another checkpoint")
        return ByteVocabulary(num_sentinels or extra or len(set(map(str, named))) or BYTE_SENTINELS)
    raise FileNotFoundError(f"the folder holds no {MODEL_FILE} and no {TOKENIZER_FILE}")


def _made(file: Path, make: Callable[[bytes], _Made]) -> _Made:
    """What `make` makes of a file. Raises ValueError, which names the file, where it cannot."""
    data = file.read_bytes()
    if said := stands_for_another(data):
        raise ValueError(f"{file.name} {said}")
    if not data:
        raise ValueError(f"{file.name} is empty")
    try:
        return make(data)
    except Exception as error:  # The library tokenizers raises what is a bare Exception.
        raise ValueError(f"{file.name}: {error}") from None


def _fast(file: Path, settings: Mapping[str, Any]) -> TokenizersVocabulary:
    names = _special_names(settings)
    return _made(file, lambda data: TokenizersVocabulary(data.decode(), names))


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is no file. Raises ValueError, which names it,
    where it holds none."""
    found = _made(file, json.loads) if file.is_file() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return found


def _check_added(path: Path, settings: Mapping[str, Any], instead: str) -> None:
    """Raises ValueError where a folder adds words to a vocabulary that has no tokenizer.json.

    Who fine-tuned with `add_tokens(["{"])` taught the model an id of its own for that word, which
    neither spiece.model nor bytes have. A word never becomes a special piece, so that special ones
    may be added. `instead`: what to do about it.
    """
    decoder = settings.get("added_tokens_decoder") or {}
    entries = [*decoder.values()] if isinstance(decoder, dict) else [decoder]
    special = {_name(e) for e in entries if isinstance(e, dict) and e.get("special")}
    # Beside those of tokens there are keys as add_bos_token, which is true or false.
    special |= {
        _name(token)
        for key, token in settings.items()
        if key.endswith("_token") and not isinstance(token, bool)
    }
    for key in ("additional_special_tokens", "extra_special_tokens"):
        names = settings.get(key) or []
        names = [*names.values()] if isinstance(names, dict) else names
        special |= {_name(name) for name in (names if isinstance(names, list) else [names])}
    added = {*read_object(path / ADDED_FILE), *map(_name, entries)}
    words = sorted(name for name in added - special if "<extra_id_" not in name)
    if words:
        raise ValueError(f"the word {words[0]!r} was added to its pieces; {instead}")


def _name(token: Any) -> str:
    """A token is its text, or an object that holds it. Raises ValueError for anything else."""
    name = token.get("content") if isinstance(token, dict) else token
    if not isinstance(name, str):
        raise ValueError(f"one of its special or added tokens is {token!r}, and no text")
    return name


def _special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """What pad, EOS and the unknown token are called."""
    names = {}
    for kind, default in (("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>")):
        names[kind] = _name(settings.get(f"{kind}_token", default))
    return names
