"""benchmarks/update.py runs, and the update agrees with tiled scoring."""

from __future__ import annotations

import pytest

from tests.benchmarks.support import positive, run

pytestmark = pytest.mark.slow


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
