"""Which token trees share a row of the decoder.

The trees of a batch differ widely in size: with a row for each, as wide as the largest, more than
half of an update is padding. Side by side in bins, where they do not see each other, they leave
little. Host code on sizes alone.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from groot_jax.model.tree_attention import keys_a_query

# Position-wise layers cost a node as much as attention to so many others. By operations it would be
# some 7 d_model (3584 on T5-small), but attention runs at a fraction of their rate: there three
# quarters of an update were position-wise at 192 nodes and 28 source tokens.
_PAIRS_A_NODE = 600
# Source tokens of a bin are padded to one of these. They are few beside its nodes: in bins of 256
# nodes retail has 40, and to attend to 256 places instead of 64 was a fifth of its update.
_SOURCES = (64, 128, 256, 512, 1024)
# Bins of gold alone: wider ones would attend to many other sentences' source tokens.
_GOLD = 512
# Edges of a sentence: a number each, so that to pad them costs less than a program more.
EDGES = (256, 512, 1024)


class Plan(NamedTuple):
    """R bins of N nodes and U source tokens, and where in them each of the B trees lies.

    Each of the groups has B / groups trees and R / groups bins; bins are counted within it.
    """

    groups: int
    rows: int  # R
    nodes: int  # N
    sources: int  # U
    row_B: np.ndarray  # a tree without nodes is nowhere: 0, 0, 0
    node_B: np.ndarray  # its first node in the bin
    source_B: np.ndarray  # its sentence's first source token in the bin

    def cost(self, num_positions: int) -> int:
        """Estimated time of the decoder, in pairs of attention."""
        keys = keys_a_query(self.nodes, num_positions) + self.sources
        return self.rows * self.nodes * (_PAIRS_A_NODE + keys)


def plan_bins(
    nodes_B: Sequence[int],
    sources_B: Sequence[int],
    buckets: Sequence[int],
    num_positions: int,
    groups: int = 1,
) -> Plan:
    """The cheapest plan for trees of so many nodes, whose sentences have so many source tokens; all
    depths are below `num_positions`.

    A pure function of the sizes. N is among `buckets`, or a multiple of the last; U is 64 (where
    there are bins below 256 nodes), 128, 256, 512, or a multiple of 1024. Each of `groups` equal
    groups of consecutive trees gets bins of its own, R / groups.
    """
    # Wide bins waste less of their ends, but each node attends to all source tokens of its bin, and
    # to all of its nodes where they are few.
    least = round_up(max(1, *nodes_B), buckets)
    widths = [least, *(n for n in buckets if n > least)]
    # 24 trees of 100 nodes: 24 bins of 128, 12 of 256, or 5 of 512, which are made 6.
    plans = [_plan(nodes_B, sources_B, n, buckets, groups) for n in widths]
    return min(plans, key=lambda plan: plan.cost(num_positions))


def gold_bucket(nodes: Sequence[int], trees: int, most: int) -> int:
    """The size of bins for gold alone, `trees` of such sizes at a time (those of the training
    split, 1 or more): what pools ask for would be half empty. At most `most`.

    16 queries of retail have 116 nodes, with a standard deviation of 8: one bin of 160, which
    hardly any batch outgrows, and so one program; in bins of 320, which fit its pools, an update
    takes 1.4 times as long.
    """
    total = trees * float(np.mean(nodes)) + 3 * (trees**0.5 * float(np.std(nodes)))
    most = min(most, _GOLD)
    rows = math.ceil(total / most)
    return min(most, math.ceil(total / rows / 32) * 32)


def round_up(size: int, buckets: Sequence[int]) -> int:
    """The first bucket that holds `size`, or a multiple of the last.

    Of the buckets 64, 128: 65 -> 128, 130 -> 256.
    """
    at = bisect.bisect_left(buckets, size)
    return buckets[at] if at < len(buckets) else -(-size // buckets[-1]) * buckets[-1]


def _plan(
    nodes_B: Sequence[int], sources_B: Sequence[int], N: int, buckets: Sequence[int], groups: int
) -> Plan:
    """Bins of N nodes: the largest tree first, each into the first bin with room for it.

    First-fit decreasing: at most 11/9 of the fewest bins, and 6/9 of one (Dosa, 2007). For N = 8,
    trees of 3, 5, 2, 4 nodes -> bins 5 3 and 4 2.
    """
    B = len(nodes_B)
    per_group = B // groups
    row_B, node_B, source_B = np.zeros((3, B), np.int32)
    most_rows = most_sources = 1
    for first in range(0, B, per_group):
        bins: list[tuple[int, int]] = []  # nodes and source tokens in each
        # Stable: trees of one size stay in their order, so that all hosts have the same plan.
        for b in sorted(range(first, first + per_group), key=lambda b: -nodes_B[b]):
            if not nodes_B[b]:
                continue
            fits = (r for r, (nodes, _) in enumerate(bins) if nodes + nodes_B[b] <= N)
            row = next(fits, len(bins))
            if row == len(bins):
                bins.append((0, 0))
            # A tree starts where the last one of its bin ends, and so do its source tokens. Those
            # are not limited: U becomes what the fullest bin needs.
            row_B[b], (node_B[b], source_B[b]) = row, bins[row]
            bins[row] = (node_B[b] + nodes_B[b], source_B[b] + sources_B[b])
        most_rows = max(most_rows, len(bins))
        most_sources = max(most_sources, *(sources for _, sources in bins), 1)
    # Even, so that there are fewer shapes to compile for: 1, 2, 4, 6, ... rows a group; never more
    # than trees, each of which fits into a bin of its own.
    rows = most_rows if most_rows == 1 else min(most_rows + most_rows % 2, per_group)
    # Who has bins of 256 nodes and more wants few programs. From 64 on, 300 updates of
    # mit_restaurant would have 25 instead of 17, and compile for longer than they save.
    few = buckets[0] >= 256
    U = round_up(most_sources, _SOURCES[1:] if few else _SOURCES)
    return Plan(groups, rows * groups, N, U, row_B, node_B, source_B)
