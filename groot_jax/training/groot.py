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
from functools import partial

import jax
import numpy as np

from groot_jax import config as configs
from groot_jax.contrast.pools import Sizes, pool_batch
from groot_jax.contrast.update import Metrics, Params, PoolBatch, TrainState
from groot_jax.data.batches import Batch
from groot_jax.generate.beam_search import Beams
from groot_jax.mesh import arrays
from groot_jax.mesh.layout import batch_ways
from groot_jax.model.t5 import T5, param_shapes
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask
from groot_jax.runtime.hosts import Hosts
from groot_jax.training import loop
from groot_jax.training.loop import Stage, Update, new_state, state_shapes
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.run import Run, let_go
from groot_jax.training.steps import jit_groot_step, loss_weights


@dataclass(frozen=True)
class Ranked:
    """A batch on its way from the beam search to the update."""

    batch: Batch
    tokens_BxKxT: np.ndarray | None  # of the beams; None where nothing was generated
    pools: Callable[[], Mapping[int, Pool]]  # by example; waits for the oracle


class GrootStage:
    """One system of a run: its batches, its three steps, and the order in which they are taken."""

    def __init__(self, run: Run, system: str) -> None:
        """Raises UserError where `system` is none of `config.variants`."""
        self._run, self.system = run, system
        self.settings = configs.variant(run.config, system)
        settings, task, placement = self.settings, run.task, run.placement
        own_B = placement.own_rows(settings.batch_size, settings.accumulate)
        self._batches = run.batches(settings.batch_size, run.config.seed + 1, own_B)
        self._counted_B = run.generator.counted_rows(len(own_B))
        per_epoch = self._batches.per_epoch
        self.total = max(1, round(settings.epochs * per_epoch))
        self._look_every = loop.look_every(settings, per_epoch)
        self._optimizer = make_optimizer(run.config.optimizer, settings, settings.clip, self.total)
        self._shardings = placement.state(task.model_config, self._optimizer)
        self._step = jit_groot_step(
            settings, task.model_config, self._optimizer, self._shardings, placement.layout
        )
        # NLL continued has no contrast: nothing is generated for it.
        self._contrasts = any(weight for _, weight in loss_weights(settings))
        self._generator = run.generator
        self._noisy = settings.generate_dropout > 0
        if self._noisy:
            noisy = dataclasses.replace(task.model_config, dropout_rate=settings.generate_dropout)
            self._generator = task.generator(model=T5(noisy), layout=placement.layout)
        self._key = run.key(system)
        self._noise = run.key(f"{system}, generation")  # Draws unlike those of the update.

    # ---- The three steps ----

    def generate(self, params: Params, batch: Batch, step: int) -> Beams | None:
        """Starts the search for the k best labelings of each sentence; returns at once."""
        if not self._contrasts:
            return None
        key = jax.random.fold_in(self._noise, step) if self._noisy else None
        return self._generator(params, batch, key)

    def correct_and_rank(self, beams: Beams | None, batch: Batch) -> Ranked:
        """Waits for the beams and hands them to the oracle, which corrects, scores and ranks while
        this returns. Sentences without a target, whose gold cannot be written, get no pool."""
        if beams is None:
            return Ranked(batch, None, dict)
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
        handle = self._run.oracle.submit(tasks, PoolSettings.from_config(self.settings.pool))
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
            size=self.settings.pool.size if self._contrasts else 0,
            start_token=run.task.model_config.decoder_start_token_id,
            buckets=run.config.loader.node_buckets,
            groups=batch_ways(run.placement.batch) * self.settings.accumulate,
            merge_sizes=partial(merge_sizes, run.hosts),
        )

    def update(self, state: TrainState, pools: PoolBatch) -> tuple[TrainState, Metrics]:
        """Starts one update; its arrays are on the way when this returns."""
        data = arrays.put(pools, self._run.placement.batch)
        return self._step(state, data, self._key, self._run.columns)

    # ---- Their order ----

    def updates(self, state: TrainState, start: int) -> Iterator[Update]:
        """Update n runs on the device while batch n + lag, generated just before it, is scored.

        Beams are never made across an evaluation: after one, and so after a resume, generation
        starts anew from the parameters at hand. A run that was killed makes the same beams again.
        """
        source = self._batches.from_step(start, self._run.config.loader.threads)
        ahead = start  # The next batch to generate for.
        ready: deque[Ranked] = deque()
        for step in range(start, self.total):
            segment_end = min(self.total, (step // self._look_every + 1) * self._look_every)
            made = []
            while ahead < min(step + self.settings.lag + 1, segment_end):
                batch = next(source)
                made.append((self.generate(state.params, batch, ahead), batch))
                ahead += 1
            if not ready:
                ready.append(self.correct_and_rank(*made.pop(0)))
            update = self.contrast(state, ready.popleft())
            ready.extend(self.correct_and_rank(*item) for item in made)
            state = update.state
            yield update

    def stage(self) -> Stage:
        """As the loop of all training sees it."""
        shapes = param_shapes(self._run.task.model_config)
        return Stage(
            self.system,
            total=self.total,
            look_every=self._look_every,
            patience=0,
            fresh=lambda: new_state(self._run.stage_0_params(), self._optimizer, self._shardings),
            shapes=state_shapes(shapes, self._optimizer, self._shardings),
            updates=self.updates,
        )

    def close(self) -> None:
        """Lets go of the system's programs."""
        let_go(self._step, *([self._generator.search] if self._noisy else []))


def train_system(run: Run, system: str) -> None:
    """GROOT, or a variant of it, for `groot.epochs` epochs from the best of stage 0."""
    groot = GrootStage(run, system)
    run.train(groot.stage())
    groot.close()


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
