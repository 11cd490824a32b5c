"""The files of W/task as they are read back: what task.json holds, and the sums beside them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from groot_jax.data.formats import FORMATS
from groot_jax.data.tokenizer import SETTINGS_FILE
from groot_jax.errors import UserError
from groot_jax.model.config import T5Config
from groot_jax.runtime.checksums import SUMS_FILE, difference, read_guarded, sums_of
from groot_jax.runtime.json_files import finite, or_none, reading, whole


def _fields(config: type[T5Config]) -> dict[str, Any]:
    """The shape of a model's configuration in JSON: its fields, by their types."""
    kinds = {"int": whole, "float": finite, "str": str, "bool": bool, "bool | None": or_none(bool)}
    needed = dataclasses.MISSING
    return {
        field.name if field.default is needed else f"{field.name}?": kinds[str(field.type)]
        for field in dataclasses.fields(config)
    }


# The shape of task.json; the last three are newer than the rest.
FACTS = {
    "types": [str],
    "format": {*FORMATS},
    "ladder": [(whole, whole)],
    "model": _fields(T5Config),
    "digests?": {str: str},
    "max_words?": whole,
    "start?": or_none((str, whole)),
}


def check_files(folder: Path) -> None:
    """Raises UserError for a file of W/task that may not be read, and for one that is not what
    training wrote: with a bit of a tokenizer flipped, words may have other pieces, and answers
    other spans."""
    tokenizer = folder / "tokenizer"
    try:
        with reading(folder):
            sums = read_guarded(folder / SUMS_FILE)
            if sums is None:  # Of version 0.1. Without its settings a tokenizer is another one.
                sums = sums_of(folder, [tokenizer / SETTINGS_FILE, *tokenizer.iterdir()])
            why = difference(folder, sums, sorted(sums))
    except FileNotFoundError as error:
        why = f"{Path(error.filename).relative_to(folder)} is missing"
    if why:
        raise UserError(
            f"{folder} is not what training wrote ({why}): bring a copy back, or move {folder} "
            "away and run groot_jax.train again, which makes it anew from the same data"
        )
