"""What stage 1 starts from: the best checkpoint of stage 0 on dev that is whole, the same one for
all systems, or what is compared would differ in more than its losses."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from groot_jax.errors import UserError
from groot_jax.model.param_tree import Params
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.monitor import say
from groot_jax.training.reading import Damaged, Gone
from groot_jax.training.resuming import first_problem


def read_start(
    checkpoints: Checkpoints,
    begun: Mapping[str, int | None],
    shapes: Params,
    hosts: Hosts,
    console: Console,
    own: bool,
) -> tuple[int, Params]:
    """The step of stage 0 that stage 1 starts from, and its parameters, in all processes the same.

    Args:
      begun: the systems of stage 1 that have begun, and the step that each started from; None: an
        earlier version has not written it down.
      own: whether the checkpoints are of this work directory. Damaged ones are set aside there, and
        the next best is taken; those of another are left alone.

    Raises UserError where there is no checkpoint, where one is damaged and `own` is false, and
    where stage 1 has begun from one that is damaged or gone.
    """
    from_there = next((step for step in begun.values() if step), None)
    aside: list[str] = []
    while (best := checkpoints.best()) is not None:
        step = from_there or best
        try:
            problem, params = _read(checkpoints, step, shapes, hosts)
        except Gone:  # Training, beside this job, has removed it.
            checkpoints.reload()
            continue
        if params is not None:
            first = checkpoints.best_of_all()
            if step != first and not from_there:
                lost = f"step {first}, the best on dev, is not there"
                say(console, f"stage 1 starts from step {step} of nll: {lost}")
            return step, params
        folder, systems = checkpoints.folder / str(step), ", ".join(begun)
        if begun:
            raise UserError(
                f"{folder} {problem}, and {systems} started from it: bring a copy of that folder "
                f"back, or move the folders of {systems} away from checkpoints/, so that all "
                "systems start from the next best"
            )
        if not own:
            raise Damaged(folder, problem)
        aside.append(checkpoints.set_aside(step))
        hosts.barrier()
        checkpoints.reload()
        say(console, f"nll: checkpoint {step} {problem} and now lies in {aside[-1]}")
    if aside:
        raise UserError(
            f"{checkpoints.folder}: every checkpoint is damaged (they now lie in "
            f"{', '.join(aside)}): bring a copy back as {aside[0].partition('.')[0]}, or run the "
            "same command again, which then trains nll from its beginning"
        )
    raise UserError(
        f"{checkpoints.folder} holds no checkpoint of stage 0; run groot_jax.train there first"
    )


def _read(
    checkpoints: Checkpoints, step: int, shapes: Params, hosts: Hosts
) -> tuple[str, Params | None]:
    """What is wrong with a step, for all processes the same, or its parameters."""
    problem, params = "", None
    if step not in checkpoints.steps():
        return "is gone", None
    try:
        # Sums first, where there are several: see `resume`.
        if hosts.count > 1:
            problem = first_problem(hosts, checkpoints.problem(step))
        if not problem:
            params = checkpoints.restore_params(step, shapes)
    except Damaged as error:
        problem = error.why
    problem = first_problem(hosts, problem)
    return (f"is damaged ({problem})", None) if problem else ("", params)
