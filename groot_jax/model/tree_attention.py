"""Self-attention over token trees, in tiles of nodes that see few keys. Knows no parameters.

The nodes of a tree stand in depth-first order: those below node n follow it without a gap, as
n + 1 .. end[n] - 1. So n sees m, itself or a node above it, where m <= n < end[m].

It follows that a tile of nodes s .. s + Q - 1 sees nothing but itself and what is above s: a node
before s and above a later one has s below it, too. There is one such node a depth at most, so that
each query attends to P + Q keys instead of all N of its row. For rows of 512 nodes, up to 52 tokens
deep, P + Q = 51 + 64 = 115. With the tree a (b (c d) e (f)) and Q = 3:

    node         a b c | d e f        depth 0 1 2 | 2 1 2        end 6 4 3 | 4 6 6
    tile 1       sees d e f, and above d: a at depth 0, b at depth 1
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from groot_jax.mesh.arrays import AnyArray

# Fewest nodes of a tile: below, gathering keys for so many tiles costs what it saves.
_LEAST = 32


class Tiles(NamedTuple):
    """The nodes of B rows, each in G tiles of Q: what their queries see. Rows of tiles are those of
    row 0, then those of row 1."""

    above_BxGPxN: jax.Array  # bool: whether node n is above the tile's first one, at depth p
    mask: jax.Array  # bool [B*G, Q, P+Q]: of those above the first one, then of the tile
    depth_BGxQ: jax.Array  # of each query

    @property
    def size(self) -> int:
        """Q."""
        return int(self.mask.shape[1])

    def keys(self, x_BxNxE: jax.Array) -> jax.Array:
        """What each tile attends to of something that the nodes have, [B*G, P+Q, E]; 0 where there
        is no node above."""
        # By a product, since its gradient is one as well: that of a gather is a scatter.
        above_BxGPxE = jnp.matmul(
            self.above_BxGPxN.astype(x_BxNxE.dtype), x_BxNxE, precision=jax.lax.Precision.HIGHEST
        )
        rows, size, E = self.mask.shape[0], self.size, x_BxNxE.shape[2]
        return jnp.concatenate(
            [above_BxGPxE.reshape(rows, -1, E), x_BxNxE.reshape(rows, size, E)], 1
        )

    def positions(self, num_positions: int) -> tuple[jax.Array, jax.Array]:
        """Depths of queries and keys, one-hot: float32 [B*G, Q, T] and [B*G, P+Q, T]."""
        own_BGxQxT = jax.nn.one_hot(self.depth_BGxQ, num_positions, dtype=jnp.float32)
        rows, size, both = self.mask.shape
        # Key p of those above is the one at depth p.
        above_PxT = jnp.eye(both - size, num_positions, dtype=jnp.float32)
        above = jnp.broadcast_to(above_PxT, (rows, *above_PxT.shape))
        return own_BGxQxT, jnp.concatenate([above, own_BGxQxT], 1)


def tree_mask(end_BxN: AnyArray) -> jax.Array:
    """Which nodes see which, bool [B, N, N]; made where it is used, of N numbers a row."""
    node_N = jnp.arange(end_BxN.shape[1])
    below_BxNxN = node_N[:, None] < end_BxN[:, None, :]
    return (node_N <= node_N[:, None]) & below_BxNxN


def tile_size(nodes: int, num_positions: int) -> int:
    """Q for rows of so many nodes, whose depths are below `num_positions`; 0: in one piece.

    About as many nodes as a path has, so that P is no more than Q.
    """
    size = _LEAST
    while size < num_positions:
        size *= 2
    # Of 128 nodes a row and 52 positions 115 keys are left: not worth its price.
    return size if nodes % size == 0 and 2 * (size + num_positions) <= nodes else 0


def keys_a_query(nodes: int, num_positions: int) -> int:
    """Keys that each query of such rows attends to: P+Q, or all N of its row."""
    size = tile_size(nodes, num_positions)
    return size + num_positions - 1 if size else nodes


def in_tiles(end_BxN: jax.Array, depth_BxN: jax.Array, size: int, num_positions: int) -> Tiles:
    """The tiles of rows whose nodes stand in depth-first order."""
    B, N = end_BxN.shape
    G, P, node_N = N // size, num_positions - 1, jnp.arange(N)
    first_G = node_N[::size]
    # Whether node n has the first of tile g below it, by n < first and first < end[n].
    over_BxGxN = (node_N < first_G[:, None]) & (first_G[:, None] < end_BxN[:, None])
    above_BxGxPxN = over_BxGxN[:, :, None] & (depth_BxN[:, None, None] == jnp.arange(P)[:, None])
    # The end of what is below each of them; 0, and nobody sees it, where there is none.
    end_BxGxP = jnp.where(above_BxGxPxN, end_BxN[:, None, None], 0).max(-1)
    query_GxQ = node_N.reshape(G, size)
    sees_above = query_GxQ[:, :, None] < end_BxGxP[:, :, None]  # [B, G, Q, P]
    own_end_BxGxQ = end_BxN.reshape(B, G, size)
    sees_own = (query_GxQ[:, None] <= query_GxQ[..., None]) & (
        query_GxQ[..., None] < own_end_BxGxQ[:, :, None]
    )
    mask = jnp.concatenate([sees_above, sees_own], -1).reshape(B * G, size, P + size)
    return Tiles(above_BxGxPxN.reshape(B, G * P, N), mask, depth_BxN.reshape(B * G, size))
