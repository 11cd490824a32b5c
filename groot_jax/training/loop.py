"""The loop of all training: updates, evaluations on dev, checkpoints, metrics, the progress bar.

Knows neither where a stage's batches come from, nor what its updates do, nor what is measured.
When a checkpoint is written is the business of keeping.py; where a system goes on, of resuming.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from rich.console import Console

from groot_jax.contrast.update import Metrics, Params, TrainState
from groot_jax.errors import RunAgain, Terminated, UserError, signals_at_once, signals_wished
from groot_jax.evaluation.records import Json
from groot_jax.generate.inputs import Beams
from groot_jax.runtime.allocator import release_freed_memory
from groot_jax.runtime.hosts import Hosts, of_a_connection
from groot_jax.runtime.parting import meet, meet_after_failure, part
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.evaluations import Evaluation, Merit, Meta, best_evaluation, by_reward
from groot_jax.training.health import Health
from groot_jax.training.keeping import Keeper
from groot_jax.training.monitor import Monitor, say
from groot_jax.training.optimizer import evaluated_params
from groot_jax.training.profiling import Profiler
from groot_jax.training.resuming import Resumed, resume
from groot_jax.training.sums import Sums
from groot_jax.training.writers import open_writers


class Program(Protocol):
    """A jitted function, as far as the loop has to do with it."""

    def clear_cache(self) -> None: ...


@dataclass(frozen=True)
class Update:
    """What a stage hands to the loop after each update; `metrics` may still be on the device."""

    state: TrainState
    metrics: Metrics
    figures: dict[str, tuple[float, float]]  # of this process's sentences, on the host already
    index_B: np.ndarray | None = None  # which training sentences it was of; -1: padding
    flight: tuple[Beams, ...] = ()  # of the batches after this one: what `updates` goes on with


@dataclass(frozen=True)
class Stage:
    """The training of one system, as the loop sees it."""

    system: str
    total: int  # updates
    eval_every: int  # updates between evaluations on dev
    fresh: Callable[[], TrainState]  # step 0
    shapes: TrainState  # of every step, with their shardings
    # (state, its step, the flight of its update) -> an update for each step after it. Without the
    # flight it may give others, but not after an evaluation, which none may span.
    updates: Callable[[TrainState, int, Sequence[Beams]], Iterator[Update]]
    programs: tuple[Program, ...]  # what is compiled for this stage alone
    per_epoch: int = 1  # updates
    rates: Sequence[float] = ()  # the learning rate of each update; none: not logged
    # (state, its step), before the first update: has compiled ahead what is known to come.
    announce: Callable[[TrainState, int], None] = lambda state, start: None
    merit: Merit = by_reward  # which evaluation is the best
    patience: int = 0  # evaluations after the best one that end it; 0: none do
    rows: NamedSharding | None = None  # how its beams lie over the devices; None: it has none
    num_rows: int | None = None  # of its batches, and so of their beams, padding included
    start: Callable[[], Meta] = Meta  # what is known of `fresh`, once that was called
    name_sentence: Callable[[int], str] = str  # where a training sentence stands, for messages


def num_updates(stage: ConfigDict, per_epoch: int) -> int:
    """Updates of a stage of `stage.epochs` epochs of so many updates each; at least one."""
    return max(1, round(stage.epochs * per_epoch))


def updates_between(stage: ConfigDict, per_epoch: int) -> int:
    """Updates between evaluations: `stage.eval_every` epochs of so many updates, rounded up, so
    that two of half an epoch make an epoch: 107 and 213 of 213 updates, not 106, 212, 213.
    """
    # .55 * 100 is 55.00000000000001, which is not to become 56.
    return max(1, math.ceil(round(stage.eval_every * per_epoch, 6)))


def train(
    stage: Stage,
    workdir: Path,
    config: ConfigDict,
    evaluate: Callable[[Params], dict[str, float]],
    console: Console,
    hosts: Hosts,
    samples: Callable[[], list[Json]] = list,
) -> None:
    """Runs a stage's updates from its latest checkpoint; evaluates and saves now and then.

    `config` is that of the run. `evaluate` measures parameters on dev; the stage's `merit` reads
    what it finds; `samples` gives the lists that it kept. Raises UserError where a checkpoint
    cannot be read or written, and where a loss is not finite. A signal, or whatever else is raised
    between evaluations, comes through once the state at hand is saved.
    """
    system, settings = stage.system, config.checkpoint
    with Checkpoints(
        *(workdir, system),
        keep=settings.keep,
        tie=settings.tie,
        merit=stage.merit,
        hosts=hosts,
    ) as checkpoints:
        found = resume(
            *(checkpoints, system, stage.shapes, stage.rows, hosts, console),
            num_rows=stage.num_rows,
        )
        if found is not None and found.meta.finished:
            say(console, f"{system}: finished before, at step {found.step}")
            let_go(stage.programs)  # What an earlier system compiled and left for this one.
            return
        if found is None:
            state = stage.fresh()  # First: what it starts from is known then.
            found = Resumed(0, stage.start(), state)
            del state
        else:
            say(console, f"{system}: continues from step {found.step}")
        assert found.state is not None
        stage.announce(found.state, found.step)
        folder = workdir / "profile" / system
        with (
            _monitor(stage, found, workdir, config, console, hosts) as monitor,
            Profiler(config.profile.steps, folder, console, hosts.main) as profiler,
            signals_wished() as wish,
        ):
            keeper = Keeper(checkpoints, system, settings, hosts, console, wish)
            tools = _Tools(console, hosts, checkpoints, monitor, profiler, keeper)
            _Loop(stage, config, evaluate, samples, tools).run(found)
    let_go(stage.programs)


def _monitor(
    stage: Stage, found: Resumed, workdir: Path, config: ConfigDict, console: Console, hosts: Hosts
) -> Monitor:
    owed = found.meta.owed
    logged = owed["step"] - 1 if owed else found.step
    return Monitor(
        *(workdir, stage.system),
        start=found.step,
        logged=logged,
        evaluated=found.meta.evaluated,
        total=stage.total,
        console=console,
        main=hosts.main,
        eval_every=stage.eval_every,
        writers=open_writers(workdir, stage.system, logged, config) if hosts.main else (),
    )


@dataclass(frozen=True)
class _Tools:
    """What a system is trained with, as long as it is."""

    console: Console
    hosts: Hosts
    checkpoints: Checkpoints
    monitor: Monitor
    profiler: Profiler
    keeper: Keeper


class _Loop:
    """One system from where it stands to its end."""

    def __init__(
        self,
        stage: Stage,
        config: ConfigDict,
        evaluate: Callable[[Params], dict[str, float]],
        samples: Callable[[], list[Json]],
        tools: _Tools,
    ) -> None:
        self._stage, self._evaluate, self._samples = stage, evaluate, samples
        self._settings, self._log_every = config.checkpoint, config.log_every
        self._console, self._hosts, self._monitor = tools.console, tools.hosts, tools.monitor
        self._checkpoints, self._keeper = tools.checkpoints, tools.keeper
        self._profiler = tools.profiler
        self._health = Health(stage.system, config.optimizer, stage.name_sentence)

    def run(self, found: Resumed) -> None:
        """All that is left to do."""
        stage, start = self._stage, found.step
        assert found.state is not None
        self._meta, self._begun = found.meta, time.monotonic()
        self._sums = Sums.from_json(found.meta.sums, self._hosts)
        self._dev = found.meta.evaluations[-1].metrics if found.meta.evaluations else {}
        # The last update that was begun, and those whose metrics are not counted yet, by step.
        self._at: tuple[int, Update] = (start, Update(found.state, {}, {}))
        self._uncounted: list[tuple[int, Update]] = []
        self._profiler.after(start, found.state)
        # It ended between a save and the line, or the evaluation, that is due then.
        due = found.meta.due or self._evaluation_due(start)
        due = due and start > found.meta.evaluated
        if owed := found.meta.owed:
            self._write_line(owed["step"], owed["values"])
        self._log_train(start, due or start % self._log_every == 0)
        if due and self._ends(start, found.state):
            return
        updates = stage.updates(found.state, start, found.flight)
        del found  # Its arrays are given away to the first update.
        with signals_at_once():  # It compiles, and nothing is lost yet.
            first = next(updates)
        try:
            # `step` counts updates that are done: the first of a fresh run ends step 1.
            for step, update in enumerate(chain([first], updates), start + 1):
                # The device works on this update. To read its loss would be to wait for it, with
                # nothing left for the device to do after it: what is read is the one before. What
                # fails from here on leaves this state, as the one before has given away its arrays.
                self._at = (step, update)
                self._uncounted.append(self._at)
                self._count(step - 1)
                self._profiler.after(step, update.state)
                due = self._evaluation_due(step) or self._falling(step - 1)
                if not self._keeper.due(step) and not due:
                    continue
                self._meta.due = due
                # To be saved and evaluated: this update is waited for.
                self._count(step)
                self._log_train(step, due)
                self._health.check_state(step, update.state)
                self._keeper.save(step, update.state, self._begin_save)
                if self._keeper.signal:
                    self._keeper.landed(step, update.state, self._begin_save)
                    self._keeper.leave()
                if due and self._ends(step, update.state):
                    break
        except BaseException as error:  # GeneratorExit, asyncio.CancelledError: as good a reason.
            self._rescue(error)
            if isinstance(error, SystemExit):  # A library's: status 0 would say that all is done.
                place = f"{stage.system}: what it calls asked for the job's end in mid-training"
                raise RuntimeError(f"{place} (SystemExit: {error.code})") from error
            if isinstance(error, UserError):
                self._keeper.leave_if_asked(error)
            raise

    def _evaluation_due(self, step: int) -> bool:
        return step % self._stage.eval_every == 0 or step == self._stage.total

    def _count(self, last: int, show: bool = True) -> None:
        """Waits for the updates up to step `last` that are not counted yet, and shows them."""
        while self._uncounted and self._uncounted[0][0] <= last:
            step, update = self._uncounted[0]
            sentences = self._sums.add(update.metrics, update.figures)
            self._health.check(step, self._meta, self._sums.last, update.index_B)
            del self._uncounted[0]
            if show:
                self._show(step, sentences)

    def _show(self, step: int, sentences: int) -> None:
        try:
            self._monitor.advance(step, sentences, self._sums.shown() | _shown(self._dev))
        finally:  # What the screen refuses is no reason to mix this line with the next one's.
            self._log_train(step, step % self._log_every == 0)

    def _log_train(self, step: int, due: bool) -> None:
        """Writes a line of metrics.jsonl, if it is due: the means of the updates since the last
        one, and where and how fast training is."""
        if not due or self._sums.empty:
            return
        stage = self._stage
        rate = {"learning_rate": stage.rates[step - 1]} if stage.rates else {}
        place = {"epoch": step / stage.per_epoch, "sentences_per_second": self._monitor.speed()}
        means = self._sums.means(self._hosts)
        self._sums = Sums()
        self._write_line(step, means | rate | place)

    def _write_line(self, step: int, values: dict[str, float]) -> None:
        # Where it cannot be written, the save that follows keeps it for whoever goes on.
        self._meta.owed = {"step": step, "values": values}
        self._monitor.log(step, "train", values)
        self._meta.owed = None

    def _falling(self, step: int) -> bool:
        return self._health.falling(self._meta, step)

    def _begin_save(self) -> None:
        step, update = self._at
        now = time.monotonic()
        self._meta.seconds += now - self._begun
        self._begun = now
        self._meta.sums = self._sums.to_json(self._hosts)
        self._checkpoints.save(step, update.state, self._meta, update.flight)

    def _rescue(self, error: BaseException) -> None:
        """Saves what was done before an error, where it can still be had."""
        step, update = self._at
        leaves = jax.tree.leaves(update.state)
        # An update that failed on the device has taken the memory of the state before it.
        lost = any(leaf.is_deleted() for leaf in leaves) or not step or self._health.failed
        # A signal that all know of has saved before, or could not. Another cuts off a long wait; an
        # evaluation, before which all have saved; or, in a notebook, whatever Ctrl-C finds.
        signal, asked = isinstance(error, KeyboardInterrupt | Terminated), self._keeper.asked_to_end
        if signal and (self._keeper.signal or (self._hosts.count > 1 and not asked)):
            return
        # The watch over the processes says more of those that are lost.
        if self._hosts.count > 1 and (of_a_connection(error) or type(error) is RunAgain):
            return
        steps = meet_after_failure(self._hosts, -1 if lost else step)
        if steps is None or {*steps} != {step} or lost:
            part(self._hosts, error)
            return
        with suppress(BaseException):  # What ends the job says more.
            # Without a line: that is of all processes, of which some may have counted this update.
            self._count(step - 1, show=False)
            self._meta.due |= self._falling(step - 1)
            self._count(step, show=False)
            self._health.check_state(step, update.state)
            self._keeper.save(step, update.state, self._begin_save)
            self._checkpoints.wait()
        meet(self._hosts, "saved", None)
        part(self._hosts, error)

    def _ends(self, step: int, state: TrainState) -> bool:
        """Evaluates a state on dev, after its save; whether the system ends with it."""
        stage, meta, settings = self._stage, self._meta, self._settings
        falling = self._falling(step)
        with self._monitor.evaluating(), signals_at_once():  # What is cut off is made again.
            dev = self._dev = self._evaluate(evaluated_params(state))
        now = time.monotonic()
        meta.seconds += now - self._begun
        self._begun = now
        self._monitor.log(step, "dev", dev | {"seconds": meta.seconds})
        self._monitor.log_samples(step, self._samples())
        meta.evaluations.append(Evaluation(step, dev))
        meta.due = False
        best = best_evaluation(meta.evaluations, settings.tie, stage.merit)
        assert best is not None
        # Patience 4, and the best is evaluation 5 of 9: four have come since, none better.
        since = sum(1 for one in meta.evaluations if one.step > best.step)
        why = ""
        if stage.patience and since >= stage.patience:
            why = f"after {since} evaluations without a better one (patience)"
        why = self._health.collapsed(meta, falling) or why
        meta.finished = step == stage.total or bool(why)
        say(
            self._console,
            _evaluation_line(
                stage.system, step, stage.total, dev, _mark(step, best, meta, settings.tie)
            ),
        )
        if meta.finished:
            self._keeper.landed(step, state, self._begin_save)
        # After the log: a run that is killed in between makes this evaluation again, and then
        # drops what was logged of it. The other way round it would be missing for good.
        self._keeper.record(step, meta)
        release_freed_memory()
        if meta.finished and step < stage.total:
            say(self._console, f"{stage.system}: ended at step {step}, {why}")
        if meta.finished and (line := meta.worse(settings.tie)):
            say(self._console, f"{stage.system}: {line}")
        return meta.finished


def let_go(programs: Iterable[Program]) -> None:
    """Of what is compiled: a system may have 50 programs, each of which holds 50 to 100 MiB."""
    for program in programs:
        program.clear_cache()
    release_freed_memory()


def _shown(dev: dict[str, float]) -> dict[str, float]:
    """For the progress bar: the last evaluation, that of an earlier run included."""
    names = {"reward@1": "dev reward@1", "mean_reward": "mean", "loss": "dev loss"}
    return {label: dev[key] for key, label in names.items() if key in dev}


def _mark(step: int, best: Evaluation, meta: Meta, tie: float) -> str:
    """What stands behind the line of the last evaluation."""
    if best.step != step:
        return ""
    # Kept all the same: it is the best that this system has so far.
    return "  (below its start)" if meta.worse(tie) else "  (best)"


def _evaluation_line(system: str, step: int, total: int, dev: dict[str, float], mark: str) -> str:
    figures = " ".join(f"{key} {value:.4f}" for key, value in dev.items())
    return f"{system} {step}/{total} dev: {figures}{mark}"
