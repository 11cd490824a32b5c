"""Stage 0: maximum likelihood of gold, until dev no longer gets better or the epochs are over."""

from __future__ import annotations

from collections.abc import Iterator

from groot_jax.contrast.update import TrainState, nll_batch
from groot_jax.mesh import arrays
from groot_jax.model.t5 import param_shapes
from groot_jax.task import initial_params
from groot_jax.training import loop
from groot_jax.training.loop import Stage, Update, new_state, state_shapes
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.run import Run, let_go
from groot_jax.training.steps import jit_nll_step


def train_nll(run: Run) -> None:
    """Trains stage 0 of a run, from its latest checkpoint where it has one."""
    settings, task, placement = run.config.nll, run.task, run.placement
    own_B = placement.own_rows(settings.batch_size)
    batches = run.batches(settings.batch_size, run.config.seed, own_B)
    total = max(1, round(settings.epochs * batches.per_epoch))
    optimizer = make_optimizer(run.config.optimizer, settings, run.config.optimizer.clip, total)
    shardings = placement.state(task.model_config, optimizer)
    step_fn = jit_nll_step(settings, task.model_config, optimizer, shardings, placement.layout)
    key = run.key("nll")

    def updates(state: TrainState, start: int) -> Iterator[Update]:
        for batch in batches.from_step(start, run.config.loader.threads):
            data = arrays.put(nll_batch(batch), placement.batch)
            state, metrics = step_fn(state, data, key, run.columns)
            yield Update(state, metrics, {})

    run.train(
        Stage(
            "nll",
            total=total,
            look_every=loop.look_every(settings, batches.per_epoch),
            patience=settings.patience,
            fresh=lambda: new_state(initial_params(task, shardings.params), optimizer, shardings),
            shapes=state_shapes(param_shapes(task.model_config), optimizer, shardings),
            updates=updates,
        )
    )
    let_go(step_fn)
