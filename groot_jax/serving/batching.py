"""Sentences of many callers, searched together.

A search takes all that wait, and what comes within a few milliseconds after the first of them. One
search runs at a time, in a thread of its own, so that the event loop goes on taking requests.
Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from groot_jax.prediction import Prediction

Words = tuple[str, ...]


class Labels(Protocol):
    """What is asked of a labeler: see `groot_jax.labeler.Labeler`."""

    def check(self, words: Sequence[str], where: str = "") -> Words: ...

    def rule(self, decide: str) -> str: ...

    def batch_shape(self, words: Words) -> tuple[int, int]: ...

    def label_all(
        self, sentences: Sequence[Sequence[str]], k: int, decide: str, batch_size: int
    ) -> list[Prediction]: ...


class Overloaded(Exception):
    """More sentences wait than may."""


class _Key(NamedTuple):
    """What sentences of one search have in common: width of the beam, decision rule, and the size
    that they are padded to."""

    width: int
    rule: str
    shape: tuple[int, int]


@dataclass(eq=False)
class _Waiting:
    words: Words
    k: int
    key: _Key
    arrived: float
    found: asyncio.Future[Prediction]


@dataclass(frozen=True)
class Search:
    """One search, for those who count: sentences, rows of its batch, seconds."""

    sentences: int
    rows: int
    seconds: float


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Rows that a batch may have: 1, 4, 16, ... and the largest. Each is a program to compile, and
    a batch is padded to the next one: at most four times as many rows as sentences."""
    sizes = [1]
    while sizes[-1] * 4 < largest:
        sizes.append(sizes[-1] * 4)
    return tuple(sizes) if largest == 1 else (*sizes, largest)


class Batcher:
    """Labels the sentences of concurrent callers in batches.

    `sizes`: see `batch_sizes`. `widths`: ascending beam widths that are searched; a k is searched
    with the first that holds it, so that answers are those of predict up to the width of training.
    `delay`: seconds that a sentence waits for others while nothing is searched. `limit`: sentences
    that may wait. `count` is told of each search.
    """

    def __init__(
        self,
        labeler: Labels,
        sizes: Sequence[int],
        widths: Sequence[int],
        delay: float,
        limit: int,
        count: Callable[[Search], None] = lambda search: None,
    ) -> None:
        self._labeler, self._count = labeler, count
        self._sizes, self._widths = tuple(sizes), tuple(widths)
        self._delay, self._limit = delay, limit
        self._waiting: deque[_Waiting] = deque()
        self._more = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "search")
        self._task: asyncio.Task[None] | None = None
        # Why the last search failed; empty: it did not.
        self.failure = ""

    @property
    def waiting(self) -> int:
        """Sentences that no search has taken yet."""
        return len(self._waiting)

    def start(self) -> None:
        """Begins to search, in the event loop that runs."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Ends after the search that is under way; callers that still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for one in self._waiting:
            one.found.cancel()
        self._thread.shutdown()

    def room(self, sentences: int) -> None:
        """Raises Overloaded where so many more may not wait."""
        if len(self._waiting) + sentences > self._limit:
            raise Overloaded

    async def label(self, words: Words, k: int, rule: str) -> Prediction:
        """Waits for the answer to checked words. Raises what the search raised."""
        width = next(width for width in self._widths if width >= k)
        loop = asyncio.get_running_loop()
        key = _Key(width, rule, self._labeler.batch_shape(words))
        one = _Waiting(words, k, key, loop.time(), loop.create_future())
        self._waiting.append(one)
        self._more.set()
        try:
            return await one.found
        except asyncio.CancelledError:
            with suppress(ValueError):  # It is being searched.
                self._waiting.remove(one)
            raise

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._more.clear()
            if not self._waiting:
                await self._more.wait()
                continue
            left = self._waiting[0].arrived + self._delay - loop.time()
            if left > 0 and len(self._waiting) < self._sizes[-1]:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._more.wait(), left)
            else:
                await self._search(self._take())

    def _take(self) -> list[_Waiting]:
        """The first that waits with those that can be searched beside it."""
        # Of a1 b1 a2 a3, where a and b differ in width, rule or size, and two rows: a1 a2, and
        # next time b1. So nobody is overtaken for ever.
        key = self._waiting[0].key
        batch = [one for one in self._waiting if one.key == key][: self._sizes[-1]]
        taken = {id(one) for one in batch}
        self._waiting = deque(one for one in self._waiting if id(one) not in taken)
        return batch

    async def _search(self, batch: list[_Waiting]) -> None:
        key = batch[0].key
        rows = next(size for size in self._sizes if size >= len(batch))
        sentences = [one.words for one in batch]
        begun = time.perf_counter()
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._labeler.label_all, sentences, key.width, key.rule, rows
            )
            self._count(Search(len(batch), rows, time.perf_counter() - begun))
            self.failure = ""
            for one, prediction in zip(batch, found, strict=True):
                if not one.found.done():
                    labelings = prediction.labelings[: one.k]
                    one.found.set_result(replace(prediction, labelings=labelings))
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            for one in batch:
                if not one.found.done():
                    one.found.set_exception(error)
        finally:
            for one in batch:  # Where the batcher is closed meanwhile.
                one.found.cancel()
