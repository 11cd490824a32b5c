"""The candidates of a sentence as one token tree: each distinct prefix is computed once.

Host code on plain ids. The M candidates of a pool differ in a few tags and share long prefixes, so
the decoder runs over the distinct prefixes instead of M * T positions: a node is a prefix y_<t, its
input token is y_{t-1}, and an edge is a node with a next token, scored once however many candidates
take it. s(candidate) is the sum over the edges on its path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from groot_jax.contrast.packing import Plan
from groot_jax.mesh.arrays import AnyArray


class Tree(NamedTuple):
    """The token tree of a sentence.

    Every node but the first is entered by one edge, and the ends (EOS) are edges without a node, so
    there are nodes - 1 + distinct candidates edges. The candidates `a b EOS` and `a EOS`:

        node 0  start token    edge 0: a
        node 1  a              edge 1: b, edge 3: EOS
        node 2  b              edge 2: EOS                 paths: 0 1 2 and 0 3

    Nodes stand in depth-first order, and all three end at 3.
    """

    tokens: list[int]  # input token of each node: the start token at the root
    depths: list[int]  # number of target tokens before it
    ends: list[int]  # first node after those below it, which follow it
    edge_nodes: list[int]  # node at which each edge's token is predicted
    edge_labels: list[int]  # that token
    paths: list[list[int]]  # edges of each candidate, in order


class Forest(NamedTuple):
    """The trees of B sentences in R bins of N nodes and U source tokens (see `packing.py`).

    Sentences and bins are counted within their group. Edges stay with their sentence, padded to E.
    All int32 but for the one that is bool.
    """

    token_RxN: AnyArray
    depth_RxN: AnyArray
    fused_RxN: AnyArray  # id whose embedding is added to the token's
    aligned_RxN: AnyArray | None  # place in the bin's U of the encoder output added to it
    end_RxN: AnyArray  # first node after those below it: see `model/tree_attention.py`
    sentence_RxN: AnyArray  # whose node it is, -1: padding
    source_place_RxU: AnyArray  # b * S + s of each source token of the bin; -1: padding
    edge_node_BxE: AnyArray  # r * N + n
    edge_label_BxE: AnyArray  # 0: padding
    path_BxMxE: AnyArray  # bool: candidate m takes edge e
    length_BxM: AnyArray  # tokens of each candidate, 0: padding


def build_tree(pool: Sequence[Sequence[int]], start_token: int) -> Tree:
    """Merges a sentence's candidates (ids, EOS last) into a tree; no candidates: no node."""
    # No candidates: a row of padding, or a sentence whose gold cannot be written.
    if not pool:
        return Tree([], [], [], [], [], [])
    tree = Tree([start_token], [0], [0], [], [], [[] for _ in pool])
    edge_at: dict[tuple[int, int], int] = {}  # (node, next token) -> edge
    node_at: dict[int, int] = {}  # edge -> the node that it enters
    # Sorted, sequences that go on alike follow one another: nodes come in depth-first order.
    for candidate in sorted(range(len(pool)), key=lambda m: tuple(pool[m])):
        sequence, node, path = pool[candidate], 0, tree.paths[candidate]
        # Down the tree as long as the prefix is known, then along edges and nodes of its own.
        for t, token in enumerate(sequence):
            edge = edge_at.setdefault((node, token), len(tree.edge_labels))
            if edge == len(tree.edge_labels):
                tree.edge_nodes.append(node)
                tree.edge_labels.append(token)
            path.append(edge)
            if t + 1 == len(sequence):
                break  # Nothing is predicted after EOS, so its edge enters no node.
            node = node_at.setdefault(edge, len(tree.tokens))
            if node == len(tree.tokens):
                tree.tokens.append(token)
                tree.depths.append(t + 1)
                tree.ends.append(0)
    # Back to front: behind a node and what is below it comes the next one no deeper.
    next_at = [len(tree.tokens)] * (max(tree.depths) + 1)  # depth -> the next node no deeper
    for node in reversed(range(len(tree.tokens))):
        depth = tree.depths[node]
        tree.ends[node] = next_at[depth]
        next_at[depth:] = [node] * (len(next_at) - depth)
    return tree


def plant(
    trees: Sequence[Tree],
    plan: Plan,
    source_BxS: np.ndarray,
    fused_target_BxT: np.ndarray,
    num_candidates: int,
    num_edges: int,
    aligned_BxT: np.ndarray | None = None,
) -> Forest:
    """Lays each tree where the plan says; M = `num_candidates`, E = `num_edges`, which hold the
    largest.

    fused_target_BxT: id that goes with the target tokens of a depth, 0: none.
    aligned_BxT: source position that goes with them; None: none does.
    """
    (B, S), M, R, N = source_BxS.shape, num_candidates, plan.rows, plan.nodes
    forest = Forest(
        token_RxN=np.zeros((R, N), np.int32),
        depth_RxN=np.zeros((R, N), np.int32),
        fused_RxN=np.zeros((R, N), np.int32),
        aligned_RxN=None if aligned_BxT is None else np.zeros((R, N), np.int32),
        # Nothing is below padding, which sees itself alone.
        end_RxN=np.tile(np.arange(1, N + 1, dtype=np.int32), (R, 1)),
        sentence_RxN=np.full((R, N), -1, np.int32),
        source_place_RxU=np.full((R, plan.sources), -1, np.int32),
        edge_node_BxE=np.zeros((B, num_edges), np.int32),
        edge_label_BxE=np.zeros((B, num_edges), np.int32),
        path_BxMxE=np.zeros((B, M, num_edges), bool),
        length_BxM=np.zeros((B, M), np.int32),
    )
    for b, tree in enumerate(trees):
        if not tree.tokens:
            continue
        # The plan counts bins within a group, arrays have them one group after the other: of 8
        # sentences and 6 bins in 2 groups, sentence 5 is sentence 1 of group 1, its bin 0 bin 3.
        group, sentence = divmod(b, B // plan.groups)
        row, first = group * (R // plan.groups) + plan.row_B[b], plan.node_B[b]
        # Node n of a tree becomes first + n of its bin; edge e stays edge e of its sentence.
        nodes, edges = slice(first, first + len(tree.tokens)), len(tree.edge_labels)
        forest.token_RxN[row, nodes] = tree.tokens
        forest.depth_RxN[row, nodes] = tree.depths
        depths = np.minimum(tree.depths, fused_target_BxT.shape[1] - 1)
        forest.fused_RxN[row, nodes] = fused_target_BxT[b, depths]
        if forest.aligned_RxN is not None and aligned_BxT is not None:
            # A sentence's source tokens lie in the bin as in the sentence, without its padding.
            forest.aligned_RxN[row, nodes] = plan.source_B[b] + aligned_BxT[b, depths]
        forest.end_RxN[row, nodes] = np.add(tree.ends, first)
        forest.sentence_RxN[row, nodes] = sentence
        places, start = np.flatnonzero(source_BxS[b]), plan.source_B[b]
        forest.source_place_RxU[row, start : start + len(places)] = sentence * S + places
        forest.edge_node_BxE[b, :edges] = np.add(tree.edge_nodes, plan.row_B[b] * N + first)
        forest.edge_label_BxE[b, :edges] = tree.edge_labels
        for m, path in enumerate(tree.paths):
            forest.path_BxMxE[b, m, path] = True
            forest.length_BxM[b, m] = len(path)
    return forest
