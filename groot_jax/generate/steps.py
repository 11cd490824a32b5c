"""One step of the beam search, from state to state, and what all steps read.

Works on ids and scores alone, as `beam_search.py` does, which runs the steps and says how they go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from groot_jax.data.batches import Batch
from groot_jax.generate import walk
from groot_jax.generate.backtrack import Trail
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


class State(NamedTuple):
    """What a step changes."""

    step: jax.Array
    cache: tuple
    slot_depth_BxL: jax.Array  # tokens before each cache slot's; _NOWHERE: it holds none
    beam: Beam
    ancestor_BxKxT: jax.Array
    finished: Finished
    settled_B: jax.Array  # no running beam can still get among the finished
    trail: Trail  # what was fed in each step; row 0 is the start chunk


_NOWHERE = 1 << 20  # Lies after every token, so that no mask lets it be seen.


class Read(NamedTuple):
    """What every step reads of the model and of the sentences, computed once before the loop: the
    compiler would not lift all of it out by itself."""

    decoding: dict  # the decoder's variables, gathered where devices hold parts of them
    encoded_BxSxD: jax.Array
    cross: tuple  # keys and values of the encoder's output, a layer each
    source_mask_BxS: jax.Array
    weights: jax.Array  # of the output columns
    bias_HxT: jax.Array  # relative bias by distance
    literals_BxL: jax.Array  # literals ahead of each place of the template


def read_before_the_loop(
    model: T5, params: dict, plan: SearchPlan, inputs: SearchInput, dropout_key: jax.Array | None
) -> Read:
    config, variables = model.config, {"params": params}
    decoding = {"params": decoding_params(config, params)}
    encoded_BxSxD = model.apply(
        variables,
        inputs.source_BxS,
        inputs.fused_source_BxSxF,
        deterministic=dropout_key is None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
        method=model.encode,
    )
    # With all columns the weights are used as they lie, not gathered.
    some = config.vocab_size > plan.tables.columns_C.shape[0]
    columns_C = plan.tables.columns_C if some else None
    weights = model.apply(variables, columns_C, method=model.output_weights)
    vocab = None if some else "vocab"  # A format's columns are few.
    names = (vocab, None) if config.tie_word_embeddings else (None, vocab)
    T = inputs.fused_target_BxT.shape[1]
    return Read(
        decoding=decoding,
        encoded_BxSxD=encoded_BxSxD,
        cross=model.apply(variables, encoded_BxSxD, method=model.cross_kv),
        source_mask_BxS=inputs.source_BxS != config.pad_token_id,
        weights=constrain(weights, *names),
        bias_HxT=model.apply(variables, T + 1, method=model.bias_by_distance),
        literals_BxL=walk.literals_ahead(inputs.template_BxL, config.eos_token_id),
    )


@dataclass(frozen=True)
class SearchSteps:
    """The steps of one search: what they read, and the functions from state to state."""

    model: T5
    inputs: SearchInput
    tables: walk.GrammarTables
    k: int
    width: int  # W, tokens of a chunk at most
    even: bool  # all chunks are of W tokens
    use_grammar: bool
    length_penalty: float
    keep_unfinished: bool
    read: Read

    @property
    def nodes_a_step(self) -> int:
        return self.k * self.width

    def start(self, steps: int, until: int) -> State:
        """Before the first step, with a cache for the first `until` of `steps` steps."""
        config, template_BxL = self.model.config, self.inputs.template_BxL
        B, slots = template_BxL.shape[0], until * self.nodes_a_step
        begin = walk.start(
            template_BxL, self.read.literals_BxL, self.width, config.decoder_start_token_id
        )
        none_BxK, zeros_BxK = jnp.full((B, self.k), NEG_INF, jnp.float32), self._zeros_BxK()
        return State(
            step=jnp.int32(0),
            cache=self.model.apply(self.read.decoding, B, slots, method=self.model.init_cache),
            slot_depth_BxL=jnp.zeros((B, 0 if self.even else slots), jnp.int32) + _NOWHERE,
            beam=begin,
            ancestor_BxKxT=jnp.full((B, 1, until), -1, jnp.int32),
            finished=Finished(none_BxK, none_BxK, zeros_BxK, zeros_BxK, zeros_BxK > 0),
            settled_B=self.inputs.cap_B <= 0,
            trail=Trail.begun(begin, steps + 1, self.k),
        )

    def running(self, state: State) -> jax.Array:
        """Whether some sentence is not done, and the cache has room for another step."""
        until = state.ancestor_BxKxT.shape[2]
        open_B = ~state.settled_B & (state.step < self.inputs.cap_B)
        return (state.step < until) & jnp.any(open_B)

    def step(self, state: State) -> State:
        """Feeds the chunks, chooses continuations: some end, others run on."""
        beam, step, k = state.beam, state.step, self.k
        hidden_BxKxWxD, cache, slot_depth_BxL, ancestor_BxKxT = self._feed(state)
        forced_BxK, next_BxKxC = self._log_probs(hidden_BxKxWxD, beam)
        if self.use_grammar:
            allowed_BxKxC = walk.allowed(self.tables, self.inputs.template_BxL, beam)
            next_BxKxC = jnp.where(allowed_BxKxC, next_BxKxC, NEG_INF)
        # Of 2K continuations at most K end, one a beam: K others are left.
        best_BxJ, flat_BxJ = best_continuations(beam.score_BxK + forced_BxK, next_BxKxC, 2 * k)
        C = next_BxKxC.shape[2]
        parent_BxJ, column_BxJ = flat_BxJ // C, flat_BxJ % C
        ends_BxJ = self.tables.columns_C[column_BxJ] == self.model.config.eos_token_id
        live_B = ~state.settled_B & (step < self.inputs.cap_B)

        # Finished: those among the first K that end, merged with the finished of earlier steps.
        new_BxK = jnp.where(ends_BxJ[:, :k] & live_B[:, None], best_BxJ[:, :k], NEG_INF)
        tokens_BxK = take(beam.depth_BxK + beam.fill_BxK, parent_BxJ[:, :k])
        new = self._ended(new_BxK, tokens_BxK, step, parent_BxJ[:, :k], True)
        finished = merge(state.finished, new)

        # Running on: the K best that do not end. Stable, so ties keep their order.
        rest_BxJ = jnp.where(ends_BxJ, NEG_INF, best_BxJ)
        score_BxK, keep_BxK = top_k(rest_BxJ, k)
        parent_BxK = take(parent_BxJ, keep_BxK)
        beam = self._advanced(beam, parent_BxK, take(column_BxJ, keep_BxK), score_BxK)

        # What a running beam can still reach: s only falls, and length helps by the penalty alone.
        cap_B = jnp.maximum(self.inputs.cap_B, 1).astype(jnp.float32)
        reach_B = score_BxK[:, 0] / cap_B**self.length_penalty
        worst_B = finished.rank_BxK[:, -1]
        settled_B = (jnp.isfinite(worst_B) & (worst_B >= reach_B)) | ~jnp.isfinite(score_BxK[:, 0])
        if self.keep_unfinished:
            stuck_B = live_B & ~settled_B & (step + 1 >= self.inputs.cap_B)
            left_BxK = jnp.where(stuck_B[:, None], score_BxK, NEG_INF)
            tokens_BxK = beam.depth_BxK + beam.fill_BxK - 1
            slot_BxK = self._zeros_BxK() + jnp.arange(k)
            finished = merge(finished, self._ended(left_BxK, tokens_BxK, step + 1, slot_BxK, False))
        return State(
            step=step + 1,
            cache=cache,
            slot_depth_BxL=slot_depth_BxL,
            beam=beam,
            ancestor_BxKxT=jnp.take_along_axis(ancestor_BxKxT, parent_BxK[..., None], axis=1),
            finished=finished,
            # A sentence out of steps stays as it is.
            settled_B=jnp.where(live_B, settled_B, state.settled_B),
            trail=state.trail.noted(step + 1, beam, parent_BxK),
        )

    def _feed(self, state: State) -> tuple[jax.Array, tuple, jax.Array, jax.Array]:
        """Hidden states [B, J, W, D] of the J beams' chunks; cache, slot depths, ancestors."""
        beam, step, read, width, N = (
            state.beam,
            state.step,
            self.read,
            self.width,
            self.nodes_a_step,
        )
        B, J, steps = state.ancestor_BxKxT.shape
        T = self.inputs.fused_target_BxT.shape[1]
        place_W = jnp.arange(width)
        slot_step_L, slot_place_L = jnp.divmod(jnp.arange(steps * N), N)
        slot_place_L %= width
        ancestor_BxKxT = state.ancestor_BxKxT.at[:, :, step].set(jnp.arange(J))
        # Slot (d, k, w) belongs to a beam's path where its ancestor of step d was beam k:
        # [B, J, T, K] -> [B, J, T*K] -> [B, J, L = T*K*W].
        own_BxKxTxK = ancestor_BxKxT[..., None] == jnp.arange(self.k)
        own_BxKxL = jnp.repeat(own_BxKxTxK.reshape(B, J, steps * self.k), width, axis=2)
        depth_BxKxW = beam.depth_BxK[..., None] + place_W
        slot_depth_BxL = state.slot_depth_BxL
        if self.even:
            # Depths follow from the slots, the same for all sentences and beams: [1, 1, W, L].
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
        if self.even:
            distance_BxKxWxL = jnp.broadcast_to(distance_BxKxWxL, (1, J, width, steps * N))
        # [B, J, W] -> [B, N = J*W]: a chunk's tokens are nodes like any others.
        depth_BxN = jnp.minimum(depth_BxKxW.reshape(B, J * width), T - 1)
        hidden_BxNxD, cache = self.model.apply(
            read.decoding,
            beam.chunk_BxKxW.reshape(B, J * width),
            step * N,
            distance_BxKxWxL.reshape(-1, J * width, steps * N),
            mask_BxKxWxL.reshape(B, J * width, steps * N),
            state.cache,
            read.cross,
            read.source_mask_BxS,
            take(self.inputs.fused_target_BxT, depth_BxN),
            self._aligned_rows(depth_BxN),
            read.bias_HxT,
            method=self.model.extend,
        )
        return hidden_BxNxD.reshape(B, J, width, -1), cache, slot_depth_BxL, ancestor_BxKxT

    def _aligned_rows(self, depth_BxN: jax.Array) -> jax.Array | None:
        """The encoder's output of the word that each node is about, [B, N, D]."""
        if self.inputs.aligned_BxT is None:
            return None
        return rows_at(self.read.encoded_BxSxD, take(self.inputs.aligned_BxT, depth_BxN))

    def _log_probs(self, hidden_BxKxWxD: jax.Array, beam: Beam) -> tuple[jax.Array, jax.Array]:
        """Two parts whose sum is the log-probability of what each chunk forces and of one more
        column: [B, K], normalisers and forced logits, and [B, K, C], the logits of that column."""
        logits_BxKxWxC = self.model.apply(
            self.read.decoding, hidden_BxKxWxD, self.read.weights, method=self.model.project
        )
        B, K, W, C = logits_BxKxWxC.shape
        # As rows: with W = 1 in between, XLA's CPU backend takes 1.6 times as long.
        norm_BxKxW = jax.nn.logsumexp(logits_BxKxWxC.reshape(-1, C), axis=-1).reshape(B, K, W)
        last_BxK = beam.fill_BxK - 1
        counted_BxKxW = jnp.arange(W) <= last_BxK[..., None]
        score_BxK = -jnp.where(counted_BxKxW, norm_BxKxW, 0.0).sum(-1)
        next_BxKxC = logits_BxKxWxC[:, :, 0]
        for w in range(1, W):
            column_BxK = jnp.maximum(self.tables.column_of_V[beam.chunk_BxKxW[..., w]], 0)
            logit_BxK = jnp.take_along_axis(
                logits_BxKxWxC[:, :, w - 1], column_BxK[..., None], axis=-1
            )[..., 0]
            score_BxK += jnp.where(w <= last_BxK, logit_BxK, 0.0)
            here = (last_BxK == w)[..., None]
            next_BxKxC = jnp.where(here, logits_BxKxWxC[:, :, w], next_BxKxC)
        return score_BxK, next_BxKxC

    def _advanced(
        self, beam: Beam, parent_BxK: jax.Array, column_BxK: jax.Array, score_BxK: jax.Array
    ) -> Beam:
        """The beams that go on from `parent`, each with its column."""
        B, k = parent_BxK.shape
        of_parent = jax.tree.map(
            lambda x: jnp.take_along_axis(x, parent_BxK.reshape(B, k, *[1] * (x.ndim - 2)), 1), beam
        )
        return walk.advance(
            self.tables,
            self.inputs.template_BxL,
            self.read.literals_BxL,
            of_parent,
            column_BxK,
            score_BxK,
        )

    def _ended(
        self,
        score_BxK: jax.Array,
        tokens_BxK: jax.Array,
        row: jax.Array,
        slot_BxK: jax.Array,
        with_eos: bool,
    ) -> Finished:
        """Candidates whose last chunk is row `row` of the trail; -inf = none."""
        return Finished(
            rank_BxK=score_BxK / tokens_BxK.astype(jnp.float32) ** self.length_penalty,
            score_BxK=score_BxK,
            row_BxK=self._zeros_BxK() + row,
            slot_BxK=slot_BxK,
            ended_BxK=self._zeros_BxK() == (0 if with_eos else 1),
        )

    def _zeros_BxK(self) -> jax.Array:
        return jnp.zeros((self.inputs.source_BxS.shape[0], self.k), jnp.int32)


def grown(state: State, steps: int, nodes: int) -> State:
    """The same state with room for `steps` steps of `nodes` slots."""
    more = steps - state.ancestor_BxKxT.shape[2]

    def grow(x: jax.Array, axis: int, by: int, value: int = 0) -> jax.Array:
        return jnp.pad(
            x, [(0, by if i == axis else 0) for i in range(x.ndim)], constant_values=value
        )

    slot_depth_BxL = state.slot_depth_BxL
    if slot_depth_BxL.shape[1]:
        slot_depth_BxL = grow(slot_depth_BxL, 1, more * nodes, _NOWHERE)
    return state._replace(
        cache=tuple(
            (grow(key, 3, more * nodes), grow(value, 2, more * nodes)) for key, value in state.cache
        ),
        slot_depth_BxL=slot_depth_BxL,
        ancestor_BxKxT=grow(state.ancestor_BxKxT, 2, more, -1),
    )
