"""A trace of a few updates, for XProf (`config.profile.steps`)."""

from __future__ import annotations

from pathlib import Path

import jax
from rich.console import Console

from groot_jax.contrast.update import TrainState
from groot_jax.runtime.files import writing
from groot_jax.training.monitor import say


def steps_of(text: str) -> tuple[int, int] | None:
    """`10:20` is (10, 20): the ten updates that follow the tenth. None where `text` is empty."""
    if not text:
        return None
    first, _, last = text.partition(":")
    return int(first), int(last)


class Profiler:
    """Traces those updates of one system, on the devices of this process and on its host; a context
    manager."""

    def __init__(self, steps: str, folder: Path, console: Console, main: bool) -> None:
        """Writes into `folder`. Of several processes, only the `main` one traces: on one machine
        they would write the same file."""
        self._steps = steps_of(steps) if main else None
        self._folder, self._console = folder, console
        self._on = False

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:  # Training ended before the last of them, or was interrupted.
            self._end()

    def after(self, step: int, state: TrainState) -> None:
        """Begins or ends the trace after this update, if it is time to."""
        if self._steps is None:
            return
        first, last = self._steps
        if self._on and step >= last:
            jax.block_until_ready(state)  # The trace ends when the device has done the last one.
            self._end()
        elif not self._on and first <= step < last:
            jax.block_until_ready(state)
            with writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder)
            self._on = True

    def _end(self) -> None:
        self._on = False
        with writing(self._folder):
            jax.profiler.stop_trace()
        say(self._console, f"trace of updates: xprof --logdir={self._folder} shows it")
