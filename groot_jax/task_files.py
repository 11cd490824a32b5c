"""The files of W/task as they are read back: what task.json holds, and the sums beside them."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c

from groot_jax.data.formats import FORMATS
from groot_jax.data.tokenizer import SETTINGS_FILE
from groot_jax.errors import UserError
from groot_jax.model.config import T5Config
from groot_jax.runtime.json_files import finite, or_none, read_bytes, reading, whole
from groot_jax.training.checksums import read_guarded


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
    other spans. Those of version 0.1 have no sums, {"tokenizer/spiece.model": [bytes, CRC-32C]}.
    """
    with reading(folder):
        sums = read_guarded(folder / "checksums.json") or {}
    there: list[str] = []
    with suppress(FileNotFoundError), reading(folder / "tokenizer"):
        there = [f"tokenizer/{path.name}" for path in (folder / "tokenizer").iterdir()]
    # Without its settings, what is left of a tokenizer is another one.
    for name in sorted({*sums, *there, f"tokenizer/{SETTINGS_FILE}"}):
        path = folder / name
        data = read_bytes(path)
        why = "is missing" if data is None else ""
        if data is not None and name in sums:
            same = [len(data), google_crc32c.value(data)] == sums[name]
            why = "" if same else "has another sum"
        if why:
            raise UserError(
                f"{path if path.parent == folder else path.parent} is not what training wrote "
                f"({name} {why}): bring a copy back, or move {folder} away and run groot_jax.train "
                "again, which makes it anew from the same data"
            )
