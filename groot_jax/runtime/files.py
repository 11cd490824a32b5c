"""Files of a job: paths as the user writes them, and writing whole or not at all. No JAX here."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from groot_jax.errors import UserError, signals_delayed


def expanded(path: str | Path, what: str) -> Path:
    """`path` with its `~`, or `~someone`, written out: `~/w` is `/home/ann/w` for ann.

    `what` names the key or flag in the UserError that is raised where that home folder is not
    known: in a container that runs under a bare number, or of a user who does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0].removeprefix("~")
        if user:
            known = f"there is no user {user} whose home folder it could begin with"
            raise UserError(f"{what}={path}: {known}; write the path without ~{user}") from None
        raise UserError(
            f"{what}={path}: nobody knows the home folder of this user; write the path without ~, "
            "or set HOME"
        ) from None


def place_of(what: Path | int) -> tuple[int, int] | None:
    """What tells a folder or file, or an open file by its number, from one that takes its name or
    number later: when it was moved away, removed or closed, or a disk is no longer mounted there.
    None where there is none."""
    try:
        found = os.stat(what)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: beside it first, then renamed over it.

    Raises UserError where the disk refuses.
    """
    # In the same folder, as a rename is whole only within one file system; with the process in its
    # name, as two jobs may write the same file.
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # Before the name: after a power cut it may not be empty.
            os.replace(beside, path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def open_lines(path: Path) -> TextIO:
    """A file of lines, to add more to, made where it is not there. Raises OSError.

    Half a line at its end, of a job that was killed or met a full disk while it wrote, is ended
    first: the next line would be one with it, and both be lost.
    """
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read(1) not in (b"", b"\n"):
            file.write(b"\n")  # At the end, wherever was read: another job may have written since.
    return path.open("a", encoding="utf-8")


@contextlib.contextmanager
def writing(path: Path, flag: str = "--workdir") -> Iterator[None]:
    """What goes wrong with a file of the folder that `flag` names, as a UserError that names it.

    >>> with writing(Path("w/a.json")): Path("/dev/full").write_text("1")
    UserError: w/a.json could not be written (No space left on device): make room or ...
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}): make room or choose another "
            f"{flag}, then run the same command again; what was there before is unharmed"
        ) from error


@contextlib.contextmanager
def whole_folder(folder: Path, flag: str = "--workdir") -> Iterator[Path]:
    """A draft to write into, which then takes the place of `folder`, whole or not at all.

    A process that is killed meanwhile leaves the old folder in its place, or, between the two
    renames at the end, beside it as `.FOLDER.old`, whence the next call puts it back. Raises
    UserError where the disk refuses.
    """
    # Hidden: a `served.old` beside `served` is what a user calls the export that is to be kept.
    draft, old = (folder.with_name(f".{folder.name}.{word}") for word in ("tmp", "old"))
    shutil.rmtree(draft, ignore_errors=True)
    with writing(folder, flag):
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        draft.mkdir(parents=True)
        try:
            yield draft
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        # Content before names: after a power cut the new name may not stand for empty files.
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        shutil.rmtree(old, ignore_errors=True)
        # No call replaces a folder that holds something, so the old one steps aside first. To
        # remove it first would take long, and whoever is killed then has neither.
        with signals_delayed():
            if folder.exists():
                os.rename(folder, old)
            os.rename(draft, folder)
        _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Until a file's content, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems sync no folders; their names are there once the call returns.
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(number)
    finally:
        os.close(number)


def stands_for_another(data: bytes) -> str:
    """What a file is, by its first 64 bytes, that `git clone` without Git LFS has left in the place
    of another; empty where it is its own."""
    pointer = data.startswith(b"version https://git-lfs")
    return "stands for a file of Git LFS: fetch it with `git lfs pull`" if pointer else ""
