"""What a disk, or a process that is gone, keeps from being written or read, in one sentence."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from groot_jax.errors import UserError
from groot_jax.runtime.barrier import OutOfStep
from groot_jax.runtime.hosts import Hosts, of_a_connection

# What a file system answers that is not there, or not now: no sign that a checkpoint is damaged.
_UNREACHABLE = (
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EHOSTDOWN, errno.ENETUNREACH),
)


class Elsewhere(UserError):
    """What failed here since it did in another process, which says why."""


# What is no folder, where there should be one.
_NO_FOLDER = (errno.EEXIST, errno.ENOTDIR)


def unreachable(error: Exception) -> bool:
    """Whether files could not be had, which says nothing of what they hold."""
    return getattr(error, "errno", None) in _UNREACHABLE or "Permission denied" in str(error)


def first_line(error: Exception) -> str:
    """The first line of a message, its middle left out where it is long: the end says why."""
    # TensorStore's messages end with places in its own source, and Orbax's with the name of a
    # function of TensorStore: they help nobody here.
    line = (str(error).splitlines() or [""])[0].partition(" [source locations")[0]
    line = line.partition(" See full TensorStore details")[0]
    return line if len(line) <= 240 else f"{line[:80]} ... {line[-150:]}"


def full_disk(folder: Path, why: str) -> str:
    return (
        f"{folder}: the disk is full ({why}), so the checkpoint was not written; earlier "
        "checkpoints are whole: make room and run the same command again"
    )


def check_writable(folder: Path, needed: int, trial: str = "", there: str = "") -> None:
    """Raises UserError where a disk has fewer free bytes than are needed, before it is filled to
    the brim for nothing; where it takes no file of the name `trial`; or where it has lost the file
    `there`."""
    try:
        free = shutil.disk_usage(folder).free
        if trial:
            path = folder / trial
            try:
                with path.open("wb") as file:
                    file.write(bytes(2**16))
                    os.fsync(file.fileno())
            finally:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise save_error(error, folder) from error
    # Orbax makes folders that are not there: under a mount that has gone, all that follows would
    # lie unseen, and be hidden when it comes back.
    if there and not (folder / there).is_file():
        raise UserError(
            f"{folder}: what was saved there is gone (was a disk mounted there?), so the "
            "checkpoint was not written: bring it back and run the same command again"
        )
    if free < needed:
        mebibytes = f"{needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} are free"
        raise UserError(full_disk(folder, mebibytes))


def save_error(error: Exception, folder: Path) -> UserError:
    """What kept a checkpoint from being written, in one sentence."""
    # TensorStore reports a full disk as a ValueError with the system's text in it, and no errno.
    text = str(error)
    number = getattr(error, "errno", None)
    full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
    if full or "quota" in text.lower():
        return UserError(full_disk(folder, "no space left on device"))
    cause = first_line(error)
    if number in _NO_FOLDER:
        return UserError(no_folder(folder))
    if number in (errno.EACCES, errno.EROFS, errno.EPERM) or "Permission denied" in text:
        return UserError(f"{folder}: cannot be written ({cause}); check its owner")
    return UserError(
        f"{folder}: the checkpoint was not written ({type(error).__name__}: {cause}); earlier "
        "checkpoints are whole: mend the cause and run the same command again"
    )


def unwritten(error: Exception, folder: Path, hosts: Hosts) -> UserError:
    """What kept a save from landing that had begun; Elsewhere where that is another process's."""
    # Of a save that failed here Orbax tells the others last, which fails as well.
    while isinstance(error, OutOfStep) and isinstance(error.__context__, Exception):
        error = error.__context__
    said = save_error(error, folder)
    # It waited for files of process 0, or for a process that is lost: the next message says that.
    followed = isinstance(error, OutOfStep) or of_a_connection(error)
    return Elsewhere(str(said)) if followed and hosts.count > 1 else said


def read_error(error: Exception, folder: Path) -> UserError:
    """What kept the checkpoints in a folder from being looked at, in one sentence."""
    if getattr(error, "errno", None) in _NO_FOLDER:
        return UserError(no_folder(folder))
    return UserError(
        f"{folder} cannot be read ({type(error).__name__}: {first_line(error)}): check its owner "
        "and its disk, and run the same command again"
    )


def no_folder(folder: Path) -> str:
    return f"{folder} is a file or lies in one: move that away and run the same command again"
