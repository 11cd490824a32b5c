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


class Tree(NamedTuple):
    """The token tree of a sentence.

    Every node but the first is entered by one edge, and the ends (EOS) are edges without a node, so
    there are nodes - 1 + distinct candidates edges.
    """

    tokens: list[int]  # input token of each node: the start token at the root
    depths: list[int]  # number of target tokens before it
    parents: list[int]  # node it hangs on; the root at itself
    sources: list[int]  # node at which each edge's token is predicted
    labels: list[int]  # that token
    paths: list[list[int]]  # edges of each candidate, in order


class Forest(NamedTuple):
    """The trees of B sentences in R bins of N nodes and L source tokens (see `packing.py`).

    Sentences and bins are counted within their group. Edges stay with their sentence, padded to E.
    """

    token_RxN: np.ndarray
    depth_RxN: np.ndarray
    fused_RxN: np.ndarray  # id whose embedding is added to the token's
    aligned_RxN: np.ndarray | None  # place in the bin's L of the encoder output added to it
    parent_RxN: np.ndarray  # in the bin; roots and padding point at themselves
    sentence_RxN: np.ndarray  # whose node it is, -1: padding
    column_RxL: np.ndarray  # source tokens of the bin's sentences, as b * S + s; -1: padding
    edge_node_BxE: np.ndarray  # r * N + n
    edge_label_BxE: np.ndarray  # 0: padding
    path_BxMxE: np.ndarray  # bool: candidate m takes edge e
    length_BxM: np.ndarray  # tokens of each candidate, 0: padding


def build_tree(pool: Sequence[Sequence[int]], start_token: int) -> Tree:
    """Merges a sentence's candidates (ids, EOS last) into a tree; no candidates: no node."""
    if not pool:
        return Tree([], [], [], [], [], [])
    tree = Tree([start_token], [0], [0], [], [], [])
    edge_at: dict[tuple[int, int], int] = {}  # (node, next token) -> edge
    node_at: dict[int, int] = {}  # edge -> the node that it enters
    for sequence in pool:
        node, path = 0, []
        for t, token in enumerate(sequence):
            key = (node, token)
            edge = edge_at.get(key)
            if edge is None:
                edge = edge_at[key] = len(tree.labels)
                tree.sources.append(node)
                tree.labels.append(token)
            path.append(edge)
            if t + 1 == len(sequence):
                break
            child = node_at.get(edge)
            if child is None:
                child = node_at[edge] = len(tree.tokens)
                tree.tokens.append(token)
                tree.depths.append(t + 1)
                tree.parents.append(node)
            node = child
        tree.paths.append(path)
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
    """Lays each tree where the plan says; E = `num_edges`, which holds the largest.

    fused_target_BxT: id that goes with the target tokens of a depth, 0: none.
    aligned_BxT: source position that goes with them; None: none does.
    """
    (B, S), M, R, N = source_BxS.shape, num_candidates, plan.rows, plan.nodes
    E = num_edges
    forest = Forest(
        token_RxN=np.zeros((R, N), np.int32),
        depth_RxN=np.zeros((R, N), np.int32),
        fused_RxN=np.zeros((R, N), np.int32),
        aligned_RxN=None if aligned_BxT is None else np.zeros((R, N), np.int32),
        parent_RxN=np.tile(np.arange(N, dtype=np.int32), (R, 1)),
        sentence_RxN=np.full((R, N), -1, np.int32),
        column_RxL=np.full((R, plan.sources), -1, np.int32),
        edge_node_BxE=np.zeros((B, E), np.int32),
        edge_label_BxE=np.zeros((B, E), np.int32),
        path_BxMxE=np.zeros((B, M, E), bool),
        length_BxM=np.zeros((B, M), np.int32),
    )
    for b, tree in enumerate(trees):
        if not tree.tokens:
            continue
        group, sentence = divmod(b, B // plan.groups)
        row, first = group * (R // plan.groups) + plan.row_B[b], plan.node_B[b]
        nodes, edges = slice(first, first + len(tree.tokens)), len(tree.labels)
        forest.token_RxN[row, nodes] = tree.tokens
        forest.depth_RxN[row, nodes] = tree.depths
        depths = np.minimum(tree.depths, fused_target_BxT.shape[1] - 1)
        forest.fused_RxN[row, nodes] = fused_target_BxT[b, depths]
        if forest.aligned_RxN is not None and aligned_BxT is not None:
            # A sentence's source tokens lie in the bin as in the sentence, without its padding.
            forest.aligned_RxN[row, nodes] = plan.source_B[b] + aligned_BxT[b, depths]
        forest.parent_RxN[row, nodes] = np.add(tree.parents, first)
        forest.sentence_RxN[row, nodes] = sentence
        columns, start = np.flatnonzero(source_BxS[b]), plan.source_B[b]
        forest.column_RxL[row, start : start + len(columns)] = sentence * S + columns
        forest.edge_node_BxE[b, :edges] = np.add(tree.sources, plan.row_B[b] * N + first)
        forest.edge_label_BxE[b, :edges] = tree.labels
        for m, path in enumerate(tree.paths):
            forest.path_BxMxE[b, m, path] = True
            forest.length_BxM[b, m] = len(path)
    return forest


def ancestors(parent_RxN: np.ndarray, max_depth: int) -> np.ndarray:
    """Which nodes a node may attend to: itself and all nodes above it, bool [R, N, N].

    Paths are followed `max_depth` steps up, the depth of the deepest node.
    """
    R, N = parent_RxN.shape
    mask_RxNxN = np.zeros((R, N, N), bool)
    rows_R = np.arange(R)[:, None]
    at_RxN = np.broadcast_to(np.arange(N), (R, N))
    for _ in range(max_depth + 1):
        mask_RxNxN[rows_R, np.arange(N)[None], at_RxN] = True
        at_RxN = np.take_along_axis(parent_RxN, at_RxN, 1)
    return mask_RxNxN
