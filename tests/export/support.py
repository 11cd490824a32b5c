"""labeling.py of an exported folder as a module of its own, as a user has it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.export.conftest import SENTENCES, K, Ranked


def loader(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported_labeling", folder / "labeling.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and named tuples look their module up by name.
    sys.modules["exported_labeling"] = module
    spec.loader.exec_module(module)
    return module


def answers(folder: Path, **options: Any) -> Ranked:
    """Spans and score, best first, of each of `SENTENCES`."""
    found = loader(folder).Labeler(folder, **options).label_all(SENTENCES, K)
    return [
        [(tuple((s["start"], s["end"], s["type"]) for s in y["spans"]), y["score"]) for y in one]
        for one in found
    ]


def assert_same(found: Ranked, expected: Ranked, within: float = 1e-4) -> None:
    """The same labelings in the same order, with scores that differ by less than `within`."""
    for one, other in zip(found, expected, strict=True):
        assert [y for y, _ in one] == [y for y, _ in other]
        assert [s for _, s in one] == pytest.approx([s for _, s in other], abs=within, rel=0)
