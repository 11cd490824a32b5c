"""From the steps of a search back to sequences: what was fed, step by step, and by which beam.

Knows ids only; may not choose or score.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from groot_jax.generate.selection import Finished
from groot_jax.generate.walk import Beam, take


class Trail(NamedTuple):
    """Row t: what was fed in step t. Row 0 is the start chunk."""

    chunk_TxBxKxW: jax.Array
    fill_TxBxK: jax.Array
    depth_TxBxK: jax.Array
    parent_TxBxK: jax.Array  # beam of the row before

    @staticmethod
    def begun(beam: Beam, rows: int, k: int) -> Trail:
        """With the one beam that a search starts from, and room for `rows` rows of `k` beams."""
        B, _, W = beam.chunk_BxKxW.shape
        zeros_TxBxK = jnp.zeros((rows, B, k), jnp.int32)
        return Trail(
            jnp.zeros((rows, B, k, W), jnp.int32).at[0].set(beam.chunk_BxKxW),
            zeros_TxBxK.at[0].set(beam.fill_BxK),
            zeros_TxBxK,
            zeros_TxBxK,
        )

    def noted(self, row: jax.Array, beam: Beam, parent_BxK: jax.Array) -> Trail:
        """With what is to be fed in step `row`."""
        return Trail(
            self.chunk_TxBxKxW.at[row].set(beam.chunk_BxKxW),
            self.fill_TxBxK.at[row].set(beam.fill_BxK),
            self.depth_TxBxK.at[row].set(beam.depth_BxK),
            self.parent_TxBxK.at[row].set(parent_BxK),
        )


def spelled(trail: Trail, finished: Finished, length: int, eos_id: int) -> jax.Array:
    """Follows the parent pointers from each end to the start, [B, K, length]; 0 after the end."""
    rows, B, K, W = trail.chunk_TxBxKxW.shape
    # By vmap, so that each sentence's are its own: on a mesh other indices would be exchanged.
    write = jax.vmap(jax.vmap(lambda row_T, at_W, new_W: row_T.at[at_W].set(new_W, mode="drop")))

    def back(carry: tuple[jax.Array, jax.Array], row: jax.Array) -> tuple[Any, None]:
        slot_BxK, out_BxKxT = carry
        fill_BxK = take(trail.fill_TxBxK[row], slot_BxK)
        depth_BxK = take(trail.depth_TxBxK[row], slot_BxK)
        chunk_BxKxW = jnp.take_along_axis(trail.chunk_TxBxKxW[row], slot_BxK[..., None], axis=1)
        on_path_BxK = row <= finished.row_BxK
        last_BxK = row == finished.row_BxK
        filled_BxKxW = on_path_BxK[..., None] & (jnp.arange(W) < fill_BxK[..., None])
        place_BxKxW = jnp.where(
            filled_BxKxW, depth_BxK[..., None] + jnp.arange(W), out_BxKxT.shape[2]
        )
        out_BxKxT = write(out_BxKxT, place_BxKxW, chunk_BxKxW)
        end_BxK = jnp.where(last_BxK & finished.ended_BxK, depth_BxK + fill_BxK, out_BxKxT.shape[2])
        eos_BxKx1 = jnp.full((B, K, 1), eos_id, jnp.int32)
        out_BxKxT = write(out_BxKxT, end_BxK[..., None], eos_BxKx1)
        parent_BxK = take(trail.parent_TxBxK[row], slot_BxK)
        return (jnp.where(on_path_BxK, parent_BxK, slot_BxK), out_BxKxT), None

    # The start token takes the first place, a chunk's padding may reach beyond the last.
    out_BxKxT = jnp.zeros((B, K, length + 1), jnp.int32)
    start = finished.slot_BxK, out_BxKxT
    (_, out_BxKxT), _ = jax.lax.scan(back, start, jnp.arange(rows), reverse=True)
    return out_BxKxT[:, :, 1:]
