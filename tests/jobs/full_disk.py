"""groot_jax.train, in whose process 1 no file may grow during the first save of each last state."""

from __future__ import annotations

import resource
import sys
from typing import Any

import jax

from groot_jax import train
from groot_jax.errors import exit_on_user_error, prepare_job
from groot_jax.training.checkpoints import Checkpoints

TOTALS = {"nll": 8, "groot": 4}  # Updates of each system.


def main() -> None:
    ready, save = Checkpoints.ready, Checkpoints.save
    tried: set[str] = set()

    def limit(size: int | None) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def lifted(checkpoints: Checkpoints, *args: Any) -> None:
        try:
            checkpoints.wait()
        finally:
            limit(None)
        ready(checkpoints, *args)

    def limited(checkpoints: Checkpoints, step: int, *args: Any) -> None:
        system = checkpoints.folder.name
        if step == TOTALS[system] and system not in tried and jax.process_index() == 1:
            limit(2**10)
            tried.add(system)
        save(checkpoints, step, *args)

    Checkpoints.ready = lifted  # type: ignore[assignment,method-assign]
    Checkpoints.save = limited  # type: ignore[assignment,method-assign]
    train.main(sys.argv[1:])


if __name__ == "__main__":
    prepare_job()
    exit_on_user_error(main)
