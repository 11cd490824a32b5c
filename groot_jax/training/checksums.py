"""CRC-32C of the files of a checkpoint: written when it has landed, compared before it is read.

W/checkpoints/<system>/<step>/checksums.<i>-<n>.json is that of process i of n, which has every nth
file: {"state/manifest.ocdbt": [116, 2774105421], ...}, with sizes in bytes. The arrays themselves
carry none: of 119 bits that were flipped in their files, 116 loaded other values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google_crc32c

from groot_jax.runtime.files import write_text

_PATTERN = "checksums.*.json"
META_FILE = "meta.json"  # of a system, beside its checkpoints: see checkpoints.py


def write_checksums(folder: Path, index: int = 0, count: int = 1) -> None:
    """Sums of this process's share of the files in a checkpoint. Raises UserError, OSError."""
    files = _files(folder)[index::count]
    sums = {str(path.relative_to(folder)): _sum(path) for path in files}
    write_guarded(folder / f"checksums.{index}-{count}.json", sums)


def damage(folder: Path, index: int = 0, count: int = 1) -> str:
    """What is wrong with this process's share of the files, as "state/d/4f is not what was
    written"; empty: nothing. Raises OSError where a file cannot be read: no damage by itself."""
    expected: dict[str, list[int]] = {}
    for path in sorted(folder.glob(_PATTERN)):
        sums = read_guarded(path)
        if sums is None:
            return f"{path.name} is not what was written"
        expected |= sums
    for name in sorted(expected)[index::count]:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _sum(path) != expected[name]:
            return f"{name} is not what was written"
    return ""


def verified(folder: Path) -> bool:
    """Whether there are sums at all: checkpoints of version 0.1, and one whose training was killed
    in the moment after it landed, have none."""
    return any(folder.glob(_PATTERN))


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.match(_PATTERN) and path.name[0] != ".")


def _sum(path: Path) -> list[int]:
    """[bytes, CRC-32C]."""
    size = crc = 0
    with path.open("rb") as file:
        # As much at a time as a core's cache holds: twice as fast as by 64 MiB.
        while chunk := file.read(1 << 18):
            size, crc = size + len(chunk), google_crc32c.extend(crc, chunk)
    return [size, crc]


# ---- JSON with a sum of its own ---------------------------------------------------------------


def write_guarded(path: Path, value: dict[str, Any]) -> None:
    """Writes {"crc32c": sum of the text of the value, "value": value}, whole or not at all. Raises
    UserError where the disk refuses."""
    text = json.dumps(value, allow_nan=False)
    crc = google_crc32c.value(text.encode())
    write_text(path, f'{{"crc32c": {crc}, "value": {text}}}\n')


def read_guarded(path: Path) -> dict[str, Any] | None:
    """The value that `write_guarded` was given; None where it is something else, or not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        value, expected = found["value"], found["crc32c"]
    except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError, RecursionError):
        return None
    # Python writes a number that it has read as it was: the text is the same again.
    same = google_crc32c.value(json.dumps(value).encode()) == expected
    return value if same and isinstance(value, dict) else None
