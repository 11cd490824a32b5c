"""Keeps frameworks out that a library would import wherever they are installed. No JAX here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


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
