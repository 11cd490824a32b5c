"""Sentences without labels to train on beside the labeled ones: `config.data.unlabeled`.

Files of text, JSON lines, columns, or folders with seq.in; labels in them are not read. Knows
nothing of tokens, batches or models.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from groot_jax.data.corpus import Corpus, word_limit
from groot_jax.data.labeling import Sentence
from groot_jax.data.readers.columns import read_columns
from groot_jax.data.readers.layout import Columns
from groot_jax.data.readers.objects import LABEL_KEYS
from groot_jax.data.readers.reading import (
    Problems,
    read_lines,
    require_path,
    resolve_path,
    words_of,
)
from groot_jax.data.schemes import Tagged
from groot_jax.data.tags import looks_like_tag
from groot_jax.data.text import read_text
from groot_jax.errors import UserError

_KEY = "config.data.unlabeled"


def with_unlabeled(corpus: Corpus, config: ConfigDict) -> Corpus:
    """The corpus with the sentences of all files of `config.data.unlabeled`, in their order, and
    notes: how each file was read, and what was left out.

    Left out are sentences that occur twice, those that train, dev or test holds (gold is better
    than a guess at it, and dev and test shall stay unseen), and, with data.policy=skip, those that
    cannot be read. Raises UserError (file:line or key, what is wrong, what to do), also where no
    sentence is left.
    """
    data, text = config.data, config.text
    problems = Problems(data.policy)
    notes: list[str] = []
    found: list[Sentence] = []
    for name in data.unlabeled:
        path = require_path(resolve_path(data, name), _KEY, "file or folder")
        read, how = _read(path, data, text, problems)
        found += read
        notes.append(f"unlabeled: {len(read)} sentences of {path}, read as {how}")
    if problems.count:
        notes.append(f"unlabeled: sentences skipped: {problems.count}, the first: {problems.first}")
    known = {s.words for split in (corpus.train, corpus.dev, corpus.test) for s in split}
    kept: dict[tuple[str, ...], Sentence] = {}
    for sentence in found:
        if sentence.words not in known:
            kept.setdefault(sentence.words, sentence)
    if left := len(found) - len(kept):
        notes.append(f"unlabeled: {left} left out, which occur twice, or in train, dev or test")
    if not kept:
        raise UserError(
            f"{_KEY}: no sentence of {', '.join(data.unlabeled)} is left ({notes[-1]}); give a "
            "file of other sentences"
        )
    return dataclasses.replace(
        corpus, unlabeled=tuple(kept.values()), notes=(*corpus.notes, *notes)
    )


def _read(
    path: Path, data: ConfigDict, text: ConfigDict, problems: Problems
) -> tuple[list[Sentence], str]:
    """The sentences of one file or folder, and what it was taken for."""
    if path.is_dir():
        # The words alone: whether seq.out is there makes no difference.
        path = require_path(path / "seq.in", _KEY)
        how = "a sentence a line, without seq.out"
        return read_text(path, word_limit(text), text.split, problems), how
    given = read_lines(path)
    lines = [line for line in given if line and line.strip(" \t")]
    columns = Columns.from_config(data)
    rows = [words_of(line) for line in lines if not _is_comment(line, columns)]
    if _tagged(rows) * 2 > len(rows):
        tagged = read_columns(path, columns, problems)
        sentences, most = [], word_limit(text)
        for item in tagged.items:
            assert isinstance(item, Tagged)
            if 0 < most < len(item.words):
                problems.add(
                    f"{item.place()}: a sentence of {len(item.words)} words is over the limit of "
                    f"{most} (config.text.max_words); split it"
                )
            else:
                sentences.append(Sentence(item.words, (), item.place()))
        return sentences, "columns, their tags ignored"
    # A sentence a line, or a word a line? Ten thousand queries of one word each are possible, but
    # not with blank lines among them.
    blank = any(not line or not line.strip(" \t") for line in given[:-1])
    if rows and blank and all(len(row) == 1 for row in rows):
        raise UserError(
            f"{path}: each line holds one word, with blank lines between, so that nobody can tell "
            "sentences from words: write a sentence a line, or give the column of tags, all O"
        )
    labels = sum(_has_labels(line) for line in lines)
    how = "a sentence a line" if not labels else f"JSON lines, the labels of {labels} ignored"
    return read_text(path, word_limit(text), text.split, problems), how


def _is_comment(line: str, columns: Columns) -> bool:
    return bool(columns.comment) and line.startswith(columns.comment)


def _tagged(rows: Sequence[Sequence[str]]) -> int:
    """Lines of two fields or more of which the first or the last is a tag."""
    # A bare I is a word of English as well, which many a sentence of a dialogue begins with.
    return sum(
        len(row) > 1 and any(field != "I" and looks_like_tag(field) for field in (row[0], row[-1]))
        for row in rows
    )


def _has_labels(line: str) -> bool:
    """Whether a line of JSON holds spans or tags."""
    if not line.lstrip().startswith("{"):
        return False
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return False  # Whoever reads its words says so.
    return isinstance(item, dict) and any(item.get(key) for key in LABEL_KEYS)
