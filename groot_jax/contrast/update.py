"""The jitted steps that change parameters: gold's likelihood (stage 0) and the contrast (stage 1).

Works on ids, scores and rewards; may not call a reward or start a search. Every mean is a sum over
a denominator that counts real sentences or tokens: padding and accumulation change nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import optax

from groot_jax.contrast.losses import LossSettings, Pool, contrast
from groot_jax.contrast.projection import OutputColumns, token_log_probs
from groot_jax.model.t5 import T5

Params: TypeAlias = Any
# Of the fields of a batch: numpy on the host, jax.Array once placed or traced.
Array: TypeAlias = Any
Metrics = dict[str, tuple[jax.Array, jax.Array]]


@flax.struct.dataclass
class TrainState:
    """Everything that an update reads and replaces."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState


class NllBatch(NamedTuple):
    """Sentences with their gold outputs."""

    source_BxS: Array
    fused_source_BxS: Array
    fused_target_BxT: Array
    target_BxT: Array  # ids, EOS last, then 0


class PoolBatch(NamedTuple):
    """Sentences with the token trees of their candidates (see `contrast/tree.py`)."""

    source_BxS: Array
    fused_source_BxS: Array
    fused_target_BxT: Array
    token_BxN: Array
    depth_BxN: Array
    attend_BxNxN: Array
    edge_node_BxN: Array
    edge_label_BxN: Array
    path_BxMxN: Array
    length_BxM: Array
    rewards_BxM: Array
    in_contrast_BxM: Array  # False for padding, and for gold that is there for NLL alone
    gold_BxM: Array  # one True a sentence: the slot of gold; none: no NLL term


def _encode(
    model: T5, params: Params, source: jax.Array, fused: jax.Array, key: jax.Array | None
) -> tuple[Any, jax.Array]:
    variables = {"params": params}
    rngs = None if key is None else {"dropout": key}
    encoded = model.apply(
        variables, source, fused, deterministic=key is None, rngs=rngs, method=model.encode
    )
    return model.apply(variables, encoded, method=model.cross_kv), (
        source != model.config.pad_token_id
    )


def nll_scores(
    model: T5, params: Params, batch: NllBatch, columns: OutputColumns, key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Teacher-forced log-probabilities of gold: log p and smoothing term [B, T], mask [B, T].

    s(y) is `(log_p * mask).sum(1)`, the same quantity that the beam search returns.
    """
    B, T = batch.target_BxT.shape
    key_encoder, key_decoder = (None, None) if key is None else jax.random.split(key)
    cross, source_mask = _encode(
        model, params, batch.source_BxS, batch.fused_source_BxS, key_encoder
    )
    start = jnp.full((B, 1), model.config.decoder_start_token_id, batch.target_BxT.dtype)
    tokens_BxT = jnp.concatenate([start, batch.target_BxT[:, :-1]], 1)
    hidden = model.apply(
        {"params": params},
        tokens_BxT,
        jnp.arange(T)[None],
        jnp.tril(jnp.ones((1, T, T), bool)),
        cross,
        source_mask,
        batch.fused_target_BxT,
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key_decoder},
        method=model.decode,
    )
    logp_BxT, smooth_BxT = token_log_probs(model, params, hidden, batch.target_BxT, columns)
    return logp_BxT, smooth_BxT, batch.target_BxT != model.config.pad_token_id


def pool_scores(
    model: T5,
    params: Params,
    batch: PoolBatch,
    columns: OutputColumns,
    key: jax.Array | None = None,
) -> jax.Array:
    """s(y) of every candidate, [B, M], by one pass over each sentence's token tree."""
    key_encoder, key_decoder = (None, None) if key is None else jax.random.split(key)
    cross, source_mask = _encode(
        model, params, batch.source_BxS, batch.fused_source_BxS, key_encoder
    )
    last = batch.fused_target_BxT.shape[1] - 1
    fused_BxN = jnp.take_along_axis(
        batch.fused_target_BxT, jnp.minimum(batch.depth_BxN, last), axis=1
    )
    hidden_BxNxD = model.apply(
        {"params": params},
        batch.token_BxN,
        batch.depth_BxN,
        batch.attend_BxNxN,
        cross,
        source_mask,
        fused_BxN,
        num_positions=last + 1,
        deterministic=key is None,
        rngs=None if key is None else {"dropout": key_decoder},
        method=model.decode,
    )
    logp_BxN, _ = token_log_probs(
        model, params, hidden_BxNxD, batch.edge_label_BxN, columns, batch.edge_node_BxN
    )
    return jnp.einsum("bmn,bn->bm", batch.path_BxMxN.astype(logp_BxN.dtype), logp_BxN)


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
) -> tuple[TrainState, Metrics]:
    """One step of maximum likelihood of gold, mean over tokens or over sentences."""

    def loss_fn(params: Params) -> tuple[jax.Array, Metrics]:
        logp_BxT, smooth_BxT, mask_BxT = nll_scores(
            model, params, batch, columns, jax.random.fold_in(key, state.step)
        )
        loss_BxT = -(1 - label_smoothing) * logp_BxT - label_smoothing * smooth_BxT
        tokens = mask_BxT.sum().astype(jnp.float32)
        sentences = mask_BxT[:, 0].sum().astype(jnp.float32)
        loss_sum = (loss_BxT * mask_BxT).sum()
        denominator = jnp.maximum(tokens if average == "token" else sentences, 1.0)
        metrics = {
            "loss": (loss_sum, denominator),
            "gold_score": ((logp_BxT * mask_BxT).sum(), sentences),
        }
        return loss_sum / denominator, metrics

    (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return _apply(state, grads, optimizer, metrics)


def _pool_sums(
    params: Params,
    batch: PoolBatch,
    key: jax.Array,
    columns: OutputColumns,
    denominators: tuple[jax.Array, jax.Array],
    *,
    model: T5,
    settings: LossSettings,
    nll_weight: float,
    average: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    scores_BxM = pool_scores(model, params, batch, columns, key)
    pool = Pool(scores_BxM, batch.rewards_BxM, batch.in_contrast_BxM, batch.length_BxM)
    contrast_sum = contrast(pool, settings).sum()
    gold_sum = jnp.where(batch.gold_BxM, scores_BxM, 0.0).sum()
    sentences, tokens = denominators
    nll_denominator = tokens if average == "token" else sentences
    loss = contrast_sum / sentences - nll_weight * gold_sum / nll_denominator
    return loss, {"contrast": contrast_sum, "gold_score": gold_sum}


def groot_step(
    state: TrainState,
    batch: PoolBatch,
    key: jax.Array,
    columns: OutputColumns,
    *,
    model: T5,
    optimizer: optax.GradientTransformation,
    settings: LossSettings,
    nll_weight: float,
    average: str,
    accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
    """One contrastive step: mean contrast over sentences + lambda * mean of -s(gold).

    With `accumulate` > 1 the batch is worked through in that many equal parts, one after the other,
    for the same gradient (dropout draws aside) in less memory.
    """
    key = jax.random.fold_in(key, state.step)
    real_B = batch.gold_BxM.any(1) | batch.in_contrast_BxM.any(1)
    sentences = jnp.maximum(real_B.sum().astype(jnp.float32), 1.0)
    tokens = jnp.where(batch.gold_BxM, batch.length_BxM, 0).sum().astype(jnp.float32)
    denominators = (sentences, jnp.maximum(tokens, 1.0))
    sums = partial(
        _pool_sums,
        columns=columns,
        denominators=denominators,
        model=model,
        settings=settings,
        nll_weight=nll_weight,
        average=average,
    )
    grad_fn = jax.value_and_grad(sums, has_aux=True)
    if accumulate == 1:
        (loss, parts), grads = grad_fn(state.params, batch, key)
    else:
        slices = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)

        def add(carry: Any, item: tuple[PoolBatch, jax.Array]) -> tuple[Any, None]:
            part, index = item
            new = grad_fn(state.params, part, jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, carry, new), None

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(grad_fn, state.params, jax.tree.map(lambda x: x[0], slices), key),
        )
        ((loss, parts), grads), _ = jax.lax.scan(add, zeros, (slices, jnp.arange(accumulate)))
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
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["grad_norm"] = (optax.global_norm(grads), jnp.float32(1.0))
    return TrainState(state.step + 1, params, opt_state), metrics
