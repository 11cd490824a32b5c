"""How fast this machine multiplies and reads, and what generation and update cannot do without.

    python benchmarks/floor.py [--json] [--sizes=mini,small]

Measures the rate of matrix products with weights that stay in the cache and weights that are
streamed from memory, and the bandwidth of memory. Counts the products and the bytes of each part
of a search and of an update, times the parts, and prints achieved over floor. The other benchmarks
take the counts and the rates from here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from groot_jax.model.config import T5Config

# (rows, d_model, d_ff) of one product there and back; rows are B * K, B * S and B * N.
_SHAPES = ((128, 512, 2048), (256, 1024, 4096), (768, 512, 2048), (2048, 1024, 1024))
_WIDE_SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192))  # What fills an accelerator.
_PRODUCTS = 16


class Rates(NamedTuple):
    """Measured limits of the device for one type of matrix product."""

    resident: float  # FLOP/s, weights in the cache; the best of the shapes
    streamed: float  # FLOP/s, each weight read from memory for its product
    bandwidth: float  # bytes/s, read and written

    @property
    def flops(self) -> float:
        """The best matmul rate seen, FLOP/s."""
        return max(self.resident, self.streamed)


class Work(NamedTuple):
    """Floating-point operations (a multiply and an add are two) and bytes moved at least."""

    flops: float
    bytes: float

    def __add__(self, other: object) -> Work:
        if not isinstance(other, Work):
            return NotImplemented
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, factor: float) -> Work:
        return Work(self.flops * factor, self.bytes * factor)

    def seconds(self, rates: Rates) -> float:
        """The time below which the device cannot do it."""
        return max(self.flops / rates.flops, self.bytes / rates.bandwidth)


NOTHING = Work(0.0, 0.0)


# ---- Rates of the machine ---------------------------------------------------------------------


def measure_rates(dtype: str, *, quick: bool = False, rounds: int = 5) -> Rates:
    """Runs chains of products; some seconds on a CPU."""
    resident: dict[str, Callable[[], Any]] = {}
    streamed: dict[str, Callable[[], Any]] = {}
    flops: dict[str, float] = {}
    shapes = _SHAPES if jax.default_backend() == "cpu" else (*_SHAPES, *_WIDE_SHAPES)
    for rows, d, f in shapes[:1] if quick else shapes:
        name = f"{rows}x{d}x{f}"
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.standard_normal((rows, d)), dtype)
        # As many pairs of weights as there are products: more than a cache holds.
        pairs = [
            (
                jnp.asarray(rng.standard_normal((d, f), np.float32) * d**-0.5, dtype),
                jnp.asarray(rng.standard_normal((f, d), np.float32) * f**-0.5, dtype),
            )
            for _ in range(_PRODUCTS if d * f <= 2**22 else 2)
        ]
        cycled = [pairs[i % len(pairs)] for i in range(_PRODUCTS)]
        flops[name] = 2.0 * 2.0 * rows * d * f * _PRODUCTS
        chain = jax.jit(_chain)
        resident[name] = partial(chain, x, [pairs[0]] * _PRODUCTS)
        streamed[name] = partial(chain, x, cycled)
    words = 2**20 if quick else 2**26
    source = jnp.zeros(words, jnp.float32)
    copy = partial(jax.jit(lambda a: a + 1.0), source)
    ms = measure.alternate(resident, rounds)
    best = max(flops[name] / (1e-3 * ms[name]) for name in ms)
    ms = measure.alternate(streamed, rounds)
    from_memory = max(flops[name] / (1e-3 * ms[name]) for name in ms)
    copied = measure.alternate({"copy": copy}, rounds)["copy"]
    return Rates(best, from_memory, 2 * 4.0 * words / (1e-3 * copied))


def _chain(x: jax.Array, pairs: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    for there, back in pairs:
        x = (x @ there) @ back
    return x


# ---- What the parts must do -------------------------------------------------------------------


def encoder_work(config: T5Config, tokens: float, pairs: float) -> Work:
    """The encoder over `tokens` source positions that attend to `pairs` (query, key) pairs."""
    layers = config.num_layers
    weights = layers * (4 * config.d_model * config.inner_dim + _feed_forward(config))
    return _products(config, weights, tokens, layers * pairs)


def cross_kv_work(config: T5Config, tokens: float) -> Work:
    """Cross-attention keys and values of `tokens` source positions, once."""
    weights = config.num_decoder_layers * 2 * config.d_model * config.inner_dim
    return _products(config, weights, tokens, 0.0)


def decoder_work(
    config: T5Config, nodes: float, self_pairs: float, cross_pairs: float, calls: int
) -> Work:
    """The decoder over `nodes` positions in `calls` sequential passes, each of which reads all
    weights; projection to the vocabulary apart."""
    layers = config.num_decoder_layers
    weights = layers * (
        4 * config.d_model * config.inner_dim  # self-attention
        + 2 * config.d_model * config.inner_dim  # query and output of cross-attention
        + _feed_forward(config)
    )
    return _products(config, weights, nodes, layers * (self_pairs + cross_pairs), calls)


def projection_work(config: T5Config, nodes: float, columns: int, calls: int) -> Work:
    """Logits of `columns` vocabulary columns at `nodes` positions."""
    return _products(config, config.d_model * columns, nodes, 0.0, calls)


def _feed_forward(config: T5Config) -> int:
    return (3 if config.gated else 2) * config.d_model * config.d_ff


def _products(config: T5Config, weights: float, rows: float, pairs: float, calls: int = 1) -> Work:
    item = 2 if config.dtype == "bfloat16" else 4
    # Scores and weighted values: two products of inner_dim for each pair, keys and values read.
    flops = 2.0 * weights * rows + 4.0 * config.inner_dim * pairs
    return Work(flops, item * (weights * calls + 2.0 * config.d_model * rows))


def search_work(
    config: T5Config, *, batch: int, source: int, k: int, steps: int, columns: int
) -> dict[str, Work]:
    """Parts of a beam search over full batches: k nodes a sentence and step, each with its own
    ancestors alone, `columns` logits each, cross keys and values once a sentence."""
    tokens, nodes = batch * source, batch * k * steps
    return {
        "encoder": encoder_work(config, tokens, tokens * source),
        "cross_kv": cross_kv_work(config, tokens),
        "decoder": decoder_work(config, nodes, nodes * (steps + 1) / 2, nodes * source, steps),
        "projection": projection_work(config, nodes, columns, steps),
    }


def update_work(
    config: T5Config,
    *,
    source_lengths: np.ndarray,
    nodes: np.ndarray,
    ancestor_pairs: float,
    columns: int,
) -> dict[str, Work]:
    """Parts of loss and gradient over token trees; padding is no work that must be done.

    source_lengths, nodes: of each sentence. ancestor_pairs: (node, ancestor) pairs of the batch.
    The backward pass takes two products for each of the forward pass.
    """
    tokens, count = float(source_lengths.sum()), float(nodes.sum())
    cross_pairs = float((source_lengths * nodes).sum())
    forward = (
        encoder_work(config, tokens, float((source_lengths.astype(float) ** 2).sum()))
        + cross_kv_work(config, tokens)
        + decoder_work(config, count, ancestor_pairs, cross_pairs, 1)
        + projection_work(config, count, columns, 1)
    )
    return {"forward": forward, "backward": forward.times(2.0)}


def total(parts: Mapping[str, Work]) -> Work:
    """The sum of the parts."""
    return sum(parts.values(), NOTHING)


# ---- Achieved over floor ----------------------------------------------------------------------


def part_rows(size: str, dtype: str, rates: Rates, quick: bool, rounds: int) -> list[dict]:
    """Encoder, cross keys and values, search and update of a size: floor and time of each."""
    # They import the counts from here.
    from benchmarks import generate, update, workload
    from groot_jax.model.t5 import T5

    shape = workload.QUICK if quick else workload.Shape()
    config, params = workload.make_model(size, dtype, quick)
    case = generate.make_case("legal", shape, config)
    model, variables = T5(config), {"params": params}
    works = search_work(
        config,
        batch=shape.batch,
        source=case.source,
        k=shape.k,
        steps=case.steps,
        columns=len(case.columns_C),
    )
    pools = update.random_pool_set(shape)
    columns = workload.output_columns(pools.columns_C, config.vocab_size)
    key, batch = jax.random.key(0), jax.device_put(pools.batch)
    works["search"] = total(works)
    works["update"] = total(update.needed(config, pools.batch, len(pools.columns_C)))

    encode = jax.jit(lambda v, ids: model.apply(v, ids, method=model.encode))
    cross_kv = jax.jit(lambda v, encoded: model.apply(v, encoded, method=model.cross_kv))
    encoded = encode(variables, case.inputs.source_BxS)
    times = measure.alternate(
        {
            "encoder": partial(encode, variables, case.inputs.source_BxS),
            "cross_kv": partial(cross_kv, variables, encoded),
            "search": partial(jax.jit(case.search(config)), params, case.inputs),
        },
        rounds,
    )
    # Not in turns with those: a few GB of temporaries leave them no cache.
    compute = partial(jax.jit(update.our_loss_and_gradient(config)), params, batch, key, columns)
    times |= measure.alternate({"update": compute}, rounds)
    # What the search does besides; its two parts cannot be told apart from outside.
    works["decoder and projection"] = works.pop("decoder") + works.pop("projection")
    rest = times["search"] - times["encoder"] - times["cross_kv"]
    times["decoder and projection"] = max(rest, 1e-3)
    peak = measure.peak_flops(dtype)
    return [_part(size, part, works[part], times[part], rates, peak) for part in PARTS]


PARTS = ("encoder", "cross_kv", "decoder and projection", "search", "update")


def _part(
    size: str, part: str, work: Work, ms: float, rates: Rates, peak: float | None
) -> dict[str, Any]:
    achieved = work.flops / (1e-3 * ms)
    by_memory = work.bytes / rates.bandwidth > work.flops / rates.flops
    return {
        "size": size,
        "part": part,
        "gflop": measure.rounded(1e-9 * work.flops),
        "mib": measure.rounded(work.bytes / 2**20),
        "floor_ms": measure.rounded(1e3 * work.seconds(rates)),
        "bound": "memory" if by_memory else "products",
        "ours_ms": measure.rounded(ms),
        "achieved_gflops": measure.rounded(1e-9 * achieved),
        "floor_ratio": measure.rounded(achieved / rates.flops, 3),
        "flop_utilisation": measure.rounded(achieved / peak, 3) if peak else None,
    }


def main() -> None:
    parser = measure.arguments(__doc__)
    args = measure.parse(parser)
    limits = []
    for dtype in ("float32", "bfloat16"):
        rates = measure_rates(dtype, quick=args.quick, rounds=args.rounds)
        if dtype == args.dtype:
            used = rates
        peak = measure.peak_flops(dtype)
        limits.append(
            {
                "dtype": dtype,
                "resident_gflops": measure.rounded(1e-9 * rates.resident),
                "streamed_gflops": measure.rounded(1e-9 * rates.streamed),
                "bandwidth_gb_s": measure.rounded(1e-9 * rates.bandwidth),
                "peak_gflops": measure.rounded(1e-9 * peak) if peak else None,
            }
        )
    measure.show(limits)
    rows = []
    for size in args.sizes:
        rows += part_rows(size, args.dtype, used, args.quick, args.rounds)
        jax.clear_caches()
    print()
    measure.show(rows)
    measure.finish(
        measure.device() | {"dtype": args.dtype, "rates": limits, "results": rows}, args.json
    )


if __name__ == "__main__":
    # Not this module, which the others know under its full name.
    from benchmarks import floor

    floor.main()
