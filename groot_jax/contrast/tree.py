"""The candidates of a sentence as one token tree: each distinct prefix is computed once.

Host code on plain ids. The M candidates of a pool differ in a few tags and share long prefixes, so
the decoder runs over the N distinct prefixes instead of M * T positions: a node is a prefix y_<t,
its input token is y_{t-1}, and an edge is a node with a next token, scored once however many
candidates take it. s(candidate) is the sum over the edges on its path.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Tree(NamedTuple):
    """A batch of token trees, padded to N nodes and N edges a sentence.

    Every node but the first is entered by one edge, and the ends (EOS) are edges without a node, so
    E edges = nodes - 1 + distinct candidates; both are padded to the same bucket.
    """

    token_BxN: np.ndarray  # input token of each node: the start token at the root
    depth_BxN: np.ndarray  # number of target tokens before it
    parent_BxN: np.ndarray  # node it hangs on; the root and padding point at themselves
    edge_node_BxN: np.ndarray  # node at which an edge's token is predicted
    edge_label_BxN: np.ndarray  # that token, 0 = padding
    path_BxMxN: np.ndarray  # bool: candidate m takes edge e
    length_BxM: np.ndarray  # tokens of each candidate, 0 = padding


def build_tree(
    pools: Sequence[Sequence[Sequence[int]]],
    num_candidates: int,
    buckets: Sequence[int],
    start_token: int,
) -> Tree:
    """Merges each sentence's candidates (ids, EOS last) into a tree.

    Padded to the first of `buckets` that holds every sentence, or to a multiple of the last.
    """
    B, M = len(pools), num_candidates
    tries = [_merge(pool, start_token) for pool in pools]
    need = max((max(len(t.tokens), len(t.labels)) for t in tries), default=1)
    at = bisect.bisect_left(buckets, need)
    N = buckets[at] if at < len(buckets) else -(-need // buckets[-1]) * buckets[-1]
    tree = Tree(
        token_BxN=np.zeros((B, N), np.int32),
        depth_BxN=np.zeros((B, N), np.int32),
        parent_BxN=np.tile(np.arange(N, dtype=np.int32), (B, 1)),
        edge_node_BxN=np.zeros((B, N), np.int32),
        edge_label_BxN=np.zeros((B, N), np.int32),
        path_BxMxN=np.zeros((B, M, N), bool),
        length_BxM=np.zeros((B, M), np.int32),
    )
    for b, (pool, trie) in enumerate(zip(pools, tries, strict=True)):
        nodes, edges = len(trie.tokens), len(trie.labels)
        tree.token_BxN[b, :nodes] = trie.tokens
        tree.depth_BxN[b, :nodes] = trie.depths
        tree.parent_BxN[b, :nodes] = trie.parents
        tree.edge_node_BxN[b, :edges] = trie.sources
        tree.edge_label_BxN[b, :edges] = trie.labels
        for m, edges_of_path in enumerate(trie.paths):
            tree.path_BxMxN[b, m, edges_of_path] = True
            tree.length_BxM[b, m] = len(pool[m])
    return tree


class _Trie(NamedTuple):
    tokens: list[int]
    depths: list[int]
    parents: list[int]
    sources: list[int]
    labels: list[int]
    paths: list[list[int]]


def _merge(pool: Sequence[Sequence[int]], start_token: int) -> _Trie:
    trie = _Trie([start_token], [0], [0], [], [], [])
    edge_at: dict[tuple[int, int], int] = {}  # (node, next token) -> edge
    node_at: dict[int, int] = {}  # edge -> the node that it enters
    for sequence in pool:
        node, path = 0, []
        for t, token in enumerate(sequence):
            key = (node, token)
            edge = edge_at.get(key)
            if edge is None:
                edge = edge_at[key] = len(trie.labels)
                trie.sources.append(node)
                trie.labels.append(token)
            path.append(edge)
            if t + 1 == len(sequence):
                break
            child = node_at.get(edge)
            if child is None:
                child = node_at[edge] = len(trie.tokens)
                trie.tokens.append(token)
                trie.depths.append(t + 1)
                trie.parents.append(node)
            node = child
        trie.paths.append(path)
    return trie


def ancestors(parent_BxN: np.ndarray, max_depth: int) -> np.ndarray:
    """Which nodes a node may attend to: itself and all nodes above it, bool [B, N, N].

    Paths are followed `max_depth` steps up, the depth of the deepest node.
    """
    B, N = parent_BxN.shape
    mask_BxNxN = np.zeros((B, N, N), bool)
    rows_B = np.arange(B)[:, None]
    at_BxN = np.broadcast_to(np.arange(N), (B, N))
    for _ in range(max_depth + 1):
        mask_BxNxN[rows_B, np.arange(N)[None], at_BxN] = True
        at_BxN = np.take_along_axis(parent_BxN, at_BxN, 1)
    return mask_BxNxN
