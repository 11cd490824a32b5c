"""The loop of all training: updates, looks at dev, checkpoints, metrics, the progress bar.

Knows neither where a stage's batches come from, nor what its updates do, nor what a look measures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from groot_jax.contrast.update import Metrics, TrainState
from groot_jax.evaluation.metrics import Totals, merge_totals
from groot_jax.mesh import arrays
from groot_jax.runtime.allocator import release_freed_memory
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.checkpoints import Checkpoints, Look, Merit, Meta, best_look, by_reward
from groot_jax.training.monitor import open_monitor


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
    look_every: int  # updates between looks at dev
    patience: int  # looks without a better one that end it; 0: none do
    fresh: Callable[[], TrainState]  # step 0
    shapes: TrainState  # of every step, with their shardings
    # (state, its step) -> an update for each step after it; no update may span a look.
    updates: Callable[[TrainState, int], Iterator[Update]]
    merit: Merit = by_reward  # which look is the best


def look_every(stage: ConfigDict, per_epoch: int) -> int:
    """Updates between looks at dev: `stage.eval_every` epochs of so many updates, rounded up, so
    that two looks of half an epoch make an epoch: 107 and 213 of 213 updates, not 106, 212, 213.
    """
    # .55 * 100 is 55.00000000000001, which is not to become 56.
    return max(1, math.ceil(round(stage.eval_every * per_epoch, 6)))


class Looker(Protocol):
    """Measures parameters on dev; `merit` of the stage reads what it finds."""

    def look(self, params: Any) -> dict[str, float]: ...


def train(
    stage: Stage,
    workdir: Path,
    settings: ConfigDict,
    evaluator: Looker,
    console: Console,
    hosts: Hosts,
) -> None:
    """Runs a stage's updates from its latest checkpoint; looks at dev and saves now and then.

    `settings` are those of `config.checkpoint`.
    """
    system, total = stage.system, stage.total
    with Checkpoints(
        workdir, system, keep=settings.keep, tie=settings.tie, merit=stage.merit
    ) as checkpoints:
        latest = checkpoints.latest()
        meta = checkpoints.meta(latest) if latest is not None else Meta()
        if meta.finished:
            console.print(f"{system}: finished before, at step {latest}", highlight=False)
            return
        if latest is None:
            state = stage.fresh()
        else:
            state = checkpoints.restore(latest, stage.shapes)
            console.print(f"{system}: continues from step {latest}", highlight=False)
        start = latest or 0
        sums = _Sums()
        previous: Update | None = None
        with open_monitor(
            workdir, system, start=start, total=total, console=console, main=hosts.main
        ) as monitor:
            begun = time.monotonic()
            dev: dict[str, float] = meta.looks[-1].metrics if meta.looks else {}
            for step, update in enumerate(stage.updates(state, start), start + 1):
                # The device works on this update; what is read now is the one before.
                if previous is not None:
                    sentences = sums.add(previous)
                    monitor.advance(step - 1, sentences, sums.shown() | _shown(dev))
                previous = update
                if step % stage.look_every and step != total:
                    continue
                sentences = sums.add(update)
                monitor.advance(step, sentences, sums.shown() | _shown(dev))
                previous = None
                monitor.log(step, "train", sums.means(hosts))
                sums = _Sums()
                looked = time.monotonic()
                dev = evaluator.look(update.state.params)
                now = time.monotonic()
                monitor.exclude(now - looked)
                meta.seconds += now - begun
                begun = now
                monitor.log(step, "dev", dev | {"seconds": meta.seconds})
                meta.looks.append(Look(step, dev))
                best = best_look(meta.looks, settings.tie, stage.merit)
                assert best is not None
                since = sum(1 for look in meta.looks if look.step > best.step)
                meta.finished = step == total or bool(stage.patience and since >= stage.patience)
                monitor.say(_look_line(system, step, total, dev, best.step == step))
                checkpoints.save(step, update.state, meta)
                release_freed_memory()
                if meta.finished and step < total:
                    monitor.say(
                        f"{system}: ended at step {step}, after {since} looks at dev without a "
                        "better one (patience)"
                    )
                if meta.finished:
                    break


class _Sums:
    """Sums of (sum, denominator) over the updates since the last look."""

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
        self._loss = float(metrics["loss"][0]) / max(float(metrics["loss"][1]), 1e-9)
        return int(metrics["gold_score"][1])

    def means(self, hosts: Hosts | None = None) -> dict[str, float]:
        """Of this process's sentences, or of all processes together."""
        figures = self._figures
        if hosts is not None:
            figures = hosts.merge(figures, merge_totals)
        both = {**self._metrics, **figures}
        return {key: float(total) / max(float(count), 1e-9) for key, (total, count) in both.items()}

    def shown(self) -> dict[str, float]:
        """For the progress bar: this update's loss, and rewards as a mean since the last look."""
        means = self.means()
        names = {"reward@1": "reward@1", "beam_reward": "beams"}
        shown = {"loss": self._loss}
        return shown | {label: means[key] for key, label in names.items() if key in means}


def _shown(dev: dict[str, float]) -> dict[str, float]:
    """For the progress bar: the last look at dev, that of an earlier run included."""
    names = {"reward@1": "dev reward@1", "mean_reward": "mean", "loss": "dev loss"}
    return {label: dev[key] for key, label in names.items() if key in dev}


def _look_line(system: str, step: int, total: int, dev: dict[str, float], best: bool) -> str:
    figures = " ".join(f"{key} {value:.4f}" for key, value in dev.items())
    return f"{system} {step}/{total} dev: {figures}{'  (best)' if best else ''}"


def new_state(params: Any, optimizer: Any, shardings: TrainState) -> TrainState:
    """Step 0 of placed parameters, just as the updates will leave it: they are compiled once."""
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    return TrainState(arrays.put(np.int32(0), shardings.step), params, opt_state)


def state_shapes(params: Any, optimizer: Any, shardings: TrainState) -> TrainState:
    """What `new_state` makes of parameters of the shapes `params`, without making it."""
    state = jax.eval_shape(lambda p: TrainState(jnp.int32(0), p, optimizer.init(p)), params)

    def placed(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(placed, state, shardings)
