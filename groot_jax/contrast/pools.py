"""Ranked pools of labelings as the arrays of a contrastive update.

Host code: the last place that sees labelings on their way down to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from groot_jax.contrast.packing import EDGES, plan_bins, round_up
from groot_jax.contrast.tree import build_tree, plant
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
        # By place: from other processes they come through JSON, as lists. Two processes with the
        # nodes [40, 25, 0, 0] and [0, 0, 31, 18] -> [40, 25, 31, 18].
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
      size: candidates of a pool, at most.
      buckets: sizes that a bin of trees may have.
      groups: so many equal parts of the batch share no bin, to be split over devices or updates.
      merge_sizes: where other processes have the other rows of the batch: theirs put together.
    """
    # One slot more than a pool has candidates: gold's, for the NLL term, where the pool lacks it.
    M = size + 1
    sequences, rewards_BxM, in_contrast_BxM, gold_BxM = _candidates(
        batch, pools, tokens_BxKxT, format_, M
    )
    trees = [build_tree(row, start_token) for row in sequences]
    sizes = Sizes(
        nodes_B=[len(tree.tokens) for tree in trees],
        # Padding is 0, and no source token is.
        sources_B=(batch.source_BxS != 0).sum(1).tolist(),
        edges=max(1, *(len(tree.edge_labels) for tree in trees)),
    )
    # Rows of other processes are padding here, without a tree: theirs come in by their sizes alone.
    if merge_sizes is not None:
        sizes = merge_sizes(sizes)
    T = batch.fused_target_BxT.shape[1]
    forest = plant(
        trees,
        plan_bins(sizes.nodes_B, sizes.sources_B, buckets, T, groups),
        batch.source_BxS,
        batch.fused_target_BxT,
        M,
        round_up(sizes.edges, EDGES),
        batch.aligned_BxT,
    )
    return PoolBatch(
        source_BxS=batch.source_BxS,
        fused_source_BxSxF=batch.fused_source_BxSxF,
        forest=forest,
        rewards_BxM=rewards_BxM,
        in_contrast_BxM=in_contrast_BxM,
        gold_BxM=gold_BxM,
        num_positions=T,
        groups=groups,
    )


def _candidates(
    batch: Batch,
    pools: Mapping[int, Sequence[PoolEntry]],
    tokens_BxKxT: np.ndarray | None,
    format_: Format,
    M: int,
) -> tuple[list[list[tuple[int, ...]]], np.ndarray, np.ndarray, np.ndarray]:
    """Output ids of each sentence's candidates, in the order of their slots, and what is in them:
    reward, whether it is contrasted, whether it is gold, [B, M] each; see `PoolBatch`.

    Gold stands behind the pool where that lacks it. For a pool of two without gold, M = 4: rewards
    .7 .2 0 0, contrasted 1 1 0 0, gold 0 0 1 0.
    """
    B = len(batch.index_B)
    rewards_BxM = np.zeros((B, M), np.float32)
    in_contrast_BxM, gold_BxM = np.zeros((B, M), bool), np.zeros((B, M), bool)
    sequences: list[list[tuple[int, ...]]] = []
    for b, example in enumerate(batch.examples):
        row: list[tuple[int, ...]] = []
        sequences.append(row)
        if example is None:
            continue
        gold, words = example.sentence.labeling, example.sentence.words
        for m, entry in enumerate(pools.get(example.index, ())):
            if entry.well_formed or tokens_BxKxT is None:
                # Gold has its ids already. Without a target it holds a type that cannot be written.
                same = entry.labeling == gold and example.target
                ids = example.target if same else format_.target(entry.labeling, words)
                gold_BxM[b, m] = bool(same)
            else:
                # What the model wrote, for the probability is that of these ids: the labeling they
                # are read as would be written in others. Padding is 0.
                ids = tuple(t for t in tokens_BxKxT[b, entry.slot].tolist() if t)
            row.append(ids)
            rewards_BxM[b, m] = entry.reward
            in_contrast_BxM[b, m] = True
        if example.target and not gold_BxM[b].any():
            gold_BxM[b, len(row)] = True
            row.append(example.target)
    return sequences, rewards_BxM, in_contrast_BxM, gold_BxM
