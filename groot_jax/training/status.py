"""Whether a training runs in a work directory: the lock that it holds, and W/status.json.

The operating system frees the lock when its holder ends, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.config import LOCK_FILE, STATUS_FILE
from groot_jax.errors import UserError, at_peer_failure
from groot_jax.runtime.files import place_of, write_text, writing
from groot_jax.runtime.json_files import parsed, read_bytes, reading, whole

_STATUS = {"state": str, "host": str, "pid": lambda value: whole(value) and 0 < value < 2**31}
# Whoever asks whether a lock is held has it for a moment, so that one refusal means nothing.
_TRIES, _PAUSE = 5, 0.1


class WorkdirLock:
    """Keeps a second training out of a work directory, and says in W/status.json that this one runs
    and how it ended; a context manager, which frees it."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._file: IO[str] | None = None  # open as long as the lock is held
        self._before = ""  # W/status.json, until training has begun
        self._place: tuple[int, int] | None = None  # the folder that the lock was taken in

    def __enter__(self) -> WorkdirLock:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._file is None:
            return
        at_peer_failure.remove(self._say_stopped)
        if kind:
            self._say_stopped()
        elif self._in_place():
            write_status(self._workdir, "finished")
        self._file.close()

    def _in_place(self) -> bool:
        """Whether the work directory is the folder that it was, and not a new one of its name."""
        return place_of(self._workdir) == self._place

    def _say_stopped(self) -> None:
        if not self._in_place():
            return
        with suppress(UserError):  # On a full disk, what ends the job says more.
            if self._before:
                write_text(self._workdir / STATUS_FILE, self._before)
            else:
                write_status(self._workdir, "stopped")

    def take(self) -> None:
        """Takes the lock, once. Raises UserError, with the holder, where another process has it."""
        if self._file is not None:
            return
        # "a+": to open it must not empty it, for it may say who has the lock.
        path = self._workdir / LOCK_FILE
        with writing(path):
            file = path.open("a+", encoding="utf-8")
        # Without locks (None) it is taken as free: a bucket mounted as a folder has none, and to
        # refuse it would be to refuse all trainings there.
        for attempt in range(_TRIES):
            if _try_lock(file, fcntl.LOCK_EX) is not False:
                break
            if attempt + 1 < _TRIES:
                time.sleep(_PAUSE)
        else:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise self._held(holder)
        # Its file may have been removed, and this one is another: then the process is looked for.
        if holder := _trains_here(self._workdir):
            file.close()
            raise self._held(holder)
        self._file, self._place = file, place_of(self._workdir)
        # A process that ends because another one did leaves no `with`.
        at_peer_failure.append(self._say_stopped)
        with writing(path):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        # Before there is a config.json: who waits for one must not take this run for ended, on a
        # file system without locks.
        with suppress(OSError, UnicodeDecodeError):
            self._before = (self._workdir / STATUS_FILE).read_text(encoding="utf-8")
        write_status(self._workdir, "training")

    def _held(self, holder: str) -> UserError:
        return UserError(
            f"--workdir={self._workdir} is being trained in by another process ({holder}); wait "
            "for its end, or name another --workdir"
        )

    def claim(self, config: ConfigDict) -> None:
        """Takes the lock and makes the work directory the home of `config`, or checks that it is.

        Raises UserError where another training or another config has it. The lock comes first: of
        two jobs that begin together, only one writes config.json.
        """
        configs.make_workdir(self._workdir)
        self.take()
        configs.claim_workdir(self._workdir, config)

    def began(self) -> None:
        """From here on an error is one of this training, no longer of its command line: how an
        earlier one ended does not stand in status.json any more."""
        self._before = ""


def _try_lock(file: IO[str], kind: int) -> bool | None:
    """False where another process holds the lock; None where the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def write_status(workdir: Path, state: str) -> None:
    """W/status.json: `training`, `finished` or `stopped`, and by which process."""
    pid = os.getpid()
    status = {"state": state, "pid": pid, "host": socket.gethostname(), "begun": _begun(pid)}
    write_text(workdir / STATUS_FILE, json.dumps(status) + "\n")


def _trains_here(workdir: Path) -> str:
    """The process on this host that status.json says to train, if that one is alive; else nothing.

    Known by its number and by when it began: numbers are used again, and in a container that is
    started anew they are the same.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        status = json.loads((workdir / STATUS_FILE).read_text(encoding="utf-8"))
        pid, begun, host = int(status["pid"]), status["begun"], socket.gethostname()
        known = status["state"] == "training" and status["host"] == host and begun
        if known and pid != os.getpid() and _begun(pid) == begun:
            return f"pid {pid} on {host}"
    return ""


def _begun(pid: int) -> str:
    """When a process began, as Linux tells: its boot, and clock ticks since; else empty."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # "pid (name) state ...", of which a name may hold anything: the 22nd field.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{boot} {fields.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError, UnicodeDecodeError):
        return ""


def training_ended(workdir: Path) -> bool:
    """Whether no training runs in a work directory any more, killed ones included.

    Raises UserError where its status.json is damaged, or a file may not be read.
    """
    # First the lock, which a killed process cannot leave behind; then what status.json says; and
    # where neither is sure, whether a process of that number is alive on this host.
    free: bool | None = True
    lock = workdir / LOCK_FILE
    # One of an earlier version has none, and neither has one that was never trained in.
    with suppress(FileNotFoundError), reading(lock), lock.open(encoding="utf-8") as file:
        free = _try_lock(file, fcntl.LOCK_SH)
        if free is False:
            return False
    path = workdir / STATUS_FILE
    if (data := read_bytes(path)) is None:
        return True
    try:
        status = parsed(data, _STATUS)
    except ValueError as error:
        raise UserError(
            f"{path} is not what training wrote ({error}): remove it and run the same command again"
        ) from error
    state, host, pid = status["state"], status["host"], status["pid"]
    if state != "training":
        return True
    if _trains_here(workdir):  # Its lock file was removed.
        return False
    # Not every file system shows the locks of other hosts, and some have none.
    return host == socket.gethostname() and (free is not None or not _is_alive(pid))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # Signal 0 is not sent: it only asks.
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # Somebody else's.
    return True
