"""Frameworks that a library finds, or does not, at its import."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from groot_jax.runtime.hiding import imported_without


def test_a_package_is_imported_without_another_and_then_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "framework_of_test.py").write_text("")
    (tmp_path / "user_of_test").mkdir()
    (tmp_path / "user_of_test" / "__init__.py").write_text(
        "try:\n    import framework_of_test\n    from user_of_test import part\n"
        "except ImportError:\n    framework_of_test = None\n    from user_of_test import part\n"
    )
    (tmp_path / "user_of_test" / "part.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    name = "user_of_test"
    with imported_without(name, "framework_of_test"):
        assert importlib.import_module(name).framework_of_test is None
    assert not {name, f"{name}.part", "framework_of_test"} & sys.modules.keys()
    found = importlib.import_module(name)
    assert found.framework_of_test is sys.modules["framework_of_test"]
    with imported_without(name, "framework_of_test"):  # It is there: nothing is taken from it.
        assert importlib.import_module(name) is found
    assert sys.modules[name] is found
    for module in (name, f"{name}.part", "framework_of_test"):
        del sys.modules[module]
