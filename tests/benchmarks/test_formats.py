"""benchmarks/formats.py runs, and times the formats beside each other."""

from __future__ import annotations

import pytest

from tests.benchmarks.support import positive, run

pytestmark = pytest.mark.slow


def test_formats_are_timed_side_by_side():
    results = run("formats", "--rounds=1", "--formats=aligned,tag_only")["results"]
    assert [(row["size"], row["format"]) for row in results] == [
        ("nano", "aligned"),
        ("nano", "tag_only"),
    ]
    for step in ("nll", "search", "update"):
        assert results[0][f"{step}_ratio"] == 1
        assert all(positive(row[f"{step}_ms"]) for row in results)
