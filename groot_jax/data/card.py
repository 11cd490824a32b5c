"""The data card of a run: what was read, as a line a split for the terminal, and as a JSON file.

W/data_card.json: {"types": [...], "splits": {"train": {"sentences": ..., "spans": {type: count},
"longest": ..., "punctuation_apart": ..., "also_in_train": ..., "unwritable": {"words": ...,
"examples": [...]}, "read": {"place", "layout", "sentences", "types", "longest", "skipped"}}, ...},
"notes": [...]}. Sentences and spans are those of the split as it is used, those under `read` as its
file holds them; `punctuation_apart` is what `stands_apart` says of its words.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groot_jax.data.corpus import Corpus
from groot_jax.data.format import Format
from groot_jax.data.labeling import Sentence
from groot_jax.data.splitting import stands_apart
from groot_jax.errors import UserError
from groot_jax.runtime.files import write_text
from groot_jax.runtime.json_files import or_none, parsed, read_bytes, whole

CARD_FILE = "data_card.json"
_SPLITS = ("train", "dev", "test")
_TYPES = 8  # Types of a split that its line names.
_EXAMPLES = 3


@dataclass(frozen=True)
class DataCard:
    """`facts`: the content of W/data_card.json."""

    facts: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """What a user has to know beside `read_lines_of`: what else is wrong, by number."""
        for split, facts in self.facts["splits"].items():
            if facts["also_in_train"]:
                yield (
                    f"{split}: {facts['also_in_train']:,} of {facts['sentences']:,} sentences "
                    "stand in train too"
                )
        for split, facts in self.facts["splits"].items():
            unwritable = facts["unwritable"]
            if unwritable["words"]:
                yield (
                    f"{split}: {unwritable['words']:,} of {facts['words']:,} words hold characters "
                    f"that the vocabulary lacks, such as {', '.join(unwritable['examples'])}"
                )


def read_lines_of(corpus: Corpus) -> Iterator[str]:
    """A line a split: `train: 14,041 sentences, 23,499 spans of 4 types (LOC 7,140, ...); words in
    column 1, tags in column 4 of 4, space, iob1`."""
    for split, read in corpus.read.items():
        named = ", ".join(f"{type_} {count:,}" for type_, count in [*read.types.items()][:_TYPES])
        more = f", and {len(read.types) - _TYPES} more" if len(read.types) > _TYPES else ""
        yield (
            f"{split}: {_counted(read.sentences, 'sentence')}, "
            f"{_counted(sum(read.types.values()), 'span')} of {_counted(len(read.types), 'type')}"
            f"{f' ({named}{more})' if named else ''}; {read.layout}"
        )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def make_card(loaded: Corpus, corpus: Corpus, format_: Format) -> DataCard:
    """The card of a corpus as it was `loaded`, and as it is used under the format of a run."""
    train = {sentence.words for sentence in loaded.train}
    splits = {}
    for split in _SPLITS:
        sentences: Sequence[Sentence] = getattr(corpus, split)
        if not sentences:
            continue
        words = Counter(word for sentence in sentences for word in sentence.words)
        spans = Counter(span.type for sentence in sentences for span in sentence.labeling)
        unwritable = [word for word in words if not _writable(word, format_)]
        splits[split] = {
            "sentences": len(sentences),
            "words": sum(words.values()),
            "spans": dict(spans.most_common()),
            "longest": max(len(sentence.words) for sentence in sentences),
            "punctuation_apart": stands_apart(words),
            # A sentence that dev or test has from train is no test of anything.
            "also_in_train": 0
            if split == "train"
            else sum(sentence.words in train for sentence in sentences),
            "unwritable": {
                "words": sum(words[word] for word in unwritable),
                "examples": unwritable[:_EXAMPLES],
            },
            "read": dataclasses.asdict(corpus.read[split]) if split in corpus.read else None,
        }
    return DataCard({"types": corpus.types, "splits": splits, "notes": corpus.notes})


def _writable(word: str, format_: Format) -> bool:
    """Whether the vocabulary has something for every character of a word."""
    tokenizer = format_.tokenizer
    if tokenizer.has_features and format_.name == "aligned":
        # Its ends or its shape: a new word is unknown by itself and yet not without features.
        return {*tokenizer.features(word)} != {tokenizer.unk_id}
    return tokenizer.unk_id not in tokenizer.word(word)


def write_card(folder: Path, card: DataCard) -> None:
    """Writes the card into a folder, whole or not at all. Raises UserError where the disk
    refuses."""
    text = json.dumps(card.facts, ensure_ascii=False, indent=1)
    write_text(folder / CARD_FILE, text + "\n")


def read_card(folder: Path) -> Mapping[str, Any] | None:
    """The content of a folder's card; None where there is none, as of an earlier version, and, with
    a line on stderr, where it is not what was written: it is beside what a job is asked for."""
    path = folder / CARD_FILE
    try:
        data = read_bytes(path)
        facts: Mapping[str, Any] | None = None if data is None else parsed(data, CARD)
    except (UserError, ValueError) as error:
        why = str(error) if isinstance(error, UserError) else f"{path} is damaged ({error})"
        print(f"{why}; what it says of the data is left out", file=sys.stderr)
        return None
    return facts


# The shape of its facts.
CARD = {
    "splits": {
        str: {
            **dict.fromkeys(("sentences", "words", "longest", "also_in_train"), whole),
            "spans": {str: whole},
            "punctuation_apart?": bool,
            "unwritable": {"words": whole, "examples": [str]},
            "read": or_none({"place": str, "layout": str, "skipped": whole}),
        }
    },
    "notes": [str],
}
