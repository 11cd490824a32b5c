"""The optimizers themselves: what an update takes off the parameters, by their gradients."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from groot_jax.contrast.update import Params

_EPSILON = 1e-8  # Adam's, so that a parameter without a gradient stays.
# A quintic whose iterates bring each singular value of a matrix near 1 (Jordan et al.).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95  # Muon's: some twenty gradients are remembered.
# The root of the mean square of an update that Muon makes at a rate of 1: about that of AdamW's.
_RMS = 0.2


def adamw(
    schedule: optax.Schedule, *, b1: float, b2: float, weight_decay: float, clip: float
) -> optax.GradientTransformation:
    """optax.adamw behind optax.clip_by_global_norm: their state, and but for rounding their
    updates, in a third of the instructions.

    Theirs divides each element by the norm and by both bias corrections, and works out the learning
    rate for each parameter anew. Here what all elements share is one number, so that an element
    costs a square root and a division.
    """
    core = optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=decayed)
    theirs = optax.chain(optax.clip_by_global_norm(clip), core) if clip else core

    def update(
        grads: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.OptState]:
        assert params is not None
        adam, *rest, scheduled = state[1] if clip else state
        scale = clip_scale(grads, clip)
        count = optax.safe_increment(adam.count)
        # The first moment is 1 - b1^n of what it estimates after n updates, the second 1 - b2^n.
        rate = schedule(scheduled.count)
        step = rate / (1 - b1**count)
        correction = 1 / (1 - b2**count)
        mu = jax.tree.map(lambda g, m: b1 * m + ((1 - b1) * scale) * g, grads, adam.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * jnp.square(scale * g), grads, adam.nu)

        def change(m: jax.Array, v: jax.Array, p: jax.Array, decays: bool) -> jax.Array:
            moved = -step * m / (jnp.sqrt(v * correction) + _EPSILON)
            return moved - rate * weight_decay * p if weight_decay and decays else moved

        updates = jax.tree.map(change, mu, nu, params, decayed(params))
        new = (
            adam._replace(count=count, mu=mu, nu=nu),
            *rest,
            scheduled._replace(count=optax.safe_increment(scheduled.count)),
        )
        return updates, (state[0], new) if clip else new

    return optax.GradientTransformation(theirs.init, update)


class MuonState(NamedTuple):
    """The state of `muon`: `mu`, moments of the gradients in the parameters' shapes; `nu`, those of
    their squares for what AdamW moves, [1] for each matrix."""

    num_updates: jax.Array
    mu: Params
    nu: Params


def muon(
    schedule: optax.Schedule, *, b1: float, b2: float, weight_decay: float, clip: float
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for the matrices of the
    layers, and AdamW for embeddings, biases, scales and the output layer.

    AdamW moves each number of a matrix by about the learning rate, so that the few directions with
    large gradients outdo the others. Muon moves all directions alike: of the mean of past gradients
    M = U S V^T (decay .95, looking one step ahead as Nesterov does) it takes U V^T off. With the
    factor .2 sqrt(max(m, n)) for a matrix [m, n] (Liu et al., arXiv 2502.16982) its steps are as
    large as AdamW's, so that one learning rate serves both.

    optax.contrib.muon moves matrices alike (its AdamW looks ahead, too). It orthogonalises in
    batched products, which take XLA's CPU backend three times as long, and its masked states have
    no place for a sharding.
    """

    def init(params: Params) -> MuonState:
        # Each an array of its own: an update takes the memory of its state.
        mu = jax.tree.map(jnp.zeros_like, params)
        nu = jax.tree_util.tree_map_with_path(
            lambda path, p: jnp.zeros(1, p.dtype) if _is_matrix(path) else jnp.zeros_like(p), params
        )
        return MuonState(jnp.zeros((), jnp.int32), mu, nu)

    def update(
        grads: Params, state: MuonState, params: Params | None = None
    ) -> tuple[Params, MuonState]:
        assert params is not None
        scale = clip_scale(grads, clip)
        count = optax.safe_increment(state.num_updates)
        rate = schedule(state.num_updates)
        step, correction = rate / (1 - b1**count), 1 / (1 - b2**count)
        # Each mean over what it holds of its weights, which sum up to 1 - .95^n after n updates.
        past = _MOMENTUM / (1 - _MOMENTUM ** (count + 1))
        new = (1 - _MOMENTUM) / (1 - _MOMENTUM**count)

        def first(path: tuple, g: jax.Array, m: jax.Array) -> jax.Array:
            decay = _MOMENTUM if _is_matrix(path) else b1
            return decay * m + ((1 - decay) * scale) * g

        def second(path: tuple, g: jax.Array, v: jax.Array) -> jax.Array:
            return v if _is_matrix(path) else b2 * v + (1 - b2) * jnp.square(scale * g)

        def change(
            path: tuple, g: jax.Array, m: jax.Array, v: jax.Array, p: jax.Array, decays: bool
        ) -> jax.Array:
            if _is_matrix(path):
                direction = orthogonalized(past * m + (new * scale) * g)
                moved = -rate * _RMS * max(p.shape) ** 0.5 * direction
            else:
                moved = -step * m / (jnp.sqrt(v * correction) + _EPSILON)
            return moved - rate * weight_decay * p if weight_decay and decays else moved

        by_path = jax.tree_util.tree_map_with_path
        mu, nu = by_path(first, grads, state.mu), by_path(second, grads, state.nu)
        updates = by_path(change, grads, mu, nu, params, decayed(params))
        return updates, MuonState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def orthogonalized(matrix: jax.Array) -> jax.Array:
    """About U V^T of a matrix U S V^T, [m, n]: its singular values, from a 500th of its norm on,
    become .65 to 1.25. By Newton-Schulz iterations, which are products alone. Zeros stay zeros."""
    # The shorter side first, so that the squares are small.
    tall = matrix.shape[0] > matrix.shape[1]
    X = matrix.T if tall else matrix
    # The Frobenius norm is at least the largest singular value, which has to be 1 or less.
    X = X / (jnp.sqrt(jnp.vdot(X, X)) + _EPSILON)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = X @ X.T
        X = a * X + (b * square + c * (square @ square)) @ X
    return X.T if tall else X


def clip_scale(grads: Params, clip: float) -> jax.Array | float:
    """What gradients are multiplied by, so that their global norm is `clip` or less (0: any).

    Before moments are made of them: one huge gradient would otherwise stay in the second one for
    some 50 updates (b2 = .98) and make all of them small.
    """
    if not clip:
        return 1.0
    # By products: a sum of squares is compiled as two passes, with the squares in memory.
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
    return jnp.where(norm < clip, 1.0, clip / norm)


def decayed(params: Params) -> Params:
    """True for each parameter that decays, in the parameters' tree."""

    def decay(path: tuple, _: object) -> bool:
        names = "/".join(str(getattr(part, "key", part)) for part in path)
        # decoder/block/0/layer/0/layer_norm/weight: 1, and not 0, is where a scale does nothing.
        return "layer_norm" not in names and "relative_attention_bias" not in names

    return jax.tree_util.tree_map_with_path(decay, params)


def _is_matrix(path: tuple) -> bool:
    """Whether this parameter is a matrix of a layer, which maps activations to activations."""
    names = [str(getattr(part, "key", part)) for part in path]
    return "kernel" in names and "lm_head" not in names
