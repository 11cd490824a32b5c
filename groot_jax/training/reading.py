"""What reading a checkpoint may come upon: one that is damaged, one that training has removed
meanwhile, and a disk that cannot be read, which says nothing of what it holds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groot_jax.errors import UserError, raise_signal_behind
from groot_jax.runtime.hosts import of_a_connection
from groot_jax.training.checksums import damage, unverified
from groot_jax.training.faults import first_line, unreachable


class Damaged(UserError):
    """A checkpoint that does not hold what was written; `why` says what of it."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"{folder} is damaged ({why}): move that folder away and run the same command again, "
            "which then takes another checkpoint"
        )
        self.folder, self.why = folder, why


class Gone(UserError):
    """A checkpoint that was there, and that training has removed meanwhile."""


@contextmanager
def reading(folder: Path, several: bool) -> Iterator[None]:
    """What goes wrong with reading the checkpoint in `folder` becomes Damaged, Gone or another
    UserError; what comes of a process of `several` that is lost stays what it is."""
    try:
        yield
    except Exception as error:
        raise_signal_behind(error)  # Nor is a checkpoint damaged by it.
        if isinstance(error, UserError) or (several and of_a_connection(error)):
            raise
        # Orbax makes a bare Exception of what fails while it reads an array.
        cause = error
        while type(cause) is Exception and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        why = f"{type(cause).__name__}: {first_line(cause)}"
        try:
            listed = folder.is_dir()
            folder.parent.stat()
            # Sums that agree, all of them, say that the files are what was written.
            looked = listed and not unreachable(cause)
            problem = (damage(folder) or (unverified(folder) and why)) if looked else ""
        except OSError as worse:
            if not (isinstance(worse, FileNotFoundError) and folder.parent.exists()):
                raise UserError(f"{folder} cannot be read ({worse.strerror})") from error
            listed, problem = False, ""  # Removed in this moment.
        if problem:
            raise Damaged(folder, problem) from error
        if not listed:
            raise Gone(f"{folder} is no longer there") from error
        raise UserError(f"{folder} cannot be read ({why})") from error


def removed_meanwhile(folder: Path) -> bool:
    """Whether a checkpoint that seemed damaged was being removed, by training beside this job:
    whether it is gone once nothing of it changes any more."""
    before = -1
    while (parts := parts_of(folder)) != before:
        before = parts
        time.sleep(_PAUSE)
    return not folder.exists()


def parts_of(folder: Path) -> int:
    """How many files and folders are in a folder, some of which may go while they are counted."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


_PAUSE = 0.5  # Seconds in which a removal comes on by a file.


def saved_steps(workdir: Path, system: str) -> list[int]:
    """Steps of the checkpoints that have landed, in order; none where there is no such system.
    Raises UserError where their folder cannot be read."""
    # A save under way has a name such as 4.orbax-checkpoint-tmp until it is whole.
    names = names_in(workdir / "checkpoints" / system)
    return sorted(int(name) for name in names if name.isdecimal())


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, in order; nothing where there is no such folder. Raises UserError
    where it cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}): check its owner and its disk, and run "
            "the same command again"
        ) from error
