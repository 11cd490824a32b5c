"""The grammar's walk on the device: what may follow each beam, and where a choice leads.

Knows ids and tables (`generate/grammar.py`), no model and no scores but those it passes through.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from groot_jax.generate.grammar import TAG, Chunks, Grammar, chunks, forced_runs


class GrammarTables(NamedTuple):
    """`Grammar` on the device, its forced runs followed; see there for each table."""

    columns_C: jax.Array
    column_of_V: jax.Array
    allowed_GxC: jax.Array
    run_GxCxP: jax.Array
    next_GxC: jax.Array
    done_GxC: jax.Array
    terminal_G: jax.Array
    end_phase_G: jax.Array


class SearchPlan:
    """A grammar as the search needs it: tables on the device, and the chunks of a length."""

    def __init__(self, grammar: Grammar, vocab_size: int) -> None:
        self._grammar = grammar
        self._runs = forced_runs(grammar)
        column_of_V = np.full(vocab_size, -1, np.int32)
        column_of_V[grammar.columns_C] = np.arange(len(grammar.columns_C))
        self.tables = GrammarTables(
            jnp.asarray(grammar.columns_C, jnp.int32),
            jnp.asarray(column_of_V),
            jnp.asarray(grammar.allowed_GxC),
            jnp.asarray(self._runs.run_GxCxP),
            jnp.asarray(self._runs.next_GxC, jnp.int32),
            jnp.asarray(self._runs.done_GxC),
            jnp.asarray(grammar.terminal_G),
            jnp.asarray(grammar.end_phase_G, jnp.int32),
        )

    def chunks(self, length: int, use_grammar: bool) -> Chunks:
        """Chunks of outputs of up to `length` ids; one token each where nothing is forced."""
        if not use_grammar:
            return Chunks(width=1, steps=length, even=True)
        return chunks(self._grammar, self._runs, length)


class Beam(NamedTuple):
    """Where each running beam of a batch stands."""

    score_BxK: jax.Array  # s of the prefix up to the first token of `chunk`, -inf = no beam
    chunk_BxKxW: jax.Array  # tokens to feed next, then 0
    fill_BxK: jax.Array  # how many they are, at least 1
    depth_BxK: jax.Array  # tokens fed before them, the start token included
    pointer_BxK: jax.Array  # place in the template after them
    phase_BxK: jax.Array  # place inside a tag slot


def take(x_BxK: jax.Array, index_BxJ: jax.Array) -> jax.Array:
    """[B, J]: x[b, index[b, j]]."""
    return jnp.take_along_axis(x_BxK, index_BxJ, axis=1)


def start(template_BxL: jax.Array, literals_BxL: jax.Array, width: int, start_id: int) -> Beam:
    """The one beam of each sentence before the first step: the start token and what it forces."""
    B = template_BxL.shape[0]
    lead_Bx1 = jnp.minimum(literals_BxL[:, :1], width - 1)
    lead_BxW = jnp.roll(template_BxL, 1, axis=1)[:, :width]
    lead_BxW = jnp.where(jnp.arange(width) <= lead_Bx1, lead_BxW, 0).at[:, 0].set(start_id)
    zeros_Bx1 = jnp.zeros((B, 1), jnp.int32)
    return Beam(
        score_BxK=jnp.zeros((B, 1), jnp.float32),
        chunk_BxKxW=lead_BxW[:, None],
        fill_BxK=1 + lead_Bx1,
        depth_BxK=zeros_Bx1,
        pointer_BxK=lead_Bx1,
        phase_BxK=zeros_Bx1,
    )


def allowed(tables: GrammarTables, template_BxL: jax.Array, beam: Beam) -> jax.Array:
    """Columns that may follow each beam, [B, K, C]."""
    phase_BxK = beam.phase_BxK
    last = template_BxL.shape[1] - 1
    item_BxK = take(template_BxL, jnp.minimum(beam.pointer_BxK, last))
    next_item_BxK = take(template_BxL, jnp.minimum(beam.pointer_BxK + 1, last))
    column_C = jnp.arange(tables.columns_C.shape[0])
    at_tag_BxK = item_BxK == TAG
    closes_BxK = at_tag_BxK & tables.terminal_G[phase_BxK]
    # One literal is legal: the item itself, or the one that closes a tag that may be complete.
    literal_BxK = jnp.where(closes_BxK, next_item_BxK, item_BxK)
    literal_BxK = jnp.where(
        at_tag_BxK & ~closes_BxK, -1, tables.column_of_V[jnp.maximum(literal_BxK, 0)]
    )
    literal_BxKxC = literal_BxK[..., None] == column_C
    tag_BxKxC = at_tag_BxK[..., None] & tables.allowed_GxC[phase_BxK]
    return literal_BxKxC | tag_BxKxC


def advance(
    tables: GrammarTables,
    template_BxL: jax.Array,
    literals_BxL: jax.Array,
    beam: Beam,
    column_BxK: jax.Array,
    score_BxK: jax.Array,
) -> Beam:
    """Each beam after it took a column: its next chunk, and where it stands after that."""
    width, L = beam.chunk_BxKxW.shape[2], template_BxL.shape[1]
    phase_BxK = beam.phase_BxK
    item_BxK = take(template_BxL, jnp.minimum(beam.pointer_BxK, L - 1))
    at_tag_BxK = item_BxK == TAG
    in_tag_BxK = at_tag_BxK & tables.allowed_GxC[phase_BxK, column_BxK]
    closes_BxK = at_tag_BxK & ~in_tag_BxK
    done_BxK = in_tag_BxK & tables.done_GxC[phase_BxK, column_BxK]
    step_BxK = jnp.where(closes_BxK, 2, (~at_tag_BxK | done_BxK).astype(jnp.int32))
    pointer_BxK = beam.pointer_BxK + step_BxK
    next_BxK = jnp.where(in_tag_BxK, tables.next_GxC[phase_BxK, column_BxK], phase_BxK)
    next_BxK = jnp.where(closes_BxK, tables.end_phase_G[phase_BxK], next_BxK)

    # The chunk: the token, its forced run, then literals up to the next choice.
    chunk = [tables.columns_C[column_BxK]]
    run_BxKxP = tables.run_GxCxP[phase_BxK, column_BxK][..., : width - 1]
    run_BxKxP = jnp.where(in_tag_BxK[..., None], run_BxKxP, -1)
    fill_BxK = 1 + (run_BxKxP >= 0).sum(-1)
    place_BxK = jnp.minimum(pointer_BxK, L - 1)
    room_BxK = jnp.where(in_tag_BxK & ~done_BxK, 0, width - fill_BxK)
    literal_BxK = jnp.minimum(take(literals_BxL, place_BxK), room_BxK)
    for w in range(1, width):
        behind_BxK = w - fill_BxK
        literal = take(template_BxL, jnp.clip(place_BxK + behind_BxK, 0, L - 1))
        token_BxK = jnp.where((behind_BxK >= 0) & (behind_BxK < literal_BxK), literal, 0)
        if w <= run_BxKxP.shape[2]:
            token_BxK = jnp.where(behind_BxK < 0, run_BxKxP[..., w - 1], token_BxK)
        chunk.append(token_BxK)
    return Beam(
        score_BxK=score_BxK,
        chunk_BxKxW=jnp.stack(chunk, -1),
        fill_BxK=fill_BxK + literal_BxK,
        depth_BxK=beam.depth_BxK + beam.fill_BxK,
        pointer_BxK=pointer_BxK + literal_BxK,
        phase_BxK=next_BxK,
    )


def literals_ahead(template_BxL: jax.Array, eos_id: int) -> jax.Array:
    """Literals from each place of the template up to the next tag or EOS, [B, L]."""
    L = template_BxL.shape[1]
    stop_BxL = (template_BxL == TAG) | (template_BxL == eos_id)
    at_BxL = jnp.where(stop_BxL, jnp.arange(L), L)
    return jax.lax.cummin(at_BxL, axis=1, reverse=True) - jnp.arange(L)
