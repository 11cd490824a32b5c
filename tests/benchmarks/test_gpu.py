"""benchmarks/gpu.py writes what was measured into the page, and says what was not."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.floor import PARTS
from tests.benchmarks.support import ROOT

PAGE = f"# Performance\n\n{gpu.NONE_YET} Ratios say more.\n\n## Input\n\nText.\n"
RESULTS: dict[str, dict[str, Any]] = {
    "generate": {"results": [{"size": "base", "mode": "legal", "ours_ms": 12.5}]},
    "floor": {"results": [{"size": "base", "part": "search", "floor_ms": 1234.5}]},
    "loop": {"sentences_per_second": 410.0, "ratio": 9.31},
}


def run_with(monkeypatch, tmp_path: Path, results: dict[str, Any], **changes: Any) -> int:
    """`gpu.run` on a device called `Tensor 9000`, with these results instead of benchmarks."""

    def run_step(python: Path, step: gpu.Step, seconds: float, env: object) -> gpu.Outcome:
        found = results.get(step.name, "failed: out of memory")
        return gpu.Outcome(None, found) if isinstance(found, str) else gpu.Outcome(found)

    monkeypatch.setattr(gpu, "run_step", run_step)
    monkeypatch.setattr(gpu, "device_of", lambda python, env: ("gpu", "Tensor 9000"))
    page = tmp_path / "performance.md"
    if not page.exists():
        page.write_text(PAGE, encoding="utf-8")
    options = {"wheels": None, "sizes": "base", "deadline": 600.0, "page": page, "quick": False}
    options["only"] = ",".join(gpu.BENCHMARKS)
    return gpu.run(argparse.Namespace(**options | changes))


def test_figures_come_into_the_page_with_the_devices_name_and_replace_its_last_ones(
    monkeypatch, tmp_path
):
    assert run_with(monkeypatch, tmp_path, RESULTS) == 1  # `update` failed.
    first = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert gpu.NONE_YET not in first and "## Input\n\nText.\n" in first
    assert "## On Tensor 9000" in first
    assert "| base | legal | 12.5 |" in first
    assert "1,234" in first and "| base | 410 |" in first
    assert "Left out: base: failed: out of memory." in first
    again = RESULTS | {"update": {"results": [{"size": "base", "ratio": 2.5}]}}
    assert run_with(monkeypatch, tmp_path, again) == 0
    second = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert second.count("## On Tensor 9000") == 1
    assert "Left out" not in second and "2.5" in second
    # What is not run again stays, and so does the rest of the page.
    moved = second + "\n## More\n"
    (tmp_path / "performance.md").write_text(moved, encoding="utf-8")
    later = RESULTS | {"loop": {"sentences_per_second": 500.0}}
    assert run_with(monkeypatch, tmp_path, later, only="loop") == 0
    expected = moved.replace("| base | 410 |  |  | 9.31 |", "| base | 500 |  |  |  |")
    assert (tmp_path / "performance.md").read_text(encoding="utf-8") == expected != moved


def test_what_the_deadline_leaves_no_time_for_is_named(monkeypatch, tmp_path):
    assert run_with(monkeypatch, tmp_path, RESULTS, deadline=5.0) == 0
    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert text.count("base: no time left of 5 s.") == 4


def test_a_benchmark_that_fails_or_takes_too_long_says_so(tmp_path):
    step = gpu.steps_of("pico", quick=True)[0]._replace(flags=("--no-such-flag",))
    # Of the machine's own Python, which ends at once: it is the last line that is told.
    failed = gpu.run_step(Path(sys.executable), step, 120.0, {"PATH": "", "JAX_PLATFORMS": "cpu"})
    assert failed.result is None and "--no-such-flag" in failed.reason
    late = gpu.run_step(Path(sys.executable), step, 0.01, {"PATH": ""})
    assert late == gpu.Outcome(None, "not done in 0 s")


def test_the_steps_are_the_benchmarks_that_only_may_name(monkeypatch, tmp_path):
    assert [step.name for step in gpu.steps_of("base", quick=False)] == [*gpu.BENCHMARKS]
    assert run_with(monkeypatch, tmp_path, RESULTS, only="loop,floor") == 0
    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "| base | 410 |" in text and "**Generation" not in text
    with pytest.raises(SystemExit, match="'lop' is none of generate, update, floor, loop"):
        run_with(monkeypatch, tmp_path, RESULTS, only="lop")


def test_it_asks_for_a_gpu_and_for_a_page(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "device_of", lambda python, env: ("cpu", "cpu"))
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu.main(["run", f"--page={page}"])
    with pytest.raises(SystemExit, match="is no file"):
        gpu.main(["run", f"--page={tmp_path / 'missing.md'}"])
    assert page.read_text(encoding="utf-8") == PAGE


@pytest.mark.slow
def test_the_command_runs_to_its_last_line_without_a_gpu(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(PAGE, encoding="utf-8")
    # The benchmark that takes least.
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "run", "--quick"]
    done = subprocess.run(
        [*command, f"--page={page}", "--only=floor"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert "## On cpu" in text and "Left out" not in text
    assert all(f"| pico | {part} | " in text for part in PARTS)
