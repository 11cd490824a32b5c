"""What a search and an update cannot do without, and the rates of the machine to do it at.

`measure_rates` times plain matrix products and a copy. `search_work` and `update_work` count from
the sizes alone the products and bytes of each part. Count over rate is the floor of a part: no
program can be faster there. Padding, masked attention and repeated work are no part of the count,
so they lower `floor_ratio` = floor / measured time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

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

    def times(self, factor: float) -> Work:
        return Work(self.flops * factor, self.bytes * factor)

    def seconds(self, rates: Rates) -> float:
        """The floor: the time below which the device cannot do it. Products and memory may overlap
        wholly, so the longer of the two counts and not their sum."""
        return max(self.flops / rates.flops, self.bytes / rates.bandwidth)


def total(works: Iterable[Work]) -> Work:
    """The sum of several parts."""
    flops, moved = 0.0, 0.0
    for work in works:
        flops += work.flops
        moved += work.bytes
    return Work(flops, moved)


def shares(need: Work, ms: float, rates: Rates, dtype: str) -> measure.Row:
    """What a part reaches that takes `ms`: the columns floor_ratio, of the machine's best product
    rate, and flop_utilisation, of the peak that the maker names; None where that is not known.

    30 GFLOP in 100 ms are 300 GFLOP/s; where plain products reach 480, floor_ratio is 0.625.
    """
    achieved = need.flops / (1e-3 * ms)
    peak = measure.peak_flops(dtype)
    return {
        "floor_ratio": measure.rounded(achieved / rates.flops, 3),
        "flop_utilisation": measure.rounded(achieved / peak, 3) if peak else None,
    }


# ---- Rates of the machine ---------------------------------------------------------------------


def measure_rates(dtype: str, *, quick: bool = False, rounds: int = 5) -> Rates:
    """Times chains of products of type `dtype`, and a copy of float32; some seconds on a CPU."""
    resident: dict[str, measure.Call] = {}
    streamed: dict[str, measure.Call] = {}
    flops: dict[str, float] = {}
    shapes = _SHAPES if jax.default_backend() == "cpu" else (*_SHAPES, *_WIDE_SHAPES)
    for rows, d, f in shapes[:1] if quick else shapes:
        name = f"{rows}x{d}x{f}"
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.standard_normal((rows, d)), dtype)
        # Streamed weights are as many pairs as there are products, more than a cache holds:
        # 16 pairs of [512, 2048] are 128 MiB in float32, and two of a wide shape are at least that.
        # Scaled by the rows' length, so that a chain of 32 products neither dies out nor overflows.
        pairs = [
            (
                jnp.asarray(rng.standard_normal((d, f), np.float32) * d**-0.5, dtype),
                jnp.asarray(rng.standard_normal((f, d), np.float32) * f**-0.5, dtype),
            )
            for _ in range(_PRODUCTS if d * f <= 2**22 else 2)
        ]
        cycled = [pairs[i % len(pairs)] for i in range(_PRODUCTS)]
        # Two operations for each weight and row, there ([rows, d] @ [d, f]) and back.
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
    # The copy reads 4 bytes of each word and writes 4.
    return Rates(best, from_memory, 2 * 4.0 * words / (1e-3 * copied))


def _chain(x: jax.Array, pairs: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    # Each product needs the one before, so the compiler can neither drop nor reorder one.
    for there, back in pairs:
        x = (x @ there) @ back
    return x


# ---- What the parts must do -------------------------------------------------------------------


def encoder_work(config: T5Config, tokens: float, pairs: float) -> Work:
    """The encoder over `tokens` source positions that attend to `pairs` (query, key) pairs.

    T5-small on 16 sentences of 48 tokens: 6 layers of 4 * 512 * 512 weights of attention and
    2 * 512 * 2048 of the feed-forward block, two operations for each of the 768 tokens, are 29.0
    GFLOP. Attention adds 6 * 4 * 512 * (768 * 48) = 0.45, for 29.4 in all.
    """
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
        # Query and output of cross-attention; its keys and values are `cross_kv_work`.
        + 2 * config.d_model * config.inner_dim
        + _feed_forward(config)
    )
    return _products(config, weights, nodes, layers * (self_pairs + cross_pairs), calls)


def projection_work(config: T5Config, nodes: float, columns: int, calls: int) -> Work:
    """Logits of `columns` vocabulary columns at `nodes` positions."""
    return _products(config, config.d_model * columns, nodes, 0.0, calls)


def _feed_forward(config: T5Config) -> int:
    # A gated block has two kernels up and one down, a plain one has one of each.
    return (3 if config.gated else 2) * config.d_model * config.d_ff


def _products(config: T5Config, weights: float, rows: float, pairs: float, calls: int = 1) -> Work:
    """`weights` applied to `rows` rows, read once in each of `calls`, and attention of `pairs`."""
    item = 2 if config.dtype == "bfloat16" else 4
    # A pair is a product of two vectors for its score and one more for its weighted value: 2 *
    # inner_dim operations each. Rows are read and written once.
    flops = 2.0 * weights * rows + 4.0 * config.inner_dim * pairs
    return Work(flops, item * (weights * calls + 2.0 * config.d_model * rows))


def search_work(
    config: T5Config, *, batch: int, source: int, k: int, steps: int, columns: int
) -> dict[str, Work]:
    """Parts of a beam search over full batches: k nodes a sentence and step, each with its own
    ancestors alone, `columns` logits each, cross keys and values once a sentence."""
    tokens, nodes = batch * source, batch * k * steps
    # Step t of `steps` sees t positions, itself included: (steps + 1) / 2 on average.
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

    source_lengths, nodes: of each sentence, [B]. ancestor_pairs: (node, ancestor) pairs of the
    batch. The backward pass takes two products for each of the forward pass: one for the gradient
    of its input, one for that of its weights.
    """
    tokens, count = float(source_lengths.sum()), float(nodes.sum())
    cross_pairs = float((source_lengths * nodes).sum())
    forward = total(
        (
            encoder_work(config, tokens, float((source_lengths.astype(float) ** 2).sum())),
            cross_kv_work(config, tokens),
            decoder_work(config, count, ancestor_pairs, cross_pairs, 1),
            projection_work(config, count, columns, 1),
        )
    )
    return {"forward": forward, "backward": forward.times(2.0)}
