"""From the steps of a search back to sequences: what was fed, step by step, and by which beam.

Knows ids only; may not choose or score.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from groot_jax.generate.selection import Finished
from groot_jax.generate.walk import Running, take


class Trail(NamedTuple):
    """Row i: what was fed in step i. Row 0 is the start chunk."""

    chunk_IxBxKxW: jax.Array
    fill_IxBxK: jax.Array
    depth_IxBxK: jax.Array
    parent_IxBxK: jax.Array  # beam of the row before

    @staticmethod
    def begun(beam: Running, rows: int, k: int) -> Trail:
        """With the one beam that a search starts from, and room for `rows` rows of `k` beams."""
        B, _, W = beam.chunk_BxKxW.shape
        zeros_IxBxK = jnp.zeros((rows, B, k), jnp.int32)
        # [B, 1, W] -> [B, K, W]: K times the same, of which a search follows beam 0 alone.
        return Trail(
            jnp.zeros((rows, B, k, W), jnp.int32).at[0].set(beam.chunk_BxKxW),
            zeros_IxBxK.at[0].set(beam.fill_BxK),
            zeros_IxBxK,
            zeros_IxBxK,
        )

    def noted(self, row: jax.Array, beam: Running, parent_BxK: jax.Array) -> Trail:
        """With what is to be fed in step `row`."""
        return Trail(
            self.chunk_IxBxKxW.at[row].set(beam.chunk_BxKxW),
            self.fill_IxBxK.at[row].set(beam.fill_BxK),
            self.depth_IxBxK.at[row].set(beam.depth_BxK),
            self.parent_IxBxK.at[row].set(parent_BxK),
        )


def spelled(trail: Trail, finished: Finished, length: int, eos_id: int) -> jax.Array:
    """Follows the parent pointers from each end to the start, [B, K, length]; 0 after the end.

    The rows are read last to first. For the second result of the example in `beam_search.py`,
    which ended in row 2, beam 1 (depth: tokens before the chunk):

        row 2, beam 1   color        depth 4    parent 0    EOS at 5, color at 4
        row 1, beam 0   brand <1>    depth 2    parent 0    brand <1> at 2, 3
        row 0, beam 0   start <0>    depth 0                start <0> at 0, 1
    """
    rows, B, K, W = trail.chunk_IxBxKxW.shape
    # By vmap, so that each sentence's are its own: on a mesh other indices would be exchanged.
    write = jax.vmap(jax.vmap(lambda row_T, at_W, new_W: row_T.at[at_W].set(new_W, mode="drop")))

    def back(
        carry: tuple[jax.Array, jax.Array], row: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        slot_BxK, out_BxKxT = carry
        fill_BxK = take(trail.fill_IxBxK[row], slot_BxK)
        depth_BxK = take(trail.depth_IxBxK[row], slot_BxK)
        chunk_BxKxW = take(trail.chunk_IxBxKxW[row], slot_BxK)
        # Rows after a candidate's end are not its own: nothing is written, its slot stays.
        on_path_BxK = row <= finished.row_BxK
        last_BxK = row == finished.row_BxK
        filled_BxKxW = on_path_BxK[..., None] & (jnp.arange(W) < fill_BxK[..., None])
        # What is not to be written goes to the place behind the last, and mode="drop" drops it.
        place_BxKxW = jnp.where(
            filled_BxKxW, depth_BxK[..., None] + jnp.arange(W), out_BxKxT.shape[2]
        )
        out_BxKxT = write(out_BxKxT, place_BxKxW, chunk_BxKxW)
        end_BxK = jnp.where(last_BxK & finished.ended_BxK, depth_BxK + fill_BxK, out_BxKxT.shape[2])
        eos_BxKx1 = jnp.full((B, K, 1), eos_id, jnp.int32)
        out_BxKxT = write(out_BxKxT, end_BxK[..., None], eos_BxKx1)
        parent_BxK = take(trail.parent_IxBxK[row], slot_BxK)
        return (jnp.where(on_path_BxK, parent_BxK, slot_BxK), out_BxKxT), None

    # The start token takes the first place, a chunk's padding may reach beyond the last.
    out_BxKxT = jnp.zeros((B, K, length + 1), jnp.int32)
    start = finished.slot_BxK, out_BxKxT
    (_, out_BxKxT), _ = jax.lax.scan(back, start, jnp.arange(rows), reverse=True)
    return out_BxKxT[:, :, 1:]
