"""Stage 1: generate, correct, contrast (Hashimoto and Raman, arXiv 2209.14694), again and again.

    generate           the model writes its k best label sequences      device, generate/
    correct and rank   errors are mended, all are scored and ranked      host, reward/
    contrast           the update that follows the rewards               device, contrast/

NLL continued, risk and the other systems of `config.variants` are the same three steps with other
settings. What a step does is decided in those rooms; here they are only put in a row.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import dropwhile

import jax
import numpy as np
from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.config.keys import flatten
from groot_jax.contrast.pools import Sizes, pool_batch
from groot_jax.contrast.update import Metrics, Params, PoolBatch, TrainState
from groot_jax.data.batches import Batch, Example
from groot_jax.data.format import Format
from groot_jax.evaluation.metrics import REWARD_DECIMALS
from groot_jax.generate.inputs import Beams
from groot_jax.mesh import arrays
from groot_jax.mesh.rows import counted_rows, padded_rows
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask
from groot_jax.reward.rewards import RewardSpec, term_names
from groot_jax.training.ahead import shapes_on, spread
from groot_jax.training.loop import Program, Stage, Update, num_updates, updates_between
from groot_jax.training.optimizer import learning_rates, make_optimizer
from groot_jax.training.run import Run
from groot_jax.training.steps import jit_groot_step, loss_settings, losses_in_use


@dataclass(frozen=True)
class Ranked:
    """A batch of B sentences on its way from the beam search to the update."""

    batch: Batch
    tokens_BxKxT: np.ndarray | None  # of the beams; None where nothing was generated
    pools: Callable[[], Mapping[int, Pool]]  # by example; waits for the oracle
    beams: Beams | None = None  # on the devices: what a checkpoint keeps of it


class GrootStage:
    """One system of a run: its batches, its three steps, and the order in which they are taken."""

    def __init__(self, run: Run, system: str) -> None:
        """Raises UserError where `system` is none of `config.variants`."""
        self._run, self.system = run, system
        self.settings = configs.variant(run.config, system)
        settings, task, partitioning = self.settings, run.task, run.partitioning
        layout = partitioning.layout
        size, parts = settings.batch_size, settings.accumulate
        # Another order of sentences, and other swapped mentions, than those of stage 0.
        self._batches = run.mixed_batches(size, run.config.seed + 1, settings.unlabeled, parts)
        self._counted_B = counted_rows(layout, padded_rows(layout, size, parts))
        per_epoch = self._batches.per_epoch
        self.total = num_updates(settings, per_epoch)
        self._eval_every = updates_between(settings, per_epoch)
        self._optimizer = make_optimizer(run.config.optimizer, settings, settings.clip, self.total)
        nonfinite = run.config.optimizer.nonfinite
        self._step = run.shared(
            _update_key(settings),
            lambda: jit_groot_step(settings, self._optimizer, partitioning, nonfinite == "skip"),
        )
        systems = [configs.variant(run.config, name) for name in run.config.systems]
        losses = loss_settings(settings, losses_in_use([settings, *systems]))
        self._losses = arrays.put(losses, layout.everywhere)
        self._terms = term_names(RewardSpec(**run.config.reward))
        # NLL continued has no contrast: nothing is generated for it.
        self._contrasts = any(settings.loss.values())
        # 4 devices, accumulate 2: 8 groups, so that each half of the batch has one a device.
        self._groups = layout.ways("batch") * parts
        self._node_buckets = run.config.loader.node_buckets
        if not self._contrasts:
            trees = padded_rows(layout, size, parts) // self._groups
            self._node_buckets = (run.gold_bucket(trees),)
        self._generator = run.generator
        # The model has seen the gold of these sentences in stage 0, and writes it at rank 1 more
        # often than it does on dev. Dropout makes its errors on both more alike: it is those of dev
        # that the contrast shall push down.
        self._noisy = settings.generate_dropout > 0
        if self._noisy:
            noisy = dataclasses.replace(task.model_config, dropout_rate=settings.generate_dropout)
            self._generator = run.shared(
                _search_key(settings), lambda: task.generator(layout, model=noisy)
            )
        seed = run.config.seed
        self._key = arrays.named_key(seed, system, layout.everywhere)
        # Draws unlike those of the update.
        self._noise = arrays.named_key(seed, f"{system}, generation", layout.everywhere)
        # One program: called by itself, it would run operation by operation.
        self._fold_in = jax.jit(jax.random.fold_in, out_shardings=layout.everywhere)

    # ---- The three steps ----

    def generate(self, params: Params, batch: Batch, step: int) -> Beams | None:
        """Starts the search for the k best labelings of each sentence; returns at once."""
        if not self._generates(step):
            return None
        if self._batches.is_unlabeled(step):
            # As its teacher would label it for a user. No gold has been learned by heart here, so
            # there is nothing for noise to undo.
            teacher = self._start if self.settings.teacher == "start" else params
            return self._run.generator(teacher, batch)
        # By the step, not by a key that each search passes on: a run that continues draws the same.
        key = None
        if self._noisy:
            # Sent like a batch: nothing in the loop goes to the device unasked.
            number = arrays.put(np.uint32(step), self._run.partitioning.layout.everywhere)
            key = self._fold_in(self._noise, number)
        return self._generator(params, batch, key)

    def _generates(self, step: int) -> bool:
        return self._contrasts or self._batches.is_unlabeled(step)

    def correct_and_rank(self, beams: Beams | None, batch: Batch) -> Ranked:
        """Waits for the beams and hands them to the oracle, which corrects, scores and ranks while
        this returns. Sentences without a target, whose gold cannot be written, get no pool; those
        that nobody has labeled get one by expected reward."""
        if beams is None:
            return Ranked(batch, None, dict)
        # A type that the training split lacks (data.unknown_types=keep) has no tag to be written.
        found = [
            (example, candidates)
            for example, candidates in self._generator.read(beams, batch)
            if example.target or example.unlabeled
        ]
        tasks = [
            ScoringTask(
                words=example.sentence.words,
                gold=None if example.unlabeled else example.sentence.labeling,
                candidates=candidates,
                key=example.index,
            )
            for example, candidates in found
        ]
        handle = self._run.oracle.submit(tasks, pool_settings(self.settings))
        # The oracle knows words and labelings, and no ids: a pool comes back to its sentence by its
        # place among the tasks, an entry to its row of `tokens_BxKxT` by its slot.
        indices = [example.index for example, _ in found]
        return Ranked(
            batch,
            arrays.read(beams.tokens_BxKxT),
            lambda: dict(zip(indices, handle.result(), strict=True)),
            beams,
        )

    def contrast(self, state: TrainState, ranked: Ranked) -> Update:
        """Waits for the pools, and starts the update that they ask for."""
        pools = ranked.pools()
        batch = with_consensus(ranked.batch, pools, self._run.task.format)
        ranked = dataclasses.replace(ranked, batch=batch)
        state, metrics = self.update(state, self.encode(ranked, pools))
        # Padding has index -1 and no pool. Under tensor parallelism several processes hold the same
        # sentence, which only one of them may count.
        counted = set(batch.index_B[self._counted_B].tolist())
        figures = pool_figures([pools[i] for i in pools if i in counted], self._terms)
        index_B = batch.index_B
        if any(example is not None and example.unlabeled for example in batch.examples):
            # Expected rewards are no rewards, and no mean shall be of both.
            figures = {f"unlabeled_{name}": figure for name, figure in figures.items()}
            # Numbered behind those of the training split: see `Run.name_sentence`.
            index_B = np.where(index_B < 0, -1, index_B + len(self._run.corpus.train))
        return Update(state, metrics, figures, index_B)

    def encode(self, ranked: Ranked, pools: Mapping[int, Pool]) -> PoolBatch:
        """The pools as the arrays of an update, on the host."""
        run = self._run
        return pool_batch(
            ranked.batch,
            pools if self._contrasts else {},
            ranked.tokens_BxKxT,
            run.task.format,
            # With 0 a pool is the one slot that is there besides, for the likelihood of gold.
            size=self.settings.pool.size if self._contrasts else 0,
            start_token=run.task.model_config.decoder_start_token_id,
            buckets=self._node_buckets,
            groups=self._groups,
            merge_sizes=lambda sizes: Sizes(*run.hosts.merge(sizes, Sizes.join)),
        )

    def update(self, state: TrainState, pools: PoolBatch) -> tuple[TrainState, Metrics]:
        """Starts one update; its arrays are on the way when this returns."""
        data = arrays.put(pools, self._run.partitioning.layout.batch)
        return self._step(state, data, self._key, self._run.columns, self._losses)

    # ---- What is known to come ----

    def announce_early(self) -> None:
        """As `announce_systems`, of this one."""
        self._announce_search()
        self._announce_updates()

    def _announce_search(self) -> None:
        if self._contrasts:
            key, blanks = self._noise if self._noisy else None, self._batches.blanks(0, self.total)
            self._run.compile_search(self._generator, blanks, key)

    def _announce_updates(self, params: Params | None = None, start: int = 0) -> None:
        """Has updates compiled ahead, for the sizes that some batches from `start` on ask for.

        How large token trees are is known once candidates are: with `params`, any of their shape,
        they are searched for and ranked for a few batches, of which no update follows. A system
        that contrasts nothing needs no parameters.
        """
        # A Python function of the user's may cost money or have a memory: it is not asked for more.
        if self._contrasts and (params is None or ":" in self._run.config.reward.name):
            return
        run, per_epoch = self._run, self._batches.per_epoch
        state = run.partitioning.state_shapes(self._optimizer)
        left = range(start, min(self.total, (start // per_epoch + 1) * per_epoch))
        for step in spread(left, 1 / 25 if self._contrasts else 1.0):
            if self._batches.is_unlabeled(step):
                continue
            batch = self._batches[step]
            beams = None if params is None else self.generate(params, batch, step)
            ranked = self.correct_and_rank(beams, batch)
            pools = shapes_on(self.encode(ranked, ranked.pools()), run.partitioning.layout.batch)
            run.ahead.compile(self._step, state, pools, self._key, run.columns, self._losses)

    def _announce(self, state: TrainState, start: int) -> None:
        """Before the first update: what this system and those after it will call."""
        run = self._run
        if not run.ahead.enabled:
            return
        self._announce_search()
        run.compile_search(run.generator, run.evaluator.one_of_each_size)
        for system in (self.system, *_after(run, self.system)):
            if system not in run.announced:
                run.announced.add(system)
                stage = self if system == self.system else GrootStage(run, system)
                stage._announce_updates(state.params, start if stage is self else 0)

    @cached_property
    def _start(self) -> Params:
        """The parameters that stage 1 starts from: a copy that no update takes over."""
        return self._run.stage_0_params()

    # ---- Their order ----

    def updates(
        self, state: TrainState, start: int, flight: Sequence[Beams] = ()
    ) -> Iterator[Update]:
        """Update n runs on the device while batch n + lag, generated just before it, is scored.

        Beams are never made across an evaluation: after one, generation starts anew from the
        parameters at hand. Between two, a checkpoint holds those that wait for their update, the
        `flight`: they come from parameters that are gone. So a killed run goes on with its beams.
        """
        # With lag 1 and 4 updates between evaluations the device gets, by its batch,
        #
        #     generate 0, generate 1, update 0; generate 2, update 1; generate 3, update 2; update 3
        #
        # so that the host has the whole of update n to score what was generated just before it. The
        # beams of batch 2 come from parameters that lack update 1: one behind, the lag. With lag 0
        # each generation waits for the update before it, and the device for the host's scores.
        source = self._batches.from_step(start, self._run.config.loader.threads)
        ahead = start  # The next batch to generate for.
        ready: deque[Ranked] = deque()
        waiting = deque(flight)
        while waiting:  # Batches of which nothing is generated have no beams there.
            beams = waiting.popleft() if self._generates(ahead) else None
            ready.append(self.correct_and_rank(beams, next(source)))
            ahead += 1
        for step in range(start, self.total):
            segment_end = min(self.total, (step // self._eval_every + 1) * self._eval_every)
            made = []
            while ahead < min(step + self.settings.lag + 1, segment_end):
                batch = next(source)
                made.append((self.generate(state.params, batch, ahead), batch))
                ahead += 1
            if not ready:  # The first of a segment: nothing hides its scoring.
                ready.append(self.correct_and_rank(*made.pop(0)))
            update = self.contrast(state, ready.popleft())
            waits = [*(item.beams for item in ready), *(beams for beams, _ in made)]
            # Before the scoring, which may fail: the state before this one is gone by now.
            yield dataclasses.replace(update, flight=tuple(b for b in waits if b is not None))
            state = update.state
            ready.extend(self.correct_and_rank(*item) for item in made)

    def stage(self) -> Stage:
        """As the loop of all training sees it."""
        run, partitioning = self._run, self._run.partitioning
        later = [configs.variant(run.config, name) for name in _after(run, self.system)]
        # What a later system needs stays. So does the search of dev, which all of them need.
        programs: list[Program] = []
        if _update_key(self.settings) not in map(_update_key, later):
            programs.append(self._step)
        if self._noisy and _search_key(self.settings) not in map(_search_key, later):
            programs.append(self._generator.search)
        return Stage(
            self.system,
            total=self.total,
            eval_every=self._eval_every,
            fresh=lambda: partitioning.new_state(run.stage_0_params(), self._optimizer),
            shapes=partitioning.state_shapes(self._optimizer),
            updates=self.updates,
            programs=tuple(programs),
            rows=partitioning.layout.batch,
            num_rows=len(self._counted_B),
            start=run.stage_0_meta,
            name_sentence=run.name_sentence,
            per_epoch=self._batches.per_epoch,
            rates=learning_rates(self.settings, self.total),
            announce=self._announce,
        )


def announce_systems(run: Run) -> None:
    """Has compiled ahead what is known of the systems before there are parameters."""
    for system in run.config.systems:
        GrootStage(run, system).announce_early()


def _after(run: Run, system: str) -> list[str]:
    """The systems that are trained after this one."""
    return [*dropwhile(lambda name: name != system, run.config.systems)][1:]


# Settings of a system that are no part of the program of its update, with what begins so: arguments
# of it, what makes its batches, and what its number of updates says already.
_NOT_COMPILED = (
    *("loss.", "tau", "rank_margin", "reinforce_normalise", "nll_weight", "pool."),
    *("expected", "temperature", "unlabeled", "teacher", "lag", "generate_dropout", "eval_every"),
)


def _update_key(settings: ConfigDict) -> tuple[object, ...]:
    """What two systems have in common that share the compiled programs of their updates.

    The number of updates, which the schedule holds, follows from `epochs` and `batch_size`.
    """
    flat = flatten(settings)
    compiled = {k: v for k, v in flat.items() if not k.startswith(_NOT_COMPILED)}
    return ("update", *sorted(compiled.items()))


def _search_key(settings: ConfigDict) -> tuple[object, ...]:
    return ("search", settings.generate_dropout)


def pool_settings(settings: ConfigDict) -> PoolSettings:
    """How `config.groot`, or a variant of it, wants its pools."""
    return PoolSettings(
        **settings.pool, expected=settings.expected, temperature=settings.temperature
    )


def with_consensus(batch: Batch, pools: Mapping[int, Pool], format_: Format) -> Batch:
    """The batch with gold for its unlabeled sentences: the consensus, first in their pools. One
    without a pool, of which no beam ended, has none and counts nowhere."""

    def labeled(example: Example | None) -> Example | None:
        pool = pools.get(example.index) if example is not None and example.unlabeled else None
        if example is None or not pool:
            return example
        sentence = dataclasses.replace(example.sentence, labeling=pool[0].labeling)
        target = format_.target(sentence.labeling, sentence.words)
        return dataclasses.replace(example, sentence=sentence, target=target)

    return batch._replace(examples=[labeled(example) for example in batch.examples])


def pool_figures(
    pools: Sequence[Pool], terms: Sequence[str] = ()
) -> dict[str, tuple[float, float]]:
    """Rewards of the training beams as (sum, denominator): rank 1, and all that are in a pool,
    which holds `groot.pool.beams` at most: not the mean over the top k that dev has. The same of
    each of the `terms` of a weighted sum. `uniform_pools`: the share of pools whose entries all
    have one reward, so that there is nothing to contrast."""
    if not pools:
        return {}
    # Gold that the beam did not find, and corrections, have slot -1; rank 1 of the beam has 0.
    beam = [entry for pool in pools for entry in pool if entry.slot >= 0]
    first = [entry for entry in beam if entry.slot == 0]
    uniform = sum(
        len({round(entry.reward, REWARD_DECIMALS) for entry in pool}) == 1 for pool in pools
    )
    figures: dict[str, tuple[float, float]] = {
        "reward@1": (sum(entry.reward for entry in first), len(first)),
        "beam_reward": (sum(entry.reward for entry in beam), len(beam)),
        "pool_size": (sum(map(len, pools)), len(pools)),
        "uniform_pools": (uniform, len(pools)),
    }
    # Where nobody has labeled a sentence its rewards are expected ones, which have no terms.
    if all(entry.terms for entry in beam):
        for i, term in enumerate(terms):
            figures[f"reward@1/{term}"] = (sum(entry.terms[i] for entry in first), len(first))
            figures[f"beam_reward/{term}"] = (sum(entry.terms[i] for entry in beam), len(beam))
    return figures
