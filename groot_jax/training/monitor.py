"""What a run shows and leaves behind while it trains: progress bar, metrics.jsonl, TensorBoard.

Takes plain numbers; may not touch the device.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from groot_jax.evaluation.records import SAMPLES_FILE, Json
from groot_jax.runtime.files import write_text, writing
from groot_jax.runtime.hiding import hidden

# tensorboardX imports torch wherever it is installed, for its own convenience and at the price of
# seconds and memory; with torch hidden it does without.
with hidden("torch"):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar

METRICS_FILE = "metrics.jsonl"
# On a terminal the bar is redrawn; elsewhere (a log file) a line is printed so many seconds apart.
_LINE_SECONDS = 15.0


class Monitor:
    """Progress and metrics of one system of a work directory; a context manager.

    Started at step `start`, it drops what an earlier, killed run logged beyond step `logged`, that
    of the last evaluation that counts, so that a step is on file once. Of several processes, only
    the `main` one writes files and shows a bar.
    """

    def __init__(
        self,
        workdir: Path,
        system: str,
        *,
        start: int,
        logged: int,
        total: int,
        console: Console,
        main: bool,
    ) -> None:
        self._system, self._total = system, total
        self._console, self._main = console, main
        self._path = workdir / METRICS_FILE
        self._samples_path = workdir / SAMPLES_FILE
        if main:
            self._open_files(workdir / "tensorboard" / system, logged)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (main and console.is_terminal),
        )
        self._task = self._bar.add_task(system, total=total, completed=start, status="")
        self._begun = self._last_line = time.monotonic()
        self._sentences = 0
        self._pause = 0.0

    def _open_files(self, folder: Path, start: int) -> None:
        _drop_after(self._path, self._system, start)
        _drop_after(self._samples_path, self._system, start)
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")
            folder.mkdir(parents=True, exist_ok=True)
            # Not tensorboardX's own writer: its thread dies on a full disk, and then it blocks.
            self._board = EventsWriter(str(folder / "events"))
        # TensorBoard, too, drops what an earlier run logged from here on, when it reads this event.
        log = SessionLog(status=SessionLog.START)
        self._board.write_event(Event(wall_time=time.time(), step=start + 1, session_log=log))

    def __enter__(self) -> Monitor:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if not self._main:
            return
        with writing(self._path):
            self._file.close()
            self._board.close()

    def advance(self, step: int, sentences: int, values: Mapping[str, float]) -> None:
        """After an update: moves the bar, and prints a line now and then where there is no bar."""
        self._sentences += sentences
        # Of this process alone: a run that continues has not trained in the time before it.
        now = time.monotonic()
        speed = self._sentences / max(now - self._begun - self._pause, 1e-9)
        shown = " ".join(f"{key} {value:.3f}" for key, value in values.items())
        status = f"{shown} {speed:.0f} sent/s"
        self._bar.update(self._task, completed=step, status=status)
        if not self._console.is_terminal and now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            say(self._console, f"{self._system} {step}/{self._total} {status}")

    def exclude(self, seconds: float) -> None:
        """Time that is not training (evaluations) does not count in sentences per second."""
        self._pause += seconds

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes one line of metrics.jsonl and its TensorBoard scalars."""
        if not self._main:
            return
        # {"system": "nll", "step": 4, "split": "dev", "reward@1": 0.9, ...}
        # NaN and infinity are not JSON, though Python would write them.
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        line = {"system": self._system, "step": step, "split": split} | finite
        now = time.time()
        with writing(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()  # Who plots the file beside the run sees whole lines, and at once.
            for key, value in values.items():
                summary = scalar(f"{split}/{key}", value)
                self._board.write_event(Event(wall_time=now, step=step, summary=summary))
            self._board.flush()

    def log_samples(self, step: int, sentences: Sequence[Json]) -> None:
        """Writes one line of samples.jsonl: the lists of a few dev sentences after this step."""
        if not self._main or not sentences:
            return
        line = {"system": self._system, "step": step, "sentences": list(sentences)}
        with writing(self._samples_path), self._samples_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def say(console: Console, text: str) -> None:
    """Prints the text as it is, above the progress bar where there is one."""
    # By default Rich colors numbers, takes [brackets] for markup, and wraps lines.
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _drop_after(path: Path, system: str, step: int) -> None:
    # A run that logged steps 2 and 4 and was killed before the checkpoint of 4 was whole continues
    # from 2: it makes step 4 again, which then is in the file once.
    if not path.exists():
        return
    kept = []
    with writing(path):
        # A byte that is no UTF-8 costs its own line at most, and not the training.
        text = path.read_text(encoding="utf-8", errors="replace")
    # Not `splitlines`, which breaks at U+2028 and U+0085 too: a word may hold them.
    for line in text.split("\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue  # Behind the last line, or that of a run that was killed while it wrote.
        if not isinstance(entry, dict) or not isinstance(entry.get("step", 0), int | float):
            continue
        if entry.get("system") != system or entry.get("step", 0) <= step:
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))
