"""Pretraining job: a model from text without labels, which groot_jax.train then starts from.

    python -m groot_jax.pretrain --config=configs/pretrain.py:text=queries.txt --workdir=runs/text

Spans of the text are masked, and the model learns to write them, as T5 did. Run the same command
again and it continues where it was stopped. It leaves WORKDIR/model, for --config.model.init.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below, which take seconds.

from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from groot_jax import config as configs
from groot_jax.contrast.update import OutputColumns, Params
from groot_jax.data.denoising import DenoisingBatches
from groot_jax.data.text import Text, load_text
from groot_jax.errors import exit_on_user_error
from groot_jax.mesh.rows import own_rows
from groot_jax.runtime.hosts import Hosts
from groot_jax.runtime.machine import note_job
from groot_jax.runtime.printing import open_console
from groot_jax.task import init_folder, make_params
from groot_jax.training import loop
from groot_jax.training.checkpoints import Checkpoints, by_loss
from groot_jax.training.loop import Stage
from groot_jax.training.monitor import say
from groot_jax.training.nll import likelihood_stage
from groot_jax.training.pretraining import (
    MODEL_FOLDER,
    PretrainTask,
    check_text,
    dev_loss,
    fitting,
    has_pretrain_task,
    load_pretrain_task,
    make_pretrain_task,
    output_columns,
    save_pretrain_task,
    write_model,
)
from groot_jax.training.setup import Partitioning, device_setup, make_partitioning
from groot_jax.training.status import WorkdirLock
from groot_jax.training.writers import check_writers

SYSTEM = "pretrain"  # In checkpoints/, metrics.jsonl and the seed of dropout.


def main(argv: list[str] | None = None) -> None:
    """The job: reads the text, pretrains from where it was stopped, writes the model. Raises
    UserError."""
    parser = configs.job_parser("groot_jax.pretrain", "Train a model on text without labels.", True)
    args = configs.parse_job(parser, argv)
    config, workdir = args.config, args.workdir
    check_writers(config.report_to)
    hosts = device_setup(config)
    with open_console(hosts.main) as console, WorkdirLock(workdir) as lock:
        # Before minutes are spent on reading; a new directory is made and locked in `open_task`.
        if hosts.main and (workdir / configs.CONFIG_FILE).exists():
            lock.take()
        if config.model.init and not has_pretrain_task(workdir):
            init_folder(config.model)
        text = load_text(config)
        if hosts.main:
            open_task(config, workdir, text, lock)
        hosts.barrier()
        task = load_pretrain_task(workdir, config)
        text = fitting(config, task.denoising, text)
        for note in text.notes:
            say(console, note)
        if hosts.main:
            note_job(workdir, "pretrain", argv)
        lock.began()
        partitioning = make_partitioning(config, task.model_config)
        columns = output_columns(task, partitioning)
        stage = pretrain_stage(task, text, partitioning, columns)
        evaluate = dev_loss(task, partitioning, columns, text.dev)
        loop.train(stage, workdir, config, evaluate, console, hosts)
        close(task, partitioning, workdir, console, hosts)
    hosts.close()


def open_task(config: ConfigDict, workdir: Path, text: Text, lock: WorkdirLock) -> None:
    """Writes the task of the work directory, which from then on belongs to this config, or checks
    the one that is there. A directory is claimed only once the config has proved possible."""
    if has_pretrain_task(workdir):
        lock.claim(config)  # Another job may have made it since this one began.
        check_text(load_pretrain_task(workdir, config), text, workdir)
        return
    task = make_pretrain_task(config, text)
    make_partitioning(config, task.model_config, warn=False)
    lock.claim(config)
    save_pretrain_task(task, workdir)


def pretrain_stage(
    task: PretrainTask, text: Text, partitioning: Partitioning, columns: OutputColumns
) -> Stage:
    """Updates on masked text, until the epochs are over or the dev loss no longer falls."""
    config, stage = task.config, task.config.pretrain
    # Envelopes are as long as any masking can make a sentence: an epoch has as many batches
    # whatever is masked, and a step always falls into the same one.
    batches = DenoisingBatches(
        task.denoising,
        task.denoising.envelopes(text.train),
        stage.batch_size,
        task.ladder,
        config.seed,
        own_B=own_rows(partitioning.layout, stage.batch_size),
    )

    # Asked for only where no checkpoint is there: with `model.init` they are read from a disk.
    def initial() -> Params:
        by_word = task.denoising.by_word
        return make_params(config, task.model_config, by_word, partitioning.params)

    return likelihood_stage(
        SYSTEM, config, stage, partitioning, batches, columns, initial, merit=by_loss
    )


def close(
    task: PretrainTask, partitioning: Partitioning, workdir: Path, console: Console, hosts: Hosts
) -> None:
    """Writes the best checkpoint as a model to start from, and says how."""
    # Process 0 says for all whether it is there: on a disk with a cache another may see it later,
    # and either all take part in gathering the parameters or none does.
    folder = workdir / MODEL_FOLDER
    if not hosts.broadcast(folder.exists()):
        with Checkpoints(
            workdir, SYSTEM, merit=by_loss, read_only=True, hosts=hosts
        ) as checkpoints:
            step = checkpoints.best()
            assert step is not None  # The loop has just ended with a checkpoint.
            params = checkpoints.restore_params(step, partitioning.param_shapes)
        write_model(task, params, partitioning, folder)
    hosts.barrier()
    say(
        console,
        f"{folder} holds the model; train a labeler from it:\n"
        "  python -m groot_jax.train --workdir=WORKDIR --config=configs/columns.py:train=FILE \\\n"
        f"    --config.model.init={folder}",
    )


if __name__ == "__main__":
    exit_on_user_error(main, "; run the same command again to continue")
