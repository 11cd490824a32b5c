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

import jax
import numpy as np

from groot_jax import config as configs
from groot_jax.contrast.pools import Sizes, pool_batch
from groot_jax.contrast.update import Metrics, Params, PoolBatch, TrainState
from groot_jax.data.batches import Batch
from groot_jax.generate.beam_search import Beams
from groot_jax.mesh import arrays
from groot_jax.mesh.rows import counted_rows, padded_rows
from groot_jax.model.t5 import T5
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask
from groot_jax.training.loop import Stage, Update, num_updates, updates_between
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.run import Run
from groot_jax.training.steps import jit_groot_step


@dataclass(frozen=True)
class Ranked:
    """A batch of B sentences on its way from the beam search to the update."""

    batch: Batch
    tokens_BxKxT: np.ndarray | None  # of the beams; None where nothing was generated
    pools: Callable[[], Mapping[int, Pool]]  # by example; waits for the oracle


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
        self._batches = run.batches(size, run.config.seed + 1, parts)
        self._counted_B = counted_rows(layout, padded_rows(layout, size, parts))
        per_epoch = self._batches.per_epoch
        self.total = num_updates(settings, per_epoch)
        self._eval_every = updates_between(settings, per_epoch)
        self._optimizer = make_optimizer(run.config.optimizer, settings, settings.clip, self.total)
        self._step = jit_groot_step(settings, self._optimizer, partitioning)
        # NLL continued has no contrast: nothing is generated for it.
        self._contrasts = any(settings.loss.values())
        self._generator = run.generator
        # The model has seen the gold of these sentences in stage 0, and writes it at rank 1 more
        # often than it does on dev. Dropout makes its errors on both more alike: it is those of dev
        # that the contrast shall push down.
        self._noisy = settings.generate_dropout > 0
        if self._noisy:
            noisy = dataclasses.replace(task.model_config, dropout_rate=settings.generate_dropout)
            self._generator = task.generator(layout, model=T5(noisy))
        seed = run.config.seed
        self._key = arrays.named_key(seed, system, layout.everywhere)
        # Draws unlike those of the update.
        self._noise = arrays.named_key(seed, f"{system}, generation", layout.everywhere)

    # ---- The three steps ----

    def generate(self, params: Params, batch: Batch, step: int) -> Beams | None:
        """Starts the search for the k best labelings of each sentence; returns at once."""
        if not self._contrasts:
            return None
        # By the step, not by a key that each search passes on: a run that continues draws the same.
        key = jax.random.fold_in(self._noise, step) if self._noisy else None
        return self._generator(params, batch, key)

    def correct_and_rank(self, beams: Beams | None, batch: Batch) -> Ranked:
        """Waits for the beams and hands them to the oracle, which corrects, scores and ranks while
        this returns. Sentences without a target, whose gold cannot be written, get no pool."""
        if beams is None:
            return Ranked(batch, None, dict)
        # A type that the training split lacks (data.unknown_types=keep) has no tag to be written.
        found = [item for item in self._generator.read(beams, batch) if item[0].target]
        tasks = [
            ScoringTask(
                words=example.sentence.words,
                gold=example.sentence.labeling,
                candidates=candidates,
                key=example.index,
            )
            for example, candidates in found
        ]
        handle = self._run.oracle.submit(tasks, PoolSettings(**self.settings.pool))
        # The oracle knows words and labelings, and no ids: a pool comes back to its sentence by its
        # place among the tasks, an entry to its row of `tokens_BxKxT` by its slot.
        indices = [example.index for example, _ in found]
        return Ranked(
            batch,
            arrays.read(beams.tokens_BxKxT),
            lambda: dict(zip(indices, handle.result(), strict=True)),
        )

    def contrast(self, state: TrainState, ranked: Ranked) -> Update:
        """Waits for the pools, and starts the update that they ask for."""
        pools = ranked.pools()
        state, metrics = self.update(state, self.encode(ranked, pools))
        # Padding has index -1 and no pool. Under tensor parallelism several processes hold the same
        # sentence, which only one of them may count.
        counted = set(ranked.batch.index_B[self._counted_B].tolist())
        return Update(state, metrics, pool_figures([pools[i] for i in pools if i in counted]))

    def encode(self, ranked: Ranked, pools: Mapping[int, Pool]) -> PoolBatch:
        """The pools as the arrays of an update, on the host."""
        run = self._run
        return pool_batch(
            ranked.batch,
            pools,
            ranked.tokens_BxKxT,
            run.task.format,
            # With 0 a pool is the one slot that is there besides, for the likelihood of gold.
            size=self.settings.pool.size if self._contrasts else 0,
            start_token=run.task.model_config.decoder_start_token_id,
            buckets=run.config.loader.node_buckets,
            # 4 devices, accumulate 2: 8 groups, so that each half of the batch has one a device.
            groups=run.partitioning.layout.ways("batch") * self.settings.accumulate,
            merge_sizes=lambda sizes: Sizes(*run.hosts.merge(sizes, Sizes.join)),
        )

    def update(self, state: TrainState, pools: PoolBatch) -> tuple[TrainState, Metrics]:
        """Starts one update; its arrays are on the way when this returns."""
        data = arrays.put(pools, self._run.partitioning.layout.batch)
        return self._step(state, data, self._key, self._run.columns)

    # ---- Their order ----

    def updates(self, state: TrainState, start: int) -> Iterator[Update]:
        """Update n runs on the device while batch n + lag, generated just before it, is scored.

        Beams are never made across an evaluation: after one, and so after a resume, generation
        starts anew from the parameters at hand. A run that was killed makes the same beams again.
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
            ready.extend(self.correct_and_rank(*item) for item in made)
            state = update.state
            yield update

    def stage(self) -> Stage:
        """As the loop of all training sees it."""
        run, partitioning = self._run, self._run.partitioning
        return Stage(
            self.system,
            total=self.total,
            eval_every=self._eval_every,
            fresh=lambda: partitioning.new_state(run.stage_0_params(), self._optimizer),
            shapes=partitioning.state_shapes(self._optimizer),
            updates=self.updates,
            # The search of dev is not this system's own: the next one goes on with it.
            programs=(self._step, self._generator.search) if self._noisy else (self._step,),
        )


def pool_figures(pools: Sequence[Pool]) -> dict[str, tuple[float, float]]:
    """Rewards of the training beams as (sum, denominator): rank 1, and all that are in a pool,
    which holds `groot.pool.beams` at most: not the mean over the top k that dev has."""
    if not pools:
        return {}
    first, beam, size = [], [], 0
    for pool in pools:
        size += len(pool)
        # Gold that the beam did not find, and corrections, have slot -1; rank 1 of the beam has 0.
        ranked = [entry for entry in pool if entry.slot >= 0]
        beam += [entry.reward for entry in ranked]
        first += [entry.reward for entry in ranked if entry.slot == 0]
    return {
        "reward@1": (sum(first), len(first)),
        "beam_reward": (sum(beam), len(beam)),
        "pool_size": (size, len(pools)),
    }
