"""Sentences that no batch can hold, found before a run begins: their lengths in tokens.

What `corpus` does for the limit of words, for the limits of the format and of config.loader.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from groot_jax.data.batches import encode
from groot_jax.data.corpus import Corpus
from groot_jax.data.format import Format
from groot_jax.data.labeling import Sentence
from groot_jax.data.ladder import Ladder
from groot_jax.data.readers.reading import Problems
from groot_jax.errors import UserError


def without_too_long(corpus: Corpus, format_: Format, config: ConfigDict) -> Corpus:
    """The corpus without the sentences that are over the largest bucket; a note counts them.

    Raises UserError with file:line for the first of them unless config.data.policy is `skip`, and
    where a split loses all of its sentences.
    """
    # No rungs: only the largest lengths allowed matter here, whatever sizes will be chosen.
    ladder = Ladder(config.loader.source_buckets, config.loader.target_buckets)

    def check(sentence: Sentence) -> None:
        ladder.of(encode([sentence], format_, gold=False)[0].need)

    # Every split, and before training begins: a sentence of dev would end it at its first
    # evaluation.
    splits: dict[str, tuple[Sentence, ...]] = {}
    notes = list(corpus.notes)
    for split in ("train", "dev", "test"):
        given: tuple[Sentence, ...] = getattr(corpus, split)
        problems = Problems(config.data.policy)
        splits[split] = tuple(problems.kept(given, check))
        if given and not splits[split]:
            raise UserError(
                f"config.data.{split}: no sentence is left: {problems.count} were dropped; the "
                f"first: {problems.first}"
            )
        if problems.count:
            notes.append(
                f"{split}: {problems.count} too long sentences skipped, the first: {problems.first}"
            )
    train, dev, test = splits["train"], splits["dev"], splits["test"]
    return dataclasses.replace(corpus, train=train, dev=dev, test=test, notes=tuple(notes))
