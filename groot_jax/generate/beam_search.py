"""The jitted beam search: top-k label sequences with their scores, best first.

Works on ids and scores alone and may not know what a word or a span is; the grammar comes in as
tables (`generate/grammar.py`), the model as the methods of `model/t5.py`.

How a step goes. The K running beams of a sentence are K new nodes of its token tree: their keys and
values are written to cache slots t*K .. t*K+K-1 and never move again. `ancestor_BxKxT` says which
slot of each earlier step lies on a beam's own path, and attention is masked to those slots, so that
choosing new beams reorders K*T small integers and not the cache. Tokens and parent pointers are
kept per step; one backtrack at the end spells the sequences out. For K = 2, T = 3 and a sentence of
two words that end at step 2:

    step 0   tokens brand O       parent 0 0      running -0.1 -2.4
    step 1   tokens I     color   parent 0 0      running -0.3 -1.6      (both from `brand`)
    step 2   EOS ends both        slot   0 1      scores  -0.3 -1.6
    result   [brand I EOS], [brand color EOS]
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from groot_jax.generate.grammar import TAG, Grammar
from groot_jax.model.t5 import T5

NEG_INF = -jnp.inf
# Of an input field: numpy on the host, jax.Array once placed or traced.
Array: TypeAlias = Any


class SearchInput(NamedTuple):
    """One batch of sentences as the search reads it."""

    source_BxS: Array  # vocabulary ids, pad 0
    fused_source_BxS: Array  # ids of embeddings added on the source side, 0 = none
    template_BxL: Array  # literal ids and TAG slots, EOS last; padded with EOS
    fused_target_BxT: Array  # ids of embeddings added at each decoder step, 0 = none
    cap_B: Array  # longest output in tokens, EOS included; 0 = a padding row


class Beams(NamedTuple):
    """Candidates of each sentence, best first."""

    tokens_BxKxT: jax.Array  # vocabulary ids, EOS included, pad after it
    scores_BxK: jax.Array  # s(y): log-probability summed over tokens, EOS included
    valid_BxK: jax.Array  # False: the slot never finished; its score is -inf, its tokens pad


class GrammarTables(NamedTuple):
    """`Grammar` on the device; see there for the meaning of each table."""

    columns_C: jax.Array
    column_of_V: jax.Array
    allowed_GxC: jax.Array
    next_GxC: jax.Array
    done_GxC: jax.Array
    terminal_G: jax.Array
    end_phase_G: jax.Array


def grammar_tables(grammar: Grammar, vocab_size: int) -> GrammarTables:
    """Copies the tables to the device and adds the way back from ids to columns (-1 = none)."""
    column_of_V = np.full(vocab_size, -1, np.int32)
    column_of_V[grammar.columns_C] = np.arange(len(grammar.columns_C))
    return GrammarTables(
        jnp.asarray(grammar.columns_C, jnp.int32),
        jnp.asarray(column_of_V),
        jnp.asarray(grammar.allowed_GxC),
        jnp.asarray(grammar.next_GxC, jnp.int32),
        jnp.asarray(grammar.done_GxC),
        jnp.asarray(grammar.terminal_G),
        jnp.asarray(grammar.end_phase_G, jnp.int32),
    )


class _Loop(NamedTuple):
    step: jax.Array
    cache: tuple
    running_BxK: jax.Array  # s of the prefixes, -inf = no beam
    token_BxK: jax.Array  # last token of each beam
    pointer_BxK: jax.Array  # place in the template
    phase_BxK: jax.Array  # place inside a tag slot
    ancestor_BxKxT: jax.Array
    tokens_TxBxK: jax.Array
    parents_TxBxK: jax.Array
    final_BxK: jax.Array  # ranked score of the finished, -inf = none
    raw_BxK: jax.Array  # their s(y)
    end_BxK: jax.Array  # step of their EOS
    slot_BxK: jax.Array  # beam that it ended
    done_B: jax.Array


def _allowed(
    tables: GrammarTables, item_BxK: jax.Array, next_item_BxK: jax.Array, phase_BxK: jax.Array
) -> jax.Array:
    """Columns that may follow each beam, [B, K, C]."""
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


def _advance(
    tables: GrammarTables,
    item_BxK: jax.Array,
    pointer_BxK: jax.Array,
    phase_BxK: jax.Array,
    column_BxK: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Pointer and phase after each beam took a column."""
    at_tag_BxK = item_BxK == TAG
    in_tag_BxK = at_tag_BxK & tables.allowed_GxC[phase_BxK, column_BxK]
    closes_BxK = at_tag_BxK & ~in_tag_BxK
    done_BxK = in_tag_BxK & tables.done_GxC[phase_BxK, column_BxK]
    step_BxK = jnp.where(closes_BxK, 2, (~at_tag_BxK | done_BxK).astype(jnp.int32))
    next_BxK = jnp.where(in_tag_BxK, tables.next_GxC[phase_BxK, column_BxK], phase_BxK)
    next_BxK = jnp.where(closes_BxK, tables.end_phase_G[phase_BxK], next_BxK)
    return pointer_BxK + step_BxK, next_BxK


def beam_search(
    model: T5,
    params: dict,
    tables: GrammarTables,
    inputs: SearchInput,
    *,
    k: int,
    use_grammar: bool = True,
    length_penalty: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> Beams:
    """Top-k outputs of each sentence under the model, best first.

    Follows the rules of torch's search in transformers: of the 2K best continuations those that end
    among the first K are finished, the K best others run on, and a sentence is done when K have
    finished and no running beam can still beat the worst of them. `done` is latched per sentence,
    so neighbours and padding change nothing. Scores are normalised over the columns of `tables`;
    the grammar forbids continuations but does not renormalise, so that a returned score equals the
    teacher-forced score of the same ids.

    Args:
      model: the Flax module; params: its parameters.
      inputs: a batch; T is the width of `fused_target_BxT`, the number of steps at most.
      k: beams, and candidates returned.
      length_penalty: candidates are ranked by s(y) / tokens**length_penalty.
      dropout_key: where given, the encoder runs with its dropout on.
    """
    config = model.config
    B, T = inputs.fused_target_BxT.shape
    C = tables.columns_C.shape[0]
    L = inputs.template_BxL.shape[1]
    variables = {"params": params}

    rngs = None if dropout_key is None else {"dropout": dropout_key}
    encoded_BxSxD = model.apply(
        variables,
        inputs.source_BxS,
        inputs.fused_source_BxS,
        deterministic=dropout_key is None,
        rngs=rngs,
        method=model.encode,
    )
    cross = model.apply(variables, encoded_BxSxD, method=model.cross_kv)
    source_mask_BxS = inputs.source_BxS != config.pad_token_id
    # Loop invariants that the compiler would not lift out by itself.
    kernel_DxC = model.apply(variables, tables.columns_C, method=model.output_kernel)
    kernel_DxC = kernel_DxC.astype(config.dtype)
    bias_HxT = model.apply(variables, T, method=model.bias_by_distance)

    first_K = jnp.where(jnp.arange(k) == 0, 0.0, NEG_INF)
    empty_BxK = jnp.full((B, k), NEG_INF, jnp.float32)
    zeros_BxK = jnp.zeros((B, k), jnp.int32)
    start = _Loop(
        step=jnp.int32(0),
        cache=model.apply(variables, B, k, T, method=model.init_cache),
        running_BxK=jnp.broadcast_to(first_K, (B, k)).astype(jnp.float32),
        token_BxK=jnp.full((B, k), config.decoder_start_token_id, jnp.int32),
        pointer_BxK=zeros_BxK,
        phase_BxK=zeros_BxK,
        ancestor_BxKxT=jnp.full((B, k, T), -1, jnp.int32),
        tokens_TxBxK=jnp.zeros((T, B, k), jnp.int32),
        parents_TxBxK=jnp.zeros((T, B, k), jnp.int32),
        final_BxK=empty_BxK,
        raw_BxK=empty_BxK,
        end_BxK=zeros_BxK,
        slot_BxK=zeros_BxK,
        done_B=inputs.cap_B <= 0,
    )
    width = min(2 * k, k * C)

    def take(x_BxK: jax.Array, index_BxK: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BxK, index_BxK, axis=1)

    def body(loop: _Loop) -> _Loop:
        step = loop.step
        ancestor_BxKxT = loop.ancestor_BxKxT.at[:, :, step].set(jnp.arange(k))
        # Cache slot d*K + j belongs to a beam's path where its ancestor of step d sat in slot j.
        mask_BxKxL = (ancestor_BxKxT[..., None] == jnp.arange(k)).reshape(B, k, T * k)
        fused_B = jax.lax.dynamic_index_in_dim(inputs.fused_target_BxT, step, 1, keepdims=False)
        hidden_BxKxD, cache = model.apply(
            variables,
            loop.token_BxK,
            step,
            mask_BxKxL,
            loop.cache,
            cross,
            source_mask_BxS,
            jnp.broadcast_to(fused_B[:, None], (B, k)),
            bias_HxT,
            method=model.extend,
        )
        logits_BxKxC = jnp.matmul(hidden_BxKxD, kernel_DxC, preferred_element_type=jnp.float32)
        logp_BxKxC = jax.nn.log_softmax(logits_BxKxC)
        item_BxK = take(inputs.template_BxL, jnp.minimum(loop.pointer_BxK, L - 1))
        if use_grammar:
            next_item_BxK = take(inputs.template_BxL, jnp.minimum(loop.pointer_BxK + 1, L - 1))
            allowed_BxKxC = _allowed(tables, item_BxK, next_item_BxK, loop.phase_BxK)
            logp_BxKxC = jnp.where(allowed_BxKxC, logp_BxKxC, NEG_INF)

        total_BxKxC = loop.running_BxK[..., None] + logp_BxKxC
        best_BxW, flat_BxW = jax.lax.top_k(total_BxKxC.reshape(B, k * C), width)
        parent_BxW, column_BxW = flat_BxW // C, flat_BxW % C
        token_BxW = tables.columns_C[column_BxW]
        ends_BxW = token_BxW == config.eos_token_id
        live_B = ~loop.done_B

        # Finished: those among the first K that end, merged with the finished of earlier steps.
        new_BxK = jnp.where(
            ends_BxW[:, :k] & live_B[:, None] & jnp.isfinite(best_BxW[:, :k]),
            best_BxW[:, :k],
            NEG_INF,
        )
        length = (step + 1).astype(jnp.float32)
        pool_final = jnp.concatenate([loop.final_BxK, new_BxK / length**length_penalty], 1)
        final_BxK, pick_BxK = jax.lax.top_k(pool_final, k)
        raw_BxK = take(jnp.concatenate([loop.raw_BxK, new_BxK], 1), pick_BxK)
        end_BxK = take(jnp.concatenate([loop.end_BxK, zeros_BxK + step], 1), pick_BxK)
        slot_BxK = take(jnp.concatenate([loop.slot_BxK, parent_BxW[:, :k]], 1), pick_BxK)

        # Running on: the K best that do not end. Stable, so ties keep their order.
        rest_BxW = jnp.where(ends_BxW, NEG_INF, best_BxW)
        if width < k:
            rest_BxW = jnp.pad(rest_BxW, ((0, 0), (0, k - width)), constant_values=NEG_INF)
        running_BxK, keep_BxK = jax.lax.top_k(rest_BxW, k)
        keep_BxK = jnp.minimum(keep_BxK, width - 1)
        parent_BxK, column_BxK = take(parent_BxW, keep_BxK), take(column_BxW, keep_BxK)
        token_BxK = take(token_BxW, keep_BxK)
        pointer_BxK, phase_BxK = _advance(
            tables,
            take(item_BxK, parent_BxK),
            take(loop.pointer_BxK, parent_BxK),
            take(loop.phase_BxK, parent_BxK),
            column_BxK,
        )

        # What a running beam can still reach: s only falls, and length helps by the penalty alone.
        reach_B = running_BxK[:, 0] / jnp.maximum(inputs.cap_B, 1).astype(jnp.float32) ** (
            length_penalty
        )
        settled_B = jnp.isfinite(final_BxK[:, -1]) & (final_BxK[:, -1] >= reach_B)
        out_of_steps_B = step + 1 >= inputs.cap_B
        done_B = loop.done_B | settled_B | out_of_steps_B | ~jnp.isfinite(running_BxK[:, 0])
        return _Loop(
            step=step + 1,
            cache=cache,
            running_BxK=running_BxK,
            token_BxK=token_BxK,
            pointer_BxK=pointer_BxK,
            phase_BxK=phase_BxK,
            ancestor_BxKxT=jnp.take_along_axis(ancestor_BxKxT, parent_BxK[..., None], axis=1),
            tokens_TxBxK=loop.tokens_TxBxK.at[step].set(token_BxK),
            parents_TxBxK=loop.parents_TxBxK.at[step].set(parent_BxK),
            final_BxK=final_BxK,
            raw_BxK=raw_BxK,
            end_BxK=end_BxK,
            slot_BxK=slot_BxK,
            done_B=done_B,
        )

    def unfinished(loop: _Loop) -> jax.Array:
        return (loop.step < T) & ~jnp.all(loop.done_B)

    loop = jax.lax.while_loop(unfinished, body, start)
    valid_BxK = jnp.isfinite(loop.final_BxK)
    return Beams(
        _backtrack(loop, valid_BxK, config.pad_token_id, config.eos_token_id),
        loop.raw_BxK,
        valid_BxK,
    )


def _backtrack(loop: _Loop, valid_BxK: jax.Array, pad_id: int, eos_id: int) -> jax.Array:
    """Follows the parent pointers from each end to the start, [B, K, T]."""
    T = loop.tokens_TxBxK.shape[0]

    def back(slot_BxK: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        token_BxK = jnp.take_along_axis(loop.tokens_TxBxK[step], slot_BxK, axis=1)
        before_end_BxK = step < loop.end_BxK
        out_BxK = jnp.where(before_end_BxK, token_BxK, pad_id)
        out_BxK = jnp.where(step == loop.end_BxK, eos_id, out_BxK)
        parent_BxK = jnp.take_along_axis(loop.parents_TxBxK[step], slot_BxK, axis=1)
        return jnp.where(before_end_BxK, parent_BxK, slot_BxK), out_BxK

    _, tokens_TxBxK = jax.lax.scan(back, loop.slot_BxK, jnp.arange(T), reverse=True)
    return jnp.where(valid_BxK[..., None], jnp.moveaxis(tokens_TxBxK, 0, 2), pad_id)
