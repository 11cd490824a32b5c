"""What all readers share: lines of a file, bad sentences by policy, paths that do not exist.

A file is UTF-8; a line ends at a line feed and at no other character that Unicode calls a break.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from groot_jax.data.labeling import Sentence
from groot_jax.data.schemes import Tagged
from groot_jax.errors import UserError
from groot_jax.runtime.files import expanded

BOM = "\ufeff"  # The byte-order mark, which some programs put at the start of a file.


class Read(NamedTuple):
    """What a reader makes of one split. `layout`: how the file turned out to be written, for the
    user to check: `words in column 1, tags in column 4 of 4, space`."""

    items: Sequence[Tagged | Sentence]
    layout: str


class Problems:
    """Bad sentences of one split: `error` ends at the first, `skip` counts them and goes on."""

    def __init__(self, policy: str):
        self.policy = policy
        self.count = 0
        self.first = ""

    def add(self, message: str) -> None:
        """Reports one sentence, which the caller then drops. Raises UserError unless `skip`."""
        if self.policy == "error":
            raise UserError(f"{message} (config.data.policy=skip drops such sentences)")
        self.count += 1
        self.first = self.first or message

    def kept(
        self, sentences: Iterable[Sentence], check: Callable[[Sentence], object]
    ) -> list[Sentence]:
        """The sentences for which `check` raises no UserError; `add`s the others."""
        kept = []
        for sentence in sentences:
            try:
                check(sentence)
            except UserError as error:
                self.add(f"{sentence.source}: {error}")
            else:
                kept.append(sentence)
        return kept


def not_text(path: Path, number: int) -> str:
    """What is wrong with a line that `read_lines` gives as None."""
    return (
        f"{path}:{number}: not UTF-8 text; convert the file to UTF-8, as `iconv -f LATIN1 -t "
        "UTF-8` does where it is Latin-1"
    )


def mark_within(path: Path, number: int) -> str:
    """What is wrong with a line after the first that begins with a byte-order mark."""
    return (
        f"{path}:{number}: the line begins with a byte-order mark (U+FEFF), as where files were "
        "joined that each had one; remove it, or the line's first word would hold it"
    )


def words_of(line: str) -> list[str]:
    """Splits at spaces and tabs only: other Unicode spaces belong to their word."""
    # `str.split()` would make two words of `a\u00a0b`, which has one tag.
    return [word for word in line.replace("\t", " ").split(" ") if word]


def read_lines(path: Path) -> list[str | None]:
    """The lines of a file, without a byte-order mark; None for a line that is not UTF-8 text.

    A NUL is no text: bytes that decode with one are a binary file, or UTF-16. Raises UserError for
    a file that begins with the mark of UTF-16: no line of it could be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check it") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(
            f"{path} is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {path.name} > other"
        )
    data = data.removeprefix(b"\xef\xbb\xbf")
    # Bytes are split, not text: `str.splitlines` breaks at U+2028 and U+0085 too, which may stand
    # within a word; and each line is decoded by itself, so that one bad line is one problem.
    lines: list[str | None] = []
    for line in data.split(b"\n"):
        try:
            lines.append(None if b"\0" in line else line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError:
            lines.append(None)
    # "a\nb\n" is two lines, and split into three: a, b and nothing.
    if lines and lines[-1] == "":
        lines.pop()
    return lines


def resolve_path(data: ConfigDict, path: str) -> Path:
    """A path of the config: absolute, or below data.dir, or below $GROOT_DATA_DIR, or the cwd.

    Raises UserError for a path that is not below its folder, but is below the cwd.
    """
    key = "config.data.dir" if data.dir else "GROOT_DATA_DIR"
    base = data.dir or os.environ.get("GROOT_DATA_DIR", "")
    here = expanded(path, "config.data")
    # pathlib: "sets" / "a.txt" is sets/a.txt, "sets" / "/b.txt" is /b.txt, and "" is the cwd.
    found = expanded(base, key) / here
    if not found.exists() and here.exists():
        raise UserError(
            f"there is no {found}, only {here.absolute()}: relative paths start at {key} where it "
            "is set; give the absolute path, or another folder"
        )
    return found


def require_path(path: Path, key: str, what: str = "file") -> Path:
    """Returns `path` if it exists; otherwise a UserError names the nearest names that do, and the
    folder that a relative path starts at."""
    if path.exists():
        return path
    folder = path.parent
    wanted = path.name
    # sets/snpis/train, and there is sets/snips: the nearest folder that exists is sets, and `snpis`
    # is what has to be like one of its names.
    while not folder.is_dir() and folder != folder.parent:
        wanted, folder = folder.name, folder.parent
    here = "" if path.is_absolute() else f", seen from {Path.cwd()}"
    missing = "" if folder == path.parent else f": {folder / wanted} is not there"
    names = sorted(entry.name for entry in folder.iterdir())
    if near := difflib.get_close_matches(wanted, names, n=3, cutoff=0.4):
        held = f"the nearest names in {folder} are {', '.join(near)}"
    else:
        shown = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        held = f"{folder} has {shown}" if names else f"{folder} is empty"
    raise UserError(
        f"{key}: there is no {what} {path}{here}{missing}; {held}: check config.data.dir and {key}"
    )
