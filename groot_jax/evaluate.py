"""Evaluation job: scores checkpoints of a work directory, once or each as it lands.

    python -m groot_jax.evaluate --workdir=W [--split=test]
        [--checkpoint=STEP|best|latest] [--system=NAME] [--watch] [--output=FOLDER]

Writes W/eval/*.json, W/predictions/*.jsonl, W/decisions/*.json, W/results.json and
W/report/index.html, and prints the table. Under other settings or data than those of training they
go to a folder of their own, W/other/<digest>/.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below, which take seconds.

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from groot_jax import config as configs
from groot_jax.calls import make_callable
from groot_jax.config.keys import flatten
from groot_jax.contrast.update import Params
from groot_jax.data.card import make_card, read_card, read_lines_of, write_card
from groot_jax.data.corpus import Corpus, read_corpus
from groot_jax.data.lengths import without_too_long
from groot_jax.errors import UserError, exit_on_user_error, told_as
from groot_jax.evaluation.evaluator import open_oracle
from groot_jax.evaluation.recorder import Recorder, reported_rewards
from groot_jax.evaluation.report import write_report
from groot_jax.evaluation.results import NO_RESULTS, Results, results_table, write_results
from groot_jax.runtime.files import expanded, writing
from groot_jax.runtime.machine import note_job
from groot_jax.task import Task, check_corpus, check_types, digests_of, load_task
from groot_jax.training.checkpoints import Checkpoints, saved_steps
from groot_jax.training.monitor import say
from groot_jax.training.reading import Damaged
from groot_jax.training.setup import device_setup, make_partitioning
from groot_jax.training.status import training_ended
from groot_jax.training.systems import (
    choose_step,
    home_of,
    systems_of,
    trained_systems,
    worse_systems,
)

_POLL_SECONDS = 1.0  # After which a watch asks again what training has written.


def main(argv: list[str] | None = None) -> None:
    """Runs the job. Raises UserError for what the user can mend."""
    run_evaluation(argv)


# A work directory that somebody else has trained may be read and not written.
@told_as("choose another --workdir", "name another place for results, --output=FOLDER")
def run_evaluation(argv: list[str] | None) -> Results:
    """As `main`; what results.json holds then."""
    parser = configs.job_parser("groot_jax.evaluate", "Score checkpoints of a work directory.")
    parser.add_argument("--split", choices=("test", "dev"), help="test; with --watch: dev")
    parser.add_argument("--checkpoint", metavar="STEP|best|latest", help="which one; without: best")
    parser.add_argument("--system", help="one system, such as groot; without: all there are")
    parser.add_argument(
        "--watch", action="store_true", help="score each new checkpoint as it lands"
    )
    parser.add_argument(
        "--output",
        type=lambda text: expanded(text, "--output"),
        metavar="FOLDER",
        help="for results; without: the work directory, or a folder in it under other settings",
    )
    args = configs.parse_job(parser, argv, before_reading=_await_training)
    config, workdir = args.config, args.workdir
    if args.watch and args.checkpoint:
        raise UserError(
            f"--checkpoint={args.checkpoint} names one, but --watch scores all: leave one out"
        )
    hosts = device_setup(config)
    console = Console(quiet=not hosts.main)
    task = load_task(workdir, config)
    loaded = read_corpus(config)
    corpus = without_too_long(loaded, task.format, config, task.max_words)
    systems = [args.system] if args.system else []
    # A watch chooses among checkpoints, and test may not choose.
    split = args.split or ("dev" if args.watch else "test")
    if not (corpus.test if split == "test" else corpus.dev):
        raise UserError(
            f"config.data.{split}: there is no {split} split; name one or another --split"
        )
    partitioning = make_partitioning(config, task.model_config)
    generator = task.generator(partitioning.layout)
    with open_oracle(config) as oracle, reported_rewards(config, hosts.main) as reported:
        # Last of all that may be refused, for it makes the folder.
        results = workdir
        if hosts.main:
            results = results_folder(workdir, task, loaded, console, args.output)
            if not has_data_of_training(task, digests_of(loaded)):
                for line in read_lines_of(loaded):
                    say(console, line)
            # Each folder of results has its own; work directories of earlier versions have none.
            if results != workdir or read_card(workdir) is None:
                write_card(results, make_card(loaded, corpus, task.format))
            note_job(results, "evaluate", argv)
        recorder = Recorder(task, corpus, oracle, reported, hosts, generator, results)
        shapes = partitioning.param_shapes
        if args.watch:
            systems = watch(recorder, workdir, shapes, console, split, systems)
        checkpoint = args.checkpoint or "best"
        evaluate_systems(recorder, workdir, shapes, console, split, systems, checkpoint)
    shown = NO_RESULTS
    if hosts.main:
        shown = show_results(results, config, console, worse_systems(workdir, config))
    hosts.close()
    return shown


def _await_training(args: argparse.Namespace) -> None:
    """A watch may be started before the training that it is for."""
    needed = [args.workdir / configs.CONFIG_FILE, args.workdir / "task" / "task.json"]
    if not args.watch or all(path.exists() for path in needed):
        return
    print(f"waiting for training to begin in {args.workdir}", file=sys.stderr, flush=True)
    while True:
        # It is written before all else: where it is lost, no training brings it.
        if configs.has_lost_config(args.workdir):
            configs.load_dumped(needed[0])
        ended = needed[0].exists() and training_ended(args.workdir)
        if ended or all(path.exists() for path in needed):
            return  # If it ended too early, whoever reads the files says so.
        time.sleep(_POLL_SECONDS)


def has_data_of_training(task: Task, digests: Mapping[str, str]) -> bool:
    """Whether what was read is what training has read, but for unlabeled sentences, which it alone
    reads."""
    return all(task.digests.get(split) == digest for split, digest in digests.items())


def results_folder(
    workdir: Path, task: Task, corpus: Corpus, console: Console, output: Path | None = None
) -> Path:
    """Where results belong: in the work directory, or, under other settings or data than those of
    training, in a folder of their own, so that no table mixes what does not compare. `output`: a
    folder of the user's choice instead, which then is for these settings alone.

    Raises UserError where the data are others under their old name, and where `output` holds
    results under other settings.
    """
    theirs = configs.load_dumped(workdir / configs.CONFIG_FILE)
    ours = flatten(task.config)
    differing = configs.differing_keys(theirs, task.config)
    other = [key for key in differing if not key.startswith("data.")]
    # Data under their old name have to be the old data. Under another name they may be others, but
    # not of other types: the model could not write these.
    if differing == other:
        check_corpus(task, corpus, workdir)
    else:
        check_types(task, corpus, workdir)
    digests = digests_of(corpus)
    if has_data_of_training(task, digests):
        differing, digests = other, {}  # The same data from another place.
    if output is not None:
        configs.claim_workdir(output, task.config, "--output")
        return output
    if not differing:
        return workdir
    identity = json.dumps([{key: ours.get(key) for key in differing}, digests], sort_keys=True)
    # Eight hex digits of what differs, so that the same settings and data find their folder again:
    # --config.reward.name=exact for nll today and for groot tomorrow makes one table.
    name = hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()
    folder = workdir / "other" / name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    configs.dump(task.config, folder / configs.CONFIG_FILE)
    say(console, f"not the settings of training ({', '.join(differing)}): results go to {folder}")
    return folder


def evaluate_systems(
    recorder: Recorder,
    workdir: Path,
    shapes: Params,
    console: Console,
    split: str,
    systems: Sequence[str] = (),
    checkpoint: str = "best",
) -> None:
    """Scores one checkpoint of each system on a split; without `systems`, of all there are.

    `shapes`: what parameters are restored onto. Raises UserError for a system or checkpoint that is
    not there.
    """
    config = recorder.task.config
    found = trained_systems(workdir, config, systems)
    if not systems and checkpoint.isdecimal():
        # A step is asked of those systems that have it.
        systems = [
            s for s in found if int(checkpoint) in saved_steps(home_of(workdir, config, s), s)
        ]
    kind = checkpoint if checkpoint in ("best", "latest") else "step"
    for system in systems or found:
        home, tie = home_of(workdir, config, system), config.checkpoint.tie
        with Checkpoints(
            home, system, tie=tie, read_only=True, hosts=recorder.hosts
        ) as checkpoints:
            step, params = checkpoints.read_params(partial(choose_step, wanted=checkpoint), shapes)
        seconds = recorder.record(params, system, step, kind, split)
        best = "best " if kind == "best" else ""
        say(console, f"{system}: {best}step {step} scored on {split} in {seconds:.1f} s")


def watch(
    recorder: Recorder,
    workdir: Path,
    shapes: Params,
    console: Console,
    split: str,
    systems: Sequence[str],
) -> list[str]:
    """Scores each checkpoint as it lands, until training has ended and all are scored; the
    systems that have one.

    Raises UserError where training ended without a checkpoint.
    """
    hosts, config = recorder.hosts, recorder.task.config
    known = ("nll", *config.systems)
    for system in systems:
        if system not in known:
            raise UserError(f"--system={system}: {workdir} trains {', '.join(known)} only")
    seen: set[tuple[str, int]] = set()
    damaged: dict[tuple[str, int], int] = {}  # what is left to training -> which folder that was

    def unseen() -> tuple[bool, list[tuple[str, int]]]:
        """Whether training has ended, and what is there to be scored."""
        # Asked first: what lands after the answer is seen below, or in one more round.
        ended = training_ended(workdir)
        landed = [
            (system, step)
            for system in systems or systems_of(workdir, config)
            for step in saved_steps(home_of(workdir, config, system), system)
        ]
        left = [] if ended else [item for item in damaged if folder_of(*item) == damaged[item]]
        return ended, [item for item in landed if item not in seen and item not in left]

    def folder_of(system: str, step: int) -> int:
        folder = home_of(workdir, config, system) / "checkpoints" / system / str(step)
        return folder.stat().st_ino if folder.exists() else 0

    while True:
        # One process reads the folder: two that do so a moment apart may see other checkpoints, and
        # then one would wait for the other in a search that the other never begins.
        ended, new = hosts.broadcast(unseen() if hosts.main else None)
        for system, step in new:
            seen.add((system, step))
            home = home_of(workdir, config, system)
            error: Exception | None = None
            try:
                with Checkpoints(home, system, read_only=True, hosts=hosts) as checkpoints:
                    params = checkpoints.restore_params(step, shapes)
            except (UserError, OSError) as e:
                error = e
            # Training keeps few checkpoints, and may have removed this one meanwhile. What fails
            # while its folder stays is an error; the pause lets a removal come to its end.
            if hosts.merge(error is not None, any):
                time.sleep(_POLL_SECONDS)
                there = step in saved_steps(home, system)
                # Training sets a damaged one aside when it begins, and may make it anew.
                waits = there and not ended and isinstance(error, Damaged | None)
                if error is not None and there and not waits:
                    raise error
                line = f"{system}: step {step} was replaced before it was read"
                if waits:
                    seen.remove((system, step))
                    damaged[system, step] = folder_of(system, step)
                    line = f"{system}: step {step} is damaged, which training has to see to"
            else:
                # Megabytes for each of dozens of checkpoints, of which most are gone soon.
                seconds = recorder.record(params, system, step, "step", split, predictions=False)
                line = f"{system}: step {step} scored on {split} in {seconds:.1f} s"
            say(console, line)
        if ended and not new:
            break
        time.sleep(_POLL_SECONDS)
    present = hosts.broadcast(systems_of(workdir, config))
    wanted = [system for system in systems or present if system in present]
    if not wanted:
        raise UserError(
            f"training in {workdir} ended without a checkpoint"
            f"{f' of {systems[0]}' if systems else ''}; run groot_jax.train there again"
        )
    return wanted


def show_results(
    folder: Path, config: ConfigDict, console: Console, worse: Mapping[str, str]
) -> Results:
    """Writes results.json, which it returns, and the report from all records, and prints the table;
    all have what is wrong with a system (`worse_systems`)."""
    results = write_results(folder, config.evaluate.bootstrap, worse)
    path = write_report(folder, results)
    for split in ("dev", "test"):
        if any(split in system for system in results["systems"].values()):
            console.print(results_table(results, split))
    say(console, f"report: {path}")
    return results


make_callable(__name__)

if __name__ == "__main__":
    exit_on_user_error(main)
