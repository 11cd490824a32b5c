"""Ranked pools of labelings as the arrays of a contrastive update.

Host code: the last place that sees labelings on their way down to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from groot_jax.contrast.packing import plan_bins, round_up
from groot_jax.contrast.tree import ancestors, build_tree, plant
from groot_jax.contrast.update import PoolBatch
from groot_jax.data.batches import Batch
from groot_jax.data.format import Format
from groot_jax.reward.pool import PoolEntry


class Sizes(NamedTuple):
    """What the shapes of an update depend on: all processes have to give it the same ones."""

    nodes_B: list[int]  # of each sentence's token tree
    sources_B: list[int]  # of each sentence's source tokens
    edges: int  # of the largest tree

    @staticmethod
    def join(parts: Sequence[Sizes]) -> Sizes:
        """Those of processes that have some rows each, the others being empty."""
        return Sizes(
            [max(nodes) for nodes in zip(*(part[0] for part in parts), strict=True)],
            [max(sources) for sources in zip(*(part[1] for part in parts), strict=True)],
            max(part[2] for part in parts),
        )


def pool_batch(
    batch: Batch,
    pools: Mapping[int, Sequence[PoolEntry]],
    tokens_BxKxT: np.ndarray | None,
    format_: Format,
    *,
    size: int,
    start_token: int,
    buckets: Sequence[int],
    groups: int = 1,
    merge_sizes: Callable[[Sizes], Sizes] | None = None,
) -> PoolBatch:
    """Arrays of one update.

    Args:
      pools: pool of each example index; an example without one counts in the NLL term only.
      tokens_BxKxT: the beams' ids, for entries whose ids are no serialisation of a labeling.
      size: M, slots of a pool. One more holds gold where the pool does not, for the NLL term.
      buckets: sizes that a bin of trees may have.
      groups: so many equal parts of the batch share no bin, to be split over devices or updates.
      merge_sizes: where other processes have the other rows of the batch: theirs put together.
    """
    M = size + 1
    sequences, slots = _candidates(batch, pools, tokens_BxKxT, format_, M)
    trees = [build_tree(row, start_token) for row in sequences]
    sizes = Sizes(
        nodes_B=[len(tree.tokens) for tree in trees],
        sources_B=(batch.source_BxS != 0).sum(1).tolist(),
        edges=max(1, *(len(tree.labels) for tree in trees)),
    )
    if merge_sizes is not None:
        sizes = merge_sizes(sizes)
    plan = plan_bins(sizes.nodes_B, sizes.sources_B, buckets, groups)
    num_edges = round_up(sizes.edges, buckets)
    forest = plant(
        trees,
        plan,
        batch.source_BxS,
        batch.fused_target_BxT,
        M,
        num_edges,
        batch.aligned_BxT,
    )
    return PoolBatch(
        source_BxS=batch.source_BxS,
        fused_source_BxSxF=batch.fused_source_BxSxF,
        token_RxN=forest.token_RxN,
        depth_RxN=forest.depth_RxN,
        fused_RxN=forest.fused_RxN,
        aligned_RxN=forest.aligned_RxN,
        attend_RxNxN=ancestors(forest.parent_RxN, int(forest.depth_RxN.max())),
        sentence_RxN=forest.sentence_RxN,
        column_RxL=forest.column_RxL,
        edge_node_BxE=forest.edge_node_BxE,
        edge_label_BxE=forest.edge_label_BxE,
        path_BxMxE=forest.path_BxMxE,
        length_BxM=forest.length_BxM,
        rewards_BxM=slots.rewards_BxM,
        in_contrast_BxM=slots.in_contrast_BxM,
        gold_BxM=slots.gold_BxM,
        num_positions=batch.fused_target_BxT.shape[1],
        groups=groups,
    )


class _Slots(NamedTuple):
    """What is known of each slot of the pools; see `PoolBatch`."""

    rewards_BxM: np.ndarray
    in_contrast_BxM: np.ndarray
    gold_BxM: np.ndarray


def _candidates(
    batch: Batch,
    pools: Mapping[int, Sequence[PoolEntry]],
    tokens_BxKxT: np.ndarray | None,
    format_: Format,
    M: int,
) -> tuple[list[list[tuple[int, ...]]], _Slots]:
    """Output ids of each sentence's candidates, in the order of their slots, and what is in them.
    Gold stands behind the pool where that lacks it."""
    B = len(batch.index_B)
    slots = _Slots(
        rewards_BxM=np.zeros((B, M), np.float32),
        in_contrast_BxM=np.zeros((B, M), bool),
        gold_BxM=np.zeros((B, M), bool),
    )
    sequences: list[list[tuple[int, ...]]] = []
    for b, example in enumerate(batch.examples):
        row: list[tuple[int, ...]] = []
        sequences.append(row)
        if example is None:
            continue
        gold, words = example.sentence.labeling, example.sentence.words
        for m, entry in enumerate(pools.get(example.index, ())):
            if entry.well_formed or tokens_BxKxT is None:
                same = entry.labeling == gold and example.target
                ids = example.target if same else format_.target(entry.labeling, words)
                slots.gold_BxM[b, m] = bool(same)
            else:
                ids = tuple(t for t in tokens_BxKxT[b, entry.slot].tolist() if t)
            row.append(ids)
            slots.rewards_BxM[b, m] = entry.reward
            slots.in_contrast_BxM[b, m] = True
        if example.target and not slots.gold_BxM[b].any():
            slots.gold_BxM[b, len(row)] = True
            row.append(example.target)
    return sequences, slots
