"""benchmarks/generate.py runs, and every mode agrees with its reference."""

from __future__ import annotations

import pytest

from tests.benchmarks.support import positive, run

pytestmark = pytest.mark.slow


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
