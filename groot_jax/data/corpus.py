"""One Corpus from any source: column files, seq.in/seq.out, JSON lines, Arrow, TFDS, or `retail`.

Reads, checks and splits; every sentence that comes out has a valid labeling and fits the length
limit. Knows nothing of tokens, batches or models.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ml_collections import ConfigDict

from groot_jax.data.labeling import Sentence
from groot_jax.data.readers.columns import read_columns
from groot_jax.data.readers.jsonl import read_jsonl
from groot_jax.data.readers.layout import Columns
from groot_jax.data.readers.objects import Objects
from groot_jax.data.readers.pairs import read_pairs
from groot_jax.data.readers.reading import Problems, Read, read_lines, require_path, resolve_path
from groot_jax.data.retail.queries import make_retail
from groot_jax.data.schemes import (
    Scheme,
    TagError,
    Tagged,
    detect_scheme,
    fits,
    labeling_of_tags,
    scheme_setting,
    written_bare,
)
from groot_jax.data.tags import look_alikes
from groot_jax.errors import UserError

_SPLITS = ("train", "dev", "test")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class SplitRead:
    """What was read of one split, before anything was carved out of it or drawn from it.

    `place`: its path or name. `layout`: how it is written, with the scheme of its tags. `types`:
    how many spans of each type, the commonest first. `longest`: words of the longest sentence.
    `skipped`: sentences that data.policy=skip dropped.
    """

    place: str
    layout: str
    sentences: int
    types: dict[str, int]
    longest: int
    skipped: int


@dataclass(frozen=True)
class Corpus:
    """Sentences of three splits; any but `train` may be empty. Those of `unlabeled`, which
    `with_unlabeled` reads for training, have an empty labeling that is no gold.

    `types`: sorted, of the training data before dev was carved out of it or it was cut short.
    `notes`: facts for the user, one line each, such as how many sentences data.policy=skip dropped.
    `read`: what was read of each split that was given.
    """

    train: tuple[Sentence, ...]
    dev: tuple[Sentence, ...]
    test: tuple[Sentence, ...]
    types: tuple[str, ...]
    notes: tuple[str, ...]
    unlabeled: tuple[Sentence, ...] = ()
    read: dict[str, SplitRead] = field(default_factory=dict)


def read_corpus(config: ConfigDict) -> Corpus:
    """Loads what `config` names, as `load_corpus` does."""
    return load_corpus(config.data, word_limit(config.text), config.text.split)


# Words of a sentence or window that there is always room for, and T5's number of sentinels: what
# config.text.max_words=0 means where no data tell, in windows, and of text to be pretrained on.
USUAL_WORDS = 100


def word_limit(text: ConfigDict) -> int:
    """Words of a sentence that is read, at most, as `config.text` has it; 0: no limit."""
    # A sentence over the limit is no fault where it is labeled in windows.
    return 0 if text.long_sentences == "window" else text.max_words


def load_corpus(data: ConfigDict, max_words: int = 0, split_text: str = "spaces") -> Corpus:
    """Loads what `config.data` names. `max_words`: of a sentence, at most; 0: no limit.
    `split_text`: how text that has spans of characters becomes words (config.text.split).

    Raises UserError (file:line or key, what is wrong, what to do) for bad input; sentences that are
    bad by themselves are dropped and counted instead when config.data.policy is `skip`.
    """
    problems = {split: Problems(data.policy) for split in _SPLITS}
    raw = _read(data, Objects(data.tag_names, split_text), problems)
    schemes = _schemes(data.scheme, raw)
    longest = max((len(item.words) for read in raw.values() for item in read.items), default=0)
    splits = {
        split: _sentences(read.items, schemes.get(split), max_words, longest, problems[split])
        for split, read in raw.items()
    }
    for split, sentences in splits.items():
        if not sentences:
            raise UserError(_empty(data, split, problems[split], raw[split].layout))
    # Before anything is taken out of train: a type that dev alone has after the draw stays known,
    # and the same data have the same types under any seed.
    types = tuple(sorted({span.type for item in splits["train"] for span in item.labeling}))
    if not types:
        raise UserError(
            f"config.data.train: {data.train or data.tfds_name} has no labeled span; nothing to "
            "learn"
        )
    _check_look_alikes(splits)
    read = {
        split: _read_of(
            _place(data, split), raw[split].layout, schemes.get(split), sentences, problems[split]
        )
        for split, sentences in splits.items()
    }

    def check(sentence: Sentence) -> None:
        unknown = sorted({span.type for span in sentence.labeling} - {*types})
        if unknown:
            raise UserError(
                f"the type {unknown[0]!r} is not in the training data; mend it, or set "
                "config.data.unknown_types=keep to keep it as gold that cannot be predicted"
            )

    notes = []
    # Test first: what dev takes of train then cannot change it.
    for split in ("test", "dev"):
        if split not in splits:
            notes.append(_carve(data, split, splits))
        elif data.unknown_types == "error":
            splits[split] = problems[split].kept(splits[split], check)
            if not splits[split]:
                raise UserError(_empty(data, split, problems[split]))
    if 0 < data.train_limit < len(splits["train"]):
        total = len(splits["train"])
        _, splits["train"] = drawn(splits["train"], data.train_limit, 2 * data.split_seed)
        notes.append(
            f"train: {data.train_limit} of {total} sentences, drawn with seed {data.split_seed} "
            "(config.data.train_limit)"
        )
    for split, problem in problems.items():
        if problem.count:
            notes.append(f"{split}: sentences skipped: {problem.count}, the first: {problem.first}")
    return Corpus(
        train=tuple(splits["train"]),
        dev=tuple(splits["dev"]),
        test=tuple(splits["test"]),
        types=types,
        notes=tuple(notes),
        read=read,
    )


def _read(data: ConfigDict, objects: Objects, problems: dict[str, Problems]) -> dict[str, Read]:
    """The given splits, as the chosen reader delivers them."""
    if data.reader == "retail":
        made = make_retail(data.retail_seed)
        return {split: Read(items, "the built-in corpus") for split, items in made.items()}
    if data.reader == "tfds":
        # Imported here: TFDS takes a second, and most corpora are files.
        from groot_jax.data.readers.tfds_columns import read_tfds

        return read_tfds(data, problems)
    if not data.train:
        raise UserError(
            "config.data.train is empty: name the training data, or set config.data.reader"
        )
    return {
        split: _read_file(data, split, objects, problems[split]) for split in _SPLITS if data[split]
    }


def _read_file(data: ConfigDict, split: str, objects: Objects, problems: Problems) -> Read:
    """Reads one split with data.reader, found out for `auto` by the file's name and first line."""
    key, path = f"config.data.{split}", resolve_path(data, data[split])
    require_path(path, key, "file or folder")
    reader = _detect_reader(path) if data.reader == "auto" else data.reader
    if reader == "seq":
        return read_pairs(path.parent if path.name == "seq.in" else path, key, problems)
    if reader == "arrow":
        # Imported here: it takes a moment, and most corpora are text.
        from groot_jax.data.readers.arrow import read_arrow

        return read_arrow(path, objects, problems)
    if path.is_dir():
        raise UserError(
            f"{key}: {path} is a folder without seq.in and seq.out, and without *.arrow or "
            "*.parquet; name a file in it, such as "
            f"{', '.join(sorted(entry.name for entry in path.iterdir())[:5]) or '(it is empty)'}"
        )
    if reader == "jsonl":
        return read_jsonl(path, objects, problems)
    return read_columns(path, Columns.from_config(data), problems)


def _detect_reader(path: Path) -> str:
    if (path / "seq.in").exists() or path.name == "seq.in":
        return "seq"
    if path.suffix in (".parquet", ".arrow") and path.is_file():
        return "arrow"
    if path.is_dir():
        return "arrow" if [*path.glob("*.arrow"), *path.glob("*.parquet")] else "columns"
    if path.suffix in (".jsonl", ".json"):
        return "jsonl"
    # A column file may well begin with the word `{`: `{ O` is no JSON.
    first = next((line for line in read_lines(path) if line and line.strip()), "").strip()
    # Nor is a line of one column, which begins a document that is a list.
    if first in ("[", "{"):
        return "jsonl"
    try:
        return "jsonl" if isinstance(json.loads(first), dict | list) else "columns"
    except (ValueError, RecursionError):
        return "jsonl" if first.startswith(('{"', '{ "', "[{")) else "columns"


def _read_of(
    place: str,
    layout: str,
    scheme: Scheme | None,
    sentences: Sequence[Sentence],
    problems: Problems,
) -> SplitRead:
    types = Counter(span.type for item in sentences for span in item.labeling)
    return SplitRead(
        place=place,
        layout=f"{layout}, {scheme}" if scheme else layout,
        sentences=len(sentences),
        types=dict(types.most_common()),
        longest=max(len(item.words) for item in sentences),
        skipped=problems.count,
    )


def _place(data: ConfigDict, split: str) -> str:
    """What a split was read from."""
    if data.reader == "retail":
        return f"retail, seed {data.retail_seed}"
    if data.reader == "tfds":
        return " ".join(filter(None, (data.tfds_name, data[split])))
    return str(resolve_path(data, data[split]))


def _schemes(setting: str, raw: Mapping[str, Read]) -> dict[str, Scheme]:
    """The scheme of each split that has tags to be read.

    Each split may have its own; one whose tags all fit the scheme of train has that, since a small
    dev file may have no tag that tells.
    """
    found: dict[str, Scheme] = {}
    for split in _SPLITS:  # Train first.
        items = raw[split].items if split in raw else ()
        tagged = [item for item in items if isinstance(item, Tagged)]
        if not tagged:
            continue
        name, train = scheme_setting(setting, split), found.get("train")
        if name != "auto":
            found[split] = Scheme(name, name != "io" and written_bare(tagged))
        elif train is None:
            found[split] = detect_scheme(tagged)
        elif fits(tagged, train):
            found[split] = train
        else:
            try:
                found[split] = detect_scheme(tagged)
            except UserError:
                # What breaks the scheme of train is then reported at its line.
                found[split] = train
    return found


def _check_look_alikes(splits: Mapping[str, Sequence[Sentence]]) -> None:
    """Raises UserError for two types that a reader would take for one."""
    first: dict[str, str] = {}
    for sentences in splits.values():
        for sentence in sentences:
            for span in sentence.labeling:
                first.setdefault(span.type, sentence.source)
    if pair := look_alikes(first):
        one, other, odd = pair
        raise UserError(
            f"{first[other]}: the type {other!r} looks like the type {one!r} of {first[one]} and "
            f"is another ({odd}); write both alike"
        )


def _sentences(
    items: Sequence[Tagged | Sentence],
    scheme: Scheme | None,
    max_words: int,
    longest: int,
    problems: Problems,
) -> list[Sentence]:
    """Reads the tags of a split and drops what is too long."""
    sentences = []
    for item in items:
        # Column files and pairs give tags, JSON lines give either.
        if isinstance(item, Tagged):
            assert scheme is not None
            try:
                labeling = labeling_of_tags(item.tags, scheme)
            except TagError as error:
                problems.add(f"{item.place(error.position)}: {error}")
                continue
            item = Sentence(item.words, labeling, item.place())
        if 0 < max_words < len(item.words):
            problems.add(
                f"{item.source}: a sentence of {len(item.words)} words is over the limit of "
                f"{max_words} (config.text.max_words); the longest has {longest}: set "
                f"--config.text.max_words={longest}, or 0 to follow the data, or label such "
                "sentences in windows (--config.text.long_sentences=window)"
            )
            continue
        sentences.append(item)
    return sentences


def _carve(data: ConfigDict, split: str, splits: dict[str, list[Sentence]]) -> str:
    """Moves a seeded share of train into `split`, both in their old order; returns a note."""
    count = round(data[f"{split}_fraction"] * len(splits["train"]))
    # Dev and test have draws of their own: seed 3 is 6 for dev and 7 for test.
    seed = 2 * data.split_seed + (split == "test")
    splits["train"], splits[split] = drawn(splits["train"], count, seed)
    if not count:
        return f"{split}: none given, and config.data.{split}_fraction takes none of train"
    return f"{split}: {count} sentences carved from train with seed {data.split_seed}"


def drawn(items: Sequence[_Item], count: int, seed: int) -> tuple[list[_Item], list[_Item]]:
    """The items without `count` of them, and those; files are often sorted, so that the first would
    be of one kind. Both in their old order."""
    # One draw an item, and the smallest draws are chosen: .3 .9 .1 .5 and two of four -> the first
    # and the third. Python promises the same numbers in all versions of `random()` alone, not of
    # `sample` and `shuffle`.
    rng = random.Random(seed)
    draws = [rng.random() for _ in items]
    chosen = set(sorted(range(len(items)), key=draws.__getitem__)[:count])
    left = [item for i, item in enumerate(items) if i not in chosen]
    return left, [item for i, item in enumerate(items) if i in chosen]


def _empty(data: ConfigDict, split: str, problems: Problems, layout: str = "") -> str:
    place = data[split] or f"the {split} split"
    if problems.count:
        return (
            f"config.data.{split}: no sentence of {place} is left: {problems.count} were dropped; "
            f"the first: {problems.first}"
        )
    # Which tells of examples that nobody has accepted or annotated, too.
    read_as = f" (read as {layout})" if layout else ""
    return f"config.data.{split}: {place} holds no sentence{read_as}; give a file that has some"
