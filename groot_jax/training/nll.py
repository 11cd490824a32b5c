"""Stage 0: maximum likelihood of gold, until dev no longer gets better or the epochs are over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from ml_collections import ConfigDict

from groot_jax.contrast.update import OutputColumns, Params, TrainState, nll_batch
from groot_jax.data.batches import TrainingBatches
from groot_jax.generate.inputs import Beams
from groot_jax.mesh import arrays
from groot_jax.task import initial_params
from groot_jax.training.ahead import Ahead, shapes_on
from groot_jax.training.checkpoints import Merit, by_reward
from groot_jax.training.loop import Stage, Update, num_updates, updates_between
from groot_jax.training.optimizer import learning_rates, make_optimizer
from groot_jax.training.run import Run
from groot_jax.training.setup import Partitioning
from groot_jax.training.steps import jit_nll_step


def likelihood_stage(
    system: str,
    config: ConfigDict,
    settings: ConfigDict,
    partitioning: Partitioning,
    batches: TrainingBatches,
    columns: OutputColumns,
    initial: Callable[[], Params],
    merit: Merit = by_reward,
    ahead: Ahead | None = None,
    name_sentence: Callable[[int], str] = str,
) -> Stage:
    """Likelihood of the targets of `batches`, from the `initial` parameters; stage 0 and
    pretraining, whose `settings` are `config.nll` and `config.pretrain`. `ahead` compiles for the
    sizes of batches that are to come."""
    # The learning rate falls over all updates, also where patience may end them early.
    total = num_updates(settings, batches.per_epoch)
    optimizer = make_optimizer(config.optimizer, settings, config.optimizer.clip, total)
    layout = partitioning.layout
    step = jit_nll_step(settings, optimizer, partitioning, config.optimizer.nonfinite == "skip")
    key = arrays.named_key(config.seed, system, layout.everywhere)

    def updates(state: TrainState, start: int, _: Sequence[Beams]) -> Iterator[Update]:
        # Nothing here waits for the device: a batch is on its way while the one before is computed.
        for batch in batches.from_step(start, config.loader.threads):
            data = arrays.put(nll_batch(batch), layout.batch)
            state, metrics = step(state, data, key, columns)
            yield Update(state, metrics, {}, batch.index_B)

    def announce(state: TrainState, start: int) -> None:
        # The first size is needed at once, and compiled by its own call.
        if ahead is None:
            return
        for blank in batches.blanks(start, total)[1:]:
            ahead.compile(step, state, shapes_on(nll_batch(blank), layout.batch), key, columns)

    return Stage(
        system,
        total=total,
        eval_every=updates_between(settings, batches.per_epoch),
        patience=settings.patience,
        fresh=lambda: partitioning.new_state(initial(), optimizer),
        shapes=partitioning.state_shapes(optimizer),
        updates=updates,
        programs=(step,),
        per_epoch=batches.per_epoch,
        rates=learning_rates(settings, total),
        merit=merit,
        announce=announce,
        name_sentence=name_sentence,
    )


def nll_stage(run: Run, then: Callable[[], None] = lambda: None) -> Stage:
    """Stage 0 of a run; `then` has compiled ahead what comes after it."""
    settings, partitioning = run.config.nll, run.partitioning
    stage = likelihood_stage(
        "nll",
        run.config,
        settings,
        partitioning,
        run.batches(settings.batch_size, run.config.seed),
        run.columns,
        lambda: initial_params(run.task, partitioning.params),
        ahead=run.ahead,
        name_sentence=run.name_sentence,
    )

    def announce(state: TrainState, start: int) -> None:
        stage.announce(state, start)
        run.compile_search(run.generator, run.evaluator.one_of_each_size)
        then()

    return dataclasses.replace(stage, announce=announce)
