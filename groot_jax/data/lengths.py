"""Sentences that no batch can hold, found before a run begins: their lengths in tokens.

What `corpus` does for the limit of words, for the limits of the format and of config.loader.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from groot_jax.data.batches import Ladder, encode
from groot_jax.data.corpus import Corpus
from groot_jax.data.format import Format
from groot_jax.data.labeling import Sentence
from groot_jax.data.readers.reading import Problems
from groot_jax.errors import UserError


def without_too_long(corpus: Corpus, format_: Format, config: Any) -> Corpus:
    """The corpus without the sentences that are over the largest bucket, which are counted.

    Raises UserError with file:line for the first of them unless config.data.policy is `skip`, and
    where a split loses all of its sentences.
    """
    ladder = Ladder(config.loader.source_buckets, config.loader.target_buckets)
    changes: dict[str, Any] = {}
    skipped, notes = dict(corpus.skipped), list(corpus.notes)
    for split in ("train", "dev", "test"):
        given: tuple[Sentence, ...] = getattr(corpus, split)
        problems = Problems(config.data.policy)
        kept = []
        for sentence in given:
            try:
                ladder.of(*encode([sentence], format_, gold=False))
            except UserError as error:
                problems.add(f"{sentence.source or split}: {error}")
            else:
                kept.append(sentence)
        if given and not kept:
            raise UserError(
                f"config.data.{split}: no sentence is left: {problems.count} were dropped; the "
                f"first: {problems.first}"
            )
        if problems.count:
            notes.append(
                f"{split}: {problems.count} too long sentences skipped, the first: {problems.first}"
            )
        changes[split] = tuple(kept)
        skipped[split] += problems.count
    return dataclasses.replace(corpus, **changes, skipped=skipped, notes=tuple(notes))
