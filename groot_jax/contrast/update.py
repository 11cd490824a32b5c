"""The jitted steps that change parameters: gold's likelihood (stage 0) and the contrast (stage 1).

Works on ids, scores and rewards; may not call a reward or start a search. Every mean is a sum over
a denominator that counts real sentences or tokens: padding and accumulation change nothing.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import optax

from groot_jax.contrast.losses import LossSettings, ScoredPools, contrast
from groot_jax.contrast.projection import OutputColumns, divergences, token_log_probs
from groot_jax.contrast.tree import Forest
from groot_jax.data.batches import Batch
from groot_jax.mesh.arrays import AnyArray
from groot_jax.mesh.layout import constrain, summed
from groot_jax.model.layers import Params
from groot_jax.model.t5 import T5, rows_at

# Name -> (sum, denominator), so that those of several updates add up to a mean.
Metrics = dict[str, tuple[jax.Array, jax.Array]]
# (loss, sums by name), and the gradient of the loss.
_Graded: TypeAlias = tuple[tuple[jax.Array, dict[str, jax.Array]], Params]


@flax.struct.dataclass
class TrainState:
    """Everything that an update reads and replaces."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState


class NllBatch(NamedTuple):
    """Sentences with their gold outputs."""

    source_BxS: AnyArray
    fused_source_BxSxF: AnyArray
    fused_target_BxT: AnyArray
    aligned_BxT: AnyArray | None  # None: the format aligns nothing
    target_BxT: AnyArray  # ids, EOS last, then 0


def nll_batch(batch: Batch) -> NllBatch:
    """What a step of stage 0 reads of a batch."""
    return NllBatch._make(getattr(batch, name) for name in NllBatch._fields)


@flax.struct.dataclass
class PoolBatch:
    """Sentences with the token trees of their candidates, several in a bin (see `Forest`).

    The batch is `groups` equal parts, each with its own share of the R bins: a part can go to a
    device, or into an update by parts, without the others.
    """

    source_BxS: AnyArray
    fused_source_BxSxF: AnyArray
    forest: Forest
    rewards_BxM: AnyArray  # 0 where there is no candidate
    in_contrast_BxM: AnyArray  # False for padding, and for gold that is there for NLL alone
    gold_BxM: AnyArray  # one True a sentence: the slot of gold; none: no NLL term
    num_positions: int = flax.struct.field(pytree_node=False)  # all depths are below it
    groups: int = flax.struct.field(pytree_node=False)

    def parts(self, count: int) -> PoolBatch:
        """A leading dimension `count` on every field: parts of `groups` / `count` groups each.

        They are taken in turns, so that each part lies on as many devices as the batch: of the
        groups 0 to 3, which lie on two devices as 0 1 | 2 3, two parts have 0 2 and 1 3. `count`
        has to divide the groups.
        """

        def split(x: jax.Array) -> jax.Array:
            rows = x.shape[0]  # B or R. Not -1: a format that fuses nothing has F = 0.
            groups = x.reshape(self.groups // count, count, rows // self.groups, *x.shape[1:])
            return groups.swapaxes(0, 1).reshape(count, rows // count, *x.shape[1:])

        return jax.tree.map(split, self).replace(groups=self.groups // count)


def _encode(
    model: T5, params: Params, batch: NllBatch | PoolBatch, key: jax.Array | None
) -> jax.Array:
    """encoded_BxSxD, with dropout where there is a key."""
    return model.apply(
        {"params": params},
        batch.source_BxS,
        batch.fused_source_BxSxF,
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key},
        method=model.encode,
    )


def nll_scores(
    model: T5, params: Params, batch: NllBatch, columns: OutputColumns, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Teacher-forced log-probabilities of gold: log p and smoothing term [B, T], mask [B, T].

    s(y) is `(log_p * mask).sum(1)`, the same quantity that the beam search returns.
    """
    hidden_BxTxD = _gold_states(model, params, batch, key)
    logp_BxT, smooth_BxT = token_log_probs(model, params, hidden_BxTxD, batch.target_BxT, columns)
    return logp_BxT, smooth_BxT, batch.target_BxT != model.config.pad_token_id


def _gold_states(model: T5, params: Params, batch: NllBatch, key: jax.Array | None) -> jax.Array:
    """What the decoder makes of gold, [B, T, D]."""
    B, T = batch.target_BxT.shape
    key_encoder, key_decoder = (None, None) if key is None else jax.random.split(key)
    encoded_BxSxD = _encode(model, params, batch, key_encoder)
    # Teacher forcing: position t reads token t - 1 of gold and is to predict token t.
    start = jnp.full((B, 1), model.config.decoder_start_token_id, batch.target_BxT.dtype)
    tokens_BxT = jnp.concatenate([start, batch.target_BxT[:, :-1]], 1)
    hidden_BxTxD: jax.Array = model.apply(
        {"params": params},
        tokens_BxT,
        jnp.arange(T)[None],
        jnp.tril(jnp.ones((1, T, T), bool)),
        model.apply({"params": params}, encoded_BxSxD, method=model.cross_kv),
        (batch.source_BxS != model.config.pad_token_id)[:, None],
        batch.fused_target_BxT,
        None if batch.aligned_BxT is None else rows_at(encoded_BxSxD, batch.aligned_BxT),
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key_decoder},
        method=model.decode,
    )
    return hidden_BxTxD


def pool_scores(
    model: T5,
    params: Params,
    batch: PoolBatch,
    columns: OutputColumns,
    key: jax.Array | None = None,
) -> jax.Array:
    """s(y) of every candidate, [B, M], by one pass over the token trees.

    A bin's sources lie side by side as its trees do: each source token is in one bin, without
    padding between the sentences, and a node sees those of its own sentence.
    """
    key_encoder, key_decoder = (None, None) if key is None else jax.random.split(key)
    encoded_BxSxD = _encode(model, params, batch, key_encoder)
    forest, groups = batch.forest, batch.groups
    (B, S, D), (R, U) = encoded_BxSxD.shape, forest.source_place_RxU.shape
    # Gathers stay within a group, the first dimension here: where groups lie on devices of their
    # own, none needs another's. [B, S, D] -> [groups, B/groups * S, D] -> [R, U, D].
    encoded_RxUxD = jnp.take_along_axis(
        encoded_BxSxD.reshape(groups, -1, D),
        jnp.maximum(forest.source_place_RxU, 0).reshape(groups, -1, 1),
        axis=1,
    ).reshape(R, U, D)
    # Place b * S + s is of sentence b. -1 // S is -1, as of nodes that are padding: they see source
    # padding, if there is any, and nobody else does.
    owner_RxU = forest.source_place_RxU // S
    hidden_RxNxD = model.apply(
        {"params": params},
        forest.token_RxN,
        forest.depth_RxN,
        None,
        model.apply({"params": params}, encoded_RxUxD, method=model.cross_kv),
        owner_RxU[:, None, :] == forest.sentence_RxN[:, :, None],
        forest.fused_RxN,
        None if forest.aligned_RxN is None else rows_at(encoded_RxUxD, forest.aligned_RxN),
        end_BxN=forest.end_RxN,
        num_positions=batch.num_positions,
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key_decoder},
        method=model.decode,
    )
    # Edges of a group lie at nodes of its own bins, r * N + n: one row of nodes a group.
    logp, _ = token_log_probs(
        model,
        params,
        hidden_RxNxD.reshape(groups, -1, D),  # [groups, R/groups * N, D]
        forest.edge_label_BxE.reshape(groups, -1),
        columns,
        forest.edge_node_BxE.reshape(groups, -1),
    )
    logp_BxE = logp.reshape(B, -1)
    # s of a candidate: the sum over the edges of its path. An edge that many take is computed once.
    return jnp.einsum("bme,be->bm", forest.path_BxMxE.astype(logp_BxE.dtype), logp_BxE)


class _Shared(NamedTuple):
    """What the rows of a batch share, on whichever device and in whichever part of it they are."""

    key: jax.Array  # of dropout
    columns: OutputColumns
    denominators: tuple[jax.Array, ...]  # of the whole batch, so that sums of its parts add up
    losses: LossSettings | None = None  # of the contrast


def nll_step(
    state: TrainState,
    batch: NllBatch,
    key: jax.Array,
    columns: OutputColumns,
    *,
    model: T5,
    optimizer: optax.GradientTransformation,
    average: str,
    label_smoothing: float,
    rdrop: float,
) -> tuple[TrainState, Metrics]:
    """One step of maximum likelihood of gold, mean over tokens or over sentences.

    `average`: "token" or "sentence". With label smoothing e a token costs (1 - e) * -log p(gold)
    plus e times the mean of -log p over all columns (Szegedy et al., arXiv 1512.00567). `rdrop`, r:
    each sentence is read twice, with dropout of its own, and r / 2 times the symmetric divergence
    of its two distributions is added to the mean of its two losses: half of what R-Drop (Liang et
    al., arXiv 2106.14448) adds up.
    """
    real_BxT = batch.target_BxT != model.config.pad_token_id
    tokens = real_BxT.sum().astype(jnp.float32)
    # A row of padding has no first token.
    sentences = real_BxT[:, 0].sum().astype(jnp.float32)
    denominator = jnp.maximum(tokens if average == "token" else sentences, 1.0)

    def sums(
        params: Params, batch: NllBatch, shared: _Shared
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        (denominator,) = shared.denominators
        if rdrop:
            # Both side by side, so that a device has both: 0 1 -> 0 0 1 1.
            batch = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), batch)
        hidden_BxTxD = _gold_states(model, params, batch, shared.key)
        target_BxT = batch.target_BxT
        logp_BxT, smooth_BxT = token_log_probs(
            model, params, hidden_BxTxD, target_BxT, shared.columns
        )
        loss_BxT = -(1 - label_smoothing) * logp_BxT - label_smoothing * smooth_BxT
        if rdrop:
            apart_BxT = divergences(model, params, hidden_BxTxD, shared.columns)
            # [2B, T] as pairs, [B, 2, T]: every second row would be fetched from other devices.
            logp_BxT, loss_BxT = (
                x.reshape(-1, 2, x.shape[1]).mean(1) for x in (logp_BxT, loss_BxT)
            )
            target_BxT = target_BxT.reshape(-1, 2, target_BxT.shape[1])[:, 0]
            loss_BxT = loss_BxT + rdrop / 2 * apart_BxT
        mask_BxT = target_BxT != model.config.pad_token_id
        loss_sum = (loss_BxT * mask_BxT).sum()
        gold_sum = (logp_BxT * mask_BxT).sum()
        return loss_sum / denominator, {"loss": loss_sum, "gold_score": gold_sum}

    (_, parts), grads = summed(
        jax.value_and_grad(sums, has_aux=True),
        state.params,
        batch,
        _Shared(jax.random.fold_in(key, state.step), columns, (denominator,)),
    )
    metrics = {
        "loss": (parts["loss"], denominator),
        "gold_score": (parts["gold_score"], sentences),
    }
    return _apply(state, grads, optimizer, metrics)


def _pool_sums(
    params: Params,
    batch: PoolBatch,
    shared: _Shared,
    *,
    model: T5,
    average: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of some rows, divided by what the whole batch counts, and the sums it is made of."""
    settings = shared.losses
    assert settings is not None
    scores_BxM = pool_scores(model, params, batch, shared.columns, shared.key)
    pools = ScoredPools(
        scores_BxM, batch.rewards_BxM, batch.in_contrast_BxM, batch.forest.length_BxM
    )
    contrast_sum = contrast(pools, settings).sum()
    # Gold has one slot a sentence, contrasted or not.
    gold_sum = jnp.where(batch.gold_BxM, scores_BxM, 0.0).sum()
    sentences, tokens = shared.denominators
    nll_denominator = tokens if average == "token" else sentences
    loss = contrast_sum / sentences - settings.nll_weight * gold_sum / nll_denominator
    return loss, {"contrast": contrast_sum, "gold_score": gold_sum}


def groot_step(
    state: TrainState,
    batch: PoolBatch,
    key: jax.Array,
    columns: OutputColumns,
    settings: LossSettings,
    *,
    model: T5,
    optimizer: optax.GradientTransformation,
    average: str,
    accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
    """One contrastive step: mean contrast over sentences + lambda * mean of -s(gold), where
    lambda is `settings.nll_weight`.

    The second mean is over sentences or, with `average` "token", over gold's tokens: contrast alone
    asks for differences of scores, and would let all of them fall.

    With `accumulate` > 1 the batch is worked through in that many equal parts, one after the other,
    for the same gradient (dropout draws aside) in less memory. It has to divide the batch's groups.
    """
    key = jax.random.fold_in(key, state.step)
    # Padding, and a sentence without a target and a pool, is not counted.
    real_B = batch.gold_BxM.any(1) | batch.in_contrast_BxM.any(1)
    sentences = jnp.maximum(real_B.sum().astype(jnp.float32), 1.0)
    tokens = jnp.where(batch.gold_BxM, batch.forest.length_BxM, 0).sum().astype(jnp.float32)
    shared = _Shared(key, columns, (sentences, jnp.maximum(tokens, 1.0)), settings)
    sums = partial(_pool_sums, model=model, average=average)
    grad_fn = jax.value_and_grad(sums, has_aux=True)

    def accumulated(params: Params, batch: PoolBatch, shared: _Shared) -> _Graded:
        # A device that is given its own rows alone has its share of the groups: with 4 of 16 rows,
        # 2 of 8.
        share = batch.gold_BxM.shape[0] / real_B.shape[0]
        batch = dataclasses.replace(batch, groups=round(batch.groups * share))
        if accumulate == 1:
            return grad_fn(params, batch, shared)
        slices = batch.parts(accumulate)

        def add(carry: _Graded, item: tuple[PoolBatch, jax.Array]) -> tuple[_Graded, None]:
            part, index = constrain(item[0], "batch"), item[1]
            # Each part draws its own dropout.
            own = shared._replace(key=jax.random.fold_in(shared.key, index))
            new = grad_fn(params, part, own)
            return jax.tree.map(jnp.add, carry, new), None

        # What a part gives, all zeros: the parts are added to it one by one.
        first = jax.tree.map(lambda x: x[0], slices)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(grad_fn, params, first, shared))
        return jax.lax.scan(add, zeros, (slices, jnp.arange(accumulate)))[0]

    (loss, parts), grads = summed(accumulated, state.params, batch, shared)
    one = jnp.float32(1.0)
    metrics = {
        "loss": (loss, one),
        "contrast": (parts["contrast"], sentences),
        "gold_score": (parts["gold_score"], sentences),
    }
    return _apply(state, grads, optimizer, metrics)


def _apply(
    state: TrainState, grads: Params, optimizer: optax.GradientTransformation, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """The state after the optimizer's update; `metrics` gets the norm of the gradients as well."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["grad_norm"] = (optax.tree.norm(grads), jnp.float32(1.0))
    return TrainState(state.step + 1, params, opt_state), metrics
