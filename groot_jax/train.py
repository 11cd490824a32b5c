"""Training job: stage 0 (likelihood of gold), then GROOT and the systems it is compared with.

    python -m groot_jax.train --config=configs/retail.py --workdir=runs/retail [--config.a.b=c]

Run the same command again and it continues where it was stopped. Reads from top to bottom: set-up,
stage 0, stage 1, close.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from groot_jax import config as configs
from groot_jax.contrast.pools import Sizes, pool_batch
from groot_jax.contrast.update import OutputColumns, TrainState, nll_batch
from groot_jax.data.augment import Augmenter
from groot_jax.data.batches import Batch, Example, Hide, TrainingBatches, encode
from groot_jax.data.corpus import Corpus, load_corpus
from groot_jax.data.lengths import without_too_long
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.evaluation.evaluator import Evaluator, open_oracle, reported_rewards
from groot_jax.generate.beam_search import Beams
from groot_jax.generate.generator import Generator
from groot_jax.mesh import arrays as placing
from groot_jax.model.config import run_settings
from groot_jax.model.partitioning import batch_ways
from groot_jax.model.t5 import T5, param_shapes
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask
from groot_jax.reward.rewards import parse_type_weights
from groot_jax.runtime.allocator import release_freed_memory
from groot_jax.runtime.files import expanded
from groot_jax.runtime.hosts import Hosts
from groot_jax.training import loop
from groot_jax.training.checkpoints import Checkpoints, saved_steps
from groot_jax.training.loop import Stage, Update, new_state, state_shapes
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.setup import Placement, device_setup, place, system_key
from groot_jax.training.status import WorkdirLock
from groot_jax.training.steps import Step, jit_groot_step, jit_nll_step, loss_weights
from groot_jax.training.task import (
    Task,
    check_corpus,
    initial_params,
    load_task,
    make_task,
    save_task,
)


@dataclass(frozen=True)
class Run:
    """What both stages share."""

    config: ConfigDict
    workdir: Path
    corpus: Corpus
    task: Task
    placement: Placement
    examples: list[Example]  # of the training split
    augmenter: Augmenter | None  # of the same
    columns: OutputColumns
    generator: Generator
    oracle: Oracle
    evaluator: Evaluator  # of dev
    console: Console
    hosts: Hosts

    def train(self, stage: Stage) -> None:
        """The loop, with what is the same for all stages."""
        settings = self.config.checkpoint
        loop.train(stage, self.workdir, settings, self.evaluator, self.console, self.hosts)


# ---- Set-up -----------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    parser = configs.job_parser("groot_jax.train", "Train a labeler: NLL, then GROOT.", True)
    args = configs.parse_job(parser, argv)
    config, workdir = args.config, args.workdir
    hosts = device_setup(config)
    console = Console(quiet=not hosts.main)
    with WorkdirLock(workdir) as lock:
        if hosts.main and (workdir / configs.CONFIG_FILE).exists():
            lock.take()
        corpus = load_corpus(config.data, config.text.max_words)
        for note in corpus.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)
        with open_oracle(config) as oracle:
            if hosts.main:
                open_task(config, workdir, corpus, oracle, lock)
            hosts.barrier()
            task = load_task(workdir, config)
            known = len(corpus.notes)
            corpus = without_too_long(corpus, task.format, config)
            for note in corpus.notes[known:]:
                console.print(note, highlight=False, markup=False, soft_wrap=True)
            lock.began()
            run = make_run(config, workdir, corpus, task, oracle, console, hosts)
            if config.nll.enabled:
                train_nll(run)
            for system in config.systems:
                train_system(run, system)
            close(run)
    hosts.close()


def open_task(
    config: ConfigDict, workdir: Path, corpus: Corpus, oracle: Oracle, lock: WorkdirLock
) -> None:
    """Writes the task of the work directory, which from then on belongs to this config, or checks
    the one that is there.

    A new directory is claimed only once the config has proved possible: whoever mends a mistake in
    it can name the same directory again.
    """
    reported_rewards(config)
    if (workdir / "task" / "task.json").exists():
        configs.claim_workdir(workdir, config)
        task = load_task(workdir, config)
        check_corpus(task, corpus, workdir)
        check_reward(oracle, corpus)
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
    task = make_task(config, corpus)
    place(config, task.model_config, warn=False)
    check_stage_0(config, task, corpus)
    check_reward(oracle, corpus)
    configs.make_workdir(workdir)
    lock.take()
    configs.claim_workdir(workdir, config)
    save_task(task, workdir)


def check_reward(oracle: Oracle, corpus: Corpus) -> None:
    """Calls the reward as training will, so that a mistake in a user's function comes before any
    of it: with nothing found, with nothing to find, and with all found, in one batch."""
    sentence = next(sentence for sentence in corpus.train if sentence.labeling)
    gold, words = sentence.labeling, sentence.words
    oracle.score([((), gold, words), (gold, (), words), (gold, gold, words)])


def make_run(
    config: ConfigDict,
    workdir: Path,
    corpus: Corpus,
    task: Task,
    oracle: Oracle,
    console: Console,
    hosts: Hosts,
) -> Run:
    placement = place(config, task.model_config)
    generator = task.generator(layout=placement.layout)
    column_of_V = np.full(task.model_config.vocab_size, -1, np.int32)
    column_of_V[task.grammar.columns_C] = np.arange(len(task.grammar.columns_C))
    return Run(
        config=config,
        workdir=workdir,
        corpus=corpus,
        task=task,
        placement=placement,
        examples=encode(corpus.train, task.format),
        augmenter=Augmenter(corpus.train, task.format, config.data.augment)
        if config.data.augment
        else None,
        columns=placing.put(
            OutputColumns(jnp.asarray(task.grammar.columns_C), jnp.asarray(column_of_V)),
            placement.everywhere,
        ),
        generator=generator,
        oracle=oracle,
        evaluator=Evaluator(task, generator, oracle, corpus.dev, hosts, config.evaluate.dev_limit),
        console=console,
        hosts=hosts,
    )


def hidden_words(run: Run) -> Hide | None:
    """What hides words of training sentences; None where a format has nothing else to show."""
    chance, tokenizer = run.config.data.hide_words, run.task.tokenizer
    if chance == 0 or run.task.format.name != "aligned" or not tokenizer.has_features:
        return None
    return Hide(chance, tokenizer.unk_id, (tokenizer.pad_id, tokenizer.eos_id))


def key_of(run: Run, system: str) -> jax.Array:
    """Each system has random draws of its own; those of a step depend on the step alone."""
    return system_key(run.config.seed, system, run.placement)


# ---- Stage 0: likelihood of gold --------------------------------------------------------------


def train_nll(run: Run) -> None:
    """Maximum likelihood of gold, until dev no longer gets better or the epochs are over."""
    stage = run.config.nll
    if stage.checkpoint:
        return  # Another work directory has done it; `stage_0_params` looks there.
    batches = TrainingBatches(
        run.examples,
        stage.batch_size,
        run.task.ladder,
        run.config.seed,
        own_B=run.placement.own_rows(stage.batch_size),
        augmenter=run.augmenter,
        hide=hidden_words(run),
    )
    total = max(1, round(stage.epochs * batches.per_epoch))
    optimizer = make_optimizer(run.config.optimizer, stage, run.config.optimizer.clip, total)
    shardings = run.placement.state(run.task.model_config, optimizer)
    step_fn = jit_nll_step(stage, run.task.model_config, optimizer, shardings, run.placement.layout)
    key = key_of(run, "nll")

    def updates(state: TrainState, start: int) -> Iterator[Update]:
        for batch in batches.from_step(start, run.config.loader.threads):
            data = placing.put(nll_batch(batch), run.placement.batch)
            state, metrics = step_fn(state, data, key, run.columns)
            yield Update(state, metrics, {})

    run.train(
        Stage(
            "nll",
            total=total,
            look_every=loop.look_every(stage, batches.per_epoch),
            patience=stage.patience,
            fresh=lambda: new_state(
                initial_params(run.task, shardings.params), optimizer, shardings
            ),
            shapes=state_shapes(param_shapes(run.task.model_config), optimizer, shardings),
            updates=updates,
        )
    )
    let_go(step_fn)


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
    examples = (s.words for s in corpus.train[:100])
    # What the two may differ in says how the model computes, not what it is.
    settings = run_settings(config.model)
    same = (
        dataclasses.replace(other.model_config, **settings) == task.model_config
        and other.types == task.types
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


def stage_0_params(run: Run) -> Any:
    """The parameters that stage 1 starts from: the best of stage 0, here or where config says."""
    elsewhere = run.config.nll.checkpoint
    if not elsewhere and not run.config.nll.enabled:
        return initial_params(run.task, run.placement.params)
    workdir = expanded(elsewhere, "config.nll.checkpoint") if elsewhere else run.workdir
    target = run.placement.shapes(run.task.model_config)
    with Checkpoints(workdir, "nll", tie=run.config.checkpoint.tie, read_only=True) as checkpoints:
        step = checkpoints.best()
        if step is None:
            raise UserError(
                f"{checkpoints.folder} holds no checkpoint of stage 0; run groot_jax.train "
                "there first"
            )
        return checkpoints.restore_params(step, target)


# ---- Stage 1: generate, correct, contrast -----------------------------------------------------


def train_system(run: Run, system: str) -> None:
    """GROOT, or a variant of it, for `groot.epochs` epochs from the best of stage 0."""
    stage = configs.variant(run.config, system)
    task = run.task
    own_B = run.placement.own_rows(stage.batch_size, stage.accumulate)
    batches = TrainingBatches(
        run.examples,
        stage.batch_size,
        task.ladder,
        run.config.seed + 1,
        own_B=own_B,
        augmenter=run.augmenter,
        hide=hidden_words(run),
    )
    counted_B = run.generator.counted_rows(len(own_B))
    total = max(1, round(stage.epochs * batches.per_epoch))
    look_every = loop.look_every(stage, batches.per_epoch)
    optimizer = make_optimizer(run.config.optimizer, stage, stage.clip, total)
    contrasts = any(weight for _, weight in loss_weights(stage))
    size = stage.pool.size if contrasts else 0
    shardings = run.placement.state(task.model_config, optimizer)
    step_fn = jit_groot_step(stage, task.model_config, optimizer, shardings, run.placement.layout)
    noisy = stage.generate_dropout > 0
    generator = run.generator
    if noisy:
        config = dataclasses.replace(task.model_config, dropout_rate=stage.generate_dropout)
        generator = task.generator(model=T5(config), layout=run.placement.layout)
    key = key_of(run, system)
    noise = key_of(run, f"{system}, generation")  # Draws unlike those of the update.

    def generate(params: Any, batch: Batch, step: int) -> Beams | None:
        if not contrasts:
            return None
        return generator(params, batch, jax.random.fold_in(noise, step) if noisy else None)

    def score(beams: Beams | None, batch: Batch) -> Scored:
        """Waits for the beams, hands their sentences to the oracle and returns at once."""
        if beams is None:
            return Scored(batch, None, None, dict)
        found = [
            (example, candidates)
            for example, candidates in generator.read(beams, batch)
            if example.target
        ]
        tasks = [
            ScoringTask(
                words=example.sentence.words,
                gold=example.sentence.labeling,
                candidates=candidates,
                key=example.index,
            )
            for example, candidates in found
        ]
        handle = run.oracle.submit(tasks, PoolSettings.from_config(stage.pool))
        indices = [example.index for example, _ in found]
        return Scored(
            batch,
            beams,
            placing.read(beams.tokens_BxKxT),
            lambda: dict(zip(indices, handle.result(), strict=True)),
        )

    def updates(state: TrainState, start: int) -> Iterator[Update]:
        """Update n runs on the device while batch n + lag, generated just before it, is scored.

        Beams are never made across a look: after one, and so after a resume, generation starts
        anew from the parameters at hand. A run that was killed makes the same beams again.
        """
        source = batches.from_step(start, run.config.loader.threads)
        ahead = start
        ready: deque[Scored] = deque()
        for step in range(start, total):
            segment_end = min(total, (step // look_every + 1) * look_every)
            made = []
            while ahead < min(step + stage.lag + 1, segment_end):
                batch = next(source)
                made.append((generate(state.params, batch, ahead), batch))
                ahead += 1
            if not ready:
                ready.append(score(*made.pop(0)))
            scored = ready.popleft()
            pools = scored.pools()
            data = pool_batch(
                scored.batch,
                pools,
                scored.tokens_BxKxT,
                task.format,
                size=size,
                start_token=task.model_config.decoder_start_token_id,
                buckets=run.config.loader.node_buckets,
                groups=batch_ways(run.placement.batch) * stage.accumulate,
                merge_sizes=partial(merge_sizes, run.hosts),
            )
            data = placing.put(data, run.placement.batch)
            state, metrics = step_fn(state, data, key, run.columns)
            ready.extend(score(*item) for item in made)
            counted = set(scored.batch.index_B[counted_B].tolist())
            yield Update(state, metrics, pool_figures([pools[i] for i in pools if i in counted]))

    run.train(
        Stage(
            system,
            total=total,
            look_every=look_every,
            patience=0,
            fresh=lambda: new_state(stage_0_params(run), optimizer, shardings),
            shapes=state_shapes(param_shapes(task.model_config), optimizer, shardings),
            updates=updates,
        )
    )
    let_go(step_fn, *([generator] if noisy else []))


def let_go(*programs: Step | Generator) -> None:
    """Of what is compiled: a system may have 50 programs, each of which holds 50 to 100 MiB."""
    for program in programs:
        program.clear_cache()
    release_freed_memory()


@dataclass(frozen=True)
class Scored:
    """A batch on its way from the beam search to the update."""

    batch: Batch
    beams: Beams | None
    tokens_BxKxT: np.ndarray | None
    pools: Callable[[], dict[int, Pool]]  # waits for the oracle


def merge_sizes(hosts: Hosts, sizes: Sizes) -> Sizes:
    """Shapes that all processes agree on."""
    if hosts.count == 1:
        return sizes
    return Sizes(*hosts.merge(sizes, Sizes.join))


def pool_figures(pools: Sequence[Pool]) -> dict[str, tuple[float, float]]:
    """Rewards of the training beams as (sum, denominator): rank 1, and all that are in a pool,
    which holds `groot.pool.beams` at most: not the mean over the top k that dev has."""
    if not pools:
        return {}
    first, beam, size = [], [], 0
    for pool in pools:
        size += len(pool)
        ranked = [entry for entry in pool if entry.slot >= 0]
        beam += [entry.reward for entry in ranked]
        first += [entry.reward for entry in ranked if entry.slot == 0]
    return {
        "reward@1": (sum(first), len(first)),
        "beam_reward": (sum(beam), len(beam)),
        "pool_size": (size, len(pools)),
    }


# ---- Close ------------------------------------------------------------------------------------


def close(run: Run) -> None:
    """Scores the best checkpoint of every system on test (dev where there is no test split), and
    writes the report."""
    from groot_jax.evaluate import Scorer, evaluate_systems, show_results

    splits = ("test",) if run.corpus.test else ("dev",)
    scorer = Scorer(
        run.task,
        run.corpus,
        run.oracle,
        run.hosts,
        run.workdir,
        run.workdir,
        run.placement,
        run.generator,
    )
    evaluate_systems(scorer, splits, run.console)
    if run.hosts.main:
        show_results(run.workdir, run.config, run.console)


if __name__ == "__main__":
    exit_on_user_error(main, "; run the same command again to continue")
