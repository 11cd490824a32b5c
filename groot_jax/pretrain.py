"""Pretraining job: a model from text without labels, which groot_jax.train then starts from.

    python -m groot_jax.pretrain --config=configs/pretrain.py:text=queries.txt --workdir=runs/text

Spans of the text are masked, and the model learns to write them, as T5 did. Run the same command
again and it continues where it was stopped. It leaves WORKDIR/model, for --config.model.init.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from groot_jax import config as configs
from groot_jax.contrast.update import OutputColumns, TrainState, nll_batch
from groot_jax.data.denoising import DenoisingBatches
from groot_jax.data.text import Text, load_text
from groot_jax.errors import exit_on_user_error
from groot_jax.mesh import arrays
from groot_jax.model.t5 import param_shapes
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import make_params
from groot_jax.training import loop
from groot_jax.training.checkpoints import Checkpoints, by_loss
from groot_jax.training.loop import Stage, Update, new_state, state_shapes
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.pretraining import (
    MODEL_FOLDER,
    HeldOut,
    PretrainTask,
    check_text,
    has_pretrain_task,
    load_pretrain_task,
    make_pretrain_task,
    output_columns,
    save_pretrain_task,
    write_model,
)
from groot_jax.training.setup import Placement, device_setup, place, system_key
from groot_jax.training.status import WorkdirLock
from groot_jax.training.steps import jit_nll_step

SYSTEM = "pretrain"  # In checkpoints/, metrics.jsonl and the seed of dropout.


def main(argv: list[str] | None = None) -> None:
    parser = configs.job_parser("groot_jax.pretrain", "Train a model on text without labels.", True)
    args = configs.parse_job(parser, argv)
    config, workdir = args.config, args.workdir
    hosts = device_setup(config)
    console = Console(quiet=not hosts.main)
    with WorkdirLock(workdir) as lock:
        if hosts.main and (workdir / configs.CONFIG_FILE).exists():
            lock.take()
        text = load_text(config)
        if hosts.main:
            open_task(config, workdir, text, lock)
        hosts.barrier()
        task = load_pretrain_task(workdir, config)
        text = task.kept(text)
        for note in text.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)
        lock.began()
        placement = place(config, task.model_config)
        train(task, text, placement, workdir, console, hosts)
        close(task, placement, workdir, console, hosts)
    hosts.close()


def open_task(config: ConfigDict, workdir: Path, text: Text, lock: WorkdirLock) -> None:
    """Writes the task of the work directory, which from then on belongs to this config, or checks
    the one that is there. A directory is claimed only once the config has proved possible."""
    if has_pretrain_task(workdir):
        lock.take()  # Another job may have made it since this one began.
        configs.claim_workdir(workdir, config)
        check_text(load_pretrain_task(workdir, config), text, workdir)
        return
    task = make_pretrain_task(config, text)
    place(config, task.model_config, warn=False)
    configs.make_workdir(workdir)
    lock.take()
    configs.claim_workdir(workdir, config)
    save_pretrain_task(task, workdir)


def train(
    task: PretrainTask,
    text: Text,
    placement: Placement,
    workdir: Path,
    console: Console,
    hosts: Hosts,
) -> None:
    """Updates on masked text, until the epochs are over or the dev loss no longer falls."""
    config, stage, seed = task.config, task.config.pretrain, task.config.seed
    batches = DenoisingBatches(
        task.denoising,
        task.denoising.envelopes(text.train),
        stage.batch_size,
        task.ladder,
        seed,
        own_B=placement.own_rows(stage.batch_size),
    )
    columns = output_columns(task, placement)
    total = max(1, round(stage.epochs * batches.per_epoch))
    optimizer = make_optimizer(config.optimizer, stage, config.optimizer.clip, total)
    shardings = placement.state(task.model_config, optimizer)

    def fresh() -> TrainState:
        params = make_params(config, task.model_config, task.denoising.by_word, shardings.params)
        return new_state(params, optimizer, shardings)

    def updates(state: TrainState, start: int) -> Iterator[Update]:
        step_fn = jit_nll_step(stage, task.model_config, optimizer, shardings, placement.layout)
        key = system_key(seed, SYSTEM, placement)
        for batch in batches.from_step(start, config.loader.threads):
            data = arrays.put(nll_batch(batch), placement.batch)
            state, metrics = step_fn(state, data, key, columns)
            yield Update(state, metrics, {})

    loop.train(
        Stage(
            SYSTEM,
            total=total,
            look_every=loop.look_every(stage, batches.per_epoch),
            patience=stage.patience,
            fresh=fresh,
            shapes=state_shapes(param_shapes(task.model_config), optimizer, shardings),
            updates=updates,
            merit=by_loss,
        ),
        workdir,
        config.checkpoint,
        held_out(task, text, placement, columns),
        console,
        hosts,
    )


def held_out(
    task: PretrainTask, text: Text, placement: Placement, columns: OutputColumns
) -> HeldOut:
    examples = task.denoising.envelopes(text.dev)
    return HeldOut(task, placement, columns, examples, task.config.pretrain.batch_size)


def close(
    task: PretrainTask, placement: Placement, workdir: Path, console: Console, hosts: Hosts
) -> None:
    """Writes the best checkpoint as a model to start from, and says how."""
    folder = workdir / MODEL_FOLDER
    if not hosts.broadcast(folder.exists()):
        with Checkpoints(workdir, SYSTEM, merit=by_loss, read_only=True) as checkpoints:
            step = checkpoints.best()
            assert step is not None  # The loop has just ended with a checkpoint.
            params = checkpoints.restore_params(step, placement.shapes(task.model_config))
        write_model(task, params, placement, folder)
    hosts.barrier()
    console.print(
        f"{folder} holds the model; train a labeler from it:\n"
        "  python -m groot_jax.train --workdir=WORKDIR --config=configs/columns.py:train=FILE \\\n"
        f"    --config.model.init={folder}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    exit_on_user_error(main, "; run the same command again to continue")
