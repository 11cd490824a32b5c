"""What `labeling.py` of an exported folder reads: the format in figures, and the tokenizer's files.

The words of a sentence have to become the same ids there as here: what is written is read back and
tried before it counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groot_jax.data.format import TAG
from groot_jax.data.tokenizer import SETTINGS_FILE, Tokenizer
from groot_jax.data.vocabularies import MODEL_FILE
from groot_jax.errors import UserError
from groot_jax.evaluation.records import Json
from groot_jax.export.loaders.words import encoder
from groot_jax.export.unigram import fast_tokenizer
from groot_jax.trained import Trained

FACTS_FILE = "labeling.json"
TOKENIZER_FILE = "tokenizer.json"
# How words may be read: the file, or bytes, and what stands in front of each word.
_READINGS = ((TOKENIZER_FILE, ""), (TOKENIZER_FILE, " "), ("bytes", " "), ("bytes", ""))
# Pieces of the vocabulary whose text is encoded again: a third of T5's, all of most others.
_TRIED = 10_000


def facts_of(trained: Trained, folder: Path) -> Json:
    """What labeling.json holds, but for the search that a kind of folder has. `folder` holds the
    tokenizer's files. Raises UserError where they would read words otherwise than training did."""
    task = trained.task
    format_, settings, grammar = task.format, task.config.generate, task.grammar
    tokenizer = format_.tokenizer
    saved = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    features = saved["features"] if format_.name == "aligned" else []
    # What stands around tags: of two words TAG ; TAG, of one word `a [ TAG ]`, EOS last.
    literals = format_.template(("a", "a") if format_.name == "tag_only" else ("a",))
    at = literals.index(TAG)
    legal = len(grammar.columns_C) < task.model_config.vocab_size
    facts: Json = {
        "format": format_.name,
        "tags": {tag: list(pieces) for tag, pieces in format_.tags.items()},
        "sentinels": list(tokenizer.sentinels),
        "separator": list(literals[1:-2]) if format_.name == "tag_only" else [],
        "brackets": [literals[at - 1], literals[at + 1]] if format_.name == "input_tag" else [],
        "columns": grammar.columns_C.tolist() if legal else None,
        "pad": tokenizer.pad_id,
        "eos": tokenizer.eos_id,
        "unknown": tokenizer.unk_id,
        "lowercase": tokenizer.lowercase,
        "features": {name: tokenizer.base_size + i for i, name in enumerate(features)},
        "bag": tokenizer.num_features if format_.name == "aligned" else 0,
        "fused_width": format_.fused_width,
        "max_words": task.max_words,
        "beams": settings.k,
        "length_penalty": settings.length_penalty,
        "temperature": trained.tuning().temperature,
    }
    return facts | _reading(tokenizer, facts, folder)


def write_facts(folder: Path, facts: Json, kind: str) -> None:
    """Writes labeling.json, and labeling.py of that kind, in one file."""
    text = json.dumps(facts, ensure_ascii=False) + "\n"
    (folder / FACTS_FILE).write_text(text, encoding="utf-8")
    loaders = Path(__file__).parent / "loaders"
    words = (loaders / "words.py").read_text(encoding="utf-8")
    search = (loaders / f"with_{kind}.py").read_text(encoding="utf-8")
    # What stands above the line are imports that words.py has, too, or of words.py itself.
    _, line, body = search.partition("# ---- The search --")
    (folder / "labeling.py").write_text(f"{words.rstrip()}\n\n\n{line}{body}", encoding="utf-8")
    if facts["features"]:
        features = Path(__file__).parent.parent / "data" / "features.py"
        (folder / "features.py").write_bytes(features.read_bytes())


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """The tokenizer's files: ours, and tokenizer.json with what transformers reads beside it.

    Labels that are pieces of their own, and features, have no name in tokenizer.json: a sentence
    may hold the same words, which must not become those ids.
    """
    tokenizer.save(folder)
    model = folder / MODEL_FILE
    if not model.exists():
        return  # transformers' own files, in which tokenizer.json stands, or ByT5, which has none.
    fast, settings = fast_tokenizer(model, tokenizer.sentinels)
    fast.save(str(folder / TOKENIZER_FILE))
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _reading(tokenizer: Tokenizer, facts: Json, folder: Path) -> Json:
    """How labeling.py is to read words, so that it gets the ids of `tokenizer`."""
    words = list(_sample(tokenizer))
    wrong = ""
    for pieces, prefix in _READINGS:
        if pieces != "bytes" and not (folder / pieces).exists():
            continue
        reading = {"pieces": pieces, "prefix": prefix}
        encode = encoder(folder, facts | reading)
        found = next((w for w in words if tuple(encode(w)) != tokenizer.text(w)), None)
        if found is None:
            return reading
        wrong = wrong or found
    raise UserError(
        f"{folder}: the tokenizer cannot be exported: {TOKENIZER_FILE} gives the word {wrong!r} "
        "other pieces than training did; train with another text.tokenizer"
    )


def _sample(tokenizer: Tokenizer) -> Iterator[str]:
    """Words to try: those that the vocabulary is made of, spread over it."""
    step = max(1, tokenizer.base_size // _TRIED)
    special: set[Any] = {tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id, *tokenizer.sentinels}
    for id_ in range(0, tokenizer.base_size, step):
        text = "" if id_ in special else tokenizer.decode([id_]).strip()
        # Half a character of a vocabulary of bytes is no text.
        if text and "\ufffd" not in text and special.isdisjoint(tokenizer.text(text)):
            yield text
