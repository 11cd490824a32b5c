"""The grammar's walk on the device: what may follow each beam, and where a choice leads.

Knows ids and tables (`generate/grammar.py`), no model and no scores but those it passes through.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from groot_jax.data.format import TAG
from groot_jax.generate.grammar import Grammar
from groot_jax.mesh.arrays import AnyArray


class Running(NamedTuple):
    """Where each running beam of a batch stands; int32 but for the score."""

    score_BxK: jax.Array  # s of the prefix up to the first token of `chunk`, -inf = no beam
    chunk_BxKxW: jax.Array  # tokens to feed next, then 0
    fill_BxK: jax.Array  # how many they are, at least 1
    depth_BxK: jax.Array  # tokens fed before them, the start token included
    pointer_BxK: jax.Array  # place in the template after them
    phase_BxK: jax.Array  # place inside a tag slot


def take(x_BxN: AnyArray, index_BxJ: jax.Array) -> jax.Array:
    """x[b, index[b, j]], [B, J, ...]; whatever axes x has after the second come along."""
    # take_along_axis wants as many axes: [B, J] -> [B, J, 1, ...].
    index = index_BxJ.reshape(*index_BxJ.shape, *[1] * (x_BxN.ndim - 2))
    return jnp.take_along_axis(x_BxN, index, axis=1)


def start(template_BxL: AnyArray, literals_BxL: jax.Array, width: int, start_id: int) -> Running:
    """The one beam of each sentence before the first step: the start token and what it forces.

    Of the template `<0> TAG <1> TAG EOS`, with width 2: the chunk `start <0>`, pointer 1.
    """
    B = template_BxL.shape[0]
    lead_Bx1 = jnp.minimum(literals_BxL[:, :1], width - 1)
    # One to the right, for the start token goes first; what wraps round to place 0 is replaced.
    lead_BxW = jnp.roll(template_BxL, 1, axis=1)[:, :width]
    lead_BxW = jnp.where(jnp.arange(width) <= lead_Bx1, lead_BxW, 0).at[:, 0].set(start_id)
    zeros_Bx1 = jnp.zeros((B, 1), jnp.int32)
    return Running(
        score_BxK=jnp.zeros((B, 1), jnp.float32),
        chunk_BxKxW=lead_BxW[:, None],
        fill_BxK=1 + lead_Bx1,
        depth_BxK=zeros_Bx1,
        pointer_BxK=lead_Bx1,
        phase_BxK=zeros_Bx1,
    )


def allowed(grammar: Grammar, template_BxL: AnyArray, beam: Running) -> jax.Array:
    """Columns that may follow each beam, bool [B, K, C].

    With the types `a` and `aba` (see `Grammar`), at the TAG of `TAG <1>`: O and a in phase 0, and
    in phase 2, after `a`, b or the literal <1>.
    """
    phase_BxK = beam.phase_BxK
    # A beam that ended (its score is -inf) may point beyond the template.
    last = template_BxL.shape[1] - 1
    item_BxK = take(template_BxL, jnp.minimum(beam.pointer_BxK, last))
    next_item_BxK = take(template_BxL, jnp.minimum(beam.pointer_BxK + 1, last))
    column_C = jnp.arange(grammar.columns_C.shape[0])
    at_tag_BxK = item_BxK == TAG
    closes_BxK = at_tag_BxK & grammar.terminal_G[phase_BxK]
    # One literal is legal: the item itself, or the one that closes a tag that may be complete.
    literal_BxK = jnp.where(closes_BxK, next_item_BxK, item_BxK)
    # No column is -1, so inside of a tag that is not complete no literal is. TAG is -1 too, and as
    # an index it would mean the last id: hence the maximum.
    literal_BxK = jnp.where(
        at_tag_BxK & ~closes_BxK, -1, grammar.column_of_V[jnp.maximum(literal_BxK, 0)]
    )
    literal_BxKxC = literal_BxK[..., None] == column_C
    tag_BxKxC = at_tag_BxK[..., None] & grammar.allowed_GxC[phase_BxK]
    return literal_BxKxC | tag_BxKxC


def advance(
    grammar: Grammar,
    template_BxL: AnyArray,
    literals_BxL: jax.Array,
    beam: Running,
    column_BxK: jax.Array,
    score_BxK: jax.Array,
) -> Running:
    """Each beam after it took a column: its next chunk, and where it stands after that.

    `beam` [B, K], all of whose fields are those of the parents, in the order of the beams to be.
    """
    width, L = beam.chunk_BxKxW.shape[2], template_BxL.shape[1]
    phase_BxK = beam.phase_BxK
    item_BxK = take(template_BxL, jnp.minimum(beam.pointer_BxK, L - 1))
    at_tag_BxK = item_BxK == TAG
    in_tag_BxK = at_tag_BxK & grammar.allowed_GxC[phase_BxK, column_BxK]
    closes_BxK = at_tag_BxK & ~in_tag_BxK
    done_BxK = in_tag_BxK & grammar.done_GxC[phase_BxK, column_BxK]
    # The literal behind a tag moves past both, a literal or the last piece of a tag past one item,
    # a piece that a tag may go on after past none.
    items_BxK = jnp.where(closes_BxK, 2, (~at_tag_BxK | done_BxK).astype(jnp.int32))
    pointer_BxK = beam.pointer_BxK + items_BxK
    next_BxK = jnp.where(in_tag_BxK, grammar.next_GxC[phase_BxK, column_BxK], phase_BxK)
    next_BxK = jnp.where(closes_BxK, grammar.end_phase_G[phase_BxK], next_BxK)

    # The chunk: the token, the pieces forced after it, then literals up to the next choice. For
    # W = 4 and a tag of two pieces: [play, list, <3>, 0], fill 3.
    chunk = [grammar.columns_C[column_BxK]]
    forced_BxKxP = grammar.forced_GxCxP[phase_BxK, column_BxK][..., : width - 1]
    forced_BxKxP = jnp.where(in_tag_BxK[..., None], forced_BxKxP, -1)
    fill_BxK = 1 + (forced_BxKxP >= 0).sum(-1)
    place_BxK = jnp.minimum(pointer_BxK, L - 1)
    # Inside of a tag the literals behind it must wait: the tag may go on.
    room_BxK = jnp.where(in_tag_BxK & ~done_BxK, 0, width - fill_BxK)
    literal_BxK = jnp.minimum(take(literals_BxL, place_BxK), room_BxK)
    for w in range(1, width):
        # The literal that place w of the chunk holds, counted from 0; negative: a forced piece.
        behind_BxK = w - fill_BxK
        literal = take(template_BxL, jnp.clip(place_BxK + behind_BxK, 0, L - 1))
        token_BxK = jnp.where((behind_BxK >= 0) & (behind_BxK < literal_BxK), literal, 0)
        if w <= forced_BxKxP.shape[2]:
            token_BxK = jnp.where(behind_BxK < 0, forced_BxKxP[..., w - 1], token_BxK)
        chunk.append(token_BxK)
    return Running(
        score_BxK=score_BxK,
        chunk_BxKxW=jnp.stack(chunk, -1),
        fill_BxK=fill_BxK + literal_BxK,
        depth_BxK=beam.depth_BxK + beam.fill_BxK,
        pointer_BxK=pointer_BxK + literal_BxK,
        phase_BxK=next_BxK,
    )


def literals_ahead(template_BxL: AnyArray, eos_id: int) -> jax.Array:
    """Literals from each place of the template up to the next tag or EOS, int32 [B, L].

    `<0> TAG <1> TAG EOS` -> 1 0 1 0 0. EOS stops it too: a beam ends by choosing it.
    """
    L = template_BxL.shape[1]
    stop_BxL = (template_BxL == TAG) | (template_BxL == eos_id)
    # The place of the next stop, the nearest of those to the right, less the place itself.
    at_BxL = jnp.where(stop_BxL, jnp.arange(L), L)
    return jax.lax.cummin(at_BxL, axis=1, reverse=True) - jnp.arange(L)
