"""The least time that a chip needs for a compiled program, from published peak rates.

A roofline: nothing here was measured. Launch and synchronisation cost nothing in it, so that real
times are longer, those of many small operations (a decoding step of a small model) by far.
"""

from __future__ import annotations

from typing import NamedTuple

from groot_jax.model.config import T5Config
from groot_jax.scaling.chips import Slice
from groot_jax.scaling.hlo import Cost


class Estimate(NamedTuple):
    """Seconds on each chip, and what most of them go to: "flops", "hbm" or "ici"."""

    seconds: float
    bound_by: str
    flops_seconds: float
    hbm_seconds: float
    ici_seconds: float


def estimate(cost: Cost, slice_: Slice) -> Estimate:
    """Each instruction takes its products or its memory traffic, whichever is longer; a collective
    adds to them where the compiler has nothing else run meanwhile, else it hides behind them."""
    chip = slice_.chip
    by_flops = by_hbm = 0.0
    for flops, moved, times in cost.parts:
        products, traffic = flops / chip.flops, moved / chip.hbm_rate
        if products >= traffic:
            by_flops += times * products
        else:
            by_hbm += times * traffic
    exposed = hidden = 0.0
    for kind, size, group, times, behind in cost.transfers:
        # Of a ring: each chip receives all parts but its own, in an all-reduce twice.
        share = 1.0 if kind.startswith("collective-") else (group - 1) / group
        rounds = 2.0 if kind == "all-reduce" else 1.0
        seconds = times * rounds * share * size / slice_.collective_rate(group)
        if behind:
            hidden += seconds
        else:
            exposed += seconds
    total = max(by_flops + by_hbm, hidden) + exposed
    terms = {"flops": by_flops, "hbm": by_hbm, "ici": exposed + max(hidden - by_flops - by_hbm, 0)}
    return Estimate(
        total, max(terms, key=lambda name: terms[name]), by_flops, by_hbm, exposed + hidden
    )


def needed_flops(
    config: T5Config,
    *,
    source_tokens: float,
    source_pairs: float,
    nodes: float,
    self_pairs: float,
    cross_pairs: float,
    columns: int,
    backward: bool,
) -> float:
    """FLOPs of products that the model itself asks for: no padding, nothing computed twice.

    Over all sentences: source tokens, decoder nodes, (query, key) pairs of attention, and the
    logits of `columns` vocabulary columns at each node. A backward pass is twice the forward one.
    """
    d, inner = config.d_model, config.inner_dim
    feed_forward = (3 if config.gated else 2) * d * config.d_ff
    encoder = config.num_layers * (4 * d * inner + feed_forward)
    cross_kv = config.num_decoder_layers * 2 * d * inner
    decoder = config.num_decoder_layers * (6 * d * inner + feed_forward)
    pairs = config.num_layers * source_pairs
    pairs += config.num_decoder_layers * (self_pairs + cross_pairs)
    forward = 2.0 * source_tokens * (encoder + cross_kv)
    forward += 2.0 * nodes * (decoder + d * columns) + 4.0 * inner * pairs
    return forward * (3.0 if backward else 1.0)
