"""benchmarks/floor.py runs, and benchmarks/work.py counts what a calculation by hand counts."""

from __future__ import annotations

import pytest

from tests.benchmarks.support import positive, run

pytestmark = pytest.mark.slow


def test_the_floor_counts_what_each_part_must_do():
    result = run("floor", "--rounds=1")
    assert {row["dtype"] for row in result["rates"]} == {"float32", "bfloat16"}
    parts = {row["part"]: row for row in result["results"]}
    assert set(parts) == {"encoder", "cross_kv", "decoder and projection", "search", "update"}
    whole = sum(parts[name]["gflop"] for name in ("encoder", "cross_kv", "decoder and projection"))
    assert parts["search"]["gflop"] == pytest.approx(whole, rel=1e-3)
    assert all(positive(row["floor_ms"]) and positive(row["ours_ms"]) for row in parts.values())


def test_the_counts_are_those_of_a_hand_calculation():
    from benchmarks.work import search_work, total
    from groot_jax.model.config import preset

    # T5-small, 16 sentences, 48 source tokens, 8 beams, 32 steps, 200 columns.
    works = search_work(
        preset("small", "v1_0", 32128), batch=16, source=48, k=8, steps=32, columns=200
    )
    attention, feed_forward = 4 * 512 * 512, 2 * 512 * 2048
    encoder = 6 * 768 * (2 * (attention + feed_forward) + 4 * 512 * 48)
    decoder = 6 * 4096 * (2 * (attention * 3 // 2 + feed_forward) + 4 * 512 * (16.5 + 48))
    cross_kv = 6 * 768 * 2 * 2 * 512 * 512
    projection = 4096 * 2 * 512 * 200
    assert works["encoder"].flops == encoder
    assert total(works.values()).flops == encoder + decoder + cross_kv + projection
