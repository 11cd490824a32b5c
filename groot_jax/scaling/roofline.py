"""The least time that a chip needs for a compiled program, from published peak rates.

A roofline (Williams, Waterman and Patterson, doi 10.1145/1498765.1498785): nothing here was
measured. Launch and synchronisation cost nothing in it, so that real times are longer, those of
many small operations (a decoding step of a small model) by far.
"""

from __future__ import annotations

import re
from bisect import insort
from typing import NamedTuple

import numpy as np

from groot_jax.model.config import T5Config
from groot_jax.scaling.chips import Chip, Slice
from groot_jax.scaling.cost import Cost, Part


class Estimate(NamedTuple):
    """Seconds on each chip, and what most of them go to: "flops", "hbm" or "ici"."""

    seconds: float
    bound_by: str
    flops_seconds: float
    hbm_seconds: float
    ici_seconds: float


def estimate(cost: Cost, tpu_slice: Slice) -> Estimate:
    """Each instruction takes its products or its memory traffic, whichever is longer. A copy that
    runs beside others takes what memory traffic they leave; they wait for the rest of it. A
    collective adds to them where the compiler has nothing else run meanwhile, else it hides behind
    them."""
    chip = tpu_slice.chip
    by_flops = by_hbm = 0.0
    for part in cost.parts:
        seconds, by_products = seconds_of(part, chip)
        if not part.until:
            by_flops += seconds if by_products else 0.0
            by_hbm += 0.0 if by_products else seconds
    by_hbm += _waiting(cost, chip)
    exposed = hidden = 0.0
    for kind, size, group, times, behind in cost.transfers:
        # Of a ring: each chip receives all parts but its own, in an all-reduce twice (once to add
        # up, once to hand round): of 64 MiB on 4 chips 48 in an all-gather, 96 in an all-reduce.
        share = 1.0 if kind.startswith("collective-") else (group - 1) / group
        rounds = 2.0 if kind == "all-reduce" else 1.0
        seconds = times * rounds * share * size / tpu_slice.collective_rate(group)
        if behind:
            hidden += seconds
        else:
            exposed += seconds
    busy = by_flops + by_hbm
    # Of what is meant to hide, what outlasts the work shows.
    terms = {"flops": by_flops, "hbm": by_hbm, "ici": exposed + max(hidden - busy, 0)}
    bound_by = max(terms, key=lambda name: terms[name])
    return Estimate(max(busy, hidden) + exposed, bound_by, by_flops, by_hbm, exposed + hidden)


def _waiting(cost: Cost, chip: Chip) -> float:
    """Seconds that instructions wait for copies which the others left too little memory traffic to
    hide behind: of a copy of 5 ms, and products of 3 ms until it is needed that read for 1, 3."""
    waited = 0.0
    # Of each copy under way: where it is waited for, and the seconds of traffic that it still has.
    # What is needed first goes first: no other order makes anybody wait less.
    under_way: list[tuple[int, float]] = []

    def move(seconds: float) -> None:
        while under_way and seconds > 0:
            until, left = under_way[0]
            under_way[0] = (until, left - seconds)
            seconds -= left
            if seconds >= 0:
                under_way.pop(0)

    for at, part in enumerate(cost.parts):
        while under_way and under_way[0][0] <= at:
            waited += under_way.pop(0)[1]
        traffic = part.times * part.hbm_bytes / chip.hbm_rate
        if part.until:
            insort(under_way, (part.until, traffic))
        else:
            move(seconds_of(part, chip)[0] - traffic)
    return waited + sum(left for _, left in under_way)


def seconds_of(part: Part, chip: Chip) -> tuple[float, bool]:
    """Seconds that an instruction takes at least, all its runs together, and whether products take
    them rather than memory."""
    # v5e: 197e12 / 819e9 = 241 FLOP a byte. A product that does less for each byte it reads and
    # writes waits for memory: one with a vector does 1 for each byte of a bf16 matrix.
    products, traffic = part.flops / chip.flops, part.hbm_bytes / chip.hbm_rate
    return part.times * max(products, traffic), products >= traffic


class Item(NamedTuple):
    """A line of a profile: instructions that come from the same place of the model."""

    source: str  # numbers of layers and of repeated names are written as *
    seconds: float  # the least that they take, all together
    hbm_bytes: float
    flops: float
    times: float  # that one of them runs


def profile(cost: Cost, chip: Chip, count: int) -> list[Item]:
    """The `count` places of the model whose instructions take longest."""
    found: dict[str, Item] = {}
    for part in cost.parts:
        source = re.sub(r"\d+", "*", f"{part.source} ({part.opcode})")
        seconds, _ = seconds_of(part, chip)
        old = found.get(source, Item(source, 0.0, 0.0, 0.0, 0.0))
        found[source] = Item(
            source,
            old.seconds + seconds,
            old.hbm_bytes + part.times * part.hbm_bytes,
            old.flops + part.times * part.flops,
            old.times + part.times,
        )
    return sorted(found.values(), key=lambda item: -item.seconds)[:count]


def needed_flops(
    config: T5Config,
    sources_B: np.ndarray,
    nodes_B: np.ndarray,
    self_pairs_B: np.ndarray,
    columns: int,
    backward: bool,
) -> float:
    """FLOPs of products that the model itself asks for: no padding, nothing computed twice.

    Of each sentence: source tokens, decoder nodes, and the (query, key) pairs of their attention to
    one another; at each node the logits of `columns` vocabulary columns. A backward pass is twice
    the forward one.
    """
    # Weights that a token passes, of which each costs a multiply and an add: 2 FLOP. Queries, keys,
    # values and their output are four matrices of d * inner; of cross attention, whose keys and
    # values are of the source, a node pays two and a source token two. A gated feed-forward block
    # has three matrices, a plain one two.
    d, inner = config.d_model, config.inner_dim
    feed_forward = (3 if config.gated else 2) * d * config.d_ff
    encoder = config.num_layers * (4 * d * inner + feed_forward)
    cross_kv = config.num_decoder_layers * 2 * d * inner
    decoder = config.num_decoder_layers * (6 * d * inner + feed_forward)
    # In the encoder each token attends to all of its sentence; so does a node, across.
    pairs = config.num_layers * (sources_B**2).sum()
    pairs += config.num_decoder_layers * (self_pairs_B.sum() + (nodes_B * sources_B).sum())
    # A pair is a score, q . k, and a share of v in the sum: two products of `inner`, 4 FLOP each.
    forward = 2.0 * sources_B.sum() * (encoder + cross_kv)
    forward += 2.0 * nodes_B.sum() * (decoder + d * columns) + 4.0 * inner * pairs
    return float(forward * (3.0 if backward else 1.0))
