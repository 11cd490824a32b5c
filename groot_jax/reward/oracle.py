"""The oracle: pools and rewards for many sentences, made beside the accelerator's work.

Chunks of sentences go to lanes: one thread of the job, or one scoring process each. Results do not
depend on the number of lanes. A user's reward that fails, dies or hangs ends in a UserError that
names the sentence, and nothing is left running. Knows labelings only; imports nothing of JAX.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Generic, TypeVar

from groot_jax.errors import UserError
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask, Triple
from groot_jax.reward.rewards import RewardSpec, calls_python, is_batched
from groot_jax.reward.user_function import Board, called_for, late_message
from groot_jax.reward.worker import (
    Chunk,
    ChunkScorer,
    Results,
    decode_pools,
    make_chunk_scorer,
    receive,
    send,
)

# Items of a chunk. Fixed, so that what a batch-form reward sees together does not depend on the
# number of workers: 30 tasks are chunks of 8, 8, 8 and 6. A task has a pool's worth of triples.
_TASKS, _TRIPLES = 8, 256
# Seconds beyond its deadline after which a call that even an alarm could not end is given up.
_GRACE = 0.5
_POLL = 0.1
# Seconds that the import of a user's module may take; it may load a model.
_START_LIMIT = 300.0
# Seconds that a lane may take to notice that its process was killed.
_CLOSE_LIMIT = 5.0

T = TypeVar("T")


class Handle(Generic[T]):
    """What `Oracle.submit` returns: `result()` waits, and raises what went wrong."""

    def __init__(self, oracle: Oracle, chunks: Iterable[Chunk]):
        self._oracle = oracle
        self._futures = [oracle._put(chunk) for chunk in chunks]

    def result(self) -> list[T]:
        """The results in the order of what was submitted; raises a UserError for a user's reward
        that failed, the one of the first sentence where several did."""
        return [item for future in self._futures for item in self._oracle._wait(future)]


# Why neither executor of concurrent.futures does this: at its end the interpreter waits for the
# threads of the one, and a call that hangs would keep the job for ever; the processes of the other
# are sent pickles and, where they fork, have JAX's locks without its threads. Neither ends a call.
class Oracle:
    """Scores for the life of a job; a context manager.

    Starting it raises a UserError if the reward cannot be had. `spec.workers` processes score, or
    with 0 a thread of this process does, which runs what `make_scorer` makes: who wants to observe
    it gives another.
    """

    def __init__(
        self,
        spec: RewardSpec,
        seed: int = 0,
        make_scorer: Callable[[RewardSpec, int, Board], ChunkScorer] = make_chunk_scorer,
    ):
        self._spec = spec
        self._queue: queue.SimpleQueue[tuple[Chunk, Future] | None] = queue.SimpleQueue()
        self._failure: UserError | None = None
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        # Of the lane in this process: what it is at. A worker's lies in the worker.
        self._local_board = Board()
        self._local_chunk: Chunk | None = None
        count = choose_workers(spec)
        try:
            if count == 0:
                self._start_local_lane(make_scorer(spec, seed, self._local_board))
            # All are started before any is waited for: their imports run side by side.
            for _ in range(count):
                self._workers.append(_Worker(spec, seed))
            for worker in self._workers:
                worker.wait_until_ready()
                self._start_lane(worker.work, worker.finish)
        except BaseException:
            self.close()
            raise

    def submit(self, tasks: Sequence[ScoringTask], settings: PoolSettings) -> Handle[Pool]:
        """Starts the making of a pool for each task and returns at once; `result()` of the handle
        gives the pools in the order of the tasks."""
        return Handle(self, (Chunk(part, (), settings) for part in _parts(tasks, _TASKS)))

    def score(self, triples: Sequence[Triple]) -> list[float]:
        """The reward of each (candidate, gold, words), with no penalty for malformed outputs."""
        parts = _parts(triples, _TRIPLES)
        handle: Handle[float] = Handle(self, (Chunk((), part, PoolSettings()) for part in parts))
        return handle.result()

    def score_terms(self, triples: Sequence[Triple]) -> list[list[float]]:
        """As `score`, with the terms of a weighted sum behind each reward: [.65, .5, 1.] for a
        labeling of f0.5 .5 and exact 1 under "0.7*f0.5 + 0.3*exact"."""
        chunks = (Chunk((), part, PoolSettings(), True) for part in _parts(triples, _TRIPLES))
        handle: Handle[list[float]] = Handle(self, chunks)
        return handle.result()

    def close(self) -> None:
        """Ends the lanes and their processes; work not begun is cancelled. Can be called twice."""
        # First, so that a lane which ends its chunk takes no other.
        with suppress(queue.Empty):
            while True:
                if waiting := self._queue.get_nowait():
                    waiting[1].cancel()
        for _ in self._threads:
            self._queue.put(None)
        # A lane at work may hang in a user's function: a process is killed, a thread left behind
        # (it is a daemon and ends with the job).
        self._join(0.5)
        for worker in self._workers:
            worker.kill()
        if self._workers:
            # Not for ever: whoever waited for a result may have been interrupted with its lock.
            self._join(_CLOSE_LIMIT)
        for worker in self._workers:
            worker.close()
        self._threads, self._workers = [], []

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start_local_lane(self, score_chunk: ChunkScorer) -> None:
        def work(chunk: Chunk) -> Results:
            self._local_chunk = chunk
            return score_chunk(chunk)

        self._start_lane(work, lambda: None)

    def _start_lane(self, work: ChunkScorer, finish: Callable[[], None]) -> None:
        """A thread that takes chunks off the queue until it finds a None there."""

        def serve() -> None:
            while (taken := self._queue.get()) is not None:
                chunk, future = taken
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    # A lane is lost and the run over: what is still queued fails alike.
                    if self._failure:
                        raise self._failure
                    future.set_result(work(chunk))
                except _Lost as error:
                    self._failure = UserError(str(error))
                    future.set_exception(self._failure)
                except BaseException as error:
                    # Whatever it is: who waits for the result raises it, this lane lives on.
                    future.set_exception(error)
            finish()

        thread = threading.Thread(target=serve, name="groot-oracle", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _join(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _put(self, chunk: Chunk) -> Future:
        if not self._threads:
            raise RuntimeError("the oracle is closed")
        future: Future = Future()
        self._queue.put((chunk, future))
        return future

    def _wait(self, future: Future) -> list:
        # In turns: no alarm ends a call in the local lane, and only here is it seen to hang.
        while not wait([future], timeout=_POLL).done:
            if self._failure:
                # A lane may be stuck, and never come to tell this future.
                if not self._workers:
                    raise self._failure
                continue
            chunk = self._local_chunk
            if chunk and (late := _late(self._local_board, chunk, self._spec)):
                self._failure = UserError(late)
                raise self._failure
        return future.result()


def _parts(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def choose_workers(spec: RewardSpec) -> int:
    """Scoring processes for `spec.workers`; for -1: cores - 1, at least 1 and at most 8, where the
    reward is a user's function, and none for a built-in one: to send a sentence's candidates to a
    process and read its pool back costs the job nearly the time of making the pool (JSON alone 103
    microseconds against 130, for 9 words and 10 beams)."""
    if spec.workers >= 0:
        return spec.workers
    if not calls_python(spec):
        return 0
    # The cores that this process may run on, not those of the machine; macOS does not say.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(8, max(1, cores - 1))


def _call_in_work(board: Board, chunk: Chunk, spec: RewardSpec) -> str:
    """Says which call the board is about."""
    words = chunk.words()
    # Read beside the lane that writes it: by now it may be at an item of a longer chunk.
    item = min(board.item, len(words) - 1)
    return called_for(spec.name, words[item], len(words) if is_batched(spec) else 1)


def _late(board: Board, chunk: Chunk, spec: RewardSpec) -> str:
    """A sentence about a call that even an alarm could not end in time; else nothing."""
    began = board.began
    if not began or time.monotonic() - began <= spec.deadline + _GRACE:
        return ""
    return late_message(_call_in_work(board, chunk, spec), spec.deadline)


class _Lost(Exception):
    """A scoring process is gone; the message is for the user."""


class _Worker:
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
        self._pipe, theirs = Pipe()
        with theirs, tempfile.TemporaryFile() as file:
            file.truncate(ctypes.sizeof(Board))
            # Keeps the mapped memory, and with it the file, for as long as it lives itself.
            self._board = Board.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Board)))
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
            )
        setup = {
            "path": [path or os.getcwd() for path in sys.path],
            "spec": asdict(spec),
            "seed": int(seed),
        }
        with suppress(BrokenPipeError):  # `wait_until_ready` says what became of it.
            send(self._pipe, setup)

    def wait_until_ready(self) -> None:
        """Raises a UserError if the process cannot score."""
        name = self._spec.name
        try:
            if not self._pipe.poll(_START_LIMIT):
                raise UserError(
                    f"config.reward.name: the module of reward {name!r} was not imported after "
                    f"{_START_LIMIT:g} seconds"
                )
            answer = receive(self._pipe)
        except (EOFError, OSError):
            raise UserError(
                f"config.reward.name: the scoring process of reward {name!r} ended "
                f"({self._ending()}) while it imported the reward's module"
            ) from None
        if "error" in answer:
            raise UserError(answer["error"])

    def work(self, chunk: Chunk) -> Results:
        """Sends a chunk and waits for its results; raises UserError or _Lost."""
        try:
            # What the process wrote last is of the chunk before.
            self._board.item, self._board.began = 0, 0.0
            send(self._pipe, chunk)
            while not self._pipe.poll(_POLL):
                if late := _late(self._board, chunk, self._spec):
                    self.kill()
                    raise _Lost(late)
            answer = receive(self._pipe)
        except (EOFError, OSError):
            at = _call_in_work(self._board, chunk, self._spec)
            raise _Lost(f"{at} ended its scoring process ({self._ending()})") from None
        if "error" in answer:
            raise UserError(answer["error"])
        if "bug" in answer:
            raise RuntimeError(f"in a scoring process:\n{answer['bug']}")
        return answer["results"] if chunk.triples else decode_pools(answer["results"])

    def finish(self) -> None:
        """Lets the process end by itself."""
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)

    def kill(self) -> None:
        """Ends the process whatever it is at; who waits for its answer finds the pipe closed."""
        self._process.kill()

    def close(self) -> None:
        """Kills and reaps the process, frees what belongs to it."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        del self._board

    def _ending(self) -> str:
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        if code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name
        return f"{name}, out of memory?" if -code == signal.SIGKILL else name
