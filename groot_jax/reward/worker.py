"""What a scoring process runs: `python -m groot_jax.reward.worker PIPE_FD BOARD_FD JOB_PID`.

The oracle starts it. It reads chunks of work from the pipe and answers there, in JSON, until the
job closes it. It imports nothing of JAX. A user's prints go to stderr.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from groot_jax.data.labeling import Candidate, Labeling, Span
from groot_jax.errors import UserError
from groot_jax.reward.pool import (
    Pool,
    PoolEntry,
    PoolSettings,
    Score,
    ScoringTask,
    Triple,
    build_pools,
)
from groot_jax.reward.rewards import RewardSpec, Words, is_batched, make_batch_reward, make_reward
from groot_jax.reward.user_function import Board


@dataclass(frozen=True, slots=True)
class Chunk:
    """Work for one lane at a time: tasks, of which pools are made as `settings` say, or triples,
    of which the rewards are asked. The items are whichever of the two there are."""

    tasks: Sequence[ScoringTask]
    triples: Sequence[Triple]
    settings: PoolSettings

    def words(self) -> list[Words]:
        """The sentence of each item."""
        return [task.words for task in self.tasks] + [words for _, _, words in self.triples]


Results = list[Pool] | list[float]
ChunkScorer = Callable[[Chunk], Results]


def make_chunk_scorer(spec: RewardSpec, seed: int, board: Board) -> ChunkScorer:
    """What turns a chunk into a pool for each task, or a reward for each triple.

    Before an item is worked on its number goes to `board.item`; a batch-form reward sees all items
    of a chunk in one call, under the first one's. Raises a UserError if the reward cannot be had.
    """
    score = _score_together(spec, board) if is_batched(spec) else _score_singly(spec, board)

    def score_chunk(chunk: Chunk) -> Results:
        if chunk.triples:
            return score(chunk.triples, range(len(chunk.triples)))
        return build_pools(chunk.tasks, score, chunk.settings, spec.malformed_penalty, seed)

    return score_chunk


def _score_singly(spec: RewardSpec, board: Board) -> Score:
    reward = make_reward(spec, board)

    def score(triples: Sequence[Triple], items: Sequence[int]) -> list[float]:
        rewards = []
        for triple, item in zip(triples, items, strict=True):
            board.item = item
            rewards.append(reward(*triple))
        return rewards

    return score


def _score_together(spec: RewardSpec, board: Board) -> Score:
    score_lists = make_batch_reward(spec, board)

    def score(triples: Sequence[Triple], items: Sequence[int]) -> list[float]:
        board.item = 0  # One call for all: its message names the first sentence.
        return score_lists(
            [t[0] for t in triples], [t[1] for t in triples], [t[2] for t in triples]
        )

    return score


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
    tasks, triples, settings = message
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
    )


def decode_pools(message: list) -> list[Pool]:
    """Pools as they were before they were sent."""
    return [tuple(PoolEntry(_labeling(spans), *rest) for spans, *rest in pool) for pool in message]


def _labeling(spans: list) -> Labeling:
    return tuple(map(Span._make, spans))


# ---- The process ------------------------------------------------------------------------------


def _end_with_job(job: int) -> None:
    """Ends this process soon after the job's. A job that was killed can't end a call that it waits
    for, and the pipe's end is seen only between calls. An orphan gets another parent."""
    while os.getppid() == job:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Serves chunks until the job closes the pipe. Ctrl-C is the job's to handle."""
    # A terminal sends it to all processes of the job; the job then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe_file, board_file, job = map(int, sys.argv[1:])
    threading.Thread(target=_end_with_job, args=(job,), daemon=True).start()
    pipe = Connection(pipe_file)
    board = Board.from_buffer(mmap.mmap(board_file, ctypes.sizeof(Board)))
    try:
        setup = receive(pipe)
        # The job's: it may have been changed since the job began, by pytest or by a notebook.
        sys.path[:] = setup["path"]
        try:
            score_chunk = make_chunk_scorer(RewardSpec(**setup["spec"]), setup["seed"], board)
        except UserError as error:
            send(pipe, {"error": str(error)})
            return
        send(pipe, {"ready": True})
        while True:
            chunk = decode_chunk(receive(pipe))
            answer: dict[str, object]
            try:
                answer = {"results": score_chunk(chunk)}
            except UserError as error:
                answer = {"error": str(error)}
            except Exception:  # Ours: a user's function raises UserErrors only (`guard`).
                answer = {"bug": traceback.format_exc()}
            send(pipe, answer)
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    main()
