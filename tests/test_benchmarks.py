"""The benchmarks run, agree with what they compare, and end with the JSON that they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def run(name: str, *flags: str) -> dict[str, Any]:
    """The JSON of `benchmarks/<name>.py --quick --json`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--json", *flags],
        cwd=ROOT.parent,  # They find the project by themselves.
        # Threads of torch that share a core wait for each other, for seconds.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def positive(value: Any) -> bool:
    return isinstance(value, float) and value > 0


def test_every_mode_of_generation_has_the_outputs_of_its_reference():
    results = run("generate", "--rounds=1")["results"]
    assert [(row["size"], row["mode"]) for row in results] == [
        ("nano", "legal"),
        ("nano", "full"),
        ("nano", "fused"),
        ("nano", "aligned"),
    ]
    for row in results:
        assert row["outputs_equal"] is True
        assert positive(row["ours_ms"]) and positive(row["hf_flax_ms"])
        assert positive(row["floor_ratio"])
        for dtype in ("float32", "bfloat16"):
            torch_ms = row[f"hf_torch_{dtype}_ms"]
            assert torch_ms is None or positive(torch_ms)


def test_formats_are_timed_side_by_side():
    results = run("formats", "--rounds=1", "--formats=aligned,tag_only")["results"]
    assert [(row["size"], row["format"]) for row in results] == [
        ("nano", "aligned"),
        ("nano", "tag_only"),
    ]
    for step in ("nll", "search", "update"):
        assert results[0][f"{step}_ratio"] == 1
        assert all(positive(row[f"{step}_ms"]) for row in results)


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


def test_the_loop_reports_its_rate_the_baselines_and_the_wait(tmp_path: Path):
    timeline = tmp_path / "timeline.svg"
    result = run("loop", f"--timeline={timeline}", f"--cache={tmp_path}")
    assert positive(result["sentences_per_second"])
    assert positive(result["baseline_sentences_per_second"])
    assert 0 <= result["device_wait_share"] < 1
    # It may not be hidden, but it may not vanish either.
    assert result["slow_reward"]["part_ms"]["wait for pools"] > 0
    assert "</svg>" in timeline.read_text(encoding="utf-8")


def test_the_floor_counts_what_each_part_must_do():
    result = run("floor", "--rounds=1")
    assert {row["dtype"] for row in result["rates"]} == {"float32", "bfloat16"}
    parts = {row["part"]: row for row in result["results"]}
    assert set(parts) == {"encoder", "cross_kv", "decoder and projection", "search", "update"}
    whole = sum(parts[name]["gflop"] for name in ("encoder", "cross_kv", "decoder and projection"))
    assert parts["search"]["gflop"] == pytest.approx(whole, rel=1e-3)
    assert all(positive(row["floor_ms"]) and positive(row["ours_ms"]) for row in parts.values())


def test_the_counts_are_those_of_a_hand_calculation():
    from benchmarks.floor import search_work, total
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
    assert total(works).flops == encoder + decoder + cross_kv + projection
