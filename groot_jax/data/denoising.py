"""Corrupted sentences as batches: those of training, drawn anew each epoch, and a fixed dev part.

What is masked is a pure function of (seed, epoch, sentence), whatever threads and processes make
the batches: a run that continues gets the very batches that it would have got. Sentences are
encoded when their batch is made. May not know a model; no JAX.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from groot_jax.data.batches import Batch, Example, TrainingBatches, evaluation_batches
from groot_jax.data.corruption import Corrupted, Corruption, corrupt, positions_of
from groot_jax.data.labeling import Sentence
from groot_jax.data.ladder import Ladder
from groot_jax.data.tokenizer import Tokenizer

# Draws of training and of the dev part, so that no seed gives both the same. Training draws for
# sentence 7 in epoch 2 with seed 5 from (5, 2, 1, 7), dev always from (0, 0, 2, 7).
_TRAIN, _DEV = 1, 2


@dataclass(frozen=True)
class Denoising:
    """How text becomes sources and targets. `by_word`: a source position is a word, as in the
    format `aligned`; otherwise it is a piece, as in all others."""

    tokenizer: Tokenizer
    by_word: bool
    corruption: Corruption

    @property
    def fused_width(self) -> int:
        """Ids fused to a source position, at most."""
        return self.tokenizer.num_features - 1 if self.by_word else 0

    def corrupted(self, sentence: Sentence, *draw: int) -> Corrupted:
        """The sentence as the numbers `draw` would have it masked."""
        positions = positions_of(sentence.words, self.tokenizer, self.by_word)
        rng = np.random.default_rng(draw)
        spans = self.corruption.draw(len(positions), len(self.tokenizer.sentinels), rng)
        return corrupt(positions, spans, self.tokenizer)

    def envelope(self, index: int, sentence: Sentence) -> Example:
        """An example without ids, as long as any corruption of the sentence can be: sizes, and
        with them the number of batches of an epoch, do not depend on what is drawn."""
        positions = positions_of(sentence.words, self.tokenizer, self.by_word)
        source, target = self.corruption.longest(positions, len(self.tokenizer.sentinels))
        return Example(
            index=index,
            sentence=sentence,
            source=_zeros(source),
            # `collate` takes the width of a batch from the first position; the others stay empty.
            fused_source=(_zeros(self.fused_width),),
            template=(self.tokenizer.eos_id,),
            fused_target=(),
            aligned=None,
            target=(),
            cap=target,
        )

    def envelopes(self, sentences: Sequence[Sentence]) -> list[Example]:
        """`envelope` of each, numbered in order."""
        return [self.envelope(index, sentence) for index, sentence in enumerate(sentences)]

    def fill(self, batch: Batch, examples: Sequence[Example], *draw: int) -> Batch:
        """Writes the sentences of a batch of envelopes into it, masked by `draw` and their index.

        Rows of other processes stay empty. Returns `batch`.
        """
        for row, index in enumerate(batch.index_B.tolist()):
            if index < 0:
                continue
            # The index and not the row: a sentence is masked alike wherever it stands, so that
            # processes that fill different rows need not agree on anything else.
            source, fused, target = self.corrupted(examples[index].sentence, *draw, index)
            batch.source_BxS[row, : len(source)] = source
            for at, ids in enumerate(fused):
                batch.fused_source_BxSxF[row, at, : len(ids)] = ids
            batch.target_BxT[row, : len(target)] = target
        return batch

    def dev_batches(
        self, examples: Sequence[Example], batch_size: int, ladder: Ladder, own_B: np.ndarray
    ) -> Iterator[Batch]:
        """Every example once, masked alike at each call; `own_B`: the rows that this process
        fills."""
        for batch in evaluation_batches(examples, batch_size, ladder, own_B):
            yield self.fill(batch, examples, 0, 0, _DEV)


class DenoisingBatches(TrainingBatches):
    """Training batches of envelopes, filled: `self[step]` for any step."""

    def __init__(
        self,
        denoising: Denoising,
        examples: Sequence[Example],
        batch_size: int,
        ladder: Ladder,
        seed: int,
        own_B: np.ndarray | None = None,
    ) -> None:
        super().__init__(examples, batch_size, ladder, seed, own_B=own_B)
        self._denoising = denoising

    def __getitem__(self, step: int) -> Batch:
        batch = super().__getitem__(step)
        epoch = int(step) // self.per_epoch
        return self._denoising.fill(batch, self._examples, self._seed, epoch, _TRAIN)


@lru_cache(maxsize=4096)
def _zeros(length: int) -> tuple[int, ...]:
    """One tuple for all sentences of a length: there may be millions."""
    return (0,) * length
