"""The loop of all training: updates, evaluations on dev, checkpoints, metrics, the progress bar.

Knows neither where a stage's batches come from, nor what its updates do, nor what is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jax
from ml_collections import ConfigDict
from rich.console import Console

from groot_jax.contrast.update import Metrics, Params, TrainState
from groot_jax.evaluation.metrics import Totals, merge_totals
from groot_jax.evaluation.records import Json
from groot_jax.runtime.allocator import release_freed_memory
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.checkpoints import (
    Checkpoints,
    Evaluation,
    Merit,
    Meta,
    best_evaluation,
    by_reward,
)
from groot_jax.training.monitor import Monitor, say
from groot_jax.training.optimizer import evaluated_params
from groot_jax.training.profiling import Profiler
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


@dataclass(frozen=True)
class Stage:
    """The training of one system, as the loop sees it."""

    system: str
    total: int  # updates
    eval_every: int  # updates between evaluations on dev
    fresh: Callable[[], TrainState]  # step 0
    shapes: TrainState  # of every step, with their shardings
    # (state, its step) -> an update for each step after it; no update may span an evaluation.
    updates: Callable[[TrainState, int], Iterator[Update]]
    programs: tuple[Program, ...]  # what is compiled for this stage alone
    per_epoch: int = 1  # updates
    rates: Sequence[float] = ()  # the learning rate of each update; none: not logged
    # (state, its step), before the first update: has compiled ahead what is known to come.
    announce: Callable[[TrainState, int], None] = lambda state, start: None
    merit: Merit = by_reward  # which evaluation is the best
    patience: int = 0  # evaluations after the best one that end it; 0: none do


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

    `evaluate` measures parameters on dev; the stage's `merit` reads what it finds; `samples` gives
    the lists that it kept. Raises UserError where a checkpoint cannot be read or written.
    """
    system, total, settings = stage.system, stage.total, config.checkpoint
    with Checkpoints(
        workdir, system, keep=settings.keep, tie=settings.tie, merit=stage.merit
    ) as checkpoints:
        latest = checkpoints.latest()
        meta = checkpoints.meta(latest) if latest is not None else Meta()
        if meta.finished:
            say(console, f"{system}: finished before, at step {latest}")
            let_go(stage.programs)  # What an earlier system compiled and left for this one.
            return
        if latest is None:
            state = stage.fresh()
        else:
            state = checkpoints.restore(latest, stage.shapes)
            say(console, f"{system}: continues from step {latest}")
        start, sums = latest or 0, _Sums()
        previous: Update | None = None
        stage.announce(state, start)
        folder = workdir / "profile" / system
        with (
            _monitor(stage, start, workdir, config, console, hosts) as monitor,
            Profiler(config.profile.steps, folder, console, hosts.main) as profiler,
        ):
            profiler.after(start, state)
            begun = time.monotonic()
            dev = meta.evaluations[-1].metrics if meta.evaluations else {}
            # `step` counts updates that are done: the first of a fresh run ends step 1.
            for step, update in enumerate(stage.updates(state, start), start + 1):
                # The device works on this update. To read its loss would be to wait for it, with
                # nothing left for the device to do after it: what is read is the one before.
                if previous is not None:
                    monitor.advance(step - 1, sums.add(previous), sums.shown() | _shown(dev))
                    if (step - 1) % config.log_every == 0:
                        sums = _logged(step - 1, stage, sums, monitor, hosts)
                profiler.after(step, update.state)
                previous = update
                if step % stage.eval_every and step != total:
                    continue
                # Evaluation needs these parameters anyway: this update is waited for.
                monitor.advance(step, sums.add(update), sums.shown() | _shown(dev))
                previous = None
                sums = _logged(step, stage, sums, monitor, hosts)
                with monitor.evaluating():
                    dev = evaluate(evaluated_params(update.state))
                now = time.monotonic()
                meta.seconds += now - begun
                begun = now
                monitor.log(step, "dev", dev | {"seconds": meta.seconds})
                monitor.log_samples(step, samples())
                meta.evaluations.append(Evaluation(step, dev))
                best = best_evaluation(meta.evaluations, settings.tie, stage.merit)
                assert best is not None
                # Patience 4, and the best is evaluation 5 of 9: four have come since, none better.
                since = sum(1 for one in meta.evaluations if one.step > best.step)
                meta.finished = step == total or bool(stage.patience and since >= stage.patience)
                say(console, _evaluation_line(system, step, total, dev, best.step == step))
                # After the log: a run that is killed in between makes this step again, and then
                # drops what was logged of it. The other way round it would be missing for good.
                checkpoints.save(step, update.state, meta)
                release_freed_memory()
                if meta.finished and step < total:
                    why = f"after {since} evaluations without a better one (patience)"
                    say(console, f"{system}: ended at step {step}, {why}")
                if meta.finished:
                    break
    let_go(stage.programs)


def _monitor(
    stage: Stage, start: int, workdir: Path, config: ConfigDict, console: Console, hosts: Hosts
) -> Monitor:
    return Monitor(
        workdir,
        stage.system,
        start=start,
        total=stage.total,
        console=console,
        main=hosts.main,
        eval_every=stage.eval_every,
        writers=open_writers(workdir, stage.system, start, config) if hosts.main else (),
    )


def let_go(programs: Iterable[Program]) -> None:
    """Of what is compiled: a system may have 50 programs, each of which holds 50 to 100 MiB."""
    for program in programs:
        program.clear_cache()
    release_freed_memory()


def _logged(step: int, stage: Stage, sums: _Sums, monitor: Monitor, hosts: Hosts) -> _Sums:
    """Writes a line of metrics.jsonl, the means of the updates since the last one and where and how
    fast training is; the sums of the next."""
    rate = {"learning_rate": stage.rates[step - 1]} if stage.rates else {}
    place = {"epoch": step / stage.per_epoch, "sentences_per_second": monitor.speed()}
    monitor.log(step, "train", sums.means(hosts) | rate | place)
    return _Sums()


class _Sums:
    """Sums of (sum, denominator) over the updates since the last line of metrics.jsonl.

    Not a mean of the updates' means, since not every batch is full: .5 a sentence of 16 and 1.1 of
    4 are (8 + 4.4) / 20 = .62 a sentence, and not .8.
    """

    def __init__(self) -> None:
        self._metrics: Totals = {}  # of all sentences
        self._figures: Totals = {}  # of this process's
        self._loss = float("nan")

    def add(self, update: Update) -> int:
        """Waits for the update; the sentences that were in it."""
        # Python's numbers: a sum in float32 stands still from 16,777,216 tokens on.
        metrics = jax.tree.map(float, jax.device_get(update.metrics))
        self._metrics = merge_totals([self._metrics, metrics])
        self._figures = merge_totals([self._figures, update.figures])
        loss, count = metrics["loss"]
        self._loss = loss / count
        return int(metrics["gold_score"][1])  # Its denominator is the number of sentences.

    def means(self, hosts: Hosts | None = None) -> dict[str, float]:
        """Of this process's sentences, or of all processes together."""
        figures = self._figures
        # The device has summed `_metrics` over all processes already.
        if hosts is not None:
            figures = hosts.merge(figures, merge_totals)
        both = {**self._metrics, **figures}
        # Where no beam of any sentence finished there is no rank 1 to be counted.
        return {key: float(total) / max(float(count), 1e-9) for key, (total, count) in both.items()}

    def shown(self) -> dict[str, float]:
        """For the progress bar: this update's loss, and rewards as a mean since the last line of
        metrics.jsonl."""
        means = self.means()
        names = {"reward@1": "reward@1", "beam_reward": "beams"}
        shown = {"loss": self._loss}
        return shown | {label: means[key] for key, label in names.items() if key in means}


def _shown(dev: dict[str, float]) -> dict[str, float]:
    """For the progress bar: the last evaluation, that of an earlier run included."""
    names = {"reward@1": "dev reward@1", "mean_reward": "mean", "loss": "dev loss"}
    return {label: dev[key] for key, label in names.items() if key in dev}


def _evaluation_line(system: str, step: int, total: int, dev: dict[str, float], best: bool) -> str:
    figures = " ".join(f"{key} {value:.4f}" for key, value in dev.items())
    return f"{system} {step}/{total} dev: {figures}{'  (best)' if best else ''}"
