"""benchmarks/predict.py runs, and answers every line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.support import positive, run

pytestmark = pytest.mark.slow


def test_one_sentence_and_many_are_answered_by_the_command(tmp_path: Path) -> None:
    cold, warm, many = run("predict", f"--cache={tmp_path}")["rows"]
    assert [row["answers"] for row in (cold, warm, many)] == [1, 1, 70]
    for row in (cold, warm, many):
        assert positive(row["seconds"]) and positive(row["cpu_s"])
