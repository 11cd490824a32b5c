"""Which sentences are searched together, and what becomes of those that wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from groot_jax.errors import UserError
from groot_jax.serving.batching import Batcher, Overloaded, Search, batch_sizes
from tests.serving.support import StandIn


def run(labeler: StandIn, scenario: Any, **changes: Any) -> list[Search]:
    """Awaits `scenario(batcher)`; the searches that were counted."""
    counted: list[Search] = []

    async def main() -> None:
        given: dict[str, Any] = {"sizes": (1, 4, 16), "widths": (4, 6), "delay": 0.02, "limit": 100}
        batcher = Batcher(labeler, count=counted.append, **(given | changes))
        batcher.start()
        try:
            await scenario(batcher)
        finally:
            labeler.gate.set()
            await batcher.close()

    asyncio.run(main())
    return counted


def test_sizes_of_batches_grow_by_four():
    assert [batch_sizes(n) for n in (1, 2, 4, 5, 16, 20, 64)] == [
        *((1,), (1, 2), (1, 4), (1, 4, 5), (1, 4, 16), (1, 4, 16, 20), (1, 4, 16, 64)),
    ]


def test_what_comes_within_the_delay_is_searched_together_and_gets_its_own_answer():
    labeler = StandIn()

    async def scenario(batcher: Batcher) -> None:
        asked = [((f"w{i}",) * (1 + i % 3), 1 + i % 4) for i in range(5)]
        found = await asyncio.gather(*(batcher.label(words, k, "map") for words, k in asked))
        for (words, k), prediction in zip(asked, found, strict=True):
            assert prediction.words == words
            assert len(prediction.labelings) == min(k, len(words))

    (search,) = run(labeler, scenario)
    assert (search.sentences, search.rows) == (5, 16) and search.seconds > 0
    ((_, k, rule, rows),) = labeler.calls
    # One width for every k that it holds.
    assert (k, rule, rows) == (4, "map", 16)


def test_other_widths_rules_and_sizes_are_searches_of_their_own():
    labeler = StandIn()

    async def scenario(batcher: Batcher) -> None:
        await asyncio.gather(
            batcher.label(("a",), 4, "map"),
            batcher.label(("b",), 5, "map"),
            batcher.label(("c",), 1, "mbr"),
            batcher.label(("d",) * 5, 1, "map"),
            batcher.label(("e",), 1, "map"),
        )

    run(labeler, scenario)
    calls = [([s[0] for s in sentences], *rest) for sentences, *rest in labeler.calls]
    assert calls == [
        (["a", "e"], 4, "map", 4),
        (["b"], 6, "map", 1),
        (["c"], 4, "mbr", 1),
        (["d"], 4, "map", 1),
    ]


def test_what_comes_during_a_search_waits_and_is_searched_in_order():
    labeler = StandIn()
    labeler.gate.clear()

    async def scenario(batcher: Batcher) -> None:
        first = asyncio.ensure_future(batcher.label(("a",), 1, "map"))
        while not labeler.calls:
            await asyncio.sleep(0.001)
        rest = [asyncio.ensure_future(batcher.label((f"r{i}",), 1, "map")) for i in range(6)]
        await asyncio.sleep(0.1)  # Five times the delay.
        assert len(labeler.calls) == 1 and batcher.waiting == 6
        labeler.gate.set()
        await asyncio.gather(first, *rest)

    run(labeler, scenario, sizes=(1, 4))
    assert [len(sentences) for sentences, *_ in labeler.calls] == [1, 4, 2]
    order = [words[0] for sentences, *_ in labeler.calls for words in sentences]
    assert order == ["a", *(f"r{i}" for i in range(6))]


def test_who_gives_up_is_not_searched():
    labeler = StandIn()
    labeler.gate.clear()

    async def scenario(batcher: Batcher) -> None:
        first = asyncio.ensure_future(batcher.label(("a",), 1, "map"))
        while not labeler.calls:
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.label(("late",), 1, "map"), 0.01)
        labeler.gate.set()
        await first
        await batcher.label(("b",), 1, "map")

    run(labeler, scenario)
    assert [sentences for sentences, *_ in labeler.calls] == [[("a",)], [("b",)]]


def test_a_search_that_fails_fails_for_all_of_it_and_the_next_one_works():
    labeler = StandIn()

    async def scenario(batcher: Batcher) -> None:
        both = (batcher.label((word,), 1, "map") for word in ("broken", "a"))
        found = await asyncio.gather(*both, return_exceptions=True)
        assert [str(error) for error in found] == ["the reward has failed"] * 2
        assert isinstance(found[0], UserError) and "has failed" in batcher.failure
        await batcher.label(("b",), 1, "map")
        assert batcher.failure == ""

    run(labeler, scenario)


def test_more_than_may_wait_are_refused_and_closing_leaves_nobody_waiting():
    labeler = StandIn()
    labeler.gate.clear()
    waiting: list[asyncio.Future] = []

    async def scenario(batcher: Batcher) -> None:
        waiting.append(asyncio.ensure_future(batcher.label(("a",), 1, "map")))
        while not labeler.calls:
            await asyncio.sleep(0.001)
        waiting.extend(asyncio.ensure_future(batcher.label(("b",), 1, "map")) for _ in range(3))
        await asyncio.sleep(0.01)
        batcher.room(2)
        with pytest.raises(Overloaded):
            batcher.room(3)

    run(labeler, scenario, limit=5)
    assert all(one.cancelled() for one in waiting)
