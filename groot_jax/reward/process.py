"""The job's end of one scoring process: its start, its chunks, and how it is found to be lost."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Pipe
from pathlib import Path

from groot_jax.errors import UserError
from groot_jax.reward.rewards import RewardSpec, is_batched
from groot_jax.reward.user_function import Board, called_for, late_message
from groot_jax.reward.worker import NO_MEMORY, NO_PIPE, Chunk, Results, decode_pools, receive, send

POLL = 0.1
# Seconds beyond its deadline after which a call that even an alarm could not end is given up.
_GRACE = 0.5
# Seconds that the import of a user's module may take; it may load a model.
_START_LIMIT = 300.0
# Seconds for a killed process to be gone: what a file system that is away holds can't be.
_GONE_LIMIT = 5.0
# What comes of an answer that is none: their function wrote into the pipe.
_NO_ANSWER = (ValueError, TypeError, LookupError, OverflowError, MemoryError)


def _call_in_work(board: Board, chunk: Chunk, spec: RewardSpec) -> str:
    """Says which call the board is about."""
    words = chunk.words()
    # Read beside the lane that writes it: by now it may be at an item of a longer chunk.
    item = min(board.item, len(words) - 1)
    return called_for(spec.name, words[item], len(words) if is_batched(spec) else 1)


def late(board: Board, chunk: Chunk, spec: RewardSpec) -> str:
    """A sentence about a call that even an alarm could not end in time; else nothing."""
    began = board.began
    if not began or time.monotonic() - began <= spec.deadline + _GRACE:
        return ""
    return late_message(_call_in_work(board, chunk, spec), spec.deadline)


class Lost(Exception):
    """A scoring process is gone; the message is for the user. `call` is the number of the call that
    it was in, -1 outside of one."""

    def __init__(self, message: str, call: int = -1):
        super().__init__(message)
        self.call = call


class Worker:
    """The parent's end of one scoring process; used by one thread at a time."""

    def __init__(self, spec: RewardSpec, seed: int):
        self._spec = spec
        environment = dict(os.environ)
        root = Path(__file__).resolve().parents[2]
        # A checkout is put first on the path; an installed package is found as it is, and its
        # folder would hide the user's other paths if it came before them.
        if root.name not in ("site-packages", "dist-packages"):
            paths = filter(None, (str(root), environment.get("PYTHONPATH")))
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        # A user's reward may use JAX; the accelerator belongs to the job.
        environment["JAX_PLATFORMS"] = "cpu"
        self.in_job = self._ready = False
        self._pipe, theirs = Pipe()
        # A process that is stopped reads and writes no more: a chunk that does not fit the pipe, or
        # half an answer, would be waited for without end.
        limit = struct.pack("ll", *divmod(int(spec.timeout_s * 1e6), 10**6))
        with socket.socket(fileno=os.dup(self._pipe.fileno())) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        with theirs, tempfile.TemporaryFile() as file:
            file.truncate(ctypes.sizeof(Board))
            # Keeps the mapped memory, and with it the file, for as long as it lives itself.
            self.board = Board.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Board)))
            files = (theirs.fileno(), file.fileno())
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "groot_jax.reward.worker"),
                    *(str(number) for number in (*files, os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=2,  # A user's prints are no output of the job.
                env=environment,
                pass_fds=files,
                # Its own group, to be ended with all that their function starts.
                start_new_session=True,
            )
        setup = {
            "path": [path or os.getcwd() for path in sys.path],
            "spec": asdict(spec),
            "seed": int(seed),
        }
        with suppress(BrokenPipeError):  # `wait_until_ready` says what became of it.
            send(self._pipe, setup)

    def wait_until_ready(self) -> None:
        """Raises a UserError if the reward cannot be had, Lost if the process ends."""
        name, since = self._spec.name, time.monotonic()
        try:
            while not self._pipe.poll(POLL):
                if self._has_ended():
                    raise EOFError
                if time.monotonic() - since > _START_LIMIT:
                    raise UserError(
                        f"config.reward.name: the module of reward {name!r} was not imported after "
                        f"{_START_LIMIT:g} seconds"
                    )
            answer = receive(self._pipe)
            if "error" in answer:
                raise UserError(answer["error"])
            self._ready, self.in_job = True, bool(answer["in_job"])
        except (EOFError, OSError, *_NO_ANSWER) as error:
            raise Lost(
                f"config.reward.name: the scoring process of reward {name!r} ended "
                f"({self._ending(error)}) while it imported the reward's module"
            ) from None

    def work(self, chunk: Chunk) -> Results:
        """Sends a chunk and waits for its results; raises UserError or Lost."""
        if not self._ready:
            self.wait_until_ready()
        try:
            # What the process wrote last is of the chunk before.
            self.board.clear()
            send(self._pipe, chunk)
            seen, since = b"", time.monotonic()
            while not self._pipe.poll(POLL):
                if message := late(self.board, chunk, self._spec):
                    raise Lost(message, self.board.call)
                if self._has_ended():
                    raise EOFError
                if seen != (now := bytes(self.board)):
                    seen, since = now, time.monotonic()
                # Outside of a call it takes milliseconds, so that it is stopped, or swapped out.
                if not self.board.began and time.monotonic() - since > self._spec.timeout_s:
                    raise BlockingIOError
            answer = receive(self._pipe)
            if "error" in answer:
                raise UserError(answer["error"])
            if "bug" in answer:
                raise RuntimeError(f"in a scoring process:\n{answer['bug']}")
            found = answer["results"] if chunk.triples else decode_pools(answer["results"])
            if len(found) != len(chunk.triples or chunk.tasks):
                raise ValueError
            return found
        except BlockingIOError:
            raise Lost(
                f"a scoring process of reward {self._spec.name!r} was not heard of for "
                f"{self._spec.timeout_s:g} seconds (config.reward.timeout_s)"
            ) from None
        except (EOFError, OSError, *_NO_ANSWER) as error:
            why = self._ending(error)
            if not self.board.began:
                raise Lost(
                    f"a scoring process of reward {self._spec.name!r} ended ({why})"
                ) from None
            at = _call_in_work(self.board, chunk, self._spec)
            ending = f"{at} ended its scoring process ({why})"
            raise Lost(ending, self.board.call) from None

    def _has_ended(self) -> bool:
        """Whether the process is gone and nothing of its is left to be read. Its end closes the
        pipe, unless a child that their function, or its module, forked holds it too."""
        return self._has_exited() and not self._pipe.poll()

    def _has_exited(self, seconds: float = 0.0) -> bool:
        """Whether the process ends within so many seconds. It is not waited for: its number stays
        its own, and that of its group, in which something that it has started may live on."""
        end = time.monotonic() + seconds
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while True:
            try:
                exited = os.waitid(os.P_PID, self._process.pid, options) is not None
            except (AttributeError, ChildProcessError):  # macOS has none; it was waited for.
                exited = self._process.poll() is not None
            if exited or time.monotonic() >= end:
                return exited
            time.sleep(0.01)

    def finish(self) -> None:
        """Lets the process end by itself; what it has started ends with it."""
        self._pipe.close()
        self._has_exited(0.5)
        self.kill()

    def kill(self) -> None:
        """Ends the process, and what it has started, whatever they are at; who waits for its answer
        finds the pipe closed."""
        # Until the process is waited for, no other can have its number, nor its group's.
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kills and reaps the process, frees what belongs to it."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GONE_LIMIT)
        self._pipe.close()
        self.board = Board()  # Frees the shared one, and its file.

    def _ending(self, error: Exception) -> str:
        """How the process ended, by `error`, which came of reading from it."""
        if isinstance(error, _NO_ANSWER):
            self.kill()  # It will not end by itself.
            return "something else than it wrote into its pipe to the job"
        code = NO_PIPE
        if self._has_exited(5.0):
            self.kill()  # What it has started.
            code = self._process.wait()
        if code == NO_MEMORY:
            return "no memory left"
        if code == NO_PIPE:
            return "its pipe to the job was closed: a reward may close what it has opened alone"
        if code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name
        return f"{name}, out of memory?" if -code == signal.SIGKILL else name
