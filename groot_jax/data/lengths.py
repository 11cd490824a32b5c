"""Sentences that no batch can hold, found before a run begins: their lengths in tokens.

What `corpus` does for the limit of words, for the limits of the format and of config.loader. Where
config.text.long_sentences is `window`, training sentences over a limit are cut, not dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from groot_jax.data.batches import encode
from groot_jax.data.corpus import Corpus
from groot_jax.data.format import Format
from groot_jax.data.labeling import Sentence, Span
from groot_jax.data.ladder import Ladder, lengths_allowed
from groot_jax.data.readers.reading import Problems
from groot_jax.data.windows import Bounds, cut, window_bounds
from groot_jax.errors import UserError

# Words over which a sentence is more likely a file without blank lines: the longest sentence of
# CoNLL-2003 has 124, of OntoNotes some 200.
_SEVERAL = 500


class Windows:
    """The windows of sentences under a format, the buckets of config.loader and a limit of words.

    `max_words`: of a window. Without `text.long_sentences=window` a sentence is one window.
    """

    def __init__(self, format_: Format, config: ConfigDict, max_words: int) -> None:
        self._format = format_
        self._most = min(max_words, format_.max_words)
        self._cuts = config.text.long_sentences == "window"
        self._overlap = config.text.overlap
        # No rungs: only the largest lengths allowed matter here, whatever sizes will be chosen.
        self._ladder = Ladder(*lengths_allowed(config.loader, format_.tokenizer.bytes))

    def check(self, words: Sequence[str]) -> None:
        """Raises UserError for words that no batch can hold."""
        example = encode([Sentence(tuple(words), ())], self._format, gold=False)[0]
        self._ladder.of(example.need)

    def bounds(self, words: Sequence[str], spans: Sequence[Span] = ()) -> list[Bounds]:
        """Where the words are cut, none of `spans` in two. UserError as `window_bounds`."""
        if not self._cuts:
            return [(0, len(words))]

        def fits(start: int, end: int) -> bool:
            try:
                self.check(words[start:end])
            except UserError:
                return False
            return True

        return window_bounds(len(words), self._most, self._overlap, fits, spans)


def without_too_long(corpus: Corpus, format_: Format, config: ConfigDict, max_words: int) -> Corpus:
    """The corpus without the sentences that are over the largest bucket; a note counts them. In
    windows of `max_words`, those of train and the unlabeled ones are cut instead, and others are
    kept whole.

    Raises UserError with file:line for the first of them unless config.data.policy is `skip`, and
    where a split loses all of its sentences.
    """
    windows = Windows(format_, config, max_words)
    longest = max((len(s.words) for s in (*corpus.train, *corpus.dev, *corpus.test)), default=0)

    def check(sentence: Sentence) -> None:
        try:
            for start, end in windows.bounds(sentence.words):
                windows.check(sentence.words[start:end])
        except UserError as error:
            many = len(sentence.words) > format_.max_words
            said = f"{error} (the longest has {longest})" if many else str(error)
            if len(sentence.words) > _SEVERAL:
                said += "; if that is several sentences, put a blank line after each"
            raise UserError(said) from None

    # Every split, and before training begins: a sentence of dev would end it at its first
    # evaluation.
    splits: dict[str, tuple[Sentence, ...]] = {}
    notes = list(corpus.notes)
    for split in ("train", "dev", "test", "unlabeled"):
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
                f"{split}: too long sentences skipped: {problems.count}, the first: "
                f"{problems.first}"
            )
    if config.text.long_sentences == "window":
        for split in ("train", "unlabeled"):
            splits[split], said = _cut_all(splits[split], windows, Problems(config.data.policy))
            notes += (f"{split}: {note}" for note in said)
    return dataclasses.replace(
        corpus,
        train=splits["train"],
        dev=splits["dev"],
        test=splits["test"],
        unlabeled=splits["unlabeled"],
        notes=tuple(notes),
    )


def _cut_all(
    sentences: Sequence[Sentence], windows: Windows, problems: Problems
) -> tuple[tuple[Sentence, ...], list[str]]:
    """Training sentences in windows that cut no span, and a note where some are cut."""
    found: list[Sentence] = []
    long = pieces = 0
    for sentence in sentences:
        try:
            bounds = windows.bounds(sentence.words, sentence.labeling)
        except UserError as error:
            problems.add(f"{sentence.source}: {error}")
            continue
        if len(bounds) == 1:
            found.append(sentence)
            continue
        long, pieces = long + 1, pieces + len(bounds)
        found += cut(sentence, bounds)
    notes = [f"{long} long sentences in {pieces} windows"] if long else []
    if problems.count:
        notes.append(
            f"sentences skipped whose spans are longer than a window: {problems.count}, the "
            f"first: {problems.first}"
        )
    return tuple(found), notes
