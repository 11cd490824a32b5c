"""Where a system goes on: at its newest checkpoint that is whole; damaged ones are set aside."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from rich.console import Console

from groot_jax.contrast.update import TrainState
from groot_jax.errors import UserError
from groot_jax.generate.inputs import Beams
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.checkpoints import Checkpoints, Damaged
from groot_jax.training.evaluations import Meta
from groot_jax.training.monitor import say


@dataclass(frozen=True)
class Resumed:
    """What was read of a checkpoint."""

    step: int
    meta: Meta
    state: TrainState | None  # None: the system is finished, and nobody needs it
    flight: list[Beams] = field(default_factory=list)  # made before the save, to be used after it


def resume(
    checkpoints: Checkpoints,
    system: str,
    shapes: TrainState,
    rows: NamedSharding | None,
    hosts: Hosts,
    console: Console,
    num_rows: int | None = None,
) -> Resumed | None:
    """The newest checkpoint that is whole, in all processes the same; None where there is none yet.

    Args:
      shapes: of the state, with its shardings.
      rows: how beams lie over the devices; None: the system has none on their way.
      num_rows: of beams, as many as the devices divide. On other devices there were perhaps more or
        fewer of padding: those beams are left, and generation begins anew. None: any number fits.

    Raises UserError where a checkpoint cannot be read for now, and where all are damaged.
    """
    aside: list[str] = []
    while (step := checkpoints.latest()) is not None:
        problem, found = "", None
        try:
            read = partial(_read, checkpoints, step, shapes, rows, num_rows)
            if hosts.count == 1:
                found = checkpoints.checked(step, read)
            # Sums first, each process its share: a process that fails in the midst of a restore
            # leaves the others waiting.
            elif not (problem := first_problem(hosts, checkpoints.problem(step))):
                found = read()
        except Damaged as error:
            problem = error.why
        problem = first_problem(hosts, problem)
        if not problem and found is not None:
            if doubt := checkpoints.doubt(step):
                say(console, f"{system}: checkpoint {step} {doubt}")
            if found.state is not None and len(found.flight) < len(found.meta.flight):
                why = "were made on other devices, and generation begins anew"
                say(console, f"{system}: the beams that checkpoint {step} holds {why}")
            checkpoints.tidy(found.meta)
            return found
        name = checkpoints.set_aside(step)
        hosts.barrier()
        checkpoints.reload()
        aside.append(name)
        say(console, f"{system}: checkpoint {step} is damaged and now lies in {name} ({problem})")
    if aside:
        raise UserError(
            f"{checkpoints.folder}: every checkpoint is damaged (they now lie in "
            f"{', '.join(aside)}): bring a copy back as {aside[0].partition('.')[0]}, or run the "
            f"same command again, which then trains {system} from its beginning"
        )
    return None


def first_problem(hosts: Hosts, problem: str) -> str:
    """The first problem that a process has, for all."""
    found: str = hosts.merge(problem, lambda said: next(filter(None, said), ""))
    return found


def _read(
    checkpoints: Checkpoints,
    step: int,
    shapes: TrainState,
    rows: NamedSharding | None,
    num_rows: int | None,
) -> Resumed:
    meta = checkpoints.meta(step)
    if meta.finished:
        return Resumed(step, meta, None)
    state = checkpoints.restore(step, shapes)
    flight: list[Beams] = []
    fitting = all(num_rows in (None, shape[0]) for shape in meta.flight)
    if meta.flight and rows is not None and fitting:
        wanted = [_beam_shapes(shape, rows) for shape in meta.flight]
        flight = checkpoints.restore_flight(step, wanted)
    return Resumed(step, meta, state, flight)


def _beam_shapes(shape: list[int], rows: NamedSharding) -> Any:
    """Beams of shapes."""
    B, K, T = shape
    make: Any = Beams
    return make(
        jax.ShapeDtypeStruct((B, K, T), jnp.int32, sharding=rows),
        jax.ShapeDtypeStruct((B, K), jnp.float32, sharding=rows),
        jax.ShapeDtypeStruct((B, K), jnp.bool_, sharding=rows),
    )
