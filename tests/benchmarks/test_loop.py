"""benchmarks/loop.py runs, and reports the rate, the baselines and the wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.support import positive, run

pytestmark = pytest.mark.slow


def test_the_loop_reports_its_rate_the_baselines_and_the_wait(tmp_path: Path):
    timeline = tmp_path / "timeline.svg"
    result = run("loop", f"--timeline={timeline}", f"--cache={tmp_path}")
    assert positive(result["sentences_per_second"])
    assert positive(result["baseline_sentences_per_second"])
    assert 0 <= result["device_wait_share"] < 1
    # It may not be hidden, but it may not vanish either.
    assert result["slow_reward"]["part_ms"]["wait for pools"] > 0
    assert "</svg>" in timeline.read_text(encoding="utf-8")
