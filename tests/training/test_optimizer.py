"""What an update takes off the parameters, and when."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from optax.contrib import muon

from groot_jax.training.optimizer import averaged, learning_rates, make_optimizer, make_schedule
from groot_jax.training.transforms import orthogonalized

PARAMS = {
    "layer_0": {"wi": {"kernel": jnp.full((4, 4), 2.0)}, "layer_norm": {"scale": jnp.ones(4)}},
    "relative_attention_bias": {"embedding": jnp.ones((8, 2))},
}


def stage(**changes) -> ConfigDict:
    settings = {
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "warmup": 0.0,
        "schedule": "constant",
        "final_scale": 0.1,
    }
    return ConfigDict(settings | changes)


def optimizer(decay: float) -> ConfigDict:
    return ConfigDict({"weight_decay": decay, "b1": 0.9, "b2": 0.98, "ema": 0.0})


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_a_step_without_a_gradient_takes_off_the_rate_times_the_decay_of_weights_alone(name):
    transform = make_optimizer(optimizer(0.01), stage(optimizer=name), 0.0, 100)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = transform.update(zeros, transform.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["layer_0"]["wi"]["kernel"], -1e-3 * 0.01 * 2.0, rtol=1e-6)
    assert not np.any(updates["layer_0"]["layer_norm"]["scale"])
    assert not np.any(updates["relative_attention_bias"]["embedding"])


def test_adafactor_without_decay_is_optax_s():
    ours = make_optimizer(optimizer(0.0), stage(optimizer="adafactor"), 0.0, 100)
    theirs = optax.adafactor(1e-3, multiply_by_parameter_scale=False)
    state, other = ours.init(PARAMS), theirs.init(PARAMS)
    for seed in range(3):
        key = jax.random.key(seed)
        gradients = jax.tree.map(lambda x, key=key: jax.random.normal(key, x.shape), PARAMS)
        found, state = ours.update(gradients, state, PARAMS)
        wanted, other = theirs.update(gradients, other, PARAMS)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


LAYERS: dict[str, Any] = {
    "block": {
        "q": {"kernel": jnp.eye(6)},
        "wi": {"kernel": jnp.full((6, 10), 2.0)},
        "wo": {"kernel": jnp.ones((10, 6))},
        "layer_norm": {"weight": jnp.ones(6)},
    },
    "lm_head": {"kernel": jnp.ones((6, 9))},
    "shared": {"embedding": jnp.ones((9, 6))},
}


@pytest.mark.parametrize(("clip", "decay"), [(0.0, 0.0), (1.0, 0.1)])
def test_muon_is_optax_s_for_matrices_of_layers_and_adamw_for_the_rest(clip, decay):
    rate = stage(warmup=0.3, schedule="cosine")
    ours = make_optimizer(optimizer(decay), ConfigDict({**rate, "optimizer": "muon"}), clip, 10)
    both = {
        "muon": muon(make_schedule(rate, 10), weight_decay=decay, consistent_rms=0.2),
        # Of optax's muon this part is Nesterov's, too.
        "adamw": make_optimizer(optimizer(decay), rate, 0.0, 10),
    }
    matrix = {"kernel": "muon"}
    kinds = {
        "block": {"q": matrix, "wi": matrix, "wo": matrix, "layer_norm": {"weight": "adamw"}},
        "lm_head": {"kernel": "adamw"},
        "shared": {"embedding": "adamw"},
    }
    core = optax.partition(both, kinds)
    theirs = optax.chain(optax.clip_by_global_norm(clip), core) if clip else core
    mine, other = LAYERS, LAYERS
    state, left = ours.init(mine), theirs.init(other)
    leaves, tree = jax.tree.flatten(LAYERS)
    for seed, size in enumerate((0.01, 30.0, 0.1, 5.0, 1.0, 1.0)):
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        draws = [size * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        grads = jax.tree.unflatten(tree, draws)
        changes, state = ours.update(grads, state, mine)
        wanted, left = theirs.update(grads, left, other)
        mine, other = optax.apply_updates(mine, changes), optax.apply_updates(other, wanted)
        close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
        jax.tree.map(close, changes, wanted)


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4)])
def test_an_orthogonalized_matrix_keeps_its_directions_and_loses_their_sizes(shape):
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    values = np.geomspace(0.5, 30.0, min(shape))
    found = np.asarray(orthogonalized(jnp.asarray((left * values) @ right, jnp.float32)))
    inside = left.T @ found @ right.T
    assert np.all((np.diag(inside) > 0.6) & (np.diag(inside) < 1.25))
    np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-3)
    assert not np.any(orthogonalized(jnp.zeros(shape)))


@pytest.mark.parametrize(("clip", "decay"), [(0.0, 0.0), (1.0, 0.1)])
def test_adamw_is_optax_s_and_continues_from_its_state(clip, decay):
    """Gradients of very unlike sizes, so that some are clipped, some not, and one is huge."""
    settings, rate = optimizer(decay), stage(warmup=0.3, schedule="cosine")
    ours = make_optimizer(settings, rate, clip, 10)
    mask = {
        "layer_0": {"wi": {"kernel": True}, "layer_norm": {"scale": False}},
        "relative_attention_bias": {"embedding": False},
    }
    core = optax.adamw(make_schedule(rate, 10), b1=0.9, b2=0.98, weight_decay=decay, mask=mask)
    theirs = optax.chain(optax.clip_by_global_norm(clip), core) if clip else core
    mine, other = PARAMS, PARAMS
    state = left = theirs.init(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, ours.init(PARAMS), state)  # Of one structure.
    for seed, size in enumerate((0.01, 30.0, 0.1, 1e20 if clip else 5.0, 1.0, 1.0)):
        key = jax.random.key(seed)
        grads = jax.tree.map(lambda x, k=key, s=size: s * jax.random.normal(k, x.shape), PARAMS)
        changes, state = ours.update(grads, state, mine)
        wanted, left = theirs.update(grads, left, other)
        mine, other = optax.apply_updates(mine, changes), optax.apply_updates(other, wanted)
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-8)
        jax.tree.map(close, changes, wanted)
        jax.tree.map(close, state, left)


@pytest.mark.parametrize(("warmup", "rates"), [(0.4, [0.25, 0.5, 0.75, 1]), (0.1, [1]), (0, [1])])
def test_the_first_update_is_no_idle_one(warmup, rates):
    schedule = make_schedule(stage(warmup=warmup, schedule="linear"), 10)
    found = [float(schedule(step)) / 1e-3 for step in range(11)]
    np.testing.assert_allclose(found[: len(rates)], rates, rtol=1e-6)
    # From there on it falls, to a tenth where the last update would follow.
    assert all(a > b for a, b in pairwise(found[max(len(rates) - 1, 1) :]))
    np.testing.assert_allclose(found[10], 0.1, rtol=1e-5)


def test_the_logged_rate_of_an_update_is_the_one_that_the_optimizer_takes():
    """Of weights of 2 without a gradient it takes off rate * decay * 2."""
    settings = stage(warmup=0.4, schedule="cosine")
    transform = make_optimizer(optimizer(0.5), settings, 0.0, 6)
    state, zeros, taken = transform.init(PARAMS), jax.tree.map(jnp.zeros_like, PARAMS), []
    for _ in range(6):
        updates, state = transform.update(zeros, state, PARAMS)
        taken.append(-float(updates["layer_0"]["wi"]["kernel"][0, 0]))
    assert learning_rates(settings, 6) == pytest.approx(taken, rel=1e-5)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_average_weighs_what_each_update_left_by_its_age(decay):
    plain = optax.sgd(0.3)
    optimizer = averaged(plain, decay)
    params = {"w": jnp.array([1.0, -2.0, 4.0])}
    state, inner, left = optimizer.init(params), plain.init(params), []

    @jax.jit
    def update(gradients, state, inner, params):
        updates, state = optimizer.update(gradients, state, params)
        wanted, inner = plain.update(gradients, inner, params)
        return updates, wanted, state, inner, optax.apply_updates(params, updates)

    np.testing.assert_array_equal(state.average["w"], params["w"])
    for step in range(6):
        gradients = {"w": jnp.cos(params["w"] * (step + 1))}
        updates, wanted, state, inner, params = update(gradients, state, inner, params)
        # The average changes nothing of the training itself.
        np.testing.assert_array_equal(updates["w"], wanted["w"])
        left.append(np.asarray(params["w"], np.float64))
        weights = decay ** np.arange(step, -1, -1.0)
        mean = np.average(left, axis=0, weights=weights)
        np.testing.assert_allclose(state.average["w"], mean, rtol=3e-6, atol=1e-6)


def test_the_average_lies_as_the_parameters_do():
    settings = optimizer(0.0)
    settings.ema = 0.99
    transform = make_optimizer(settings, stage(), 1.0, 100)
    shapes = jax.eval_shape(transform.init, PARAMS)
    marked = optax.tree_utils.tree_map_params(
        transform, lambda _: "as the parameter", shapes, transform_non_params=lambda _: "whole"
    )
    assert {*jax.tree.leaves(marked.average)} == {"as the parameter"}
    assert marked.num_updates == "whole"
