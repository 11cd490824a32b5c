"""benchmarks/compile.py runs, and finds in the cache what it has compiled before."""

from __future__ import annotations

import pytest

from tests.benchmarks.support import positive, run

pytestmark = pytest.mark.slow


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
