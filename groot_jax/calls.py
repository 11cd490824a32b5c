"""Jobs that can be called: `groot_jax.train` is a module, whose job it is, and a function as well.

`import groot_jax.train` makes the module an attribute of the package, so that a function of the
same name could not stay there. No JAX here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Job(Generic[P, R]):
    """How a type checker sees such a module: it is called as its function, and has what it has."""

    def __init__(self, function: Callable[P, R]) -> None: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any: ...


def make_callable(name: str) -> None:
    """Lets the module `groot_jax.NAME` be called as `groot_jax.api.NAME`."""

    def call(*args: Any, **kwargs: Any) -> object:
        api = import_module("groot_jax.api")  # It imports the job.
        return getattr(api, name.rpartition(".")[2])(*args, **kwargs)

    # Python looks for __call__ in the class of what is called, and a module may change its class.
    namespace = {"__call__": staticmethod(call)}
    sys.modules[name].__class__ = type("Job", (ModuleType,), namespace)
