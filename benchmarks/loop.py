"""The whole GROOT loop in sentences a second, and how long the device waits for the host.

    python benchmarks/loop.py [--json] [--config=configs/retail.py] [--timeline=FILE.svg]

Drives `groot_jax.train` itself: generation, scoring, correction, ranking, encoding and update with
the overlap that training has, from a briefly trained model; evaluations on dev and checkpoints are
left out. The first pass over the batches compiles, the second one is measured. The same again with
a reward that sleeps 5 ms a sentence.

The baseline is what could be put together from transformers: Flax generate, pools scored and
corrected in the same process by our reward functions, the loss over tiled candidates; everything
jitted and batched by bucket, one part after the other, in Sentinel + Tag (which needs no change to
the model). `sentinel_tag` is our loop in that format.

Columns of the first table: sentences_per_second, of the measured pass; device_wait_share, the time
in which nothing is queued or running on the device, over the time from the first program to the end
of the last. The second table has the milliseconds a batch of each part; our parts overlap, so that
they add up to more than a batch takes.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from benchmarks import baselines, measure, runs
from benchmarks.timeline import Recorder, Span, draw_timeline
from groot_jax import config as configs
from groot_jax import train
from groot_jax.contrast.update import Metrics, PoolBatch, TrainState
from groot_jax.data.batches import Batch, TrainingBatches, encode
from groot_jax.data.corpus import read_corpus
from groot_jax.errors import exit_on_user_error
from groot_jax.generate.inputs import Beams
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.pool import Candidate, Pool, PoolSettings, ScoringTask, build_pools
from groot_jax.reward.rewards import RewardSpec, make_reward
from groot_jax.reward.worker import make_chunk_scorer
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import Task, initial_params, load_task
from groot_jax.training.groot import GrootStage, Ranked
from groot_jax.training.loop import Update, let_go
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.run import Run
from groot_jax.training.setup import device_setup
from groot_jax.training.status import WorkdirLock
from groot_jax.training.steps import loss_settings, losses_in_use

# As soon as the device is done a thread notes the time. It has to get Python's lock for that, which
# a busy thread hands over every 5 ms unless it is told otherwise.
_SWITCH_SECONDS = 5e-4
# What transformers' model can do without a change: text, any piece at any step.
_PLAIN_FORMAT = (
    "--config.text.format=sentinel_tag",
    "--config.model.normalise=full",
    "--config.generate.grammar=false",
)
TINY = (
    "--config.data.train_limit=64",
    "--config.generate.k=3",
    "--config.groot.pool.size=4",
    "--config.groot.batch_size=4",
    "--config.groot.dropout=0.0",
    # Few layers, and one size of batch: few programs, and quickly compiled.
    "--config.model.preset=pico",
    "--config.loader.source_buckets=(64,)",
    "--config.loader.target_buckets=(48,)",
    "--config.loader.node_buckets=(256,)",
    "--config.compilation_cache=",
)


# ---- Our loop ---------------------------------------------------------------------------------


class ObservedStage(GrootStage):
    """Training's own stage 1, which notes when its steps run."""

    def __init__(self, run: Run, system: str) -> None:
        super().__init__(run, system)
        self.recorder = Recorder()

    def generate(self, params: measure.Params, batch: Batch, step: int) -> Beams | None:
        start = time.perf_counter()
        with self.recorder.span("host", "dispatch generation"):
            beams = super().generate(params, batch, step)
        self.recorder.dispatched("generate", start, beams)
        return beams

    def correct_and_rank(self, beams: Beams | None, batch: Batch) -> Ranked:
        # Reading the beams would wait for them anyhow; here the wait is told apart from it.
        with self.recorder.span("host", "wait for beams"):
            jax.block_until_ready(beams)
        with self.recorder.span("host", "read"):
            ranked = super().correct_and_rank(beams, batch)
        wait = ranked.pools

        def pools() -> Mapping[int, Pool]:
            with self.recorder.span("host", "wait for pools"):
                return wait()

        return dataclasses.replace(ranked, pools=pools)

    def encode(self, ranked: Ranked, pools: Mapping[int, Pool]) -> PoolBatch:
        with self.recorder.span("host", "encode"):
            return super().encode(ranked, pools)

    def update(self, state: TrainState, pools: PoolBatch) -> tuple[TrainState, Metrics]:
        # The call returns while the device still computes; the metrics are there when it has ended.
        start = time.perf_counter()
        with self.recorder.span("host", "dispatch update"):
            state, metrics = super().update(state, pools)
        self.recorder.dispatched("update", start, metrics)
        return state, metrics


class LoopResult(NamedTuple):
    """The measured pass."""

    sentences: int
    seconds: float
    spans: list[Span]

    @property
    def sentences_per_second(self) -> float:
        return self.sentences / self.seconds

    @property
    def device_wait_share(self) -> float:
        """Share of the time from the device's first program to its last in which it had none: with
        programs from 0 to 4 and from 6 to 10 it is .2."""
        busy = [span for span in self.spans if span.lane == "device"]
        total = busy[-1].end - busy[0].start
        return 1.0 - sum(span.end - span.start for span in busy) / total

    def part_ms(self) -> dict[str, float]:
        """Milliseconds a batch in each part; parts overlap, and on a CPU they share its cores."""
        updates = sum(span.name == "update" for span in self.spans)
        parts: dict[str, float] = {}
        for span in self.spans:
            parts[span.name] = parts.get(span.name, 0.0) + span.end - span.start
        return {name: 1e3 * seconds / updates for name, seconds in parts.items()}

    def summary(self) -> measure.Row:
        """Rate, wait and parts, rounded: a row of the tables."""
        parts = {name: measure.rounded(ms, 3) for name, ms in sorted(self.part_ms().items())}
        return {
            "sentences_per_second": measure.rounded(self.sentences_per_second),
            "device_wait_share": measure.rounded(self.device_wait_share, 3),
            "part_ms": parts,
        }


def groot_loop(config: ConfigDict, steps: int) -> LoopResult:
    """`steps` updates of the system `groot`, by `groot_jax.train` itself, after a first pass: no
    evaluations on dev, no checkpoints, the same batches twice."""
    with observed_stage(config) as groot:
        for _ in range(2):  # The first pass compiles.
            groot.recorder = Recorder()
            result = run_pass(groot, steps)
    return result


@contextmanager
def observed_stage(config: ConfigDict) -> Iterator[ObservedStage]:
    """The system `groot` in a work directory of its own, as the job makes it."""
    stages: list[ObservedStage] = []

    def make_scoring(*args: Any) -> Any:
        """What the oracle's thread runs, observed; set-up scores too, to try the reward."""
        score = make_chunk_scorer(*args)

        def observed(*work: Any) -> list:
            with stages[0].recorder.span("scoring", "score") if stages else nullcontext():
                return score(*work)

        return observed

    corpus = read_corpus(config)
    # What follows is what the job does before stage 1, in its order: a work directory that it holds
    # the lock of, a reward that is tried, a task, a run.
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
            spec = RewardSpec(**config.reward)
            oracle = stack.enter_context(Oracle(spec, config.seed, make_scoring))
            lock = stack.enter_context(WorkdirLock(folder))
            train.open_task(config, folder, corpus, oracle, lock)
            task = load_task(folder, config)
            run = Run(config, folder, corpus, task, oracle, Hosts())
            groot = ObservedStage(run, "groot")
            stages.append(groot)
            yield groot
            let_go(groot.stage().programs)
    finally:
        sys.setswitchinterval(before)


def run_pass(
    groot: ObservedStage, steps: int, after: Callable[[int, Update], None] | None = None
) -> LoopResult:
    """So many updates from the start of the stage; `after` gets each, with its number."""
    stage = groot.stage()
    state = jax.block_until_ready(stage.fresh())
    begun = time.perf_counter()
    # Metrics are (sum, denominator); the denominator of gold's score is the number of sentences.
    sentences, previous = 0.0, None
    stream = stage.updates(state, 0, ())
    del state  # The first update takes its memory; nothing else may hold on to it.
    for step, update in enumerate(islice(stream, min(steps, stage.total)), 1):
        if previous is not None:  # As training reads them: one update late.
            sentences += float(jax.device_get(previous.metrics)["gold_score"][1])
        previous = update
        if after is not None:
            after(step, update)
    assert previous is not None
    sentences += float(jax.device_get(previous.metrics)["gold_score"][1])
    seconds = time.perf_counter() - begun
    groot.recorder.close()
    return LoopResult(int(sentences), seconds, groot.recorder.spans)


# ---- The baseline -----------------------------------------------------------------------------


def baseline_loop(run: runs.Trained, steps: int) -> measure.Row:
    """The same loop from transformers' parts; sentences a second and milliseconds of each part."""
    config, task = run.config, run.task
    stage = configs.variant(config, "groot")
    examples = encode(run.corpus.train, task.format)
    # The seed of our stage 1: both loops see the same batches in the same order.
    batches = TrainingBatches(examples, stage.batch_size, task.ladder, config.seed + 1)
    model = baselines.flax_t5(dataclasses.replace(task.model_config, dropout_rate=stage.dropout))
    # Jitted by length: one program for each bucket.
    searches = {
        T: jax.jit(baselines.flax_generate(model, k=config.generate.k, steps=T))
        for _, T in task.ladder.rungs
    }
    settings = loss_settings(stage, losses_in_use([stage]))
    optimizer = make_optimizer(config.optimizer, stage, stage.clip, batches.per_epoch)

    def loss(params: measure.Params, batch: baselines.TiledBatch, key: jax.Array) -> jax.Array:
        return baselines.tiled_loss(model, params, batch, settings, None, key)

    # As training does it: the new parameters and moments take the place of the old ones.
    @partial(jax.jit, donate_argnums=(0, 1))
    def update(
        params: measure.Params, moments: optax.OptState, batch: baselines.TiledBatch, key: jax.Array
    ) -> tuple[measure.Params, optax.OptState, jax.Array]:
        value, grads = jax.value_and_grad(loss)(params, batch, key)
        changes, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, changes), moments, value

    make_pools = _pool_maker(config, task)
    key = jax.random.PRNGKey(config.seed)
    times: dict[str, list[float]] = {}
    sentences, seconds = 0, 0.0
    for _ in range(2):  # The first pass compiles.
        times = {"generate": [], "score": [], "encode": [], "update": []}
        params = jax.tree.map(jax.numpy.array, run.params)
        moments = jax.jit(optimizer.init)(params)
        jax.block_until_ready(moments)
        begun = time.perf_counter()
        sentences = 0
        for step in range(steps):
            batch = batches[step]
            marks = [time.perf_counter()]
            found = searches[batch.target_BxT.shape[1]](params, batch.source_BxS)
            tokens_BxKxT, scores_BxK = (np.asarray(x) for x in found)
            marks.append(time.perf_counter())
            pools = make_pools(tokens_BxKxT, scores_BxK, batch)
            marks.append(time.perf_counter())
            data = baselines.plain_batch(batch, pools, tokens_BxKxT, task.format, stage.pool.size)
            marks.append(time.perf_counter())
            params, moments, value = update(params, moments, data, jax.random.fold_in(key, step))
            jax.block_until_ready(value)
            marks.append(time.perf_counter())
            # Five marks, four parts: each lasts from its mark to the next.
            for name, start, end in zip(times, marks, marks[1:], strict=False):
                times[name].append(1e3 * (end - start))
            sentences += int((batch.index_B >= 0).sum())
        seconds = time.perf_counter() - begun
    return {
        "sentences_per_second": measure.rounded(sentences / seconds),
        "part_ms": {name: measure.rounded(statistics.mean(ms), 3) for name, ms in times.items()},
    }


def _pool_maker(
    config: ConfigDict, task: Task
) -> Callable[[np.ndarray, np.ndarray, Batch], dict[int, Pool]]:
    """(tokens [B, K, T], scores [B, K], batch) -> the pool of each sentence by its index, scored
    and corrected one sentence after the other in this process."""
    spec = RewardSpec(**config.reward)
    reward = make_reward(spec)
    settings = PoolSettings(**configs.variant(config, "groot").pool)

    def make_pools(
        tokens_BxKxT: np.ndarray, scores_BxK: np.ndarray, batch: Batch
    ) -> dict[int, Pool]:
        pools = {}
        for b, example in enumerate(batch.examples):
            # Rows that fill up a batch, and sentences whose gold the format cannot write.
            if example is None or not example.target:
                continue
            words, gold, key = example.sentence.words, example.sentence.labeling, example.index
            candidates = []
            for k, ids in enumerate(tokens_BxKxT[b].tolist()):
                score = float(scores_BxK[b, k])
                if score > -1e6:  # Below that the slot never finished: Flax starts it at -1e7.
                    labeling, well_formed = task.format.read(ids, words)
                    candidates.append(Candidate(labeling, score, well_formed, k))
            (pools[key],) = build_pools(
                [ScoringTask(words, gold, candidates, key)],
                lambda triples, _: [reward(*triple) for triple in triples],
                settings,
                spec.malformed_penalty,
                seed=0,
            )
        return pools

    return make_pools


# ---- The comparison ---------------------------------------------------------------------------


def settings_of(args: Namespace, overrides: Sequence[str]) -> ConfigDict:
    """The config of a loop that starts from a short run of the same settings."""
    if args.quick:
        start: Sequence[str] = ("--config.nll.enabled=false",)
    else:
        # The run itself has the built-in reward, whatever the loop's is.
        kept = [text for text in overrides if not text.startswith("--config.reward.")]
        workdir = runs.short_run(args.config, Path(args.cache), args.updates, kept)
        start = (f"--config.nll.checkpoint={workdir}",)
    return configs.load(args.config, [runs.split_override(t) for t in (*overrides, *start)])


def baseline_start(args: Namespace, overrides: Sequence[str]) -> runs.Trained:
    """The model that the baseline starts from: same settings, plain text, full softmax."""
    changed = (*overrides, *_PLAIN_FORMAT)
    if not args.quick:
        return runs.restore(runs.short_run(args.config, Path(args.cache), args.updates, changed))
    config = configs.load(args.config, [runs.split_override(text) for text in changed])
    corpus = read_corpus(config)
    task = train.make_task(config, corpus)
    return runs.Trained(config, task, corpus, initial_params(task))


def main() -> None:
    parser = measure.arguments(__doc__, sizes="")
    retail = str(runs.CONFIGS / "retail.py")
    parser.add_argument("--config", default=retail, help="the experiment (configs/retail.py)")
    parser.add_argument("--override", action="append", default=[], help="--config.KEY=VALUE")
    parser.add_argument("--steps", type=int, default=60, help="updates measured (60)")
    parser.add_argument("--updates", type=int, default=400, help="of the short training (400)")
    parser.add_argument("--cache", default=str(runs.DEFAULT_CACHE), help="where it is kept")
    parser.add_argument("--timeline", default="", metavar="FILE.svg", help="draw what ran when")
    args = measure.parse(parser)
    # The user's come last, so that they win.
    overrides = [f"--config.model.dtype={args.dtype}", *args.override]
    if args.quick:
        overrides += TINY
        args.steps = min(args.steps, 4)
    sleeping = (
        *overrides,
        "--config.reward.name=benchmarks.slow_reward:sleepy",
        "--config.reward.batch=true",
    )
    config = settings_of(args, overrides)
    device_setup(config)
    ours = groot_loop(config, args.steps)
    if args.timeline:
        draw_timeline(ours.spans, Path(args.timeline))
    slow = groot_loop(settings_of(args, sleeping), args.steps)
    # Our loop in the baseline's format, to tell what the format gives from what the loop gives.
    same = None
    if not args.quick:
        plain = settings_of(args, (*overrides, "--config.text.format=sentinel_tag"))
        same = groot_loop(plain, args.steps)
    theirs = baseline_loop(baseline_start(args, overrides), args.steps)

    rows = [
        {"loop": "GROOT", **ours.summary()},
        {"loop": "reward sleeps 5 ms a sentence", **slow.summary()},
        *([{"loop": "GROOT in sentinel_tag", **same.summary()}] if same else []),
        {"loop": "transformers, sentinel_tag", **theirs},
    ]
    measure.show(rows, ("loop", "sentences_per_second", "device_wait_share"))
    print()
    parts = sorted({name for row in rows for name in row["part_ms"]})
    print("milliseconds a batch, parts overlap:")
    measure.show([{"loop": row["loop"], **row["part_ms"]} for row in rows], ("loop", *parts))
    ratio = ours.sentences_per_second / theirs["sentences_per_second"]
    result = {
        "device_wait_share": measure.rounded(ours.device_wait_share, 3),
        "sentences_per_second": measure.rounded(ours.sentences_per_second),
        "baseline_sentences_per_second": theirs["sentences_per_second"],
        "ratio": measure.rounded(ratio, 3),
        "config": runs.name_of(args.config),
        "steps": args.steps,
        "dtype": args.dtype,
        "part_ms": ours.summary()["part_ms"],
        "slow_reward": slow.summary(),
        "sentinel_tag": same.summary() if same else None,
        "baseline_part_ms": theirs["part_ms"],
    }
    measure.finish(measure.device() | result, args.json)


if __name__ == "__main__":
    exit_on_user_error(main)
