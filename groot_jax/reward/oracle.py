"""The oracle: pools and rewards for many sentences, made beside the accelerator's work.

Chunks of sentences go to lanes: one thread of the job, or one scoring process each. Results do not
depend on the number of lanes. A user's reward that fails, dies or hangs ends in a UserError that
names the sentence, and nothing is left running. Knows labelings only; imports nothing of JAX.
"""

from __future__ import annotations

import mmap
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from groot_jax.errors import UserError
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask
from groot_jax.reward.rewards import RewardSpec, calls_python, is_batched
from groot_jax.reward.user_function import Board, called_for, late_message
from groot_jax.reward.worker import (
    BOARD_BYTES,
    Kind,
    Run,
    Triple,
    decode_results,
    encode_items,
    make_run,
    receive,
    send,
)

__all__ = ["Handle", "Oracle", "ScoringTask", "choose_workers"]

# Items of a chunk. Fixed, so that what a batch-form reward sees together does not depend on the
# number of workers.
_CHUNK = {"pools": 8, "rewards": 256}
# Seconds beyond its deadline after which a call that even an alarm could not end is given up.
_GRACE = 0.5
_POLL = 0.1
# Seconds that the import of a user's module may take; it may load a model.
_START_LIMIT = 300.0
# Seconds that a lane may take to notice that its process was killed.
_CLOSE_LIMIT = 5.0


@dataclass(frozen=True)
class _Chunk:
    kind: Kind
    items: Sequence[Any]
    settings: PoolSettings

    def at(self, board: Board, spec: RewardSpec) -> str:
        """Says which call the board is about."""
        item = self.items[min(board.item, len(self.items) - 1)]
        words = item.words if isinstance(item, ScoringTask) else item[2]
        return called_for(spec.name, words, len(self.items) if is_batched(spec) else 1)


class Handle:
    """What `Oracle.submit` returns: `result()` waits, and raises what went wrong."""

    def __init__(self, oracle: Oracle, futures: list[Future]):
        self._oracle = oracle
        self._futures = futures

    def done(self) -> bool:
        """Whether `result` would return, or raise, at once."""
        return all(future.done() for future in self._futures)

    def result(self) -> list:
        """The results in the order of what was submitted; raises a UserError for a user's reward
        that failed, the one of the first sentence where several did."""
        return [item for future in self._futures for item in self._oracle._wait(future)]


class Oracle:
    """Scores for the life of a job; a context manager.

    Starting it raises a UserError if the reward cannot be had. `spec.workers` processes score, or
    with 0 a thread of this process does, which runs what `make_run` makes: who wants to observe it
    gives another.
    """

    def __init__(
        self,
        spec: RewardSpec,
        seed: int = 0,
        make_run: Callable[[RewardSpec, int, Board], Run] = make_run,
    ):
        self._spec = spec
        self._queue: queue.SimpleQueue[tuple[_Chunk, Future] | None] = queue.SimpleQueue()
        self._failure: UserError | None = None
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._local_board = Board()
        self._local_chunk: _Chunk | None = None
        count = choose_workers(spec)
        try:
            if count == 0:
                self._start(self._local_lane, make_run(spec, seed, self._local_board))
            for _ in range(count):
                self._workers.append(_Worker(spec, seed))
            for worker in self._workers:
                worker.wait_until_ready()
                self._start(self._worker_lane, worker)
        except BaseException:
            self.close()
            raise

    def submit(self, tasks: Sequence[ScoringTask], settings: PoolSettings | None = None) -> Handle:
        """Starts the making of a pool for each task and returns at once; `result()` of the handle
        gives the pools in the order of the tasks."""
        return self._submit("pools", tasks, settings)

    def pools(
        self, tasks: Sequence[ScoringTask], settings: PoolSettings | None = None
    ) -> list[Pool]:
        """`submit(tasks, settings).result()`."""
        return self.submit(tasks, settings).result()

    def score(self, triples: Sequence[Triple]) -> list[float]:
        """The reward of each (candidate, gold, words), with no penalty for malformed outputs."""
        return self._submit("rewards", triples).result()

    def close(self) -> None:
        """Ends the lanes and their processes; work not begun is cancelled. Can be called twice."""
        with suppress(queue.Empty):
            while True:
                if job := self._queue.get_nowait():
                    job[1].cancel()
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

    def _start(self, lane: Any, argument: Any) -> None:
        thread = threading.Thread(target=lane, args=(argument,), name="groot-oracle", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _join(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _submit(
        self, kind: Kind, items: Sequence[Any], settings: PoolSettings | None = None
    ) -> Handle:
        if not self._threads:
            raise RuntimeError("the oracle is closed")
        settings = settings or PoolSettings()
        futures = []
        for start in range(0, len(items), _CHUNK[kind]):
            future: Future = Future()
            chunk = _Chunk(kind, items[start : start + _CHUNK[kind]], settings)
            self._queue.put((chunk, future))
            futures.append(future)
        return Handle(self, futures)

    def _local_lane(self, run: Run) -> None:
        def work(chunk: _Chunk) -> list:
            self._local_chunk = chunk
            return run(chunk.kind, chunk.items, chunk.settings)

        self._serve(work)

    def _worker_lane(self, worker: _Worker) -> None:
        self._serve(worker.work)
        worker.finish()

    def _serve(self, work: Any) -> None:
        while (job := self._queue.get()) is not None:
            chunk, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self._failure:
                    raise self._failure
                future.set_result(work(chunk))
            except _Lost as error:
                self._failure = UserError(str(error))
                future.set_exception(self._failure)
            except BaseException as error:
                future.set_exception(error)

    def _wait(self, future: Future) -> list:
        while not wait([future], timeout=_POLL).done:
            if self._failure:
                # A lane may be stuck, and never come to tell this future.
                if not self._workers:
                    raise self._failure
                continue
            chunk = self._local_chunk
            if chunk and _is_late(self._local_board, self._spec.deadline):
                at = chunk.at(self._local_board, self._spec)
                self._failure = UserError(late_message(at, self._spec.deadline))
                raise self._failure
        return future.result()


def choose_workers(spec: RewardSpec) -> int:
    """Scoring processes for `spec.workers`; for -1: cores - 1, at least 1 and at most 8, where the
    reward is a user's function, and none for a built-in one: to send a sentence's candidates to a
    process and read its pool back costs the job more time than to make the pool (102 against 85
    microseconds for 9 words and 10 beams)."""
    if spec.workers >= 0:
        return spec.workers
    if not calls_python(spec):
        return 0
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(8, max(1, cores - 1))


def _is_late(board: Board, deadline: float) -> bool:
    began = board.began
    return bool(began) and time.monotonic() - began > deadline + _GRACE


class _Lost(Exception):
    """A scoring process is gone; the message is for the user."""


class _Worker:
    """The parent's end of one scoring process; used by one thread at a time."""

    def __init__(self, spec: RewardSpec, seed: int):
        self._spec = spec
        environment = dict(os.environ)
        root = Path(__file__).resolve().parents[2]
        if root.name not in ("site-packages", "dist-packages"):
            paths = filter(None, (str(root), environment.get("PYTHONPATH")))
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        # A user's reward may use JAX; the accelerator belongs to the job.
        environment["JAX_PLATFORMS"] = "cpu"
        with tempfile.TemporaryFile() as file:
            file.truncate(BOARD_BYTES)
            self._map = mmap.mmap(file.fileno(), BOARD_BYTES)
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "groot_jax.reward.worker",
                    str(file.fileno()),
                    str(os.getpid()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                pass_fds=[file.fileno()],
            )
        self._stdin = cast(BinaryIO, self._process.stdin)
        self._stdout = cast(BinaryIO, self._process.stdout)
        self._cells = memoryview(self._map).cast("d")
        self._board = Board(self._cells)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        setup = {
            "path": [path or os.getcwd() for path in sys.path],
            "spec": asdict(spec),
            "seed": int(seed),
        }
        with suppress(BrokenPipeError):
            send(self._stdin, setup)

    def wait_until_ready(self) -> None:
        """Raises a UserError if the process cannot score."""
        name = self._spec.name
        try:
            if not self._selector.select(_START_LIMIT):
                raise UserError(
                    f"config.reward.name: the module of reward {name!r} was not imported after "
                    f"{_START_LIMIT:g} seconds"
                )
            answer = receive(self._stdout)
        except EOFError:
            raise UserError(
                f"config.reward.name: the scoring process of reward {name!r} ended "
                f"({self._ending()}) while it imported the reward's module"
            ) from None
        if "error" in answer:
            raise UserError(answer["error"])

    def work(self, chunk: _Chunk) -> list:
        """Sends a chunk and waits for its results; raises UserError or _Lost."""
        try:
            self._board.item, self._board.began = 0, 0.0
            items = encode_items(chunk.kind, chunk.items)
            send(self._stdin, (chunk.kind, items, asdict(chunk.settings)))
            while not self._selector.select(_POLL):
                if _is_late(self._board, self._spec.deadline):
                    self.kill()
                    at = chunk.at(self._board, self._spec)
                    raise _Lost(late_message(at, self._spec.deadline))
            answer = receive(self._stdout)
        except (EOFError, OSError):
            at = chunk.at(self._board, self._spec)
            raise _Lost(f"{at} ended its scoring process ({self._ending()})") from None
        if "error" in answer:
            raise UserError(answer["error"])
        if "bug" in answer:
            raise RuntimeError(f"in a scoring process:\n{answer['bug']}")
        return decode_results(chunk.kind, answer["results"])

    def finish(self) -> None:
        """Lets the process end by itself."""
        with suppress(OSError):
            self._stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Kills and reaps the process, frees what belongs to it."""
        self._process.kill()
        self._process.wait()
        self._selector.close()
        with suppress(OSError):
            self._stdin.close()
        self._stdout.close()
        self._cells.release()
        self._map.close()

    def _ending(self) -> str:
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        if code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name
        return f"{name}, out of memory?" if -code == signal.SIGKILL else name
