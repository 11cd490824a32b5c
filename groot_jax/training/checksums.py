"""Sums of the files of a checkpoint: written when it has landed, compared before it is read.

W/checkpoints/<system>/<step>/checksums.<i>-<n>.json is that of process i of n, which has every nth
file: {"state/manifest.ocdbt": [116, 2774105421], ...}, with sizes in bytes. The arrays themselves
carry none: of 119 bits that were flipped in their files, 116 loaded other values.
"""

from __future__ import annotations

import re
from pathlib import Path

from groot_jax.runtime.checksums import (
    difference,
    files_of,
    read_guarded,
    sums_of,
    write_guarded,
)

_PATTERN = "checksums.*.json"
META_FILE = "meta.json"  # of a system, beside its checkpoints: see checkpoints.py


def write_checksums(folder: Path, index: int = 0, count: int = 1) -> None:
    """Sums of this process's share of the files in a checkpoint. Raises UserError, OSError."""
    files = [path for path in files_of(folder) if not path.match(_PATTERN)][index::count]
    write_guarded(folder / f"checksums.{index}-{count}.json", sums_of(folder, files))


def damage(folder: Path, index: int = 0, count: int = 1) -> str:
    """What is wrong with this process's share of the files, as "state/d/4f is not what was
    written"; empty: nothing that the sums tell which are there (see `unverified`). Raises OSError,
    UserError where a file cannot be read: no damage by itself."""
    expected: dict[str, list[int]] = {}
    for path in _sum_files(folder):
        sums = read_guarded(path)
        if sums is None:
            return f"{path.name} is not what was written"
        expected |= sums
    return difference(folder, expected, sorted(expected)[index::count])


def unverified(folder: Path) -> str:
    """Why sums that agree do not say that all of a checkpoint is what was written; empty: they do.

    Checkpoints of version 0.1 have none. Where training was killed, or a disk was full, in the
    moment after one had landed, they lack some, or all. Raises OSError.
    """
    there = {path.name for path in _sum_files(folder)}
    if not there:
        return _NONE
    counts = {int(match[1]) for name in there if (match := re.search(r"-(\d+)\.json$", name))}
    # The name tells how many there have to be: of 0-2, the file of 1-2 alone holds half of them.
    wanted = [f"checksums.{index}-{n}.json" for n in sorted(counts) for index in range(n)]
    if missing := [name for name in wanted if name not in there]:
        return f"is not verified: it lacks {', '.join(missing[:3])}"
    return "" if counts else _NONE


_NONE = "is not verified: it has no sums to compare with"


def _sum_files(folder: Path) -> list[Path]:
    # Not `glob`, to which a folder that may not be read is an empty one.
    return sorted(path for path in folder.iterdir() if path.match(_PATTERN))
