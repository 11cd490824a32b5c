"""Token trees, search steps, fused embeddings, padding, dropout, bfloat16 and rematerialisation."""

from __future__ import annotations

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax.model.dropout import random_words
from groot_jax.model.layers import relative_position_bucket
from groot_jax.model.t5 import T5, rows_at

VARIANTS = ["v1_0", "v1_1"]


# All that v1_1 has apart from v1_0, umt5 has too.
@pytest.fixture(scope="module", params=["v1_0", "umt5"])
def model(request, tiny, random_params):
    """(config, call): call(method, *arrays) runs a method, compiled once, on random parameters."""
    config = tiny(request.param)
    params = random_params(config)

    @functools.cache
    def compiled(method):
        return jax.jit(lambda p, args: T5(config).apply({"params": p}, *args, method=method))

    return config, lambda method, *args: compiled(method)(params, args)


def test_tree_of_nodes_equals_separate_sequences(model, batch):
    _, call = model
    source_BxS = batch[0][:2]
    # Sentence 0: 0 5 6 7 / 0 5 6 8 / 0 9. Sentence 1: 0 5 / 0 6 7 8, and a node of padding.
    tokens_BxN = np.array([[0, 5, 6, 7, 8, 9], [0, 5, 6, 7, 8, 0]])
    parent = [[-1, 0, 1, 2, 2, 0], [-1, 0, 0, 2, 3, -1]]
    mask_BxNxN = np.zeros((2, 6, 6), bool)
    for b in range(2):
        for i in range(6):
            j = i
            while j >= 0:
                mask_BxNxN[b, i, j] = True
                j = parent[b][j]
    depth_BxN = mask_BxNxN.sum(-1) - 1
    cross = call("cross_kv", call("encode", source_BxS))
    hidden_BxNxD = call(
        "decode", tokens_BxN, depth_BxN, mask_BxNxN, cross, source_BxS[:, None] != 0
    )
    tree_BxNxV = call("logits", hidden_BxNxD)
    for b in range(2):
        for leaf in {0: (3, 4, 5), 1: (1, 4)}[b]:
            path = np.flatnonzero(mask_BxNxN[b, leaf])
            plain_1xTxV = call("__call__", source_BxS[b : b + 1], tokens_BxN[b : b + 1, path])
            np.testing.assert_allclose(tree_BxNxV[b, path], plain_1xTxV[0], atol=2e-5)


def test_positions_and_mask_of_leading_dimension_one_are_shared(model, batch):
    _, call = model
    source_BxS, inputs_BxT, _ = batch
    cross = call("cross_kv", call("encode", source_BxS))
    length = inputs_BxT.shape[1]
    mask_1xTxT = np.tril(np.ones((1, length, length), bool))
    position_1xT = np.arange(length)[None]
    shared = call("decode", inputs_BxT, position_1xT, mask_1xTxT, cross, source_BxS[:, None] != 0)
    repeated = call(
        "decode",
        inputs_BxT,
        np.repeat(position_1xT, 3, 0),
        np.repeat(mask_1xTxT, 3, 0),
        cross,
        source_BxS[:, None] != 0,
    )
    np.testing.assert_allclose(shared, repeated, atol=1e-5)


def test_extend_step_by_step_equals_decode(model, batch):
    """Three beams that fork: each step picks parents, and the mask follows the ancestors."""
    config, call = model
    source_BxS = batch[0]
    B, K, T = 3, 3, 10
    rng = np.random.default_rng(2)
    encoded_BxSxD = call("encode", source_BxS)
    # Each step is about a word of its own; where it stands is the same for all beams.
    aligned_BxTxD = rows_at(encoded_BxSxD, jnp.asarray(rng.integers(0, 21, (B, T))))
    cross = call("cross_kv", encoded_BxSxD)
    source_mask_BxS = source_BxS != 0
    causal_1xTxT = np.tril(np.ones((1, T, T), bool))
    cache = T5(config).init_cache(B, T * K)
    assert cache[0][0].shape == (B, config.num_heads, config.d_kv, T * K)
    assert cache[0][1].shape == (B, config.num_heads, T * K, config.d_kv)
    biases_HxT = call(lambda module: module.bias_by_distance(T))
    tokens_BxKxT = np.zeros((B, K, T), np.int32)
    fused_BxKxT = np.zeros((B, K, T), np.int32)
    slot_BxKxT = np.full((B, K, T), -1)  # Cache slot of a beam's token of each step.
    for step in range(T):
        parent_BxK = rng.integers(0, K, (B, K))
        if step:
            for state in (tokens_BxKxT, fused_BxKxT, slot_BxKxT):
                state[:] = np.take_along_axis(state, parent_BxK[..., None], 1)
            tokens_BxKxT[:, :, step] = rng.integers(2, 40, (B, K))
        fused_BxKxT[:, :, step] = rng.integers(0, 3, (B, K))
        slot_BxKxT[:, :, step] = step * K + np.arange(K)
        new = tokens_BxKxT[:, :, step], fused_BxKxT[:, :, step]
        mask_BxKxL = (slot_BxKxT[..., None] == np.arange(T * K)).any(2)
        # Negative for slots of later steps, which nobody sees.
        distance_1xKxL = np.tile(step - np.arange(T * K) // K, (1, K, 1))
        args = (new[0], step * K, distance_1xKxL, mask_BxKxL, cache, cross, source_mask_BxS)
        aligned_BxKxD = np.repeat(aligned_BxTxD[:, step : step + 1], K, axis=1)
        hidden_BxKxD, cache = call("extend", *args, new[1], aligned_BxKxD, biases_HxT)
        for k in range(K):
            nodes = tokens_BxKxT[:, k], np.arange(T)[None], causal_1xTxT
            plain_BxTxD = call(
                "decode",
                *nodes,
                cross,
                source_mask_BxS[:, None],
                fused_BxKxT[:, k],
                aligned_BxTxD,
            )
            np.testing.assert_allclose(hidden_BxKxD[:, k], plain_BxTxD[:, step], atol=5e-5)


def test_extend_by_several_tokens_at_once_equals_decode(model, batch):
    """Two sentences' paths of unlike lengths side by side, the second padded and masked out."""
    config, call = model
    source_BxS = batch[0][:2]
    tokens_BxN = np.array(
        [[0, 5, 6, 7, 8, 9], [0, 5, 0, 7, 8, 9]]
    )  # Node 2 of sentence 1: padding.
    depth_BxN = np.array([[0, 1, 2, 3, 4, 5], [0, 1, 0, 2, 3, 4]])
    mask_BxNxN = np.tril(np.ones((2, 6, 6), bool))
    mask_BxNxN[1, :, 2] = False
    cross = call("cross_kv", call("encode", source_BxS))
    cache = T5(config).init_cache(2, 6)
    biases_HxT = call(lambda module: module.bias_by_distance(6))
    none_BxN = np.zeros((2, 3), np.int32)  # Nothing is fused.
    parts = []
    for slot in (0, 3):
        now = slice(slot, slot + 3)
        distance_BxNxL = depth_BxN[:, now, None] - depth_BxN[:, None, :]
        args = (tokens_BxN[:, now], slot, distance_BxNxL, mask_BxNxN[:, now], cache, cross)
        hidden_BxNxD, cache = call("extend", *args, source_BxS != 0, none_BxN, None, biases_HxT)
        parts.append(hidden_BxNxD)
    hidden_BxNxD = np.concatenate(parts, 1)
    for b, nodes in ((0, [0, 1, 2, 3, 4, 5]), (1, [0, 1, 3, 4, 5])):
        T = len(nodes)
        causal_1xTxT = np.tril(np.ones((1, T, T), bool))
        sentence = slice(b, b + 1)
        plain_1xTxD = call(
            "decode",
            tokens_BxN[sentence, nodes],
            np.arange(T)[None],
            causal_1xTxT,
            jax.tree.map(lambda x, at=sentence: x[at], cross),
            source_BxS[sentence, None] != 0,
        )
        np.testing.assert_allclose(hidden_BxNxD[b, nodes], plain_1xTxD[0], atol=5e-5)


def test_extend_reads_the_bias_by_distance(model, batch):
    config, call = model
    source_BxS = batch[0]
    rng = np.random.default_rng(3)
    cross = call("cross_kv", call("encode", source_BxS))
    zeros = T5(config).init_cache(3, 12)
    cache = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), zeros)
    mask_BxKxL = np.ones((3, 2, 12), bool)
    distance = np.tile(np.arange(12)[::-1] // 2, (1, 2, 1))
    none_BxN = np.zeros((3, 2), np.int32)
    args = (np.full((3, 2), 7), 8, distance, mask_BxKxL, cache, cross, source_BxS != 0)
    biases_HxT = call(lambda module: module.bias_by_distance(6))
    assert len(biases_HxT) == (config.num_decoder_layers if config.bias_per_layer else 1)
    assert {bias_HxT.shape for bias_HxT in biases_HxT} == {(config.num_heads, 6)}
    short, _ = call("extend", *args, none_BxN, None, biases_HxT)
    longer_HxT = call(lambda module: module.bias_by_distance(12))
    np.testing.assert_array_equal(longer_HxT[-1][:, :6], biases_HxT[-1])
    longer, _ = call("extend", *args, none_BxN, None, longer_HxT)
    np.testing.assert_allclose(short, longer, atol=1e-6)
    # That of the last block alone, which the others do not make up for.
    others = (*biases_HxT[:-1], biases_HxT[-1][:, ::-1])
    other, _ = call("extend", *args, none_BxN, None, others)
    assert np.abs(other - short).max() > 1e-3


def test_cache_holds_only_what_extend_was_given(model, batch):
    config, call = model
    source_BxS = batch[0]
    cross = call("cross_kv", call("encode", source_BxS))
    cache = T5(config).init_cache(3, 8)
    mask_BxKxL = np.eye(8, dtype=bool)[None, 4:6].repeat(3, 0)
    tokens, distance = np.full((3, 2), 7), np.zeros((1, 2, 8), int)
    args = (tokens, 4, distance, mask_BxKxL, cache, cross, source_BxS != 0)
    biases_HxT = call(lambda module: module.bias_by_distance(1))
    _, cache = call("extend", *args, np.zeros((3, 2), np.int32), None, biases_HxT)
    for key_BxHxDhxL, value_BxHxLxDh in cache:
        for x_BxHxLxDh in (np.swapaxes(key_BxHxDhxL, 2, 3), value_BxHxLxDh):
            written = np.abs(np.asarray(x_BxHxLxDh)).sum((0, 1, 3)) > 0
            assert written.tolist() == [False] * 4 + [True] * 2 + [False] * 2


def test_the_bias_of_a_tree_is_read_exactly_on_any_device(tiny, random_params):
    """The search gathers it. A product with one-hots gives the same only in full precision: a TPU
    would round the bias to bfloat16."""

    def bias(params, positions):
        at_BxNxT = jax.nn.one_hot(positions, 5, dtype=jnp.float32)
        return T5(config).apply({"params": params}, at_BxNxT, at_BxNxT, method=T5._tree_bias)

    config = tiny()
    text = str(jax.make_jaxpr(bias)(random_params(config), jnp.array([[0, 1, 4]])))
    products = re.findall(r"dot_general\[(.*?)\]\s", text, re.DOTALL)
    assert products and all("HIGHEST" in product for product in products)


def test_padding_columns_and_neighbours_change_nothing(model, batch):
    _, call = model
    source_BxS, inputs_BxT, _ = batch
    whole = call("__call__", source_BxS, inputs_BxT)
    alone = call("__call__", source_BxS[2:, :4], inputs_BxT[2:])
    np.testing.assert_allclose(whole[2:], alone, atol=5e-5)


def test_fused_embedding_is_added_to_the_tokens_exactly(model, batch, tiny, random_params):
    config, call = model
    source_BxS, inputs_BxT, _ = batch
    params = random_params(config)
    table = params["shared"]["embedding"]
    fused_BxSxF = np.zeros((*source_BxS.shape, 2), np.int32)
    fused_BxSxF[:, 1] = [33, 37]
    fused_BxT = np.zeros_like(inputs_BxT)
    fused_BxT[:, 2] = 35
    result = call("__call__", source_BxS, inputs_BxT, fused_BxSxF, fused_BxT)

    # The same sums as rows of their own, in a table with two more rows a sentence.
    rows = [table[source_BxS[b, 1]] + table[33] + table[37] for b in range(3)]
    rows += [table[inputs_BxT[b, 2]] + table[35] for b in range(3)]
    grown = {**params, "shared": {"embedding": np.concatenate([table, np.stack(rows)])}}
    if "lm_head" in params:
        kernel = np.pad(params["lm_head"]["kernel"], ((0, 0), (0, 6)))
        grown["lm_head"] = {"kernel": kernel}
    source_BxS, inputs_BxT = source_BxS.copy(), inputs_BxT.copy()
    source_BxS[:, 1] = [40, 41, 42]
    inputs_BxT[:, 2] = [43, 44, 45]
    wide = dataclasses.replace(config, vocab_size=46)
    wanted = jax.jit(T5(wide).apply)({"params": grown}, source_BxS, inputs_BxT)
    np.testing.assert_allclose(result, wanted[..., :40], atol=2e-4)
    assert np.abs(result - call("__call__", *batch[:2])).max() > 1e-2


def test_zero_in_fused_adds_nothing(model, batch):
    _, call = model
    source_BxS, inputs_BxT, _ = batch
    zeros = (np.zeros((*source_BxS.shape, 3), np.int32), np.zeros_like(inputs_BxT))
    plain = call("__call__", source_BxS, inputs_BxT)
    np.testing.assert_array_equal(call("__call__", source_BxS, inputs_BxT, *zeros), plain)


def test_logits_of_columns_are_columns_of_the_logits(model, batch):
    _, call = model
    hidden = np.random.default_rng(0).standard_normal((2, 3, 16)).astype(np.float32)
    columns_C = np.array([1, 7, 39])
    every = call("logits", hidden)
    assert every.dtype == jnp.float32
    np.testing.assert_allclose(call("logits", hidden, columns_C), every[..., columns_C], atol=1e-6)
    weights = call("output_weights", columns_C)
    np.testing.assert_allclose(call("project", hidden, weights), every[..., columns_C], atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_stays_near_and_keeps_logits_float32(tiny, random_params, batch, variant):
    config = tiny(variant)
    params = random_params(config)
    half = T5(dataclasses.replace(config, dtype="bfloat16"))
    source_BxS, inputs_BxT, _ = batch
    exact = jax.jit(T5(config).apply)({"params": params}, source_BxS, inputs_BxT)
    near = jax.jit(half.apply)({"params": params}, source_BxS, inputs_BxT)
    assert near.dtype == jnp.float32
    assert half.init_cache(1, 6)[0][0].dtype == jnp.bfloat16
    encode = jax.jit(functools.partial(half.apply, method="encode"))
    encoded = encode({"params": params}, source_BxS)
    assert encoded.dtype == jnp.bfloat16
    error = np.abs(near - exact)
    assert 0 < error.max() < 0.2 * np.abs(exact).max()
    assert error.mean() < 0.03 * np.abs(exact).mean() + 0.01


@pytest.mark.slow
def test_rematerialised_gradients_are_equal(tiny, random_params, batch):
    config = tiny("v1_0", dropout_rate=0.3, num_layers=1, num_decoder_layers=1)
    params = random_params(config)
    source_BxS, inputs_BxT, _ = batch

    def gradient(config):
        def loss(params):
            rngs = {"dropout": jax.random.key(0)}
            logits = T5(config).apply(
                {"params": params}, source_BxS, inputs_BxT, deterministic=False, rngs=rngs
            )
            return jnp.mean(logits**2)

        return jax.jit(jax.grad(loss)), str(jax.make_jaxpr(jax.grad(loss))(params))

    plain, plain_jaxpr = gradient(config)
    full, full_jaxpr = gradient(dataclasses.replace(config, remat="full"))
    assert "checkpoint" in full_jaxpr or "remat" in full_jaxpr
    assert "checkpoint" not in plain_jaxpr
    assert "remat" not in plain_jaxpr
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4),
        plain(params),
        full(params),
    )


def test_dropout_reaches_the_weights_of_every_attention(tiny, random_params, batch):
    """Of cross-attention too, as in torch's T5 and unlike transformers' Flax T5."""
    config = tiny("v1_1", dropout_rate=0.5)
    variables = {"params": random_params(config)}
    source_BxS, inputs_BxT, _ = batch
    seen = []

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "attend":
            *inputs, deterministic = args
            dropped = np.abs(out - call(*inputs, True)).max() > 1e-3
            seen.append((context.module.name, deterministic, bool(dropped)))
        return out

    rngs = {"dropout": jax.random.key(0)}
    with nn.intercept_methods(watch):
        T5(config).apply(variables, source_BxS, inputs_BxT, deterministic=False, rngs=rngs)
    encoder, decoder = ["SelfAttention"] * 2, ["SelfAttention", "EncDecAttention"] * 3
    assert seen == [(name, False, True) for name in encoder + decoder]


def test_dropout_keeps_the_mean_and_needs_a_key(tiny, random_params, batch):
    config = tiny("v1_1", dropout_rate=0.5)
    variables = {"params": random_params(config)}
    source_BxS = batch[0]
    encode = jax.jit(
        lambda key: T5(config).apply(
            variables, source_BxS, deterministic=False, method="encode", rngs={"dropout": key}
        )
    )
    first, second = encode(jax.random.key(0)), encode(jax.random.key(1))
    assert np.abs(first - second).max() > 0.1
    assert 0.4 < np.mean(first == 0) < 0.6  # The last dropout zeroes half of what comes out.
    with pytest.raises(Exception, match="dropout"):
        T5(config).apply(variables, source_BxS, deterministic=False, method="encode")


def test_random_words_are_evenly_spread_over_bits_and_depend_on_index_and_key():
    """Each of 32 bits is set half the time and independent of those of its neighbours along every
    axis and of those under another key: all shares within five deviations."""
    shape = (16, 64, 256)
    words = [np.asarray(random_words(jax.random.key(seed), shape)) for seed in range(3)]

    def assert_half(bits, axis):
        count = np.prod(bits.shape) / (1 if axis is None else bits.shape[axis])
        deviations = (bits.mean(None if axis is None else tuple({0, 1, 2} - {axis})) - 0.5) * 2
        assert np.abs(deviations * np.sqrt(count)).max() < 5

    for bit in range(32):
        first, *others = (word >> np.uint32(bit) & 1 for word in words)
        for axis in (None, 0, 1, 2):
            assert_half(first, axis)
            for other in others:
                assert_half(first ^ other, axis)
        for axis in range(3):
            for shift in (1, 2, 3, 4, 8):
                if shift < shape[axis]:
                    assert_half(first ^ np.roll(first, shift, axis), None)
    rate = (words[0] < np.uint32(0.1 * 2**32)).mean()
    assert abs(rate - 0.1) < 5 * 0.3 / np.sqrt(words[0].size)


def test_a_query_without_any_key_is_finite(model, batch):
    _, call = model
    source_BxS = batch[0]
    cross = call("cross_kv", call("encode", source_BxS))
    nothing = np.zeros((3, 4, 4), bool)
    hidden = call(
        "decode",
        np.zeros((3, 4), int),
        np.zeros((1, 4), int),
        nothing,
        cross,
        nothing[:, :1, :1].repeat(21, 2),
    )
    assert np.isfinite(hidden).all()


def test_buckets_are_exact_near_and_logarithmic_far():
    relative = jnp.asarray([0, -1, -15, -16, -32, -127, -128, -5000, 3])
    bucket = relative_position_bucket(relative, False, 32, 128)
    assert bucket.tolist() == [0, 1, 15, 16, 21, 31, 31, 31, 0]
    both = relative_position_bucket(jnp.asarray([-7, 7, -8, 8, 500, -500]), True, 32, 128)
    assert both.tolist() == [7, 23, 8, 24, 31, 15]
