"""Loss and gradient of one GROOT update against the same loss through transformers' Flax T5.

    python benchmarks/update.py [--json] [--sizes=mini,small] [--pools=random,mit_restaurant,snips]

Theirs has the plain layout: each candidate is a row, its sentence encoded again beside it, logits
over the whole vocabulary. Ours works on token trees (candidates of a sentence share what their
beginnings have in common), several in a bin. `random` pools hold 8 unrelated labelings of 16 words;
the others are what the beams and corrections of a briefly trained model make of sentences from the
data in GROOT_DATA_DIR, written as Sentinel + Tag. Modes: softmax over the `legal` columns or over
the `full` vocabulary, the same in both. Loss and gradients are compared first.

Times are medians of alternated runs in milliseconds a batch of 16 sentences. Columns:
  ours_ms, hf_tiled_ms, ratio   loss and gradient; theirs over ours
  equal                         whether losses and gradients agree, by the errors beside it: with
                                GELU (`gradient_error`) and as the model is (`relu_...`)
  nodes_per_token               distinct prefixes over tokens, of the timed batch: what trees save
  candidates                    mean pool size
  floor_ratio                   time of the products that the answer needs, at the best rate that
                                this machine shows in plain products, over our time
  ours_step_ms                  loss, gradient and AdamW
  ours_peak_mib, hf_peak_mib    temporaries that the compiled programs ask for
"""

from __future__ import annotations

import dataclasses
import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.stages import Compiled

from benchmarks import baselines, measure, runs, work, workload
from benchmarks.generate import exact, is_exact
from groot_jax import config as configs
from groot_jax.contrast.losses import LossSettings
from groot_jax.contrast.pools import pool_batch
from groot_jax.contrast.update import Metrics, OutputColumns, PoolBatch, TrainState, groot_step
from groot_jax.data.batches import TrainingBatches, encode
from groot_jax.data.formats import make_format
from groot_jax.data.ladder import fit_ladder
from groot_jax.data.tokenizer import load_tokenizer
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.model.config import T5Config
from groot_jax.model.t5 import T5
from groot_jax.training.steps import loss_settings, losses_in_use

MODES = ("legal", "full")
# Relative, of the loss, of the whole gradient and of each parameter's; see `Apart`.
LOSS_TOLERANCE, WHOLE_TOLERANCE, PARAMETER_TOLERANCE = 1e-5, 1e-4, 1e-4
POOL_CONFIGS = ("mit_restaurant", "snips", "retail")
BATCH = 16
# A loss and its gradient, which is a tree as the parameters are.
ValueAndGrad: TypeAlias = tuple[jax.Array, measure.Params]


class PoolSet(NamedTuple):
    """The batch that is timed, and what is known of the pools around it."""

    name: str
    batch: PoolBatch
    columns_C: np.ndarray
    nodes_per_token: float  # over all batches, not the timed one alone
    pool_size: float


# ---- Pools ------------------------------------------------------------------------------------


def random_pool_set(shape: workload.Shape) -> PoolSet:
    """Unrelated labelings: hardly a prefix is shared."""
    format_ = workload.make_text_format("sentinel_tag")
    sentences = workload.make_sentences(shape)
    batch = pool_batch(
        workload.encode_batch(sentences, format_),
        workload.random_pools(sentences, shape.k),
        None,
        format_,
        size=shape.k,
        start_token=0,
        buckets=configs.default_config().loader.node_buckets,
    )
    assert format_.columns_C is not None
    return PoolSet("random", batch, format_.columns_C, *_sharing([batch]))


def trained_pool_set(name: str, workdir: Path, tokenizer: Path | None, count: int) -> PoolSet:
    """The batch with the median of nodes, among those of the most frequent source size that `count`
    sentences make, as Sentinel + Tag.

    tokenizer: T5's spiece.model; None: the run's own.
    """
    run = runs.restore(workdir)
    sentences, pools = runs.trained_pools(run, count)
    loader = configs.default_config().loader
    pieces = load_tokenizer(tokenizer) if tokenizer else run.task.format.tokenizer
    format_ = make_format("sentinel_tag", pieces, run.task.format.types)
    examples = encode(sentences, format_)
    ladder = fit_ladder([example.need for example in examples], loader)
    plain = TrainingBatches(examples, BATCH, ladder, seed=0)
    batches = [
        pool_batch(
            plain[step],
            pools,
            None,
            format_,
            size=run.config.groot.pool.size,
            start_token=0,
            buckets=loader.node_buckets,
        )
        for step in range(plain.per_epoch)
    ]
    usual = Counter(b.source_BxS.shape[1] for b in batches).most_common(1)[0][0]
    # One batch stands for all of them: the middle one by size among those of one shape. A mean
    # over batches would time many programs, each of which takes seconds to compile on both sides.
    alike = [b for b in batches if b.source_BxS.shape[1] == usual]
    alike.sort(key=lambda b: int(node_counts(b).sum()))
    assert format_.columns_C is not None
    return PoolSet(name, alike[len(alike) // 2], format_.columns_C, *_sharing(batches))


def node_counts(batch: PoolBatch) -> np.ndarray:
    """Distinct prefixes of each sentence: nodes at which some token is predicted, [B].

    Candidates `a b c` and `a b d` have the prefixes nothing, `a` and `a b`: 3 nodes, 6 tokens.
    """
    forest = batch.forest
    return np.array(
        [
            len(set(nodes[labels != 0].tolist()))
            for nodes, labels in zip(forest.edge_node_BxE, forest.edge_label_BxE, strict=True)
        ]
    )


def _sharing(batches: Sequence[PoolBatch]) -> tuple[float, float]:
    """Nodes a token, and candidates a sentence."""
    # An empty slot of a pool has length 0; a row that fills up a batch has none but those.
    nodes = sum(int(node_counts(batch).sum()) for batch in batches)
    tokens = sum(int(batch.forest.length_BxM.sum()) for batch in batches)
    candidates = sum(int((batch.forest.length_BxM > 0).sum()) for batch in batches)
    sentences = sum(int((batch.forest.length_BxM > 0).any(1).sum()) for batch in batches)
    return nodes / tokens, candidates / sentences


# ---- The two updates --------------------------------------------------------------------------


def default_losses() -> LossSettings:
    """The losses of configs/default.py."""
    stage = configs.default_config().groot
    return loss_settings(stage, losses_in_use([stage]))


def our_step(
    config: T5Config, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, PoolBatch, jax.Array, OutputColumns], tuple[TrainState, Metrics]]:
    """`groot_step` without dropout: (state, batch, key, columns) -> (state, metrics)."""
    return partial(
        groot_step,
        settings=default_losses(),
        model=T5(config),
        optimizer=optimizer,
        average="sentence",
    )


def our_loss_and_gradient(
    config: T5Config,
) -> Callable[[measure.Params, PoolBatch, jax.Array, OutputColumns], ValueAndGrad]:
    """(params, batch, key, columns) -> (loss, gradient), out of `groot_step`."""
    # `groot_step` hands out no gradient. An optimizer that keeps it as its own state does.
    keep = optax.GradientTransformation(lambda params: (), lambda grads, *rest: (grads, grads))
    step = our_step(config, keep)

    def run(
        params: measure.Params, batch: PoolBatch, key: jax.Array, columns: OutputColumns
    ) -> ValueAndGrad:
        state, metrics = step(TrainState(jnp.int32(0), params, ()), batch, key, columns)
        return metrics["loss"][0], state.opt_state

    return run


def tiled_loss_and_gradient(
    config: T5Config,
) -> Callable[[measure.Params, baselines.TiledBatch, jax.Array | None], ValueAndGrad]:
    """(params, tiled batch, columns or None) -> (loss, gradient), through transformers' module."""
    model = baselines.flax_t5(config)
    settings = default_losses()

    def loss(
        params: measure.Params, batch: baselines.TiledBatch, columns_C: jax.Array | None
    ) -> jax.Array:
        return baselines.tiled_loss(model, params, batch, settings, columns_C)

    return jax.value_and_grad(loss)


class Apart(NamedTuple):
    """How far two losses and gradients lie apart, relative to the second."""

    loss: float
    whole: float  # gradient
    worst: float  # of the parameters; norms far below the whole count for a thousandth of it

    @property
    def small(self) -> bool:
        """Whether float32 accounts for it."""
        return (
            self.loss <= LOSS_TOLERANCE
            and self.whole <= WHOLE_TOLERANCE
            and self.worst <= PARAMETER_TOLERANCE
        )


def apart(ours: ValueAndGrad, theirs: ValueAndGrad) -> Apart:
    """How far two losses and gradients lie apart. Parameters come in the same order: the trees of
    transformers' Flax T5 and of ours are the same."""
    (our_loss, our_grads), (their_loss, their_grads) = jax.device_get((ours, theirs))
    pairs = list(zip(jax.tree.leaves(our_grads), jax.tree.leaves(their_grads), strict=True))
    norms = np.array([np.linalg.norm(b.ravel()) for _, b in pairs], np.float64)
    differences = np.array([np.linalg.norm((a - b).ravel()) for a, b in pairs], np.float64)
    total = float(np.linalg.norm(norms))
    # A parameter whose gradient nearly vanishes would have a large relative error of nothing.
    return Apart(
        loss=abs(float(our_loss - their_loss)) / abs(float(their_loss)),
        whole=float(np.linalg.norm(differences)) / total,
        worst=float((differences / np.maximum(norms, 1e-3 * total)).max()),
    )


def compare(config: T5Config, ours_args: tuple, theirs_args: tuple) -> Apart:
    """Ours and theirs in float32."""
    plain = dataclasses.replace(config, dtype="float32")
    with exact():
        return apart(
            jax.jit(our_loss_and_gradient(plain))(*ours_args),
            jax.jit(tiled_loss_and_gradient(plain))(*theirs_args),
        )


# ---- The comparison ---------------------------------------------------------------------------


def run_case(
    size: str, mode: str, pools: PoolSet, args: Namespace, rates: work.Rates
) -> measure.Row:
    """One row: a size, a mode and a set of pools."""
    config, params = workload.make_model(size, args.dtype)
    # `legal` on both sides: theirs projects to all 32,128 columns, as its interface has it, and its
    # softmax runs over the same 200 as ours.
    columns_C = pools.columns_C if mode == "legal" else np.arange(config.vocab_size)
    columns = workload.output_columns(columns_C.astype(np.int32), config.vocab_size)
    tiled = jax.device_put(baselines.tile(pools.batch))
    batch = jax.device_put(pools.batch)
    key = jax.random.key(0)  # No dropout: nothing is drawn with it.
    kept = columns.columns_C if mode == "legal" else None

    ours_args = (params, batch, key, columns)
    theirs_args = (params, tiled, kept)
    ours, our_seconds = measure.compiled(our_loss_and_gradient(config), *ours_args)
    theirs, their_seconds = measure.compiled(tiled_loss_and_gradient(config), *theirs_args)
    if is_exact(config):
        as_is = apart(ours(*ours_args), theirs(*theirs_args))
    else:
        as_is = compare(config, ours_args, theirs_args)
    # Rounding now and then puts a pre-activation on the other side of ReLU's kink, and the gradient
    # of a unit comes or goes with it, on either side. So gradients are held to the bounds in the
    # same model with an activation that has no kink; its weights are random anyway.
    smooth = dataclasses.replace(config, feed_forward_proj="gelu_new")
    without_kink = compare(smooth, ours_args, theirs_args)

    # The whole step, optimizer included, for ours alone: AdamW costs both sides the same.
    optimizer = optax.adamw(1e-4)
    copied = jax.tree.map(jnp.copy, params)
    state = TrainState(jnp.int32(0), copied, jax.jit(optimizer.init)(copied))
    step, _ = measure.compiled(
        our_step(config, optimizer), state, batch, key, columns, donate_argnums=0
    )
    states = [state]  # A step takes the memory of its state, so each call goes on from the last.

    def whole_step() -> tuple[Metrics, jax.Array]:
        new, metrics = step(states.pop(), batch, key, columns)
        states.append(new)
        return metrics, new.step

    calls = {
        "ours": lambda: ours(*ours_args),
        "hf_tiled": lambda: theirs(*theirs_args),
        "ours_step": whole_step,
    }
    times = measure.alternate(calls, args.rounds)
    need = work.total(needed(config, pools.batch, len(columns_C)).values())
    forest = pools.batch.forest
    nodes, tokens = int(node_counts(pools.batch).sum()), int(forest.length_BxM.sum())
    return {
        "size": size,
        "mode": mode,
        "pool": pools.name,
        "ours_ms": measure.rounded(times["ours"]),
        "hf_tiled_ms": measure.rounded(times["hf_tiled"]),
        "ratio": measure.rounded(times["hf_tiled"] / times["ours"], 3),
        "equal": as_is.loss <= LOSS_TOLERANCE and without_kink.small,
        "gradient_error": measure.rounded(without_kink.whole, 2),
        "parameter_error": measure.rounded(without_kink.worst, 2),
        "relu_gradient_error": measure.rounded(as_is.whole, 2),
        "relu_parameter_error": measure.rounded(as_is.worst, 2),
        "nodes_per_token": measure.rounded(nodes / tokens, 3),
        **work.shares(need, times["ours"], rates, config.dtype),
        "gflop": measure.rounded(1e-9 * need.flops),
        "ours_step_ms": measure.rounded(times["ours_step"]),
        "ours_peak_mib": _peak_mib(ours),
        "hf_peak_mib": _peak_mib(theirs),
        "nodes_per_token_all": measure.rounded(pools.nodes_per_token, 3),
        "candidates": measure.rounded(pools.pool_size, 3),
        "bins": [*forest.token_RxN.shape, forest.source_place_RxU.shape[1]],
        "shape": list(forest.path_BxMxE.shape),
        "tiled_shape": list(tiled.target_RxT.shape),
        "columns": len(columns_C),
        "compile_s": measure.rounded(our_seconds, 3),
        "hf_compile_s": measure.rounded(their_seconds, 3),
        "dtype": config.dtype,
    }


def needed(config: T5Config, batch: PoolBatch, columns: int) -> dict[str, work.Work]:
    """What loss and gradient of a batch cannot do without."""
    counts = node_counts(batch)
    # A node sees its depth in ancestors, and itself.
    depth_RxN, sentence_RxN = map(np.asarray, (batch.forest.depth_RxN, batch.forest.sentence_RxN))
    pairs = (depth_RxN + 1)[sentence_RxN >= 0].sum()
    return work.update_work(
        config,
        # [B, S] of ids -> the number that are no padding, [B].
        source_lengths=(np.asarray(batch.source_BxS) != config.pad_token_id).sum(1),
        nodes=counts,
        ancestor_pairs=float(pairs),
        columns=columns,
    )


def _peak_mib(program: Compiled) -> float | None:
    analysis = program.memory_analysis()
    return measure.rounded(analysis.temp_size_in_bytes / 2**20) if analysis else None


def pool_sets(args: Namespace, shape: workload.Shape) -> list[PoolSet]:
    """The pools that the flags ask for; those without data are left out, with a note."""
    data = Path(os.environ.get("GROOT_DATA_DIR") or ".")
    tokenizer = Path(args.tokenizer) if args.tokenizer else data / "t5_vocab" / "spiece.model"
    found = []
    pieces = tokenizer if tokenizer.is_file() else None
    count = 32 if args.quick else 256  # Sentences; some 16 batches to choose the median of.
    for name in args.pools.split(","):
        if name == "random":
            found.append(random_pool_set(shape))
            continue
        if name == "workdir":
            workdir = Path(args.workdir).expanduser()
            name = workdir.name
        elif name not in POOL_CONFIGS:
            raise UserError(f"--pools: {name!r} is none of random, {', '.join(POOL_CONFIGS)}")
        elif name == "retail" or (data / name).is_dir():
            config = str(runs.CONFIGS / f"{name}.py")
            workdir = runs.short_run(config, Path(args.cache), args.updates)
        else:
            print(f"pools of {name} are left out: no {data / name}; set GROOT_DATA_DIR")
            continue
        found.append(trained_pool_set(name, workdir, pieces, count))
    return found


COLUMNS = (
    "size",
    "mode",
    "pool",
    "ours_ms",
    "hf_tiled_ms",
    "ratio",
    "equal",
    "gradient_error",
    "relu_gradient_error",
    "nodes_per_token",
    "candidates",
    "floor_ratio",
    "flop_utilisation",
    "ours_step_ms",
    "ours_peak_mib",
    "hf_peak_mib",
    "compile_s",
    "hf_compile_s",
)


def main() -> None:
    parser = measure.arguments(__doc__)
    parser.add_argument("--modes", default=",".join(MODES), help="legal, full")
    parser.add_argument("--pools", default="", help="random, mit_restaurant, snips, retail")
    parser.add_argument("--workdir", default="", help="a trained run: makes the pools `workdir`")
    parser.add_argument("--tokenizer", default="", help="T5's spiece.model")
    parser.add_argument("--updates", type=int, default=400, help="of the short training (400)")
    parser.add_argument("--cache", default=str(runs.DEFAULT_CACHE), help="where it is kept")
    args = measure.parse(parser)
    trained = "workdir" if args.workdir else "mit_restaurant,snips"
    args.pools = args.pools or ("random" if args.quick else f"random,{trained}")
    args.modes = tuple(mode for mode in MODES if mode in args.modes.split(","))
    shape = workload.QUICK if args.quick else workload.Shape()
    sets = pool_sets(args, shape)
    rates = work.measure_rates(args.dtype, quick=args.quick, rounds=args.rounds)
    rows = []
    for size in args.sizes:
        for mode in args.modes:
            for pools in sets:
                rows.append(run_case(size, mode, pools, args, rates))
                jax.clear_caches()  # A program keeps its memory for as long as it is known.
    measure.show(rows, COLUMNS)
    measure.finish(
        measure.device() | {"matmul_gflops": 1e-9 * rates.flops, "results": rows}, args.json
    )


if __name__ == "__main__":
    exit_on_user_error(main)
