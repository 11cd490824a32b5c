"""One step of the beam search, from state to state, and what all steps read.

Works on ids and scores alone, as `beam_search.py` does, which runs the steps and says how they go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from groot_jax.generate import walk
from groot_jax.generate.backtrack import Trail
from groot_jax.generate.grammar import Grammar, StepPlan
from groot_jax.generate.inputs import SearchInput
from groot_jax.generate.selection import NEG_INF, Finished, best_continuations, merge, top_k
from groot_jax.generate.walk import Running, take
from groot_jax.mesh.layout import constrain
from groot_jax.model.layers import Biases, Layers, Params
from groot_jax.model.t5 import T5, decoding_params, rows_at


class State(NamedTuple):
    """What a step changes."""

    step: jax.Array
    cache: Layers
    slot_depth_BxL: jax.Array  # tokens before each cache slot's; _NOWHERE: it holds none
    beam: Running
    ancestor_BxKxI: jax.Array  # beam of step i on the path of beam k; -1: a step to come
    finished: Finished
    settled_B: jax.Array  # no running beam can still get among the finished
    trail: Trail  # what was fed in each step; row 0 is the start chunk


# Depth of an empty slot. It lies after every token, so that no mask lets it be seen.
_NOWHERE = 1 << 20


class Read(NamedTuple):
    """What every step reads of the model and of the sentences, computed once before the loop: the
    compiler would not lift all of it out by itself."""

    decoding: Params  # the decoder's variables, gathered where devices hold parts of them
    encoded_BxSxD: jax.Array
    cross: Layers  # keys and values of the encoder's output, a layer each
    source_mask_BxS: jax.Array
    weights: jax.Array  # of the output columns
    biases_HxT: Biases  # relative bias by distance
    literals_BxL: jax.Array  # literals ahead of each place of the template


def read_before_the_loop(
    model: T5,
    params: Params,
    grammar: Grammar,
    inputs: SearchInput,
    dropout_key: jax.Array | None,
) -> Read:
    """Encodes the sentences; with dropout in the encoder where there is a key."""
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
    some = config.vocab_size > grammar.columns_C.shape[0]
    columns_C = grammar.columns_C if some else None
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
        # The start token lies before the T tokens of an output: distances 0 .. T.
        biases_HxT=model.apply(variables, T + 1, method=model.bias_by_distance),
        literals_BxL=walk.literals_ahead(inputs.template_BxL, config.eos_token_id),
    )


@dataclass(frozen=True)
class SearchSteps:
    """The steps of one search: what they read, and the functions from state to state."""

    model: T5
    inputs: SearchInput
    grammar: Grammar  # on the device
    plan: StepPlan
    k: int
    length_penalty: float
    keep_unfinished: bool
    read: Read

    @property
    def nodes_a_step(self) -> int:
        """Cache slots that a step fills: K*W, whether or not a beam's chunk has all W tokens."""
        return self.k * self.plan.width

    def start(self, until: int) -> State:
        """Before the first step, with a cache for the first `until` steps."""
        config, template_BxL = self.model.config, self.inputs.template_BxL
        B, slots = template_BxL.shape[0], until * self.nodes_a_step
        begin = walk.start(
            template_BxL, self.read.literals_BxL, self.plan.width, config.decoder_start_token_id
        )
        none_BxK, zeros_BxK = jnp.full((B, self.k), NEG_INF, jnp.float32), self._zeros_BxK()
        return State(
            step=jnp.int32(0),
            cache=self.model.apply(self.read.decoding, B, slots, method=self.model.init_cache),
            # Where chunks are even, depths follow from the slots and need not be kept.
            slot_depth_BxL=jnp.zeros((B, 0 if self.plan.even else slots), jnp.int32) + _NOWHERE,
            beam=begin,
            ancestor_BxKxI=jnp.full((B, 1, until), -1, jnp.int32),
            finished=Finished(none_BxK, none_BxK, zeros_BxK, zeros_BxK, zeros_BxK > 0),
            settled_B=jnp.asarray(self.inputs.cap_B) <= 0,
            # The last step notes a row too: never fed, but of what `keep_unfinished` keeps.
            trail=Trail.begun(begin, self.plan.steps + 1, self.k),
        )

    def running(self, state: State) -> jax.Array:
        """Whether some sentence is not done, and the cache has room for another step; bool []."""
        until = state.ancestor_BxKxI.shape[2]
        open_B = ~state.settled_B & (state.step < self.inputs.cap_B)
        return (state.step < until) & jnp.any(open_B)

    def step(self, state: State) -> State:
        """Feeds the chunks, chooses continuations: some end, others run on."""
        beam, step, k = state.beam, state.step, self.k
        hidden_BxKxWxD, cache, slot_depth_BxL, ancestor_BxKxI = self._feed(state)
        forced_BxK, next_BxKxC = self._log_probs(hidden_BxKxWxD, beam)
        if self.plan.use_grammar:
            allowed_BxKxC = walk.allowed(self.grammar, self.inputs.template_BxL, beam)
            # Not renormalised: what is legal keeps the log-probability that the model gives it.
            next_BxKxC = jnp.where(allowed_BxKxC, next_BxKxC, NEG_INF)
        # Of 2K continuations at most K end, one a beam: K others are left.
        best_BxJ, flat_BxJ = best_continuations(beam.score_BxK + forced_BxK, next_BxKxC, 2 * k)
        C = next_BxKxC.shape[2]
        parent_BxJ, column_BxJ = flat_BxJ // C, flat_BxJ % C
        ends_BxJ = self.grammar.columns_C[column_BxJ] == self.model.config.eos_token_id
        live_B = ~state.settled_B & (step < self.inputs.cap_B)

        # Finished: those among the first K that end, merged with the finished of earlier steps.
        new_BxK = jnp.where(ends_BxJ[:, :k] & live_B[:, None], best_BxJ[:, :k], NEG_INF)
        # Tokens of the output: the start token, which was fed, is none, and EOS is one more.
        tokens_BxK = take(beam.depth_BxK + beam.fill_BxK, parent_BxJ[:, :k])
        new = self._ended(new_BxK, tokens_BxK, step, parent_BxJ[:, :k], True)
        finished = merge(state.finished, new)

        # Running on: the K best that do not end. Stable, so ties keep their order.
        rest_BxJ = jnp.where(ends_BxJ, NEG_INF, best_BxJ)
        score_BxK, keep_BxK = top_k(rest_BxJ, k)
        parent_BxK = take(parent_BxJ, keep_BxK)
        beam = self._advanced(beam, parent_BxK, take(column_BxJ, keep_BxK), score_BxK)

        # What a running beam can still reach: s only falls, and length helps by the penalty alone.
        # At penalty 1, s = -6 so far and 12 tokens at most: -0.5 or less.
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
            # All that choosing beams reorders: whose path each beam goes on with.
            ancestor_BxKxI=take(ancestor_BxKxI, parent_BxK),
            finished=finished,
            # A sentence out of steps stays as it is.
            settled_B=jnp.where(live_B, settled_B, state.settled_B),
            trail=state.trail.noted(step + 1, beam, parent_BxK),
        )

    def _feed(self, state: State) -> tuple[jax.Array, Layers, jax.Array, jax.Array]:
        """Hidden states [B, K, W, D] of the beams' chunks; cache, slot depths, ancestors.

        K is the number of beams at hand: 1 in the first step, then `self.k`.
        """
        beam, step, read = state.beam, state.step, self.read
        width, N = self.plan.width, self.nodes_a_step
        B, K, steps = state.ancestor_BxKxI.shape
        T = self.inputs.fused_target_BxT.shape[1]
        place_W = jnp.arange(width)
        # Slot l was filled in step l // N by token l % N % W of a chunk: with K = 3 beams and
        # W = 2, slot 11 = 6 + 5 by the second token of beam 2 in step 1.
        slot_step_L, slot_place_L = jnp.divmod(jnp.arange(steps * N), N)
        slot_place_L %= width
        ancestor_BxKxI = state.ancestor_BxKxI.at[:, :, step].set(jnp.arange(K))
        # Slot (i, j, w) belongs to a beam's path where its ancestor of step i was beam j:
        # [B, K, I] -> [B, K, I, self.k] -> [B, K, I*self.k] -> [B, K, L = I*self.k*W].
        own_BxKxIxK = ancestor_BxKxI[..., None] == jnp.arange(self.k)
        own_BxKxL = jnp.repeat(own_BxKxIxK.reshape(B, K, steps * self.k), width, axis=2)
        depth_BxKxW = beam.depth_BxK[..., None] + place_W
        slot_depth_BxL = state.slot_depth_BxL
        if self.plan.even:
            # Depths follow from the slots, the same for all sentences and beams: [1, 1, W, L].
            distance = (step - slot_step_L) * width + place_W[:, None] - slot_place_L
            distance_BxKxWxL = distance[None, None]
        else:
            filled_BxKxW = place_W < beam.fill_BxK[..., None]
            new_BxN = jnp.where(filled_BxKxW, depth_BxKxW, _NOWHERE).reshape(B, K * width)
            slot_depth_BxL = jax.lax.dynamic_update_slice_in_dim(
                slot_depth_BxL, new_BxN, step * N, axis=1
            )
            distance_BxKxWxL = depth_BxKxW[..., None] - slot_depth_BxL[:, None, None]
        # Within the path, back to the start and not ahead: the tokens of a chunk see each other in
        # their order, and an empty slot, at _NOWHERE, lies ahead of all.
        mask_BxKxWxL = own_BxKxL[:, :, None] & (distance_BxKxWxL >= 0)
        if self.plan.even:
            distance_BxKxWxL = jnp.broadcast_to(distance_BxKxWxL, (1, K, width, steps * N))
        # [B, K, W] -> [B, N = K*W]: a chunk's tokens are nodes like any others.
        depth_BxN = jnp.minimum(depth_BxKxW.reshape(B, K * width), T - 1)
        hidden_BxNxD, cache = self.model.apply(
            read.decoding,
            beam.chunk_BxKxW.reshape(B, K * width),
            step * N,
            distance_BxKxWxL.reshape(-1, K * width, steps * N),
            mask_BxKxWxL.reshape(B, K * width, steps * N),
            state.cache,
            read.cross,
            read.source_mask_BxS,
            take(self.inputs.fused_target_BxT, depth_BxN),
            self._aligned_rows(depth_BxN),
            read.biases_HxT,
            method=self.model.extend,
        )
        return hidden_BxNxD.reshape(B, K, width, -1), cache, slot_depth_BxL, ancestor_BxKxI

    def _aligned_rows(self, depth_BxN: jax.Array) -> jax.Array | None:
        """The encoder's output of the word that each node is about, [B, N, D]."""
        if self.inputs.aligned_BxT is None:
            return None
        return rows_at(self.read.encoded_BxSxD, take(self.inputs.aligned_BxT, depth_BxN))

    def _log_probs(self, hidden_BxKxWxD: jax.Array, beam: Running) -> tuple[jax.Array, jax.Array]:
        """Two parts whose sum is the log-probability of what each chunk forces and of one more
        column: [B, K], normalisers and forced logits, and [B, K, C], the logits of that column.

        For the chunk `brand <1>`, whose first token was counted when it was chosen: logit of <1>
        after brand, less both normalisers; and the logits after <1>.
        """
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
            # Token w is predicted at w - 1; padding is no column, and its logit is not counted.
            column_BxK = jnp.maximum(self.grammar.column_of_V[beam.chunk_BxKxW[..., w]], 0)
            logit_BxK = jnp.take_along_axis(
                logits_BxKxWxC[:, :, w - 1], column_BxK[..., None], axis=-1
            )[..., 0]
            score_BxK += jnp.where(w <= last_BxK, logit_BxK, 0.0)
            # What comes next is predicted at the last token of the chunk.
            here = (last_BxK == w)[..., None]
            next_BxKxC = jnp.where(here, logits_BxKxWxC[:, :, w], next_BxKxC)
        return score_BxK, next_BxKxC

    def _advanced(
        self, beam: Running, parent_BxK: jax.Array, column_BxK: jax.Array, score_BxK: jax.Array
    ) -> Running:
        """The beams that go on from `parent`, each with its column."""
        return walk.advance(
            self.grammar,
            self.inputs.template_BxL,
            self.read.literals_BxL,
            jax.tree.map(lambda x: take(x, parent_BxK), beam),
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
    """The same state with room for `steps` steps of `nodes` slots.

    Only what a new slot must not look like is filled in: depth _NOWHERE, ancestor -1, which is no
    beam. Keys and values of slots that nobody sees may be anything.
    """
    more = steps - state.ancestor_BxKxI.shape[2]

    def grow(x: jax.Array, axis: int, by: int, value: int = 0) -> jax.Array:
        return jnp.pad(
            x, [(0, by if i == axis else 0) for i in range(x.ndim)], constant_values=value
        )

    slot_depth_BxL = state.slot_depth_BxL
    if slot_depth_BxL.shape[1]:
        slot_depth_BxL = grow(slot_depth_BxL, 1, more * nodes, _NOWHERE)
    return state._replace(
        # key_BxHxDhxL, value_BxHxLxDh.
        cache=tuple(
            (grow(key, 3, more * nodes), grow(value, 2, more * nodes)) for key, value in state.cache
        ),
        slot_depth_BxL=slot_depth_BxL,
        ancestor_BxKxI=grow(state.ancestor_BxKxI, 2, more, -1),
    )
