"""What a run shows and leaves behind while it trains: progress bar, metrics.jsonl, and what else
`config.report_to` names.

Takes plain numbers; may not touch the device.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from groot_jax.evaluation.records import METRICS_FILE, SAMPLES_FILE, Json
from groot_jax.runtime.compiling import CompileClock
from groot_jax.runtime.files import open_lines, place_of, write_text, writing
from groot_jax.runtime.json_files import read_lines, whole
from groot_jax.training.writers import Writer

# What is asked of a line that stays: another version may have written other things in it.
_PLACE = {"system": str, "step": whole}
# On a terminal the bar is redrawn; elsewhere (a log file) a line is printed so many seconds apart.
_LINE_SECONDS = 15.0


class Monitor:
    """Progress and metrics of one system of a work directory; a context manager.

    Started at step `start`, it drops what an earlier, killed run logged beyond that step, so that a
    step is on file once. Of several processes, only the `main` one writes files and shows a bar.
    """

    def __init__(
        self,
        workdir: Path,
        system: str,
        *,
        start: int,
        total: int,
        console: Console,
        main: bool,
        logged: int | None = None,
        evaluated: int | None = None,
        eval_every: int = 0,
        writers: Sequence[Writer] = (),
    ) -> None:
        """`logged`: the last step of whose updates a line counts, where that is before `start`;
        `evaluated`: the same of evaluations, as a run that was killed may have logged one of
        `start`. `total`: updates of the system, of which
        every `eval_every`th is followed by an evaluation. `writers` get what metrics.jsonl gets,
        and are closed at the end."""
        self._system, self._start, self._total = system, start, total
        self._eval_every = eval_every or total
        self._console, self._main, self._writers = console, main, writers
        self._path = workdir / METRICS_FILE
        self._samples_path = workdir / SAMPLES_FILE
        self._place = place_of(workdir)
        if main:
            logged = start if logged is None else logged
            evaluated = start if evaluated is None else evaluated
            _drop_after(self._path, system, logged, evaluated)
            _drop_after(self._samples_path, system, logged, evaluated)
            with writing(self._path):
                self._file: TextIO = open_lines(self._path)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not (main and console.is_terminal),
        )
        self._task = self._bar.add_task(system, total=total, completed=start, status="")
        self._compiling = CompileClock(self._compile_begins)
        self._begun = time.monotonic()
        self._last_line = -math.inf
        self._step, self._sentences = start, 0
        self._pauses: list[float] = []  # Seconds of each evaluation, compiling apart.
        self._logged = (0, 0.0)  # Sentences, and seconds of training, at the last call of `speed`.

    def __enter__(self) -> Monitor:
        self._bar.start()
        self._compiling.__enter__()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._compiling.__exit__()
        self._bar.stop()
        if not self._main:
            return
        with ExitStack() as stack:  # Each is closed, whatever becomes of the others.
            for writer in self._writers:
                stack.callback(writer.close, kind is not None)
            with writing(self._path):
                self._file.close()

    def advance(self, step: int, sentences: int, values: Mapping[str, float]) -> None:
        """After an update: moves the bar, and prints a line now and then where there is no bar."""
        self._step = step
        self._sentences += sentences
        speed = self._sentences / max(self._trained(), 1e-9)
        shown = " ".join(f"{key} {value:.3f}" for key, value in values.items())
        status = f"{shown} {speed:.0f} sent/s {clock(self._left())} left"
        self._bar.update(self._task, completed=step, status=status)
        self._line(status)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """What is done inside is not training, and does not count in sentences per second."""
        begun, compiled = time.monotonic(), self._compiling.seconds
        yield
        compiled = self._compiling.seconds - compiled
        self._pauses.append(time.monotonic() - begun - compiled)

    def speed(self) -> float:
        """Sentences per second of training since the last call: without compiling, evaluations, and
        what came before this process."""
        sentences, seconds = self._logged
        self._logged = now = (self._sentences, self._trained())
        return (now[0] - sentences) / max(now[1] - seconds, 1e-9)

    def _trained(self) -> float:
        """Seconds of this process that were training."""
        return time.monotonic() - self._begun - sum(self._pauses) - self._compiling.seconds

    def _left(self) -> float:
        """Seconds until all updates and evaluations are done, if they go on as they went."""
        updates = (self._total - self._step) * self._trained() / max(self._step - self._start, 1)
        # Of 10 updates, with an evaluation after each 4th and the last, two evaluations are left
        # after the 5th, and all three after the 4th, whose own is about to be made.
        evaluations = (
            -(-self._total // self._eval_every) - max(self._step - 1, 0) // self._eval_every
        )
        mean = sum(self._pauses) / max(len(self._pauses), 1)
        return updates + evaluations * mean

    def _compile_begins(self) -> None:
        self._bar.update(self._task, status="compiling ...")
        self._line("compiling ...")

    def _line(self, status: str) -> None:
        # The first says that training has begun; later ones are so many seconds apart.
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            say(self._console, f"{self._system} {self._step}/{self._total} {status}")

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes one line of metrics.jsonl, and the same to the other writers."""
        if not self._main:
            return
        # {"system": "nll", "step": 4, "split": "dev", "reward@1": 0.9, ...}
        # NaN and infinity are not JSON, though Python would write them.
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        line = {"system": self._system, "step": step, "split": split} | finite
        with writing(self._path):
            self._file = self._still_there()
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()  # Who plots the file beside the run sees whole lines, and at once.
        for writer in self._writers:
            writer.write(step, split, values)

    def log_samples(self, step: int, sentences: Sequence[Json]) -> None:
        """Writes one line of samples.jsonl: the lists of a few dev sentences after this step."""
        if not self._main or not sentences:
            return
        line = {"system": self._system, "step": step, "sentences": list(sentences)}
        with writing(self._samples_path):
            if place_of(self._samples_path.parent) != self._place:
                raise OSError("its folder was moved or removed, or a disk is no longer there")
            with open_lines(self._samples_path) as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _still_there(self) -> TextIO:
        """The file of metrics, opened anew where somebody has removed it or put another in its
        place: what is written to the old one would be in no folder."""
        if place_of(self._path) == place_of(self._file.fileno()):
            return self._file
        # Where the whole folder is gone, or stands on another disk, the next save says so.
        if place_of(self._path.parent) != self._place:
            return self._file
        gone = "was removed or replaced while training wrote to it: its earlier lines are lost"
        print(f"{self._path} {gone}", file=sys.stderr, flush=True)
        self._file.close()
        return open_lines(self._path)


def clock(seconds: float) -> str:
    """65 is `1:05`, 3725 is `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say(console: Console, text: str) -> None:
    """Prints the text as it is, above the progress bar where there is one."""
    # By default Rich colors numbers, takes [brackets] for markup, and wraps lines.
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _drop_after(path: Path, system: str, logged: int, evaluated: int) -> None:
    # A run that logged steps 2 and 4 and was killed before the checkpoint of 4 was whole continues
    # from 2: it makes step 4 again, which then is in the file once. A damaged line costs itself,
    # and not the training.
    if not path.exists():
        return
    kept = []
    for line, entry in read_lines(path, _PLACE):
        last = logged if entry.get("split") == "train" else evaluated
        if entry["system"] != system or entry["step"] <= last:
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))
