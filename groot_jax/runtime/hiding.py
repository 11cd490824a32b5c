"""Keeps frameworks out that a library would import wherever they are installed. No JAX here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def imported_without(package: str, *names: str) -> Iterator[None]:
    """`package` may be imported inside, and does not find the modules `names`.

    It is forgotten afterwards: transformers decides when it is imported whether there is torch, and
    whoever imports it next has it whole. Where it was imported before, nothing is changed.
    """
    if package in sys.modules:
        yield
        return
    try:
        with hidden(*names):
            yield
    finally:
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """To what is imported inside, the modules `names` look as if they were not installed.

    With None in `sys.modules` both `import torch` and `importlib.util.find_spec("torch")` find
    nothing. Whoever imports one of them afterwards finds it as before.
    """
    before: dict[str, ModuleType | None] = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
