"""groot_jax.train, whose process 1 fails before update 3 of stage 1, when update 2 is done."""

from __future__ import annotations

import sys
from typing import Any

import jax

from groot_jax import train
from groot_jax.errors import UserError, exit_on_user_error, prepare_job
from groot_jax.training.groot import GrootStage


def main() -> None:
    contrast = GrootStage.contrast
    done: list[None] = []

    def failing(self: GrootStage, *args: Any) -> Any:
        if jax.process_index() == 1 and len(done) == 2:
            raise UserError("the reward failed")
        done.append(None)
        return contrast(self, *args)

    GrootStage.contrast = failing  # type: ignore[assignment,method-assign]
    train.main(sys.argv[1:])


if __name__ == "__main__":
    prepare_job()
    exit_on_user_error(main)
