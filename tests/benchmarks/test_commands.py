"""The benchmarks run, and report what their tables promise.

In one file: one process runs those that compare with transformers (see `support`).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.work import search_work, total
from groot_jax.model.config import preset
from tests.benchmarks.support import positive, run

pytestmark = pytest.mark.slow


def test_every_mode_of_generation_has_the_outputs_of_its_reference():
    results = run("generate", "--rounds=1")["results"]
    assert [(row["size"], row["mode"]) for row in results] == [
        ("pico", "legal"),
        ("pico", "full"),
        ("pico", "fused"),
        ("pico", "aligned"),
    ]
    for row in results:
        assert row["outputs_equal"] is True
        assert positive(row["ours_ms"]) and positive(row["hf_flax_ms"])
        assert positive(row["floor_ratio"])
        for dtype in ("float32", "bfloat16"):
            torch_ms = row[f"hf_torch_{dtype}_ms"]
            assert positive(torch_ms) if find_spec("torch") else torch_ms is None
        for name in ("ct2_float32_ms", "ct2_int8_ms", "ct2_float32_ratio", "ct2_int8_ratio"):
            assert positive(row[name]) if find_spec("ctranslate2") else row[name] is None


def test_the_update_has_the_loss_and_gradient_of_tiled_scoring():
    results = run("update", "--rounds=1")["results"]
    assert [(row["mode"], row["pool"]) for row in results] == [
        ("legal", "random"),
        ("full", "random"),
    ]
    for row in results:
        assert row["equal"] is True
        assert positive(row["ours_ms"]) and positive(row["hf_tiled_ms"])
        assert 0 < row["nodes_per_token"] <= 1
        assert positive(row["floor_ratio"]) and positive(row["ours_peak_mib"])


def test_the_floor_counts_what_each_part_must_do():
    result = run("floor", "--rounds=1")
    assert {row["dtype"] for row in result["rates"]} == {"float32", "bfloat16"}
    parts = {row["part"]: row for row in result["results"]}
    assert set(parts) == {"encoder", "cross_kv", "decoder and projection", "search", "update"}
    whole = sum(parts[name]["gflop"] for name in ("encoder", "cross_kv", "decoder and projection"))
    assert parts["search"]["gflop"] == pytest.approx(whole, rel=1e-3)
    assert all(positive(row["floor_ms"]) and positive(row["ours_ms"]) for row in parts.values())


def test_the_counts_are_those_of_a_hand_calculation():
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


def test_the_loop_reports_its_rate_the_baselines_and_the_wait(tmp_path: Path):
    timeline = tmp_path / "timeline.svg"
    result = run("loop", f"--timeline={timeline}", f"--cache={tmp_path}")
    assert positive(result["sentences_per_second"])
    assert positive(result["baseline_sentences_per_second"])
    assert 0 <= result["device_wait_share"] < 1
    # It may not be hidden, but it may not vanish either.
    assert result["slow_reward"]["part_ms"]["wait for pools"] > 0
    assert "</svg>" in timeline.read_text(encoding="utf-8")


def test_formats_are_timed_side_by_side():
    results = run("formats", "--rounds=1", "--formats=aligned,tag_only")["results"]
    assert [(row["size"], row["format"]) for row in results] == [
        ("pico", "aligned"),
        ("pico", "tag_only"),
    ]
    for step in ("nll", "search", "update"):
        assert results[0][f"{step}_ratio"] == 1
        assert all(positive(row[f"{step}_ms"]) for row in results)


def test_programs_are_counted_cold_and_warm():
    found = run("compile")
    cold, warm = found["results"]["cold"], found["results"]["warm"]
    assert cold["from_disk"] == 0 < warm["from_disk"]
    assert cold["programs"] == warm["programs"]
    assert positive(cold["xla_s"]) and 0 < cold["share"] < 1
    functions = {row["function"]: row for row in found["rows"] if row["run"] == "cold"}
    # Stage 0 alone, in one size of batch: an update, and a search of dev, which the close shares.
    assert functions["nll_step"]["programs"] == functions["search"]["programs"] == 1
    parts = sum(row["programs"] for name, row in functions.items() if name != "all")
    assert parts == functions["all"]["programs"] == cold["programs"]


def test_a_pass_with_saves_is_timed_beside_one_without(tmp_path: Path):
    result = run("saves", f"--cache={tmp_path}")
    assert all(positive(result["sentences_per_second"][name][0]) for name in ("none", "saves"))
    assert result["saves"] == len(result["blocked_seconds"]) >= 1
    pairs = zip(result["blocked_seconds"], result["copied_seconds"], strict=True)
    assert all(blocked >= copied > 0 for blocked, copied in pairs)
