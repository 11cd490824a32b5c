"""What ran when in the training loop: notes it, and draws it as SVG.

Three lanes: `device` (its programs, one after the other), `host` (the thread that runs the loop)
and `scoring` (the thread that corrects, scores and ranks). Knows nothing of GROOT.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import jax

LANES = ("device", "host", "scoring")
# One for each of the names that a lane has, in the order of the legend; light enough for both a
# white page and a dark one.
_COLORS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee"),
    *("#aa3377", "#999999", "#dd8844", "#77aa99"),
)
# Pixels: the plot's left edge and width, and a lane's height with the gap below it.
_LEFT, _WIDTH, _LANE = 70, 880, 44


class Span(NamedTuple):
    """Something that took from `start` to `end`, seconds of `time.perf_counter`."""

    lane: str  # of LANES
    name: str
    start: float
    end: float


class Recorder:
    """Notes when the parts of the loop run; the device's own times come from a thread that waits
    for one program after the other."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._queue: queue.SimpleQueue[tuple[str, float, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @contextmanager
    def span(self, lane: str, name: str) -> Iterator[None]:
        """Notes the time that the body takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spans.append(Span(lane, name, start, time.perf_counter()))

    def dispatched(self, name: str, start: float, arrays: Any) -> None:
        """A program was handed to the device at `start`; it has ended when `arrays` are there."""
        self._queue.put((name, start, arrays))

    def close(self) -> None:
        """Waits until every program is noted."""
        self._queue.put(None)
        self._thread.join()

    def _watch(self) -> None:
        before = 0.0
        while (item := self._queue.get()) is not None:
            name, start, arrays = item
            jax.block_until_ready(arrays)
            end = time.perf_counter()
            # JAX says when a program was handed over and when its arrays are there, not when it
            # began. The device takes one at a time, so a program that was handed over at 2 while
            # another one ran until 5 began at 5.
            self.spans.append(Span("device", name, max(start, before), end))
            before = end


def draw_timeline(spans: Sequence[Span], path: Path, updates: int = 8) -> None:
    """Draws what ran during `updates` updates in the middle of the measured pass, as SVG.

    Raises OSError where `path` cannot be written.
    """
    # From the end of one update to the end of another, in the middle of the pass, where neither the
    # start nor the end of the loop shows.
    ends = [span.end for span in spans if span.name == "update"]
    middle = max(0, len(ends) // 2 - updates // 2)
    low, high = ends[middle], ends[min(middle + updates, len(ends) - 1)]
    pixels = _WIDTH / (high - low)  # a second
    colors = dict(zip(sorted({span.name for span in spans}), _COLORS, strict=False))
    bottom = 10 + _LANE * len(LANES)
    parts = []
    for i, lane in enumerate(LANES):
        top = 10 + _LANE * i
        parts.append(_text(_LEFT - 8, top + 22, lane, "end"))
        for span in spans:
            if span.lane == lane and span.end > low and span.start < high:
                # What crosses the edge of the plot is cut off there.
                left = _LEFT + pixels * (max(span.start, low) - low)
                width = pixels * (min(span.end, high) - max(span.start, low))
                parts.append(
                    f'<rect x="{left:.2f}" y="{top}" width="{width:.2f}" height="{_LANE - 8}" '
                    f'fill="{colors[span.name]}"><title>{escape(span.name)}</title></rect>'
                )
    # Six marks with their milliseconds, from the first edge of the plot to the last.
    for tick in range(6):
        x = _LEFT + _WIDTH * tick / 5
        parts.append(_text(x, bottom + 14, f"{1e3 * (high - low) * tick / 5:.0f} ms", "middle"))
    for i, (name, color) in enumerate(colors.items()):
        x, y = _LEFT + 180 * (i % 5), bottom + 30 + 20 * (i // 5)
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{color}"/>')
        parts.append(_text(x + 18, y + 10, name, "start"))
    width, height = _LEFT + _WIDTH + 30, bottom + 72
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n",
        encoding="utf-8",
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
