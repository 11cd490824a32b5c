"""What a scoring process runs: `python -m groot_jax.reward.worker BOARD_FD JOB_PID`.

The oracle starts it. It reads chunks of work on stdin and answers on stdout, in length-prefixed
JSON, until stdin ends. It imports nothing of JAX. A user's prints go to stderr instead.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Literal

from groot_jax.data.labeling import Candidate, Labeling, Span
from groot_jax.errors import UserError
from groot_jax.reward.pool import (
    Pool,
    PoolEntry,
    PoolSettings,
    ScoringTask,
    build_pool,
    propose,
    rank,
)
from groot_jax.reward.rewards import RewardSpec, is_batched, make_batch_reward, make_reward
from groot_jax.reward.user_function import Board

Triple = tuple[Labeling, Labeling, Sequence[str]]  # candidate, gold, words
Kind = Literal["pools", "rewards"]
Run = Callable[[Kind, Sequence[Any], PoolSettings], list]
BOARD_BYTES = 16  # Two doubles.


def make_run(spec: RewardSpec, seed: int, board: Board) -> Run:
    """The work on one chunk: ("pools", tasks) -> pools, ("rewards", triples) -> floats.

    Before an item is worked on its index goes to `board.item`; a batch-form reward sees all items
    of a chunk in one call, under the first one's.
    """
    if is_batched(spec):
        return _run_together(spec, seed, board)
    return _run_one_by_one(spec, seed, board)


def _run_one_by_one(spec: RewardSpec, seed: int, board: Board) -> Run:
    reward = make_reward(spec, board)

    def work(kind: Kind, item: Any, settings: PoolSettings) -> Any:
        if kind == "rewards":
            return reward(*item)
        return build_pool(
            item.words,
            item.gold,
            item.candidates,
            reward,
            settings,
            spec.malformed_penalty,
            _task_seed(seed, item),
        )

    def run(kind: Kind, items: Sequence[Any], settings: PoolSettings) -> list:
        results = []
        for index, item in enumerate(items):
            board.item = index
            results.append(work(kind, item, settings))
        return results

    return run


def _run_together(spec: RewardSpec, seed: int, board: Board) -> Run:
    score_lists = make_batch_reward(spec, board)

    def score(triples: Sequence[Triple]) -> list[float]:
        board.item = 0
        return score_lists(
            [t[0] for t in triples], [t[1] for t in triples], [t[2] for t in triples]
        )

    def run(kind: Kind, items: Sequence[Any], settings: PoolSettings) -> list:
        if kind == "rewards":
            return score(items)
        proposals = [propose(t.gold, t.candidates, settings, _task_seed(seed, t)) for t in items]
        rewards = iter(
            score(
                [
                    (proposal.labeling, task.gold, task.words)
                    for task, own in zip(items, proposals, strict=True)
                    for proposal in own
                ]
            )
        )
        penalty = spec.malformed_penalty
        return [rank(own, [next(rewards) for _ in own], penalty) for own in proposals]

    return run


def _task_seed(seed: int, task: ScoringTask) -> int:
    return (int(seed) << 64) ^ int(task.key)


# The protocol. JSON writes a Span as a list by itself; numpy scalars it refuses, hence int, float.


def send(stream: BinaryIO, message: Any) -> None:
    """Writes one message and flushes."""
    body = json.dumps(message, separators=(",", ":")).encode()
    stream.write(struct.pack(">Q", len(body)) + body)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Reads one message; raises EOFError where the other side is gone."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (size,) = struct.unpack(">Q", head)
    body = stream.read(size)
    if len(body) < size:
        raise EOFError
    return json.loads(body)


def encode_items(kind: Kind, items: Sequence[Any]) -> list:
    """Tasks or triples as JSON values."""
    if kind == "rewards":
        return [(_plain(candidate), _plain(gold), tuple(words)) for candidate, gold, words in items]
    return [
        (
            tuple(task.words),
            _plain(task.gold),
            [
                (_plain(c.labeling), float(c.score), bool(c.well_formed), int(c.slot))
                for c in task.candidates
            ],
            int(task.key),
        )
        for task in items
    ]


def decode_items(kind: Kind, items: list) -> list:
    """Inverse of `encode_items`."""
    if kind == "rewards":
        return [(_labeling(c), _labeling(gold), tuple(words)) for c, gold, words in items]
    return [
        ScoringTask(
            tuple(words),
            _labeling(gold),
            tuple(Candidate(_labeling(c[0]), c[1], c[2], c[3]) for c in candidates),
            key,
        )
        for words, gold, candidates, key in items
    ]


def encode_results(kind: Kind, results: list) -> list:
    """Pools or floats as JSON values."""
    if kind == "rewards":
        return results
    return [
        [(e.labeling, e.reward, e.score, e.origin, e.parent, e.slot, e.well_formed) for e in pool]
        for pool in results
    ]


def decode_results(kind: Kind, results: list) -> list:
    """Inverse of `encode_results`."""
    if kind == "rewards":
        return results
    pools: list[Pool] = [
        tuple(PoolEntry(_labeling(e[0]), *e[1:]) for e in pool) for pool in results
    ]
    return pools


def _plain(labeling: Labeling) -> list[tuple[int, int, str]]:
    return [(int(start), int(end), type_) for start, end, type_ in labeling]


def _labeling(spans: list) -> Labeling:
    return tuple(map(Span._make, spans))


def _end_with_job(job: int) -> None:
    # A job that was killed can't end a call that it waits for.
    while os.getppid() == job:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Serves chunks until stdin ends. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    board_file, job = map(int, sys.argv[1:])
    threading.Thread(target=_end_with_job, args=(job,), daemon=True).start()
    board = Board(memoryview(mmap.mmap(board_file, BOARD_BYTES)).cast("d"))
    try:
        setup = receive(reader)
        sys.path[:] = setup["path"]
        try:
            spec = RewardSpec(**setup["spec"])
            run = make_run(spec, setup["seed"], board)
        except UserError as error:
            send(writer, {"error": str(error)})
            return
        send(writer, {"ready": True})
        while True:
            kind, items, settings = receive(reader)
            try:
                results = run(kind, decode_items(kind, items), PoolSettings(**settings))
                answer: dict[str, Any] = {"results": encode_results(kind, results)}
            except UserError as error:
                answer = {"error": str(error)}
            except Exception:
                answer = {"bug": traceback.format_exc()}
            send(writer, answer)
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    main()
