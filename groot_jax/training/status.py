"""Whether a training runs in a work directory: the lock that it holds, and W/status.json.

The operating system frees the lock when its holder ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from groot_jax.config import LOCK_FILE
from groot_jax.errors import UserError
from groot_jax.runtime.files import write_text, writing

STATUS_FILE = "status.json"
# Whoever asks whether a lock is held has it for a moment.
_TRIES, _PAUSE = 5, 0.1


class WorkdirLock:
    """Keeps a second training out of a work directory; a context manager, which frees it."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._file: IO[str] | None = None

    def __enter__(self) -> WorkdirLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def take(self) -> None:
        """Takes the lock, once. Raises UserError, with the holder, where another process has it."""
        if self._file is not None:
            return
        path = self._workdir / LOCK_FILE
        with writing(path):
            file = path.open("a+", encoding="utf-8")
        for attempt in range(_TRIES):
            if _try_lock(file, fcntl.LOCK_EX):
                break
            if attempt + 1 < _TRIES:
                time.sleep(_PAUSE)
        else:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise UserError(
                f"--workdir={self._workdir} is being trained in by another process ({holder}); "
                "wait for its end, or name another --workdir"
            )
        self._file = file
        with writing(path):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"pid {os.getpid()} on {socket.gethostname()}\n".encode())


def _try_lock(file: IO[str], kind: int) -> bool:
    """False where another process holds the lock; a file system without locks grants all."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def write_status(workdir: Path, state: str) -> None:
    """W/status.json: `training`, `finished` or `stopped`, and by which process."""
    status = {"state": state, "pid": os.getpid(), "host": socket.gethostname()}
    write_text(workdir / STATUS_FILE, json.dumps(status) + "\n")


@contextmanager
def status_of(workdir: Path) -> Iterator[None]:
    """W/status.json says that training runs, and how it ended."""
    write_status(workdir, "training")
    try:
        yield
    except BaseException:
        with suppress(UserError):  # On a full disk, what is raised says more.
            write_status(workdir, "stopped")
        raise
    write_status(workdir, "finished")


def training_ended(workdir: Path) -> bool:
    """Whether no training runs in a work directory any more, killed ones included.

    Raises UserError where its status.json is damaged.
    """
    try:
        with (workdir / LOCK_FILE).open(encoding="utf-8") as file:
            if not _try_lock(file, fcntl.LOCK_SH):
                return False
    except FileNotFoundError:
        pass  # Of an earlier version, or never trained in.
    path = workdir / STATUS_FILE
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
        state, host = status["state"], status["host"]
    except FileNotFoundError:
        return True
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not what training wrote ({error}): remove it and run the same command again"
        ) from error
    # Not every file system shows the locks of other hosts.
    return bool(state != "training" or host == socket.gethostname())
