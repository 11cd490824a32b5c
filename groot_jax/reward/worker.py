"""What a scoring process runs: `python -m groot_jax.reward.worker PIPE_FD BOARD_FD JOB_PID`.

The oracle starts it. It reads chunks of work from the pipe and answers there, in JSON, until the
job closes it. It imports nothing of JAX. A user's prints go to stderr.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job(speak=False)  # Ctrl-C reaches this process too, and its job speaks for both.

import ctypes
import json
import math
import mmap
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from groot_jax.data.labeling import Candidate, Labeling, Span
from groot_jax.errors import UserError
from groot_jax.reward.pool import (
    Pool,
    PoolEntry,
    PoolSettings,
    ScoringTask,
    Triple,
    build_pools,
)
from groot_jax.reward.rewards import (
    RewardSpec,
    Words,
    is_batched,
    make_batch_reward,
    make_terms,
    may_run_in_job,
)
from groot_jax.reward.user_function import Board

# Exit status of a scoring process that ran out of memory in code of this package, and of one whose
# pipe to the job is closed, or another file, at the end of a chunk.
NO_MEMORY, NO_PIPE = 75, 76


@dataclass(frozen=True, slots=True)
class Chunk:
    """Work for one lane at a time: tasks, of which pools are made as `settings` say, or triples,
    of which the rewards are asked, with the `terms` of a weighted sum where they are wanted. The
    items are whichever of the two there are.

    Where `skip` is a list, candidates are scored one by one, a batch-form reward's too, and those
    of these numbers, counted over all of the chunk, get NaN without a call.
    """

    tasks: Sequence[ScoringTask]
    triples: Sequence[Triple]
    settings: PoolSettings
    terms: bool = False
    skip: Sequence[int] | None = None

    def words(self) -> list[Words]:
        """The sentence of each item."""
        return [task.words for task in self.tasks] + [words for _, _, words in self.triples]


Results = list[Pool] | list[float] | list[list[float]]
# Of each triple its reward, and behind it the terms of a weighted sum; the items are as in `Score`.
# A third argument is the number of the first triple, which the board is told.
_Rows = Callable[..., list[list[float]]]
ChunkScorer = Callable[[Chunk], Results]


def make_chunk_scorer(spec: RewardSpec, seed: int, board: Board) -> ChunkScorer:
    """What turns a chunk into a pool for each task, or a reward for each triple.

    Before an item is worked on its number goes to `board.item`; a batch-form reward sees all items
    of a chunk in one call, under the first one's. Raises a UserError if the reward cannot be had.
    """
    rows_from = _rows_together(spec, board) if is_batched(spec) else _rows_singly(spec, board)
    # "0.7*f0.5 + 0.3*exact" has three numbers a row, "exact" one.
    terms_in_row = spec.name.count("+") + 1
    unknown = [math.nan] * (1 if terms_in_row == 1 else 1 + terms_in_row)

    def score_chunk(chunk: Chunk) -> Results:
        def rows(triples: Sequence[Triple], items: Sequence[int]) -> list[list[float]]:
            if chunk.skip is None:
                return rows_from(triples, items)
            found = []
            for number, (triple, item) in enumerate(zip(triples, items, strict=True)):
                alone = [unknown] if number in chunk.skip else rows_from([triple], [item], number)
                found += alone
            return found

        if chunk.triples:
            found = rows(chunk.triples, range(len(chunk.triples)))
            return found if chunk.terms else [row[0] for row in found]
        # A pool is built from rewards; the terms are kept aside and join its entries at the end.
        terms: dict[tuple[int, Labeling, Labeling | None], tuple[float, ...]] = {}

        def score(triples: Sequence[Triple], items: Sequence[int]) -> list[float]:
            found = rows(triples, items)
            for (candidate, gold, _), item, row in zip(triples, items, found, strict=True):
                if len(row) > 1:
                    terms[item, candidate, gold] = tuple(row[1:])
            return [row[0] for row in found]

        pools = build_pools(chunk.tasks, score, chunk.settings, spec.malformed_penalty, seed)
        return with_terms(pools, chunk.tasks, terms) if terms else pools

    return score_chunk


def with_terms(
    pools: Sequence[Pool],
    tasks: Sequence[ScoringTask],
    terms: Mapping[tuple[int, Labeling, Labeling | None], tuple[float, ...]],
) -> list[Pool]:
    """The pools with the terms of each entry's reward; `terms`: by (task, labeling, gold)."""
    return [
        tuple(
            entry._replace(terms=terms.get((item, entry.labeling, task.gold), ())) for entry in pool
        )
        for item, (pool, task) in enumerate(zip(pools, tasks, strict=True))
    ]


def _rows_singly(spec: RewardSpec, board: Board) -> _Rows:
    score = make_terms(spec, board)

    def rows(triples: Sequence[Triple], items: Sequence[int], first: int = 0) -> list[list[float]]:
        found = []
        for number, (triple, item) in enumerate(zip(triples, items, strict=True), first):
            board.item, board.call = item, number
            found.append(score(*triple))
        return found

    return rows


def _rows_together(spec: RewardSpec, board: Board) -> _Rows:
    score_lists = make_batch_reward(spec, board)

    def rows(triples: Sequence[Triple], items: Sequence[int], first: int = 0) -> list[list[float]]:
        # One call for all: its message names the first sentence.
        board.item, board.call = items[0] if items else 0, first
        columns = ([triple[i] for triple in triples] for i in range(3))
        return [[reward] for reward in score_lists(*columns)]  # type: ignore[arg-type]

    return rows


# ---- The protocol -----------------------------------------------------------------------------
#
# JSON, and not pickle: what a process reads can do no more than be wrong. A dataclass goes as the
# list of its fields; a Span or PoolEntry, which is a tuple, as a list by itself:
# ScoringTask(("a", "b"), (Span(0, 1, "A"),), (), 7) is [["a", "b"], [[0, 1, "A"]], [], 7].


def send(connection: Connection, message: object) -> None:
    """Writes one message. Raises OSError where the other side is gone."""
    text = json.dumps(message, default=_fields, separators=(",", ":"))
    connection.send_bytes(text.encode())


def receive(connection: Connection) -> Any:
    """Waits for one message. Raises EOFError or OSError where the other side is gone."""
    return json.loads(connection.recv_bytes())


def _fields(value: Chunk | ScoringTask | Candidate | PoolSettings) -> list:
    return [getattr(value, name) for name in value.__slots__]


def decode_chunk(message: list) -> Chunk:
    """A chunk as it was before it was sent: users' functions are promised tuples and Spans."""
    tasks, triples, settings, terms, skip = message
    return Chunk(
        [
            ScoringTask(
                tuple(words),
                None if gold is None else _labeling(gold),
                [Candidate(_labeling(labeling), *rest) for labeling, *rest in candidates],
                key,
            )
            for words, gold, candidates, key in tasks
        ],
        [(_labeling(found), _labeling(gold), tuple(words)) for found, gold, words in triples],
        PoolSettings(*settings),
        terms,
        skip,
    )


def decode_pools(message: list) -> list[Pool]:
    """Pools as they were before they were sent."""
    return [tuple(map(_entry, pool)) for pool in message]


def _entry(fields: list) -> PoolEntry:
    entry = PoolEntry._make(fields)
    return entry._replace(labeling=_labeling(fields[0]), terms=tuple(entry.terms))


def _labeling(spans: list) -> Labeling:
    return tuple(map(Span._make, spans))


# ---- The process ------------------------------------------------------------------------------


def _end_with_job(job: int) -> None:
    """Ends this process soon after the job's. A job that was killed can't end a call that it waits
    for, and the pipe's end is seen only between calls. An orphan gets another parent."""
    while os.getppid() == job:
        time.sleep(0.5)
    if os.getpgrp() == os.getpid():  # With what their function has started.
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _offer_to_be_killed() -> None:
    """Where memory is short, the kernel (Linux) shall end this process, which can be replaced, and
    not the job, though that is larger."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _identity(file: int) -> tuple[int, int] | None:
    """Of what stands behind a number of a file; None where nothing does."""
    try:
        found = os.fstat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def main() -> None:
    """Serves chunks until the job closes the pipe. Ctrl-C is the job's to handle."""
    # A terminal sends it to all processes of the job; the job then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe_file, board_file, job = map(int, sys.argv[1:])
    threading.Thread(target=_end_with_job, args=(job,), daemon=True).start()
    _offer_to_be_killed()
    pipe, identity = Connection(pipe_file), _identity(pipe_file)
    board = Board.from_buffer(mmap.mmap(board_file, ctypes.sizeof(Board)))
    try:
        setup = receive(pipe)
        # The job's: it may have been changed since the job began, by pytest or by a notebook.
        sys.path[:] = setup["path"]
        try:
            spec = RewardSpec(**setup["spec"])
            score_chunk = make_chunk_scorer(spec, setup["seed"], board)
            in_job = may_run_in_job(spec)
        except UserError as error:
            send(pipe, {"error": str(error)})
            return
        send(pipe, {"in_job": in_job})
        while True:
            chunk = decode_chunk(receive(pipe))
            answer: dict[str, object]
            try:
                answer = {"results": score_chunk(chunk)}
            except UserError as error:
                answer = {"error": str(error)}
            except MemoryError:  # Outside of their function: another process may have more.
                os._exit(NO_MEMORY)
            except Exception:  # Ours: a user's function raises UserErrors only (`guard`).
                answer = {"bug": traceback.format_exc()}
            # Where their function has closed it, the number may be that of a file of theirs now.
            if _identity(pipe_file) != identity:
                os._exit(NO_PIPE)
            send(pipe, answer)
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    main()
