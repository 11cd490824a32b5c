"""Batches of made-up sentences with the shapes that training on real ones has; no corpus needed.

The host code is the real one: formats, grammar, collation, token trees and their bins. Sentences
have all the same number of words, pieces a word and types, so that the shapes say what they stand
for.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from groot_jax.contrast.pools import pool_batch
from groot_jax.contrast.update import PoolBatch
from groot_jax.data.batches import Batch, Example, collate, encode
from groot_jax.data.format import Format
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Labeling, Sentence, labeling_of_word_tags
from groot_jax.data.ladder import Ladder, lengths_allowed
from groot_jax.data.tokenizer import BYT5, SETTINGS_FILE, Tokenizer, load_tokenizer
from groot_jax.data.vocabularies import tokenizer_files
from groot_jax.errors import UserError
from groot_jax.reward.pool import PoolEntry
from groot_jax.task import num_sentinels, resolve_format
from groot_jax.warm_start import labeler_of

_TRIES = 100  # Draws for each place of a pool, before a sentence has too few labelings to fill it.


@dataclass(frozen=True)
class Sentences:
    """What the made-up sentences are like; the defaults are long sentences of SNIPS or CoNLL.

    words: of each sentence. pieces: of a word, on average over two words (1.5: one, two, ...);
    None: 1.5, or 6 where they are bytes.
    types: of spans; half of their labels have two pieces where the tokenizer is a pretrained one,
    such as `playlist owner`. source, target: tokens to pad to; None: the bucket of config.loader
    that holds them.
    """

    words: int = 32
    pieces: float | None = None
    types: int = 12
    source: int | None = None
    target: int | None = None


class _Pieces:
    """A vocabulary whose words spell out their pieces: `417.1033` is pieces 417 and 1033."""

    pad_id, eos_id, unk_id = 0, 1, 2

    def __init__(self, size: int, labels: Sequence[str], sentinels: int) -> None:
        self.size = size
        self.sentinels = tuple(size - 1 - i for i in range(sentinels))
        names = dict.fromkeys(part for label in labels for part in label.split())
        self._ids = {name: 3 + i for i, name in enumerate(names)}
        self.first_word = 3 + len(names)

    def encode(self, text: str) -> list[int]:
        parts = text.split()
        if all(part in self._ids for part in parts):
            return [self._ids[part] for part in parts]
        # A literal such as `[` is none of the pieces, and the format adds one.
        return [int(p) if p.isdigit() else self.unk_id for p in text.split(".")]

    def decode(self, ids: list[int]) -> str:
        return ".".join(map(str, ids))

    def save(self, folder: Path) -> None:
        raise ValueError("a made-up vocabulary is never saved")


@dataclass(frozen=True)
class Workload:
    """Sentences encoded for a format, with the bucket that they fall into."""

    format: Format
    examples: list[Example]
    pools: Mapping[int, Sequence[PoolEntry]]  # candidates of each sentence, by its index
    size: tuple[int, int]  # S, T
    node_buckets: Sequence[int]  # sizes of a bin of token trees

    def repeated(self, rows: int) -> list[Example]:
        """So many sentences: 16 that there are make 0, 1, ..., 15, 0, 1, ... of 40."""
        return [self.examples[i % len(self.examples)] for i in range(rows)]

    def batch(self, rows: int) -> Batch:
        """So many sentences as arrays [rows, S] and [rows, T]."""
        return collate(self.repeated(rows), rows, self.size)

    def pool_batch(self, rows: int, groups: int, size: int, start_token: int) -> PoolBatch:
        """So many sentences with their pools of `size` candidates: the arrays of an update, whose
        `groups` share no bin of token trees."""
        # One group stands for all, since they have the same sentences: [rows / groups, ...] and
        # [bins, ...] -> [rows, ...] and [groups * bins, ...].
        group = pool_batch(
            self.batch(rows // groups),
            self.pools,
            None,
            self.format,
            size=size,
            start_token=start_token,
            buckets=self.node_buckets,
        )
        whole = jax.tree.map(lambda x: np.concatenate([x] * groups), group)
        return dataclasses.replace(whole, groups=groups)


def make_workload(
    config: ConfigDict, vocab_size: int, sentences: Sentences, count: int
) -> Workload:
    """`count` sentences under `config`'s format, each with a pool of `groot.pool.size` candidates;
    `vocab_size` is that of the tokenizer. Raises UserError for what the config cannot hold."""
    text = config.text
    # A vocabulary from scratch has a piece for each label, a pretrained one writes some in two.
    pretrained = bool(config.model.init) or text.tokenizer not in ("auto", "train")
    in_bytes = pretrained and _reads_bytes(config)
    per_word = sentences.pieces or (6.0 if in_bytes else 1.5)
    # `playlist owner` is two pieces, and 15 bytes with its spaces; `city` 5.
    more = " b b b b" if in_bytes else ""
    types = [
        f"t{i}{more} b{more}" if pretrained and i % 2 else f"t{i}{more}"
        for i in range(sentences.types)
    ]
    labels = ["O", "I", *types]
    pieces = _Pieces(vocab_size, labels, num_sentinels(config))
    has_features = pretrained and _reads_features(config)
    name = resolve_format(config, has_features)
    # Shapes depend on whether there are features, not on which.
    features = ("=",) if name == "aligned" and (has_features or not pretrained) else ()
    tokenizer = Tokenizer(pieces, () if pretrained else labels, features=features)
    format_ = make_format(name, tokenizer, types)
    rng = random.Random(0)
    last = pieces.sentinels[-1]

    def word(index: int) -> str:
        # 1.5 pieces a word: int(1.5) - 0 = 1, int(3.0) - 1 = 2, 1, 2, ...
        extra = int((index + 1) * per_word) - int(index * per_word)
        return ".".join(str(rng.randrange(pieces.first_word, last)) for _ in range(max(extra, 1)))

    made = [
        Sentence(
            tuple(word(i) for i in range(sentences.words)),
            _labeling(sentences.words, types, rng),
        )
        for _ in range(count)
    ]
    examples = encode(made, format_)
    ladder = Ladder(*lengths_allowed(config.loader, in_bytes))
    S, T = (max(sizes) for sizes in zip(*(ladder.of(e.need) for e in examples), strict=True))
    pools = {
        e.index: _pool(e.sentence.labeling, sentences.words, types, config.groot.pool.size, rng)
        for e in examples
    }
    padded = sentences.source or S, sentences.target or T
    return Workload(format_, examples, pools, padded, config.loader.node_buckets)


def _reads_features(config: ConfigDict) -> bool:
    """Whether the tokenizer that `config` names is ours, on this disk, with features of words: that
    of a model which groot_jax.pretrain made from scratch, or of a labeler."""
    if (earlier := labeler_of(config.model)) is not None:
        return earlier.format.tokenizer.has_features
    folder = Path(_tokenizer_of(config)).expanduser()
    return (folder / SETTINGS_FILE).is_file() and load_tokenizer(folder).has_features


def _reads_bytes(config: ConfigDict) -> bool:
    """Whether its pieces are bytes: ByT5's, released or on this disk."""
    if (earlier := labeler_of(config.model)) is not None:
        return earlier.format.tokenizer.bytes
    source = _tokenizer_of(config)
    folder = Path(source).expanduser()
    if folder.is_dir() and tokenizer_files([path.name for path in folder.iterdir()]):
        with suppress(UserError):  # A folder without a tokenizer is as good as any other here.
            return load_tokenizer(folder).bytes
        return False
    return BYT5 in source.rpartition("/")[2]


def _tokenizer_of(config: ConfigDict) -> str:
    source = str(config.text.tokenizer)
    return str(config.model.init) if source == "auto" else source


def _labeling(words: int, types: Sequence[str], rng: random.Random) -> Labeling:
    """Half of the words outside, the others in spans of about two words."""
    # I goes on with the span before it: O I t3 I -> (2, 4, t3), for there is none at the first I.
    tags = [rng.choice(["O", "O", "I", rng.choice(types)]) for _ in range(words)]
    return labeling_of_word_tags(tags)[0]


def _pool(
    gold: Labeling, words: int, types: Sequence[str], size: int, rng: random.Random
) -> list[PoolEntry]:
    """Gold and candidates that differ from it in the type of one or two spans.

    They share fewer prefixes than pools of trained models (.30 to .35 tree nodes a token), so that
    an update is rather over- than underestimated.
    """
    labelings: dict[Labeling, None] = {gold: None}
    # Of one word with 12 types there are fewer labelings than a pool has places: it stays smaller.
    for _ in range(_TRIES * size):
        if len(labelings) == size:
            break
        spans = list(gold)
        for _ in range(rng.choice((1, 2))):
            if spans:
                at = rng.randrange(len(spans))
                spans[at] = spans[at]._replace(type=rng.choice(types))
        changed = tuple(spans)
        if changed in labelings:
            changed = _labeling(words, types, rng)
        labelings[changed] = None
    return [
        PoolEntry(labeling, float(labeling == gold), float("nan"), "beam", -1, -1)
        for labeling in labelings
    ]
