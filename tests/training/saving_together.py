"""A training of 12 updates in several processes, whose saves fail here and there."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint._src.multihost import multihost
from orbax.checkpoint._src.path import deleter
from orbax.checkpoint._src.serialization import serialization
from rich.console import Console

from groot_jax.config import default_config
from groot_jax.contrast.update import Params, TrainState
from groot_jax.runtime.hosts import Hosts
from groot_jax.training import keeping
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.loop import Stage, Update, train

# Enough for each fault to come, and an old checkpoint to go, where each costs two saves.
TOTAL = 12
SIZE = 2**18  # parameters: 1 MiB that does not compress
ALWAYS = 99


class Faults:
    """What a disk does to this process, from the save of a step on and so many times."""

    def __init__(self, hosts: Hosts, faults: Sequence[tuple[str, int, int, int]]) -> None:
        """`faults`: (kind, process, step, times); a kind is a method below."""
        self._terminated_at = 0
        for kind, process, step, times in faults:
            if process == hosts.index:
                getattr(self, kind)(step, times)

    def file_size(self, step: int, times: int) -> None:
        """No file may grow beyond 128 KiB, as on a disk that is full for this process alone."""
        save, left = Checkpoints.save, [times]

        def limited(checkpoints: Checkpoints, now: int, *args: Any) -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            low = now >= step and left[0] > 0
            left[0] -= low
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**17 if low else hard, hard))
            save(checkpoints, now, *args)

        Checkpoints.save = limited  # type: ignore[assignment,method-assign]

    def commit(self, step: int, times: int) -> None:
        """A draft does not get its name, when all is written."""
        _full(os, "rename", times, lambda _, new: _step(new) >= step)

    def draft(self, step: int, times: int) -> None:
        """The folder of a draft is not made."""
        _full(os, "mkdir", times, lambda path, *_: _step(str(path).split(".orbax")[0]) >= step)

    def metas(self, step: int, times: int) -> None:
        """The metas beside the checkpoints are not written, while the save is on its way."""
        _full(
            *(os, "replace", times),
            lambda old, new: _name(new) == "meta.json" and max(_steps_of(old)) >= step,
        )

    def removal(self, step: int, times: int) -> None:
        """What is to go for a new checkpoint does not, when that has landed."""

        def landed(remover: Any, steps: list[int]) -> bool:
            return bool(steps) and any(_step(i) >= step for i in Path(remover._directory).iterdir())

        _full(deleter.StandardCheckpointDeleter, "delete_steps", times, landed)

    def death(self, step: int, _: int) -> None:
        """The process is killed while it writes the arrays."""
        save = Checkpoints.save

        def doomed(checkpoints: Checkpoints, now: int, *args: Any) -> None:
            if now >= step:
                _full(
                    *(serialization, "async_serialize_from_host", 1),
                    lambda *_: os.kill(os.getpid(), signal.SIGKILL),
                )
            save(checkpoints, now, *args)

        Checkpoints.save = doomed  # type: ignore[assignment,method-assign]

    def termination(self, step: int, _: int) -> None:
        """The process is sent SIGTERM while an update is made."""
        self._terminated_at = step

    def before(self, step: int) -> None:
        """An update."""
        if step == self._terminated_at:
            os.kill(os.getpid(), signal.SIGTERM)


def _full(owner: Any, name: str, times: int, of: Callable[..., object]) -> None:
    """Calls that are `of` a kind raise as on a disk that is full, so many times."""
    before, left = getattr(owner, name), [times]

    def call(*args: Any, **kwargs: Any) -> Any:
        if left[0] and of(*args):
            left[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return before(*args, **kwargs)

    setattr(owner, name, call)


def _name(path: object) -> str:
    return Path(str(path)).name


def _step(path: object) -> int:
    return int(_name(path)) if _name(path).isdecimal() else -1


def _steps_of(metas: str) -> list[int]:
    return [int(step) for step in json.loads(Path(metas).read_text())["value"]]


def run(
    hosts: Hosts,
    workdir: Path,
    faults: Sequence[tuple[str, int, int, int]] = (),
    retry_minutes: float = 1.0,
    every_steps: int = 1,
    pause: float = 0.0,
) -> None:
    """The training, saved each `every_steps` updates, of `pause` seconds; faults are those of
    `Faults`."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # As the jobs do.
    keeping._PAUSES = (0.2,)  # type: ignore[assignment]
    multihost._DEFAULT_BARRIER_TIMEOUT = 3  # Of 300 s, for which the others wait for a draft.
    failing = Faults(hosts, faults)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    first = TrainState(
        jax.device_put(jnp.int32(0), everywhere),
        {"w": jax.device_put(jnp.zeros(SIZE), split)},
        (optax.EmptyState(),),
    )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), first
    )
    one: Any = jax.device_put(jnp.ones(()), everywhere)

    def updates(state: TrainState, start: int, _: object) -> Iterator[Update]:
        for step in range(start + 1, TOTAL + 1):
            time.sleep(pause)
            failing.before(step)
            noise = np.random.default_rng(step).normal(size=SIZE).astype(np.float32)
            w = state.params["w"] + jax.device_put(noise, split)
            state = TrainState(state.step + 1, {"w": w}, state.opt_state)
            yield Update(state, {"loss": (one, one), "gold_score": (-one, one)}, {})

    def evaluate(params: Params) -> dict[str, float]:
        total: Any = jnp.sum(params["w"])
        return {"reward@1": 0.5, "mean_reward": float(total)}

    config = default_config()
    config.update({"report_to": (), "log_every": 2})
    config.checkpoint.update({"every_steps": every_steps, "retry_minutes": retry_minutes})
    stage = Stage("groot", TOTAL, 4, lambda: first, shapes, updates, ())
    train(stage, workdir, config, evaluate, Console(quiet=not hosts.main, width=1000), hosts)
