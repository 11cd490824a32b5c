"""When JAX traces, lowers and compiles, and how many seconds of a process that took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jax import monitoring

# Of tracing, lowering and compiling; the last one holds a look into the cache of programs as well.
_EVENTS = "/jax/core/compile/"


class CompileClock:
    """Counts the seconds that its thread spends on compiling, a context manager; `begins` is called
    when it begins.

    JAX tells of each event when it begins and when it ends. They hold one another (what is traced
    inside a trace), so that their durations do not add up.
    """

    def __init__(self, begins: Callable[[], None] = lambda: None) -> None:
        self.seconds = 0.0
        self._begins = begins
        self._depth = 0  # Events that are under way.
        self._since = 0.0
        self._thread = threading.get_ident()

    def __enter__(self) -> CompileClock:
        monitoring.register_scalar_listener(self._begin)
        monitoring.register_event_time_span_listener(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        monitoring.unregister_scalar_listener(self._begin)
        monitoring.unregister_event_time_span_listener(self._end)

    def _begin(self, event: str, value: float, **_: str | int) -> None:
        del value
        if not self._counts(event):
            return
        self._depth += 1
        if self._depth == 1:
            self._since = time.monotonic()
            self._begins()

    def _end(self, event: str, start_time: float, end_time: float, **_: str | int) -> None:
        del start_time, end_time
        # An event that had begun before this clock did may end under it.
        if not self._counts(event) or self._depth == 0:
            return
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.monotonic() - self._since

    def _counts(self, event: str) -> bool:
        return event.startswith(_EVENTS) and threading.get_ident() == self._thread
