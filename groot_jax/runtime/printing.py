"""The console of a job that may not wait for whoever reads it.

A terminal stopped by Ctrl-S, a pager, or a log shipper that is stuck takes no more text: a plain
`print` then waits, and a training with it, its signals unheard. Here a thread waits instead.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console

from groot_jax.errors import UserError, unheard

_MOST = 2**18  # Bytes that wait to be written; what comes beyond them is dropped.
_PARTING = 2.0  # Seconds that the last lines of a job that failed have to be written.


class Unhurried:
    """A text stream whose `write` neither waits nor raises."""

    def __init__(self, stream: TextIO) -> None:
        """In the place of `stream`, which has a file descriptor. Its own buffer is left alone: the
        thread would hold the lock of that while it waits, and a job that ends flushes it."""
        stream.flush()
        self.encoding, self.errors = stream.encoding, stream.errors or "strict"
        self._fd, self._isatty = stream.fileno(), stream.isatty()
        self._waiting: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._dropped = 0
        self.failure: OSError | None = None  # Why nothing can be written any more.
        threading.Thread(target=self._run, name="printing", daemon=True).start()

    def write(self, text: str) -> int:
        """Has the text written; drops it where too much of it waits, or nobody reads."""
        data = text.encode(self.encoding, self.errors)
        with self._changed:
            if self.failure is None and sum(map(len, self._waiting)) + len(data) <= _MOST:
                if self._dropped:
                    note = f"... {self._dropped} times something was left out, as nobody read it\n"
                    self._waiting.append(note.encode())
                    self._dropped = 0
                self._waiting.append(data)
                self._changed.notify_all()
            else:
                self._dropped += 1
        return len(text)

    def flush(self) -> None:
        """Nothing: the thread writes what there is at once."""

    def isatty(self) -> bool:
        return self._isatty

    def fileno(self) -> int:
        return self._fd

    def drain(self, seconds: float | None = None) -> None:
        """Waits until all is written, or nothing can be; at most so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self.failure, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting[0]
            try:
                while data:
                    data = data[self._write(data) :]
            except OSError as error:
                with self._changed:
                    self.failure = error
                    self._waiting.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # Somebody who has the same pipe has made it so.
            select.select([], [self._fd], [])
            return 0


@contextmanager
def open_console(main: bool) -> Iterator[Console]:
    """A console on standard output that keeps nobody waiting, quiet unless this process is the
    `main` one; at the block's end all is written, as far as somebody reads it.

    Raises UserError there where it could not be written.
    """
    # What stands in the place of standard output, in a notebook say, has its own ways.
    stream = sys.stdout if main and sys.stdout is sys.__stdout__ else None
    if stream is None:
        yield Console(quiet=not main)
        return
    unhurried = Unhurried(stream)
    console = Console(file=cast(TextIO, unhurried))
    try:
        yield console
    except BaseException:
        unhurried.drain(_PARTING)
        raise
    unhurried.drain()
    if reader_gone(console):
        raise UserError(unheard())


def reader_gone(console: Console) -> bool:
    """Whether what is printed can no longer be written."""
    return isinstance(console.file, Unhurried) and console.file.failure is not None
