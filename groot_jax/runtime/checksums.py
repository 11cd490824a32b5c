"""CRC-32C of files, and files of JSON that carry their own. No JAX here.

A folder that is written once has its sums in checksums.json, with sizes in bytes:
{"task.json": [1520, 2774105421], ...}.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c

from groot_jax.errors import UserError
from groot_jax.runtime.files import write_text

SUMS_FILE = "checksums.json"


def files_of(folder: Path) -> list[Path]:
    """The files in a folder and its folders, in order, but for hidden ones."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path.name[0] != ".")


def sums_of(folder: Path, files: Iterable[Path]) -> dict[str, Any]:
    """{"task.json": [bytes, CRC-32C], ...} of files in a folder. Raises OSError."""
    return {str(path.relative_to(folder)): _sum(path) for path in files}


def difference(folder: Path, sums: Mapping[str, Any], names: Collection[str]) -> str:
    """The first of these files that is not what the sums say, as "a/b is missing"; empty: none.
    Raises OSError where a file cannot be read, which says nothing of what it holds."""
    for name in names:
        try:
            if _sum(folder / name) != sums[name]:
                return f"{name} is not what was written"
        except (FileNotFoundError, IsADirectoryError):
            return f"{name} is missing"
    return ""


def write_sums(folder: Path) -> None:
    """Sums of all that is in a folder, as its last file. Raises UserError, OSError."""
    write_guarded(folder / SUMS_FILE, sums_of(folder, files_of(folder)))


def folder_damage(folder: Path) -> str | None:
    """What is wrong with a folder that `write_sums` was called for, as `difference` says it; None:
    it has no sums. Raises UserError, OSError where it cannot be read."""
    path = folder / SUMS_FILE
    if not path.exists():
        return None
    sums = read_guarded(path)
    if sums is None:
        return f"{path.name} is not what was written"
    return difference(folder, sums, sorted(sums))


def sum_of(chunks: Iterable[bytes]) -> list[int]:
    """[bytes, CRC-32C] of all chunks together."""
    size = crc = 0
    for chunk in chunks:
        size, crc = size + len(chunk), google_crc32c.extend(crc, chunk)
    return [size, crc]


def _sum(path: Path) -> list[int]:
    with path.open("rb") as file:
        # As much at a time as a core's cache holds: twice as fast as by 64 MiB.
        return sum_of(iter(partial(file.read, 1 << 18), b""))


# ---- JSON with a sum of its own ---------------------------------------------------------------


def write_guarded(path: Path, value: dict[str, Any]) -> None:
    """Writes {"crc32c": sum of the text of the value, "value": value}, whole or not at all. Raises
    UserError where the disk refuses."""
    text = json.dumps(value, allow_nan=False)
    crc = google_crc32c.value(text.encode())
    write_text(path, f'{{"crc32c": {crc}, "value": {text}}}\n')


def read_guarded(path: Path) -> dict[str, Any] | None:
    """The value that `write_guarded` was given; None where it is something else, or not there.
    Raises UserError where the file cannot be read, which says nothing of what it holds."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        value, expected = found["value"], found["crc32c"]
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check its owner and its disk, and run the "
            "same command again"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    # Python writes a number that it has read as it was: the text is the same again.
    same = google_crc32c.value(json.dumps(value).encode()) == expected
    return value if same and isinstance(value, dict) else None
