"""Words and tag labels to vocabulary ids and back: trained tokenizers and Hugging Face's.

Words are encoded one by one and never read as special tokens; sentinels and EOS are put in by
`formats`, as ids. May not know how an output is laid out. No JAX.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import sentencepiece

from groot_jax.data.features import MOST_FEATURES, common_features, feature_ids
from groot_jax.data.labeling import Sentence
from groot_jax.data.vocabularies import (
    ByteVocabulary,
    Pieces,
    SentencePieceVocabulary,
    read_object,
    read_pieces,
    tokenizer_files,
)
from groot_jax.errors import UserError
from groot_jax.runtime.files import expanded
from groot_jax.runtime.hub import fetch

SETTINGS_FILE = "groot_tokenizer.json"
BYT5 = "byt5"  # A name for the tokenizer that has no file.
LITERALS = ("[", "]", ";")  # What formats write around tags, besides sentinels.
_CACHED_WORDS = 1 << 16
_BAG_PIECES = 6  # Pieces of a word, at most, that stand for it where there are no features.


class Tokenizer:
    """A base vocabulary, features of words and whole pieces appended to it.

    Ids below `vocab_size`: the base vocabulary with its sentinels, the features of words (none in a
    pretrained vocabulary), then the labels that were added as whole pieces. `base_size`: ids below
    it are the base vocabulary; from `first_whole` on they are whole pieces. `sentinels`: the id of
    `<extra_id_i>` at place i. `has_features`: whether there are any. `num_features`: what
    `features` gives of a word, at most. `bytes`: whether its pieces are bytes.

    `word(word)`: pieces of one word, whatever it looks like; no special ids, at least one id.
    `features(word)`: what is known of one word, as ids in no order that matters, but the first is
    the word itself where there are features; without, its first pieces. At least one. Both cached.
    """

    def __init__(
        self,
        pieces: Pieces,
        whole: Sequence[str] = (),
        lowercase: bool = False,
        features: Sequence[str] = (),
    ) -> None:
        self.pad_id, self.eos_id, self.unk_id = pieces.pad_id, pieces.eos_id, pieces.unk_id
        self.sentinels = pieces.sentinels
        self.lowercase = lowercase
        self.has_features = bool(features)
        self.num_features = MOST_FEATURES if features else _BAG_PIECES
        # Retail: 2,000 pieces and 100 sentinels are ids 0 to 2,099, 7,478 features follow up to
        # 9,577, then 18 labels. Labels come last: a format may add some to a loaded tokenizer, and
        # no id that a checkpoint was trained with may move.
        self.base_size = pieces.size
        self.bytes = isinstance(pieces, ByteVocabulary)
        self._pieces = pieces
        self._features = {name: pieces.size + i for i, name in enumerate(features)}
        self.first_whole = labels_at = pieces.size + len(features)
        self.vocab_size = labels_at + len(whole)
        self._whole = {label: labels_at + i for i, label in enumerate(whole)}
        self._labels = {id_: label for label, id_ in self._whole.items()}
        self._sentinel_index = {id_: i for i, id_ in enumerate(pieces.sentinels)}
        self._special = {self.pad_id, self.eos_id, *pieces.sentinels}
        # Made here and not as decorators, which would keep every tokenizer alive.
        self.word = lru_cache(_CACHED_WORDS)(self._word)
        self.features = lru_cache(_CACHED_WORDS)(self._bag)

    def _word(self, word: str) -> tuple[int, ...]:
        return self.text(word.lower() if self.lowercase else word) or (self.unk_id,)

    def _bag(self, word: str) -> tuple[int, ...]:
        if self._features:
            return feature_ids(word, self._features, self.unk_id)
        return self.word(word)[:_BAG_PIECES]

    def text(self, text: str) -> tuple[int, ...]:
        """Pieces of plain text, as `word` without the lower-casing; may be empty."""
        text = _encodable(text)
        ids = self._pieces.encode(text)
        if not self._special.isdisjoint(ids):
            # A vocabulary that holds `<extra_id_3>` as a piece: spell such words letter by letter.
            # A sentence about tokenizers must not be able to forge a place in the output.
            ids = [id_ for letter in text for id_ in self._pieces.encode(letter)]
            ids = [id_ for id_ in ids if id_ not in self._special]
        return tuple(ids)

    def tag(self, tag: str) -> tuple[int, ...]:
        """Pieces of a label or literal: its whole piece if it has one, else those of its text."""
        return (self._whole[tag],) if tag in self._whole else self.text(tag)

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text, sentinels as `<extra_id_i>`, pad, EOS and features left out."""
        parts: list[str] = []
        plain: list[int] = []
        # Base pieces are decoded together, for their spaces depend on their neighbours. The pad at
        # the end is for what is then left in `plain`.
        for id_ in [*map(int, ids), self.pad_id]:
            if 0 <= id_ < self._pieces.size and id_ not in self._special:
                plain.append(id_)
                continue
            if plain:
                parts.append(self._pieces.decode(plain).strip())
                plain = []
            if id_ in self._sentinel_index:
                parts.append(f"<extra_id_{self._sentinel_index[id_]}>")
            elif id_ in self._labels:
                parts.append(self._labels[id_])
        return " ".join(part for part in parts if part)

    def with_whole_pieces(self, labels: Iterable[str]) -> Tokenizer:
        """This tokenizer with each label as one piece of its own, ids appended where new."""
        whole = list(dict.fromkeys([*self._whole, *labels]))
        if len(whole) == len(self._whole):
            return self
        return Tokenizer(self._pieces, whole, self.lowercase, list(self._features))

    def save(self, folder: Path) -> None:
        """Writes what `load_tokenizer` reads: the base vocabulary's files and a JSON file."""
        folder.mkdir(parents=True, exist_ok=True)
        self._pieces.save(folder)
        settings = {
            "whole_pieces": list(self._whole),
            "lowercase": self.lowercase,
            "sentinels": list(self._pieces.sentinels),
            "size": self._pieces.size,
            "features": list(self._features),
        }
        text = json.dumps(settings, ensure_ascii=False, indent=1)
        (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")


def _encodable(text: str) -> str:
    """Lone surrogates, which JSON can hold and UTF-8 cannot, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def tag_labels(types: Iterable[str]) -> dict[str, str]:
    """The label that each tag is written as: `O`, `I`, then the types, sorted, in plain words.

    `fromloc.city_name` is "fromloc city name", which a pretrained model can read; a type keeps its
    raw name where that says nothing, or where two types would read alike. Raises UserError when
    labels still collide, among each other or with `O` and `I`.
    """
    raw = sorted(set(types))
    labels = {type_: " ".join(re.findall(r"[^\W_]+", type_)) for type_ in raw}
    # a_b, a.b, c_d -> "a b", "a b", "c d" -> a_b, a.b, "c d".
    taken = ["O", "I", *labels.values()]
    for type_ in raw:
        if not labels[type_] or taken.count(labels[type_]) > 1:
            labels[type_] = type_
    owner = {"O": "the tag O", "I": "the tag I"}
    for type_, label in labels.items():
        if label in owner:
            raise UserError(f"type {type_!r} reads like {owner[label]}: rename one of them")
        if not label or label != " ".join(label.split()) or re.search(r"[\[\];]|<extra_id_", label):
            raise UserError(
                f"type {type_!r} cannot be written as a label: give it a name with letters or "
                "digits that no other type shares"
            )
        owner[label] = f"type {type_!r}"
    return {"O": "O", "I": "I", **labels}


def train_tokenizer(
    sentences: Iterable[Sentence],
    types: Iterable[str],
    vocab_size: int,
    *,
    num_sentinels: int = 100,
    lowercase: bool = False,
    max_features: int = 0,
) -> Tokenizer:
    """Trains a SentencePiece unigram model on the words of `sentences`, and takes down at most
    `max_features` features of words, those that are common there.

    Ids: pad 0, EOS 1, unknown 2, word pieces (at most `vocab_size` with those three, more only
    when there are more letters than that), sentinels in T5's order, features, then `O`, `I`, the
    types in plain words and the formats' literals as whole pieces. Deterministic. Raises UserError
    where the words are too few or too odd for SentencePiece.
    """
    labels = [*tag_labels(types).values(), *LITERALS]
    words = [word.lower() if lowercase else word for s in sentences for word in s.words]
    words = [_encodable(word) for word in words if word.strip() and "\0" not in word]
    # What SentencePiece sees: it normalises text in the same way, `ﬁ` to `f` and `i`.
    letters = set(unicodedata.normalize("NFKC", "".join(words)))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            model_writer=model,
            model_type="unigram",
            # Each letter is a piece, besides three special ids and the mark of a word's start; a
            # smaller vocabulary is an error to SentencePiece.
            vocab_size=max(vocab_size, len(letters) + 8),
            hard_vocab_limit=False,  # Few words have few pieces; that is no reason to fail.
            character_coverage=1.0,  # Its default of .9995 drops rare letters.
            byte_fallback=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"no tokenizer could be trained on the {len(words)} words of the training split "
            f"({' '.join(str(error).split())}): check the file, or give text.tokenizer a name"
        ) from None
    pieces = SentencePieceVocabulary(model.getvalue(), num_sentinels)
    return Tokenizer(pieces, labels, lowercase, common_features(words, max_features))


def load_tokenizer(
    name: str | Path, *, lowercase: bool | None = None, what: str = "text.tokenizer"
) -> Tokenizer:
    """Loads a tokenizer: a folder that `save` wrote, a `spiece.model` or `tokenizer.json`, a
    Hugging Face folder or Hub name, or `byt5`, which needs no file.

    `lowercase` None: as saved, else False. `what`: the key that names it, for messages. Raises
    UserError when there is nothing to load.
    """
    settings: Mapping[str, Any] = {}
    saved_base = None
    try:
        if str(name) == BYT5:
            return Tokenizer(ByteVocabulary(), lowercase=bool(lowercase))
        path = expanded(name, what)
        if not path.is_file():
            path = fetch(str(name), what, wanted_files)
        if (path / SETTINGS_FILE).is_file():
            settings = read_object(path / SETTINGS_FILE)
            saved_base = settings["sentinels"], settings["size"]
        pieces = read_pieces(path, len(saved_base[0]) if saved_base else None)
    except UserError as error:
        raise UserError(f"{what}: no T5 tokenizer at {str(name)!r} ({error})") from None
    # The library tokenizers raises what is a bare Exception.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{what}: no T5 tokenizer at {str(name)!r} ({reason}): give `train`, a spiece.model or "
            "tokenizer.json, or a Hugging Face folder or Hub name"
        ) from None
    # A `spiece.model` that another tokenizer left in the folder would give every word other ids.
    if saved_base is not None and saved_base != (list(pieces.sentinels), pieces.size):
        raise UserError(f"{path}: the tokenizer's files do not belong together; save it again")
    if lowercase is None:
        lowercase = bool(settings.get("lowercase", False))
    whole, features = settings.get("whole_pieces", ()), settings.get("features", ())
    return Tokenizer(pieces, whole, lowercase, features)


def wanted_files(names: Sequence[str], where: str) -> list[str]:
    """Of a repository's files those that `load_tokenizer` reads; `where`: what to call it."""
    return [name for name in names if name == SETTINGS_FILE or name in tokenizer_files(names)]
