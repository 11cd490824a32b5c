"""Programs compiled in a thread, while the device works on others.

A training meets its sizes of batches one after the other, and each is a program of some seconds to
compile; most are known beforehand. JAX keeps what the thread has compiled where the call itself
looks for it, and a call that comes meanwhile waits for the rest. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

import jax


class Lowerable(Protocol):
    """A jitted function, as far as it can be compiled for arguments that are not there yet."""

    def lower(self, *args: Any) -> Any: ...


class Ahead:
    """One thread that compiles what it is given, in that order; a context manager, which at its end
    drops what has not begun and waits for what has, but not after an error.

    `enabled`: without, nothing is compiled but by the calls themselves. So it is where several
    processes run together, which have to compile the same programs in the same order.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._known: set[object] = set()
        self._waiting: list[tuple[Lowerable | None, Future[None]]] = []

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A signal is not kept waiting by a program that nobody will call.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def compile(self, function: Lowerable, *args: Any) -> None:
        """Compiles `function`, a jitted one, for arrays like these: shapes with their shardings, or
        arrays. What was asked for before is not compiled again."""
        # Shapes alone are kept until then: an update takes over the memory of its state.
        shapes = jax.tree.map(shape_of, args)
        known = (function, *((x.shape, x.dtype) for x in jax.tree.leaves(shapes)))
        if known not in self._known:
            self._known.add(known)
            self._add(function, lambda: function.lower(*shapes).compile())

    def run(self, find: Callable[[], object]) -> None:
        """Calls `find`, which finds out what else is to be compiled, in its turn."""
        self._add(None, find)

    def drop(self, functions: Collection[object]) -> None:
        """Leaves out what waits to be compiled of these: nobody will call them."""
        for function, future in self._waiting:
            if function is not None and any(function is one for one in functions):
                future.cancel()

    def _add(self, function: Lowerable | None, task: Callable[[], object]) -> None:
        if not self.enabled:
            return

        def attempt() -> None:
            # The call itself will meet the same error, and say it where it belongs.
            with suppress(Exception):
                task()

        self._waiting = [(f, future) for f, future in self._waiting if not future.done()]
        self._waiting.append((function, self._pool.submit(attempt)))


def spread(steps: range, share: float) -> range:
    """Some of these steps, so many of them as `share` says and 24 at most, in equal distances."""
    # Of retail's 750 batches 24: a size that every tenth has is among them 92 times in a hundred.
    count = min(24, int(len(steps) * share))
    return steps[:: -(-len(steps) // count)] if count else steps[:0]


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """The shape of an array on the devices, with its sharding; a shape stays as it is."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def shapes_on(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes of arrays that lie on the host, as they will lie on the devices."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
