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
    # One size of batch: an update of each stage, a search of dev, and one with dropout.
    assert functions["nll_step"]["programs"] == 1
    assert functions["search"]["programs"] == 2
    assert functions["groot_step"]["programs"] >= 1
    parts = sum(row["programs"] for name, row in functions.items() if name != "all")
    assert parts == functions["all"]["programs"] == cold["programs"]
