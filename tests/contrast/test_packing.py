"""Bins of token trees: everything is in one, and nothing sees its neighbours."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_jax.contrast.packing import Plan, gold_bucket, plan_bins, round_up
from groot_jax.contrast.tree import Forest, build_tree, plant
from groot_jax.model.tree_attention import tree_mask

BUCKETS = (4, 8, 16)
SEQUENCES = st.lists(st.integers(2, 4), max_size=6).map(lambda body: (*body, 1))
POOLS = st.lists(SEQUENCES, max_size=5)


def sizes_of(groups: int, most: int) -> st.SearchStrategy:
    return st.lists(
        st.tuples(st.integers(0, most), st.integers(1, 9)), min_size=groups, max_size=4 * groups
    ).map(lambda sizes: sizes[: len(sizes) // groups * groups])


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_a_plan_puts_every_tree_into_one_bin_of_its_group(data, groups):
    nodes, sources = zip(*data.draw(sizes_of(groups, 40)), strict=True)
    plan = plan_bins(nodes, sources, BUCKETS, 7, groups)
    per_group, rows = len(nodes) // groups, plan.rows // groups
    assert plan.rows == rows * groups and 1 <= rows <= per_group
    assert rows % 2 == 0 or rows in (1, per_group)
    taken = np.zeros((groups, rows, plan.nodes), int)
    read = np.zeros((groups, rows, plan.sources), int)
    for b in np.flatnonzero(nodes):
        at, first, start = plan.row_B[b], plan.node_B[b], plan.source_B[b]
        assert first + nodes[b] <= plan.nodes and start + sources[b] <= plan.sources
        taken[b // per_group, at, first : first + nodes[b]] += 1
        read[b // per_group, at, start : start + sources[b]] += 1
    assert taken.max() <= 1 and taken.sum() == sum(nodes)
    assert read.max() <= 1


def test_the_plan_is_the_cheapest_of_the_widths_that_hold_the_largest_tree():
    many = plan_bins([100] * 16, [10] * 16, (64, 128, 256, 512), 500)
    # Two trees fill a bin of 256 as one does 128, and take more attention.
    assert (many.rows, many.nodes, many.sources) == (16, 128, 64)
    mixed = plan_bins([200, *[50] * 15], [10] * 16, (64, 128, 256, 512), 500)
    assert (mixed.rows, mixed.nodes) == (4, 256)
    assert plan_bins([3], [1], (64,), 3).rows == 1


def test_source_tokens_of_a_bin_are_padded_to_sizes_of_their_own():
    def found(size: int, *buckets: int) -> int:
        return plan_bins([50] * 5, [size] * 5, buckets, 9).sources

    # Five sentences of 6, then of 20 and of 250 tokens in a bin of 256 nodes.
    assert [found(size, 64, 256) for size in (6, 20)] == [64, 128]
    assert [found(size, 256) for size in (6, 20, 250)] == [128, 128, 2048]


def test_sizes_beyond_the_buckets_are_multiples_of_the_last():
    assert [round_up(size, (4, 10)) for size in (1, 4, 5, 10, 11, 30, 31)] == [
        4, 4, 10, 10, 20, 30, 40,
    ]  # fmt: skip
    assert plan_bins([25, 3], [2, 2], (4, 10), 9).nodes == 30


@pytest.mark.parametrize(("trees", "mean", "shapes"), [(16, 7, 1), (16, 25, 1), (64, 12, 2)])
def test_batches_of_gold_alone_have_hardly_a_shape_but_one(trees: int, mean: int, shapes: int):
    rng = np.random.default_rng(0)
    nodes = 1 + rng.poisson(mean - 1, 5000)
    bucket = gold_bucket(nodes.tolist(), trees, 1024)
    plans = [
        plan_bins(nodes[first : first + trees].tolist(), [9] * trees, (bucket,), 99)
        for first in range(0, 4000, trees)
    ]
    found = Counter((plan.rows, plan.nodes) for plan in plans)
    # 64 trees of 12 nodes ask for two bins, and now and then first-fit needs two more.
    assert len(found) <= shapes and found.most_common()[0][1] >= 0.9 * len(plans)
    assert sum(rows * size for rows, size in found.elements()) < 1.5 * nodes[:4000].sum()


def test_a_bin_of_gold_alone_is_no_wider_than_what_pools_may_have_or_512():
    assert [gold_bucket([7] * 9, 16, most) for most in (1024, 100)] == [128, 64]
    assert gold_bucket([7] * 9, 512, 4096) == 512
    assert gold_bucket([100], 1, 40) == 40


def forest_of(pools: list, groups: int) -> tuple[Plan, Forest, np.ndarray]:
    rng = np.random.default_rng(0)
    source_BxS = np.where(np.arange(6) < rng.integers(1, 7, (len(pools), 1)), 5, 0)
    fused_BxT = rng.integers(10, 99, (len(pools), 7))
    trees = [build_tree(pool, 0) for pool in pools]
    sizes = [len(tree.tokens) for tree in trees]
    plan = plan_bins(sizes, (source_BxS != 0).sum(1).tolist(), BUCKETS, 7, groups)
    edges = max(len(tree.edge_labels) for tree in trees)
    return plan, plant(trees, plan, source_BxS, fused_BxT, 5, edges), fused_BxT


@pytest.mark.parametrize("groups", [1, 2])
@settings(max_examples=50, deadline=None)
@given(pools=st.lists(POOLS, min_size=1, max_size=4))
def test_a_forest_spells_every_candidate_and_no_node_sees_another_sentence(groups, pools):
    pools = pools * groups
    plan, forest, fused_BxT = forest_of(pools, groups)
    rows, N = plan.rows // groups, plan.nodes
    attend_RxNxN = np.asarray(tree_mask(forest.end_RxN))
    sizes = [len({ids[:t] for ids in pool for t in range(len(ids))}) for pool in pools]
    assert (forest.sentence_RxN >= 0).sum() == sum(sizes)
    same = forest.sentence_RxN[:, :, None] == forest.sentence_RxN[:, None]
    assert not (attend_RxNxN & ~same).any()
    for b, pool in enumerate(pools):
        group, sentence = divmod(b, len(pools) // groups)
        for m, ids in enumerate(pool):
            edges = np.flatnonzero(forest.path_BxMxE[b, m])
            assert forest.length_BxM[b, m] == len(edges) == len(ids)
            r, n = np.divmod(forest.edge_node_BxE[b, edges], N)
            r += group * rows
            order = np.argsort(forest.depth_RxN[r, n])
            edges, r, n = edges[order], r[order], n[order]
            assert tuple(forest.edge_label_BxE[b, edges].tolist()) == ids
            assert forest.token_RxN[r, n].tolist() == [0, *ids[:-1]]
            assert (forest.sentence_RxN[r, n] == sentence).all()
            assert forest.fused_RxN[r, n].tolist() == fused_BxT[b, : len(ids)].tolist()
            assert set(np.flatnonzero(attend_RxNxN[r[-1], n[-1]])) == set(n.tolist())
