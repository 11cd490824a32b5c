"""Text without labels, from files: one sentence a line, or JSON lines with `text` or `words`.

Lines that cannot be read or are too long get `data.policy`, as those of labeled data do. Lines that
occur twice count twice. Knows nothing of tokens beyond the sizes that it is told.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from groot_jax.data.corpus import USUAL_WORDS, drawn
from groot_jax.data.incoming import sentence_of_line
from groot_jax.data.labeling import Sentence, half_character
from groot_jax.data.readers.reading import (
    Problems,
    not_text,
    read_lines,
    require_path,
    resolve_path,
)
from groot_jax.errors import UserError

_KEY = "config.pretrain.text"


@dataclass(frozen=True)
class Text:
    """Sentences without labels: those to train on, and a dev part that no training sentence equals.

    `notes`: facts for the user, one line each.
    """

    train: tuple[Sentence, ...]
    dev: tuple[Sentence, ...]
    notes: tuple[str, ...]


def load_text(config: ConfigDict) -> Text:
    """Reads the files of config.pretrain.text and sets the dev part aside.

    Raises UserError (file:line or key, what is wrong, what to do) for bad input; lines that are bad
    by themselves are dropped and counted instead when config.data.policy is `skip`.
    """
    settings = config.pretrain
    if not settings.text:
        raise UserError(
            f"{_KEY} is empty: name a file of text (--config=configs/pretrain.py:text=FILE, or "
            f"--{_KEY}=FILE,FILE)"
        )
    problems = Problems(config.data.policy)
    sentences: list[Sentence] = []
    for name in settings.text:
        path = require_path(resolve_path(config.data, name), _KEY)
        if path.is_dir():
            raise UserError(f"{_KEY}: {path} is a folder; name files of text")
        sentences += read_text(
            path, config.text.max_words or USUAL_WORDS, config.text.split, problems
        )
    notes = []
    if problems.count:
        notes.append(f"text: {problems.count} lines skipped, the first: {problems.first}")
    if not sentences:
        raise UserError(
            f"{_KEY}: {', '.join(settings.text)} "
            + (f"has no usable line; the first: {problems.first}" if problems.count else "is empty")
        )
    train, dev = held_out(
        sentences, settings.dev_fraction, settings.dev_limit, config.data.split_seed
    )
    if not train or not dev:
        raise UserError(
            f"{_KEY}: {len(sentences)} lines cannot be split into text to train on and a dev part; "
            "give more lines that differ"
        )
    notes.append(f"text: {len(train)} lines to train on, {len(dev)} of dev")
    return Text(tuple(train), tuple(dev), tuple(notes))


def without_too_long(text: Text, check: Callable[[Sentence], object], policy: str) -> Text:
    """The text without the sentences for which `check` raises a UserError: they are over the
    largest bucket. Raises it with file:line unless `policy` is `skip`, or where nothing is left."""
    problems = Problems(policy)
    train, dev = problems.kept(text.train, check), problems.kept(text.dev, check)
    notes = text.notes
    if problems.count:
        said = f"text: {problems.count} too long lines skipped, the first: {problems.first}"
        if not train or not dev:
            raise UserError(f"{_KEY}: too few lines are left; {said}")
        notes = (*notes, said)
    return Text(tuple(train), tuple(dev), notes)


def held_out(
    sentences: Sequence[Sentence], fraction: float, limit: int, seed: int
) -> tuple[list[Sentence], list[Sentence]]:
    """(train, dev), each in the old order: dev has a seeded share of the texts, at most `limit`
    (0: no limit).

    It is texts that are drawn, not lines, so that dev measures what was not seen: of a log in which
    `iphone` stands a thousand times, train has all of them, or dev has one and train none.
    """
    # In order of first occurrence, for a set of strings has another order in each process, and the
    # draw is one by place.
    texts = list(dict.fromkeys(sentence.words for sentence in sentences))
    count = min(max(1, round(fraction * len(texts))), limit or len(texts))
    chosen = set(drawn(texts, count, seed)[1])
    # a b a c with a drawn -> train b c, dev a: of its two copies dev has the first, for there it
    # would count twice, and train has none.
    train: list[Sentence] = []
    dev: dict[tuple[str, ...], Sentence] = {}
    for sentence in sentences:
        if sentence.words in chosen:
            dev.setdefault(sentence.words, sentence)
        else:
            train.append(sentence)
    return train, list(dev.values())


def digest_of(text: Text) -> str:
    """A digest of the words of all sentences, wherever they were read from."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (text.train, text.dev):
        for sentence in part:
            # The line feed after each, and one more after each part: a sentence that moves from dev
            # to train makes another digest.
            digest.update(json.dumps(sentence.words, separators=(",", ":")).encode() + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()


def read_text(path: Path, max_words: int, split: str, problems: Problems) -> list[Sentence]:
    """The sentences of a file, a line each or JSON lines, without labels; blank lines are ignored,
    bad ones go to `problems`. `max_words`: 0: no limit; `split`: config.text.split."""
    sentences = []
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}:{number}"
        if line is None:
            problems.add(not_text(path, number))
            continue
        # Read as a line that is to be labeled is read: a model is pretrained on the very words
        # that it will be asked for.
        try:
            # Words occur over and over: one string for all saves most of the memory.
            words = tuple(map(sys.intern, sentence_of_line(line, where, split).words))
        except UserError as error:
            problems.add(str(error))
            continue
        if complaint := _complaint(words, max_words):
            problems.add(f"{where}: {complaint}")
        elif words:
            sentences.append(Sentence(words, (), where))
    return sentences


def _complaint(words: Sequence[str], max_words: int) -> str:
    """What is wrong with the words of a line, or nothing."""
    if not all(words):
        return "`words` holds an empty string; mend the line"
    if half := half_character(words):
        return f"the word {half!r} holds a lone surrogate, half of a character; mend the line"
    if 0 < max_words < len(words):
        return (
            f"a line of {len(words)} words is over the limit of {max_words}; split it into "
            f"sentences, or set --config.text.max_words={len(words)} or more"
        )
    return ""
