"""Benchmarks build on each other without a circle, wherever in a file an import stands."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def imported(path: Path) -> set[str]:
    """The benchmarks that a file imports, as `from benchmarks import a` or `from benchmarks.a`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "benchmarks":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks."):
            found.add(str(node.module).partition(".")[2])
    return found


def test_no_benchmark_imports_itself_by_way_of_others() -> None:
    graph = {path.stem: imported(path) for path in FOLDER.glob("*.py")}
    assert {"work", "generate", "update"} <= graph["floor"]
    # Raises CycleError, which names the circle.
    order = list(TopologicalSorter(graph).static_order())
    assert sorted(order) == sorted(graph)
