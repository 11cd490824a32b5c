"""The sentences that generation and update are timed on, made up, with T5's sizes and no files.

The shape of a batch is that of sequence labeling: a sentinel a word, about two pieces a word, and
tags of one piece each. Knows no timing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Params
from groot_jax.contrast.update import OutputColumns
from groot_jax.data.batches import Batch, collate, encode
from groot_jax.data.format import Format
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Labeling, Sentence, labeling_of_word_tags
from groot_jax.data.tokenizer import Tokenizer
from groot_jax.generate.inputs import SearchInput
from groot_jax.model.config import T5Config, preset
from groot_jax.model.t5 import init_params
from groot_jax.reward.pool import Pool, PoolEntry
from groot_jax.reward.rewards import RewardSpec, make_reward

VOCABULARY = 32128  # T5's rows.
TYPES = tuple(f"t{i}" for i in range(97))  # 97 + 100 sentinels + O, I and EOS: 200 legal columns.
UNKNOWN = 2  # The id of the unknown piece.
_LABELS = ("O", "I", *TYPES)
_FIRST_WORD = 3 + len(_LABELS)
_SIZE = VOCABULARY - 128  # Room above for the whole pieces that the fused format appends.


@dataclass(frozen=True)
class Shape:
    """Sizes of a workload: sentences, words of each, beams; three source pieces a word."""

    batch: int = 16
    words: int = 16
    k: int = 8

    @property
    def source(self) -> int:
        """Source tokens of a sentence in Sentinel + Tag."""
        return 3 * self.words

    @property
    def steps(self) -> int:
        """Tokens that the baselines decode: a sentinel and a tag a word."""
        return 2 * self.words


# For --quick: it compiles what the real shape compiles, in less time.
QUICK = Shape(batch=2, words=4, k=3)


class _Pieces:
    """A vocabulary whose words spell out their pieces: `417.1033` is pieces 417 and 1033.

    Ids: 0 to 2 are padding, EOS and unknown, then one for each label, then the pieces of words; the
    last hundred are the sentinels, the highest first, as T5's are.
    """

    size = _SIZE
    pad_id, eos_id, unk_id = 0, 1, UNKNOWN
    sentinels = tuple(_SIZE - 1 - i for i in range(100))

    def encode(self, text: str) -> list[int]:
        if text in _LABELS:
            return [3 + _LABELS.index(text)]
        return [int(piece) for piece in text.split(".")]

    def decode(self, ids: list[int]) -> str:
        return ".".join(map(str, ids))

    def save(self, folder: Path) -> None:
        raise ValueError("this vocabulary exists in benchmarks alone and is never saved")


def make_text_format(name: str) -> Format:
    """`sentinel_tag` or `fused_sentinel` over that vocabulary."""
    return make_format(name, Tokenizer(_Pieces()), TYPES)


def make_sentences(shape: Shape, seed: int = 0) -> list[Sentence]:
    """Sentences of two-piece words, the last of one piece so that source and EOS fill the bucket,
    with random labels."""
    # 16 words of two pieces, the last of one: 31 pieces, 16 sentinels and EOS are 48 source tokens.
    rng = random.Random(seed)
    last = _Pieces.sentinels[-1]

    def word(pieces: int) -> str:
        return ".".join(str(rng.randrange(_FIRST_WORD, last)) for _ in range(pieces))

    return [
        Sentence(
            tuple(word(1 if i + 1 == shape.words else 2) for i in range(shape.words)),
            random_labeling(shape.words, rng),
        )
        for _ in range(shape.batch)
    ]


def random_labeling(num_words: int, rng: random.Random) -> Labeling:
    """Words outside and in spans of random types, from random tags; an `I` that follows no span is
    read as `O`."""
    tags = [rng.choice(["O", "O", "I", rng.choice(TYPES)]) for _ in range(num_words)]
    return labeling_of_word_tags(tags)[0]


def random_pools(sentences: Sequence[Sentence], size: int, seed: int = 0) -> dict[int, Pool]:
    """Pools of gold and unrelated labelings, ranked by F1: prefixes are hardly shared."""
    rng = random.Random(seed)
    reward = make_reward(RewardSpec("f1"))
    pools: dict[int, Pool] = {}
    for index, sentence in enumerate(sentences):
        gold = sentence.labeling
        labelings = {gold: None}  # A set that keeps its order.
        while len(labelings) < size:
            labelings[random_labeling(len(sentence.words), rng)] = None
        # No score is known (NaN); none corrects another, and none came from a beam's slot (-1, -1).
        entries = [
            PoolEntry(
                labeling,
                reward(labeling, gold, sentence.words),
                float("nan"),
                "gold" if labeling == gold else "beam",
                -1,
                -1,
            )
            for labeling in labelings
        ]
        pools[index] = tuple(sorted(entries, key=lambda entry: -entry.reward))
    return pools


def encode_batch(sentences: Sequence[Sentence], format_: Format) -> Batch:
    """One batch of all sentences, no wider than they need."""
    examples = encode(sentences, format_)
    size = (max(len(e.source) for e in examples), max(e.cap for e in examples))
    return collate(examples, len(examples), size)


def free_input(batch: Batch, steps: int, eos: int) -> SearchInput:
    """The same sources without a grammar: exactly `steps` tokens unless EOS comes."""
    # No features beside the source's ids ([B, S, 0]), nothing fed beside the target's,
    # and no template but EOS.
    B = len(batch.index_B)
    zeros_BxT = np.zeros((B, steps), np.int32)
    return SearchInput(
        batch.source_BxS,
        np.zeros((*batch.source_BxS.shape, 0), np.int32),
        np.full((B, steps), eos, np.int32),
        zeros_BxT,
        None,
        np.full(B, steps, np.int32),
    )


def make_model(size: str, dtype: str) -> tuple[T5Config, Params]:
    """A preset of T5 v1.0 without dropout, with random float32 parameters.

    EOS has a row of zeros: its logit is 0 where thousands of others lie above, so no search ends
    before its steps are over and all frameworks do the same work.
    """
    config = preset(size, "v1_0", VOCABULARY, dtype=dtype, dropout_rate=0.0)
    # Random weights are as good as trained ones here: but for EOS, the work is the same.
    params = init_params(config, 0)
    embedding = params["shared"]["embedding"]
    params["shared"]["embedding"] = embedding.at[config.eos_token_id].set(0.0)
    return config, params


def output_columns(columns_C: np.ndarray, vocab_size: int) -> OutputColumns:
    """The columns of a softmax with the way back from ids, as the updates take them.

    Columns [1, 5, 7] of 8 ids: the way back is [-1, 0, -1, -1, -1, 1, -1, 2].
    """
    column_of_V = np.full(vocab_size, -1, np.int32)
    column_of_V[columns_C] = np.arange(len(columns_C))
    return OutputColumns(jnp.asarray(columns_C), jnp.asarray(column_of_V))
