"""Training job: stage 0 (likelihood of gold), then GROOT and the systems it is compared with.

    python -m groot_jax.train --config=configs/retail.py --workdir=runs/retail [--config.a.b=c]

Run the same command again and it continues where it was stopped. The two stages are in
training/nll.py and training/groot.py.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below, which take seconds.

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from groot_jax import config as configs
from groot_jax.calls import make_callable
from groot_jax.data.card import make_card, read_lines_of, write_card
from groot_jax.data.corpus import Corpus, read_corpus
from groot_jax.data.lengths import without_too_long
from groot_jax.data.unlabeled import with_unlabeled
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.evaluate import evaluate_systems, show_results
from groot_jax.evaluation.evaluator import open_oracle
from groot_jax.evaluation.recorder import Recorder, reported_rewards
from groot_jax.evaluation.results import NO_RESULTS, Results
from groot_jax.model.config import run_settings
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.rewards import parse_type_weights
from groot_jax.runtime.files import expanded
from groot_jax.runtime.machine import note_job
from groot_jax.runtime.printing import open_console
from groot_jax.task import Task, check_corpus, init_folder, load_task, make_task, save_task
from groot_jax.training import loop
from groot_jax.training.ahead import Ahead
from groot_jax.training.checkpoints import saved_steps
from groot_jax.training.groot import GrootStage, announce_systems
from groot_jax.training.loop import Stage
from groot_jax.training.monitor import say
from groot_jax.training.nll import nll_stage
from groot_jax.training.run import Run
from groot_jax.training.setup import device_setup, make_partitioning
from groot_jax.training.status import WorkdirLock
from groot_jax.training.systems import worse_systems
from groot_jax.training.writers import check_writers
from groot_jax.warm_start import labeler_of

# ---- Set-up -----------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """The job: reads the data, trains all systems from where it was stopped, scores them. Raises
    UserError."""
    parser = configs.job_parser("groot_jax.train", "Train a labeler: NLL, then GROOT.", True)
    parser.add_argument(
        "--split",
        choices=("test", "dev", "none"),
        default="test",
        help="what the systems are scored on at the end: test (the default; dev where there is no "
        "test split), dev, or nothing",
    )
    args = configs.parse_job(parser, argv)
    run_training(args.config, args.workdir, args.split, argv)


def run_training(
    config: ConfigDict, workdir: Path, split: str, argv: Sequence[str] | None = None
) -> Results:
    """As `main`; what W/results.json holds then, nothing where `split` is none. `argv`: the command
    line that says the same."""
    check_writers(config.report_to)
    hosts = device_setup(config)
    with open_console(hosts.main) as console, WorkdirLock(workdir) as lock:
        # A directory that is there already: before minutes are spent on reading and checking. A new
        # one is made, and locked, only in `open_task`.
        if hosts.main and (workdir / configs.CONFIG_FILE).exists():
            lock.take()
        # What may not be there, or takes minutes to fetch, comes first; a run that has begun needs
        # no network.
        begun = (workdir / "task" / "task.json").exists()
        if config.model.init and not begun and labeler_of(config.model) is None:
            init_folder(config.model)
        corpus = read_corpus(config)
        if config.data.unlabeled:
            corpus = with_unlabeled(corpus, config)
        for line in (*read_lines_of(corpus), *corpus.notes):
            say(console, line)
        # Processes of one run have to compile the same programs in the same order.
        with open_oracle(config) as oracle, Ahead(enabled=hosts.count == 1) as ahead:
            if hosts.main:
                open_task(config, workdir, corpus, oracle, lock)
            hosts.barrier()  # The task is on disk, for all processes to read.
            task = load_task(workdir, config)
            # Which sentences are too long is known with the tokenizer. The task was made from all,
            # so that its digests are those of the data and not of this format.
            loaded, known = corpus, len(corpus.notes)
            corpus = without_too_long(loaded, task.format, config, task.max_words)
            card = make_card(loaded, corpus, task.format)
            if hosts.main:
                write_card(workdir, card)
                note_job(workdir, "train", argv)
            for line in (*corpus.notes[known:], *card.lines()):
                say(console, line)
            lock.began()
            run = Run(config, workdir, corpus, task, oracle, hosts, ahead, console)
            for stage in stages(run):
                loop.train(
                    *(stage, workdir, config, run.evaluator.evaluate, console, hosts),
                    samples=lambda: run.evaluator.samples,
                )
                ahead.drop(stage.programs)
            results = NO_RESULTS if split == "none" else close(run, console, split)
    hosts.close()
    return results


def stages(run: Run) -> Iterator[Stage]:
    """Stage 0, unless it is done elsewhere or left out, then a stage for each system.

    Each is made when the one before is done, whose memory it then can have.
    """
    if run.config.nll.enabled and not run.config.nll.checkpoint:
        yield nll_stage(run, lambda: run.ahead.run(partial(announce_systems, run)))
    for system in run.config.systems:
        yield GrootStage(run, system).stage()


def open_task(
    config: ConfigDict, workdir: Path, corpus: Corpus, oracle: Oracle, lock: WorkdirLock
) -> None:
    """Writes the task of the work directory, which from then on belongs to this config, or checks
    the one that is there.

    A new directory is claimed only once the config has proved possible: whoever mends a mistake in
    it can name the same directory again.
    """
    if (workdir / "task" / "task.json").exists():
        lock.claim(config)  # Another job may have made it since this one began.
        task = load_task(workdir, config)
        check_corpus(task, corpus, workdir)
        check_rewards(oracle, config, corpus)
        return
    for split, sentences in (("train", corpus.train), ("dev", corpus.dev)):
        if not sentences:
            raise UserError(
                f"config.data.{split}: no {split} sentences are left, and training needs some; "
                f"name a file, or change config.data.dev_fraction ({config.data.dev_fraction})"
            )
    for type_ in parse_type_weights(config.reward.type_weights):
        if type_ not in corpus.types:
            raise UserError(
                f"config.reward.type_weights names the type '{type_}', which the training data "
                f"lacks; it has {', '.join(corpus.types)}"
            )
    # Whatever else can be wrong comes before the directory is made: a mesh that does not fit these
    # devices, a stage 0 of another shape, a reward that raises.
    task = make_task(config, corpus)
    make_partitioning(config, task.model_config, warn=False)
    check_stage_0(config, task, corpus)
    check_rewards(oracle, config, corpus)
    lock.claim(config)
    save_task(task, workdir)


def check_rewards(oracle: Oracle, config: ConfigDict, corpus: Corpus) -> None:
    """Calls the rewards as training, and the report at its end, will, so that a mistake in a user's
    function comes before both: with nothing found, nothing to find, and all found, in one batch."""
    sentence = next((sentence for sentence in corpus.train if sentence.labeling), None)
    if sentence is None:
        raise UserError(
            "config.data.train: no labeled span is left after dev was carved, long sentences were "
            "dropped and config.data.train_limit was drawn; raise that limit"
        )
    gold, words = sentence.labeling, sentence.words
    with reported_rewards(config) as reported:
        for score in (oracle.score, *reported.values()):
            score([((), gold, words), (gold, (), words), (gold, gold, words)])


def check_stage_0(config: ConfigDict, task: Task, corpus: Corpus) -> None:
    """Raises UserError where `nll.checkpoint` names no stage 0 that stage 1 can start from."""
    if not config.nll.checkpoint:
        return
    if not config.systems:
        raise UserError(
            "there is nothing to train: config.nll.checkpoint has stage 0 done elsewhere and "
            "config.systems is empty"
        )
    workdir = expanded(config.nll.checkpoint, "config.nll.checkpoint")
    try:
        other = load_task(workdir, configs.load_dumped(workdir / configs.CONFIG_FILE))
    except UserError as error:
        raise UserError(f"config.nll.checkpoint: {error}") from error
    # Tokenizers are taken for the same where they encode a hundred sentences alike: their files
    # need not agree byte for byte.
    examples = (s.words for s in corpus.train[:100])
    # What the two may differ in says how the model computes, not what it is.
    settings = run_settings(config.model)
    same = (
        dataclasses.replace(other.model_config, **settings) == task.model_config
        and other.format.types == task.format.types
        and other.format.name == task.format.name
        and all(other.format.source(words) == task.format.source(words) for words in examples)
    )
    if not same:
        raise UserError(
            f"config.nll.checkpoint: {workdir} holds a model of another shape, or for other types "
            "or another vocabulary; give this run the same data, text and model settings"
        )
    if not saved_steps(workdir, "nll"):
        raise UserError(
            f"config.nll.checkpoint: {workdir} holds no checkpoint of stage 0; run "
            "groot_jax.train there first"
        )


# ---- Close ------------------------------------------------------------------------------------


def close(run: Run, console: Console, split: str) -> Results:
    """Scores the best checkpoint of every system on a split (dev where there is no test split), and
    writes the report."""
    # Dev chose the checkpoints, and flatters them: it stands in only where there is nothing else,
    # or where settings are still being chosen and test is to stay unread.
    split = split if run.corpus.test else "dev"
    with reported_rewards(run.config, run.hosts.main) as reported:
        recorder = Recorder(
            *(run.task, run.corpus, run.oracle, reported),
            *(run.hosts, run.generator, run.workdir),
        )
        evaluate_systems(recorder, run.workdir, run.partitioning.param_shapes, console, split)
    if not run.hosts.main:
        return NO_RESULTS
    return show_results(run.workdir, run.config, console, worse_systems(run.workdir, run.config))


make_callable(__name__)

if __name__ == "__main__":
    exit_on_user_error(main, "; run the same command again to continue")
