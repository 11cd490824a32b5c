"""The oracle: pools and rewards for many sentences, made beside the accelerator's work.

Chunks of sentences go to lanes: one thread of the job, or one scoring process each. Results do not
depend on the number of lanes, nor on processes that are lost: a chunk holds all that its results
depend on, and a new process does it again. A user's reward that goes on failing, dying or hanging
ends in a UserError that names the sentence, and nothing is left running. Knows labelings only;
imports nothing of JAX.
"""

from __future__ import annotations

import math
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Generic, NamedTuple, TypeVar, cast

from groot_jax.errors import UserError, raise_overdue
from groot_jax.reward.missing import Counts, OneEvaluation, Window, most_dropped, too_many_dropped
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask, Triple
from groot_jax.reward.process import POLL, Lost, Worker, late
from groot_jax.reward.rewards import RewardSpec, calls_python, is_batched, num_functions
from groot_jax.reward.user_function import Board
from groot_jax.reward.worker import Chunk, ChunkScorer, Results, make_chunk_scorer

# Items of a chunk. Fixed, so that what a batch-form reward sees together does not depend on the
# number of workers: 30 tasks are chunks of 8, 8, 8 and 6. A task has a pool's worth of triples.
_TASKS, _TRIPLES = 8, 256
# Seconds that a lane may take to notice that its process was killed.
_CLOSE_LIMIT = 5.0

_COUNTED = {
    "replaced": "scoring processes replaced",
    "retried": "calls made once more",
    "dropped": "candidates dropped after errors",
    "abstained": "candidates without a reward (None)",
}

T = TypeVar("T")


class _Done(NamedTuple):
    """A chunk that was worked on."""

    results: Results
    counts: Counts


class Handle(Generic[T]):
    """What `Oracle.submit` returns: `result()` waits, and raises what went wrong."""

    def __init__(
        self, oracle: Oracle, chunks: Iterable[Chunk], watch: Callable[[Counts], None]
    ) -> None:
        """`watch` is told of each chunk, in their order, and may raise a UserError."""
        self._oracle, self._watch = oracle, watch
        self._futures = [oracle._put(chunk) for chunk in chunks]

    def result(self) -> list[T]:
        """The results in the order of what was submitted; raises a UserError for a user's reward
        that failed, the one of the first sentence where several did, and where too many candidates
        have no reward."""
        found: list[T] = []
        for future in self._futures:
            done = self._oracle._wait(future)
            self._watch(done.counts)
            found += cast(list[T], done.results)
        return found


# Why neither executor of concurrent.futures does this: at its end the interpreter waits for the
# threads of the one, and a call that hangs would keep the job for ever; the processes of the other
# are sent pickles and, where they fork, have JAX's locks without its threads. Neither ends a call.
class Oracle:
    """Scores for the life of a job; a context manager.

    Starting it raises a UserError if the reward cannot be had. `spec.workers` processes score, or
    with 0 a thread of this process does, which runs what `make_scorer` makes: who wants to observe
    it gives another. With 0 a user's function has a process all the same, unless it says that it
    can do the job no harm (`my_reward.in_job = True`).

    `counts` says how many processes were "replaced", calls "retried", candidates "dropped" after
    errors and candidates that "abstained" (the reward was None); closing prints what is not 0.
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
        self._workers: list[Worker] = []
        self._threads: list[threading.Thread] = []
        self.counts: Counter[str] = Counter()
        self._window = Window(spec)
        self._lock = threading.Lock()  # Of `counts`, `_workers` and `_closing`.
        self._closing = False
        # Of the lane in this process: what it is at. A worker's lies in the worker.
        self._local_board = Board()
        self._local_chunk: Chunk | None = None
        self._seed = int(seed)
        count = choose_workers(spec)
        try:
            # All are started before any is waited for: their imports run side by side.
            for _ in range(count or int(calls_python(spec))):
                self._workers.append(Worker(spec, self._seed))
            for lane in range(len(self._workers)):
                self._wait_until_ready(lane)
            # A process has seen that the module can be imported, and does not end what imports it.
            if count == 0 and all(worker.in_job for worker in self._workers):
                while self._workers:
                    self._workers.pop().close()
                self._start_local_lane(make_scorer(spec, seed, self._local_board))
            for lane in range(len(self._workers)):
                work = partial(self._work_in_process, lane)
                self._start_lane(work, partial(self._finish, lane))
        except BaseException:
            self.close()
            raise

    def submit(self, tasks: Sequence[ScoringTask], settings: PoolSettings) -> Handle[Pool]:
        """Starts the making of a pool for each task and returns at once; `result()` of the handle
        gives the pools in the order of the tasks."""
        chunks = (Chunk(part, (), settings) for part in _parts(tasks, _TASKS))
        return Handle(self, chunks, self._window.add)

    def score(self, triples: Sequence[Triple]) -> list[float]:
        """The reward of each (candidate, gold, words), with no penalty for malformed outputs; 0 for
        a candidate that was dropped or abstained: where one is chosen, each has its rank."""
        parts = _parts(triples, _TRIPLES)
        chunks = (Chunk((), part, PoolSettings()) for part in parts)
        handle: Handle[float] = Handle(self, chunks, self._window.add)
        return [0.0 if math.isnan(reward) else reward for reward in handle.result()]

    def evaluate(self, triples: Sequence[Triple]) -> tuple[list[list[float]], Counts]:
        """As `score`, of all candidates of an evaluation, with the terms of a weighted sum behind
        each reward: [.65, .5, 1.] for a labeling of f0.5 .5 and exact 1 under "0.7*f0.5 +
        0.3*exact". Says on stderr how many count as 0 without a reward, and raises a UserError
        where they are too many for an evaluation."""
        watch = OneEvaluation(self._spec, len(triples) * num_functions(self._spec))
        chunks = (Chunk((), part, PoolSettings(), True) for part in _parts(triples, _TRIPLES))
        handle: Handle[list[float]] = Handle(self, chunks, watch.add)
        rows = [[0.0 if math.isnan(x) else x for x in row] for row in handle.result()]
        if line := watch.line():
            print(line, file=sys.stderr, flush=True)
        return rows, watch.sum

    def close(self) -> None:
        """Ends the lanes and their processes; work not begun is cancelled. Can be called twice."""
        with self._lock:
            self._closing = True
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
        with self._lock:
            for worker in self._workers:
                worker.kill()
        if self._workers:
            # Not for ever: whoever waited for a result may have been interrupted with its lock.
            self._join(_CLOSE_LIMIT)
        for worker in self._workers:
            worker.close()
        with self._lock:
            self._threads, self._workers = [], []
        told = [f"{count} {_COUNTED[name]}" for name, count in self.counts.items() if count]
        if told:
            print(f"reward {self._spec.name!r}: {', '.join(told)}", file=sys.stderr, flush=True)
        self.counts.clear()

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start_local_lane(self, score_chunk: ChunkScorer) -> None:
        user_function = calls_python(self._spec)

        def work(chunk: Chunk) -> _Done:
            self._local_chunk = chunk
            self._local_board.clear()
            folder = os.getcwd() if user_function else ""
            results = score_chunk(chunk)
            if user_function and os.getcwd() != folder:
                # A relative --workdir would go on in another place.
                os.chdir(folder)
                raise UserError(
                    f"reward {self._spec.name!r} changed the working directory, which is the job's "
                    "as well: leave out its `in_job = True`, or let it come back"
                )
            return self._done(results, self._local_board)

        self._start_lane(work, lambda: None)

    def _done(self, results: Results, board: Board, skipped: int = 0) -> _Done:
        """`skipped`: candidates that were dropped without another call."""
        counts = Counts(board.asked + skipped, board.dropped + skipped, board.abstained)
        with self._lock:
            self.counts["retried"] += board.retried
            self.counts["dropped"] += counts.dropped
            self.counts["abstained"] += counts.abstained
        return _Done(results, counts)

    def _work_in_process(self, lane: int, chunk: Chunk) -> _Done:
        """The results of a chunk, by as many processes as it takes: `spec.retries` + 1 without the
        end of a chunk or the loss of a candidate between them. Raises UserError or Lost."""
        lost = 0
        while True:
            worker = self._workers[lane]
            try:
                results = worker.work(chunk)
                return self._done(results, worker.board, len(chunk.skip or ()))
            except Lost as error:
                lost += 1
                if lost > self._spec.retries:
                    # Which candidate it was is known where it was called for alone.
                    if self._spec.on_error != "drop" or error.call < 0:
                        raise
                    if chunk.skip is not None or not is_batched(self._spec):
                        chunk = replace(chunk, skip=[*(chunk.skip or ()), error.call])
                        # Each costs a process, so that one chunk shall not take hours.
                        lost_calls = Counts(dropped=len(chunk.skip or ()))
                        if lost_calls.dropped > most_dropped(self._spec):
                            raise too_many_dropped(
                                self._spec, "of candidates", lost_calls
                            ) from None
                    else:
                        chunk = replace(chunk, skip=[])
                    lost = 0
                self._replace(lane, error)

    def _finish(self, lane: int) -> None:
        with self._lock:
            # None where the oracle was closed while this lane was slow to notice.
            worker = self._workers[lane] if lane < len(self._workers) else None
        if worker:
            worker.finish()

    def _wait_until_ready(self, lane: int) -> None:
        for attempt in range(self._spec.retries + 1):
            try:
                return self._workers[lane].wait_until_ready()
            except Lost as error:
                if attempt == self._spec.retries:
                    raise UserError(str(error)) from None
                self._replace(lane, error)

    def _replace(self, lane: int, error: Lost) -> None:
        """Starts another process in the place of one that is lost; raises the error where the
        oracle is being closed, which is what ended the process."""
        with self._lock:
            if self._closing:
                raise error
            self._workers[lane].close()
            try:
                self._workers[lane] = Worker(self._spec, self._seed)
            except OSError as refused:
                raise UserError(
                    f"{error}; another scoring process cannot be started: {refused.strerror}"
                ) from refused
            self.counts["replaced"] += 1
        print(f"warning: {error}; another process goes on", file=sys.stderr, flush=True)

    def _start_lane(self, work: Callable[[Chunk], _Done], finish: Callable[[], None]) -> None:
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
                except Lost as error:
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

    def _wait(self, future: Future) -> _Done:
        # In turns: no alarm ends a call in the local lane, and only here is it seen to hang.
        while not wait([future], timeout=POLL).done:
            raise_overdue()
            if self._failure:
                # A lane may be stuck, and never come to tell this future.
                if not self._workers:
                    raise self._failure
                continue
            chunk = self._local_chunk
            if chunk and (message := late(self._local_board, chunk, self._spec)):
                self._failure = UserError(message)
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
