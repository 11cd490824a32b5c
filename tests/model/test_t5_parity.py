"""The same weights give the same numbers in transformers' Flax T5 and in its torch T5."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from groot_jax.export.weights import write_msgpack
from groot_jax.model.param_tree import param_shapes
from groot_jax.model.pretrained import load_pretrained, save_pretrained, torch_name
from groot_jax.model.t5 import T5, init_params

CASES = [("v1_0", False), ("v1_1", False), ("v1_1", True)]
NAMES = ["v1_0", "v1_1", "mt5"]


def loss_of(logits_BxTxV, labels_BxT):
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, labels_BxT).mean()


@pytest.mark.parametrize(("variant", "multilingual"), CASES, ids=NAMES)
def test_parameter_tree_is_that_of_transformers(tiny, flax_t5, variant, multilingual):
    theirs = flatten_dict(flax_t5(tiny(variant), multilingual).params_shape_tree)
    ours = flatten_dict(param_shapes(tiny(variant)))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert {v.dtype for v in ours.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("variant", "multilingual"), CASES, ids=NAMES)
def test_logits_loss_and_gradients_equal_transformers_flax(
    tiny, random_params, batch, flax_t5, variant, multilingual
):
    config = tiny(variant)
    params = random_params(config)
    source_BxS, inputs_BxT, labels_BxT = batch
    oracle = flax_t5(config, multilingual)

    @jax.jit
    def theirs(params):
        mask_BxS = jnp.asarray(source_BxS != 0, jnp.int32)
        logits = oracle.module.apply(
            {"params": params}, source_BxS, mask_BxS, inputs_BxT, jnp.ones_like(inputs_BxT)
        ).logits
        return loss_of(logits, labels_BxT), logits

    @jax.jit
    def ours(params):
        logits = T5(config).apply({"params": params}, source_BxS, inputs_BxT)
        return loss_of(logits, labels_BxT), logits

    (their_loss, their_logits), their_grads = jax.value_and_grad(theirs, has_aux=True)(params)
    (our_loss, our_logits), our_grads = jax.value_and_grad(ours, has_aux=True)(params)
    assert np.std(their_logits) > 0.1  # Not a comparison of zeros.
    np.testing.assert_allclose(our_logits, their_logits, atol=1e-4)
    np.testing.assert_allclose(our_loss, their_loss, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3), our_grads, their_grads
    )


@pytest.mark.parametrize("variant", ["v1_0", "v1_1"])
def test_exported_msgpack_is_transformers_flax_model(
    tiny, random_params, batch, flax_t5, tmp_path, variant
):
    """Loaded by FlaxT5, with the same logits; and what FlaxT5 writes loads here, bit for bit."""
    config = tiny(variant)
    params = random_params(config)
    source_BxS, inputs_BxT, _ = batch
    save_pretrained(tmp_path, config, params)
    write_msgpack(tmp_path, config, params)
    (tmp_path / "model.safetensors").unlink()
    theirs = type(flax_t5(config)).from_pretrained(tmp_path)
    logits = theirs(source_BxS, source_BxS != 0, decoder_input_ids=inputs_BxT).logits
    ours = T5(config).apply({"params": params}, source_BxS, inputs_BxT)
    np.testing.assert_allclose(ours, logits, atol=1e-4)
    theirs.save_pretrained(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path / "again")[1], params)


@pytest.mark.parametrize(
    ("variant", "multilingual"), [*CASES, ("umt5", False)], ids=[*NAMES, "umt5"]
)
def test_logits_loss_and_gradients_equal_transformers_torch(
    tiny, random_params, batch, tmp_path, variant, multilingual
):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from transformers import (
        MT5ForConditionalGeneration,
        T5ForConditionalGeneration,
        UMT5ForConditionalGeneration,
    )

    config = tiny(variant)
    params = random_params(config)
    source_BxS, inputs_BxT, labels_BxT = batch
    save_pretrained(tmp_path, config, params)
    cls: Any = MT5ForConditionalGeneration if multilingual else T5ForConditionalGeneration
    cls = UMT5ForConditionalGeneration if variant == "umt5" else cls
    oracle = cls.from_pretrained(tmp_path).eval()
    out = oracle(
        input_ids=torch.tensor(source_BxS).long(),
        attention_mask=torch.tensor(source_BxS != 0).long(),
        decoder_input_ids=torch.tensor(inputs_BxT).long(),
    )
    loss = torch.nn.functional.cross_entropy(
        out.logits.flatten(0, 1), torch.tensor(labels_BxT).long().flatten()
    )
    loss.backward()

    @jax.jit
    def ours(params):
        logits = T5(config).apply({"params": params}, source_BxS, inputs_BxT)
        return loss_of(logits, labels_BxT), logits

    (our_loss, our_logits), our_grads = jax.value_and_grad(ours, has_aux=True)(params)
    np.testing.assert_allclose(our_logits, out.logits.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(our_loss, loss.item(), atol=1e-4)
    theirs = dict(oracle.named_parameters())
    for key, grad in flatten_dict(our_grads).items():
        wanted = theirs[torch_name(key)].grad.numpy()
        wanted = wanted.T if key[-1] == "kernel" else wanted
        np.testing.assert_allclose(grad, wanted, atol=1e-4, rtol=1e-3, err_msg=str(key))


def test_initialisers_have_t5s_deviations(tiny):
    config = tiny("v1_1", d_model=64, d_kv=16, d_ff=128, num_heads=4, vocab_size=300)
    params = flatten_dict(init_params(config, seed=3))
    expected = {
        ("shared", "embedding"): 1.0,
        ("lm_head", "kernel"): 64**-0.5,
        ("encoder", "block", "0", "layer", "0", "SelfAttention", "q", "kernel"): (64 * 16) ** -0.5,
        ("decoder", "block", "1", "layer", "1", "EncDecAttention", "v", "kernel"): 64**-0.5,
        ("decoder", "block", "1", "layer", "0", "SelfAttention", "o", "kernel"): 64**-0.5,
        ("encoder", "block", "1", "layer", "1", "DenseReluDense", "wo", "kernel"): 128**-0.5,
    }
    for key, deviation in expected.items():
        assert np.std(params[key]) == pytest.approx(deviation, rel=0.1), key
        assert abs(np.mean(params[key])) < 0.1 * deviation, key
    assert np.all(params["decoder", "final_layer_norm", "weight"] == 1.0)
