"""The jitted beam search: top-k label sequences with their scores, best first.

Works on ids and scores alone and may not know what a word or a span is; the grammar comes in as
tables (`generate/grammar.py`), the model as the methods of `model/t5.py`.

How a step goes. Each of the K running beams of a sentence feeds a chunk of at most W tokens to the
decoder: the token chosen last, and those that the grammar forces after it (the next sentinel, the
other pieces of a tag). Their log-probabilities count, but nothing is there to choose, so a sentence
takes one step per word. The N = K*W new nodes go to cache slots t*N .. t*N + N-1 and never move
again. `ancestor_BxKxT` says which beam of each earlier step lies on a beam's own path, and
attention is masked to those slots, so that choosing new beams reorders K*T small integers and not
the cache. Chunks and parent pointers are kept per step; one backtrack at the end spells the
sequences out. For K = 2 and a sentence of two words in sentinel_tag:

    step 0   feeds  start <0>                    chooses brand, O
    step 1   feeds  brand <1> | O <1>            chooses I, color      (both from `brand`)
    step 2   feeds  I | color                    chooses EOS twice: both end
    result   [<0> brand <1> I EOS], [<0> brand <1> color EOS]
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from groot_jax.data.batches import Batch
from groot_jax.generate import walk
from groot_jax.generate.selection import NEG_INF, Finished, best_continuations, merge, top_k
from groot_jax.generate.walk import Beam, SearchPlan, take
from groot_jax.mesh.layout import constrain
from groot_jax.model.t5 import T5, decoding_params, rows_at

# Of an input field: numpy on the host, jax.Array once placed or traced.
Array: TypeAlias = Any


class SearchInput(NamedTuple):
    """One batch of sentences as the search reads it."""

    source_BxS: Array  # vocabulary ids, pad 0
    fused_source_BxSxF: Array  # ids of embeddings added on the source side, 0 = none
    template_BxL: Array  # literal ids and TAG slots, EOS last; padded with EOS
    fused_target_BxT: Array  # ids of embeddings added at each decoder step, 0 = none
    aligned_BxT: Array | None  # source position whose encoder output is added there; None: none is
    cap_B: Array  # longest output in tokens, EOS included; 0 = a padding row


def search_input(batch: Batch) -> SearchInput:
    """What the search reads of a batch."""
    return SearchInput(
        batch.source_BxS,
        batch.fused_source_BxSxF,
        batch.template_BxL,
        batch.fused_target_BxT,
        batch.aligned_BxT,
        batch.cap_B,
    )


class Beams(NamedTuple):
    """Candidates of each sentence, best first."""

    tokens_BxKxT: jax.Array  # vocabulary ids, EOS included, pad after it
    scores_BxK: jax.Array  # s(y): log-probability summed over tokens, EOS included
    valid_BxK: jax.Array  # False: the slot never finished; its score is -inf, its tokens pad


class _Loop(NamedTuple):
    step: jax.Array
    cache: tuple
    slot_depth_BxL: jax.Array  # tokens before each cache slot's; _NOWHERE: it holds none
    beam: Beam
    ancestor_BxKxT: jax.Array
    finished: Finished
    settled_B: jax.Array  # no running beam can still get among the finished
    # Row t: what was fed in step t. Row 0 is the start chunk.
    chunk_TxBxKxW: jax.Array
    fill_TxBxK: jax.Array
    depth_TxBxK: jax.Array
    parent_TxBxK: jax.Array  # beam of the row before


_NOWHERE = 1 << 20  # Lies after every token, so that no mask lets it be seen.


def beam_search(
    model: T5,
    params: dict,
    plan: SearchPlan,
    inputs: SearchInput,
    *,
    k: int,
    use_grammar: bool = True,
    length_penalty: float = 0.0,
    keep_unfinished: bool = False,
    dropout_key: jax.Array | None = None,
) -> Beams:
    """Top-k outputs of each sentence under the model, best first.

    Follows the rules of torch's search in transformers: of the 2K best continuations those that end
    among the first K are finished, the K best others run on, and a sentence is done when K have
    finished and no running beam can still beat the worst of them. `settled` is latched per
    sentence, so neighbours and padding change nothing. A continuation is a choice with all that it
    forces; beams are compared after equally many choices. Scores are normalised over the columns of
    the grammar, which forbids continuations but does not renormalise, so that a returned score
    equals the teacher-forced score of the same ids.

    Args:
      model: the Flax module; params: its parameters.
      plan: of the format's grammar.
      inputs: a batch; T is the width of `fused_target_BxT`, the tokens of an output at most.
      k: beams, and candidates returned.
      use_grammar: False: any column may follow, one token a step.
      length_penalty: candidates are ranked by s(y) / tokens**length_penalty.
      keep_unfinished: running beams of a sentence that is out of steps count as candidates, without
        EOS. The grammar leaves none.
      dropout_key: where given, the encoder runs with its dropout on.
    """
    config, tables = model.config, plan.tables
    B, T = inputs.fused_target_BxT.shape
    C = tables.columns_C.shape[0]
    width, steps, even = plan.chunks(T, use_grammar)
    N = k * width
    variables = {"params": params}
    # Of the loop: gathered once, where devices hold parts of them, and not in each step.
    decoding = {"params": decoding_params(config, params)}

    rngs = None if dropout_key is None else {"dropout": dropout_key}
    encoded_BxSxD = model.apply(
        variables,
        inputs.source_BxS,
        inputs.fused_source_BxSxF,
        deterministic=dropout_key is None,
        rngs=rngs,
        method=model.encode,
    )
    cross = model.apply(variables, encoded_BxSxD, method=model.cross_kv)
    source_mask_BxS = inputs.source_BxS != config.pad_token_id
    # Loop invariants that the compiler would not lift out by itself.
    # With all columns the weights are used as they lie, not gathered.
    columns_C = tables.columns_C if config.vocab_size > C else None
    weights = model.apply(variables, columns_C, method=model.output_weights)
    vocab = None if columns_C is not None else "vocab"  # A format's columns are few.
    weights = constrain(weights, *((vocab, None) if config.tie_word_embeddings else (None, vocab)))
    bias_HxT = model.apply(variables, T + 1, method=model.bias_by_distance)
    literals_BxL = walk.literals_ahead(inputs.template_BxL, config.eos_token_id)

    def zeros(*shape: int) -> jax.Array:
        return jnp.zeros(shape, jnp.int32)

    begin = walk.start(inputs.template_BxL, literals_BxL, width, config.decoder_start_token_id)
    none_BxK = jnp.full((B, k), NEG_INF, jnp.float32)
    ends = _segments(steps)
    loop = _Loop(
        step=jnp.int32(0),
        cache=model.apply(variables, B, ends[0] * N, method=model.init_cache),
        slot_depth_BxL=zeros(B, 0 if even else ends[0] * N) + _NOWHERE,
        beam=begin,
        ancestor_BxKxT=jnp.full((B, 1, ends[0]), -1, jnp.int32),
        finished=Finished(none_BxK, none_BxK, zeros(B, k), zeros(B, k), zeros(B, k) > 0),
        settled_B=inputs.cap_B <= 0,
        chunk_TxBxKxW=zeros(steps + 1, B, k, width).at[0].set(begin.chunk_BxKxW),
        fill_TxBxK=zeros(steps + 1, B, k).at[0].set(begin.fill_BxK),
        depth_TxBxK=zeros(steps + 1, B, k),
        parent_TxBxK=zeros(steps + 1, B, k),
    )

    def aligned_rows(depth_BxN: jax.Array) -> jax.Array | None:
        if inputs.aligned_BxT is None:
            return None
        return rows_at(encoded_BxSxD, take(inputs.aligned_BxT, depth_BxN))

    def feed(loop: _Loop) -> tuple[jax.Array, tuple, jax.Array, jax.Array]:
        """Hidden states [B, J, W, D] of the J beams' chunks; cache, slot depths, ancestors."""
        beam, step = loop.beam, loop.step
        _, J, steps = loop.ancestor_BxKxT.shape
        place_W = jnp.arange(width)
        slot_step_L, slot_place_L = jnp.divmod(jnp.arange(steps * N), N)
        slot_place_L %= width
        ancestor_BxKxT = loop.ancestor_BxKxT.at[:, :, step].set(jnp.arange(J))
        # Slot (d, k, w) belongs to a beam's path where its ancestor of step d was beam k.
        own_BxKxTxK = ancestor_BxKxT[..., None] == jnp.arange(k)
        own_BxKxL = jnp.repeat(own_BxKxTxK.reshape(B, J, steps * k), width, axis=2)
        depth_BxKxW = beam.depth_BxK[..., None] + place_W
        slot_depth_BxL = loop.slot_depth_BxL
        if even:
            distance = (step - slot_step_L) * width + place_W[:, None] - slot_place_L
            distance_BxKxWxL = distance[None, None]
        else:
            filled_BxKxW = place_W < beam.fill_BxK[..., None]
            new_BxN = jnp.where(filled_BxKxW, depth_BxKxW, _NOWHERE).reshape(B, J * width)
            slot_depth_BxL = jax.lax.dynamic_update_slice_in_dim(
                slot_depth_BxL, new_BxN, step * N, axis=1
            )
            distance_BxKxWxL = depth_BxKxW[..., None] - slot_depth_BxL[:, None, None]
        mask_BxKxWxL = own_BxKxL[:, :, None] & (distance_BxKxWxL >= 0)
        if even:
            distance_BxKxWxL = jnp.broadcast_to(distance_BxKxWxL, (1, J, width, steps * N))
        depth_BxN = jnp.minimum(depth_BxKxW.reshape(B, J * width), T - 1)
        hidden_BxNxD, cache = model.apply(
            decoding,
            beam.chunk_BxKxW.reshape(B, J * width),
            step * N,
            distance_BxKxWxL.reshape(-1, J * width, steps * N),
            mask_BxKxWxL.reshape(B, J * width, steps * N),
            loop.cache,
            cross,
            source_mask_BxS,
            take(inputs.fused_target_BxT, depth_BxN),
            aligned_rows(depth_BxN),
            bias_HxT,
            method=model.extend,
        )
        return hidden_BxNxD.reshape(B, J, width, -1), cache, slot_depth_BxL, ancestor_BxKxT

    def log_probs(hidden_BxKxWxD: jax.Array, beam: Beam) -> tuple[jax.Array, jax.Array]:
        """Two parts whose sum is the log-probability of what each chunk forces and of one more
        column: [B, K], normalisers and forced logits, and [B, K, C], the logits of that column."""
        logits_BxKxWxC = model.apply(decoding, hidden_BxKxWxD, weights, method=model.project)
        B, K, W, C = logits_BxKxWxC.shape
        # As rows: with W = 1 in between, XLA's CPU backend takes 1.6 times as long.
        norm_BxKxW = jax.nn.logsumexp(logits_BxKxWxC.reshape(-1, C), axis=-1).reshape(B, K, W)
        last_BxK = beam.fill_BxK - 1
        score_BxK = -jnp.where(jnp.arange(width) <= last_BxK[..., None], norm_BxKxW, 0.0).sum(-1)
        next_BxKxC = logits_BxKxWxC[:, :, 0]
        for w in range(1, width):
            column_BxK = jnp.maximum(tables.column_of_V[beam.chunk_BxKxW[..., w]], 0)
            logit_BxK = jnp.take_along_axis(
                logits_BxKxWxC[:, :, w - 1], column_BxK[..., None], axis=-1
            )[..., 0]
            score_BxK += jnp.where(w <= last_BxK, logit_BxK, 0.0)
            here = (last_BxK == w)[..., None]
            next_BxKxC = jnp.where(here, logits_BxKxWxC[:, :, w], next_BxKxC)
        return score_BxK, next_BxKxC

    def body(loop: _Loop) -> _Loop:
        beam, step = loop.beam, loop.step
        hidden_BxKxWxD, cache, slot_depth_BxL, ancestor_BxKxT = feed(loop)
        forced_BxK, next_BxKxC = log_probs(hidden_BxKxWxD, beam)
        if use_grammar:
            allowed_BxKxC = walk.allowed(tables, inputs.template_BxL, beam)
            next_BxKxC = jnp.where(allowed_BxKxC, next_BxKxC, NEG_INF)
        # Of 2K continuations at most K end, one a beam: K others are left.
        best_BxJ, flat_BxJ = best_continuations(beam.score_BxK + forced_BxK, next_BxKxC, 2 * k)
        parent_BxJ, column_BxJ = flat_BxJ // C, flat_BxJ % C
        ends_BxJ = tables.columns_C[column_BxJ] == config.eos_token_id
        live_B = ~loop.settled_B & (step < inputs.cap_B)

        # Finished: those among the first K that end, merged with the finished of earlier steps.
        new_BxK = jnp.where(ends_BxJ[:, :k] & live_B[:, None], best_BxJ[:, :k], NEG_INF)
        tokens_BxK = take(beam.depth_BxK + beam.fill_BxK, parent_BxJ[:, :k])
        new = Finished(
            rank_BxK=new_BxK / tokens_BxK.astype(jnp.float32) ** length_penalty,
            score_BxK=new_BxK,
            row_BxK=zeros(B, k) + step,
            slot_BxK=parent_BxJ[:, :k],
            ended_BxK=zeros(B, k) == 0,
        )
        finished = merge(loop.finished, new)

        # Running on: the K best that do not end. Stable, so ties keep their order.
        rest_BxJ = jnp.where(ends_BxJ, NEG_INF, best_BxJ)
        score_BxK, keep_BxK = top_k(rest_BxJ, k)
        parent_BxK = take(parent_BxJ, keep_BxK)
        of_parent = jax.tree.map(
            lambda x: jnp.take_along_axis(x, parent_BxK.reshape(B, k, *[1] * (x.ndim - 2)), 1), beam
        )
        beam = walk.advance(
            tables,
            inputs.template_BxL,
            literals_BxL,
            of_parent,
            take(column_BxJ, keep_BxK),
            score_BxK,
        )

        # What a running beam can still reach: s only falls, and length helps by the penalty alone.
        cap_B = jnp.maximum(inputs.cap_B, 1).astype(jnp.float32)
        reach_B = score_BxK[:, 0] / cap_B**length_penalty
        worst_B = finished.rank_BxK[:, -1]
        settled_B = (jnp.isfinite(worst_B) & (worst_B >= reach_B)) | ~jnp.isfinite(score_BxK[:, 0])
        if keep_unfinished:
            stuck_B = live_B & ~settled_B & (step + 1 >= inputs.cap_B)
            left_BxK = jnp.where(stuck_B[:, None], score_BxK, NEG_INF)
            tokens_BxK = beam.depth_BxK + beam.fill_BxK - 1
            unfinished = Finished(
                rank_BxK=left_BxK / tokens_BxK.astype(jnp.float32) ** length_penalty,
                score_BxK=left_BxK,
                row_BxK=zeros(B, k) + step + 1,
                slot_BxK=zeros(B, k) + jnp.arange(k),
                ended_BxK=zeros(B, k) > 0,
            )
            finished = merge(finished, unfinished)
        return _Loop(
            step=step + 1,
            cache=cache,
            slot_depth_BxL=slot_depth_BxL,
            beam=beam,
            ancestor_BxKxT=jnp.take_along_axis(ancestor_BxKxT, parent_BxK[..., None], axis=1),
            finished=finished,
            # A sentence out of steps stays as it is.
            settled_B=jnp.where(live_B, settled_B, loop.settled_B),
            chunk_TxBxKxW=loop.chunk_TxBxKxW.at[step + 1].set(beam.chunk_BxKxW),
            fill_TxBxK=loop.fill_TxBxK.at[step + 1].set(beam.fill_BxK),
            depth_TxBxK=loop.depth_TxBxK.at[step + 1].set(beam.depth_BxK),
            parent_TxBxK=loop.parent_TxBxK.at[step + 1].set(parent_BxK),
        )

    def running(loop: _Loop) -> jax.Array:
        until = loop.ancestor_BxKxT.shape[2]
        return (loop.step < until) & jnp.any(~loop.settled_B & (loop.step < inputs.cap_B))

    # At the start all K beams would be one and the same.
    loop = body(loop)
    for end in ends:
        loop = jax.lax.while_loop(running, body, _grown(loop, end, N))
    valid_BxK = jnp.isfinite(loop.finished.rank_BxK)
    tokens_BxKxT = _backtrack(loop, T, config.eos_token_id)
    # The pad id fills what is not a token.
    return Beams(
        jnp.where(valid_BxK[..., None], tokens_BxKxT, 0), loop.finished.score_BxK, valid_BxK
    )


def _segments(steps: int) -> list[int]:
    """Where the cache grows: all its slots are attended to, so early steps should have few.

    Each segment compiles the step again, which short outputs do not pay back.
    """
    count = min(max(steps // 8, 1), 4)
    return [-(-steps * i // count) for i in range(1, count + 1)]


def loop_trips(steps: int) -> tuple[int, ...]:
    """Turns that each of a search's loops takes at most, in their order: those of the segments,
    then the backtrack."""
    ends = [1, *_segments(steps)]
    return (*(end - start for start, end in pairwise(ends)), steps + 1)


def _grown(loop: _Loop, steps: int, nodes: int) -> _Loop:
    """The same state with room for `steps` steps of `nodes` slots."""
    more = steps - loop.ancestor_BxKxT.shape[2]

    def grow(x: jax.Array, axis: int, by: int, value: int = 0) -> jax.Array:
        return jnp.pad(
            x, [(0, by if i == axis else 0) for i in range(x.ndim)], constant_values=value
        )

    slot_depth_BxL = loop.slot_depth_BxL
    if slot_depth_BxL.shape[1]:
        slot_depth_BxL = grow(slot_depth_BxL, 1, more * nodes, _NOWHERE)
    return loop._replace(
        cache=tuple(
            (grow(key, 3, more * nodes), grow(value, 2, more * nodes)) for key, value in loop.cache
        ),
        slot_depth_BxL=slot_depth_BxL,
        ancestor_BxKxT=grow(loop.ancestor_BxKxT, 2, more, -1),
    )


def _backtrack(loop: _Loop, length: int, eos_id: int) -> jax.Array:
    """Follows the parent pointers from each end to the start, [B, K, length]; 0 after the end."""
    finished = loop.finished
    rows, B, K, W = loop.chunk_TxBxKxW.shape
    # By vmap, so that each sentence's are its own: on a mesh other indices would be exchanged.
    write = jax.vmap(jax.vmap(lambda row_T, at_W, new_W: row_T.at[at_W].set(new_W, mode="drop")))

    def back(carry: tuple[jax.Array, jax.Array], row: jax.Array) -> tuple[Any, None]:
        slot_BxK, out_BxKxT = carry
        fill_BxK = take(loop.fill_TxBxK[row], slot_BxK)
        depth_BxK = take(loop.depth_TxBxK[row], slot_BxK)
        chunk_BxKxW = jnp.take_along_axis(loop.chunk_TxBxKxW[row], slot_BxK[..., None], axis=1)
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
        parent_BxK = take(loop.parent_TxBxK[row], slot_BxK)
        return (jnp.where(on_path_BxK, parent_BxK, slot_BxK), out_BxKxT), None

    # The start token takes the first place, a chunk's padding may reach beyond the last.
    out_BxKxT = jnp.zeros((B, K, length + 1), jnp.int32)
    start = finished.slot_BxK, out_BxKxT
    (_, out_BxKxT), _ = jax.lax.scan(back, start, jnp.arange(rows), reverse=True)
    return out_BxKxT[:, :, 1:]
