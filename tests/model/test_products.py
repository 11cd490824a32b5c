"""Products in another form are those that they stand for, and so are their gradients."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax.model import products
from groot_jax.model.products import columns_of, mixed, scores
from groot_jax.model.t5 import T5


# Below and above the size from which the gradient is JAX's own, and with one head or key.
@pytest.mark.parametrize("sizes", [(2, 3, 5, 7, 4), (1, 1, 1, 1, 6), (1, 2, 64, 64, 32)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_those_of_a_plain_product(sizes, dtype):
    B, H, N, L, Dh = sizes
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    query, key, value, weigh = (
        *(draw(B, H, N, Dh), draw(B, H, Dh, L), draw(B, H, L, Dh), draw(B, H, N, Dh)),
    )

    def found(query, key, value):
        return (mixed(scores(query, key).astype(dtype), value) * weigh).sum()

    def plain(query, key, value):
        scored = jnp.matmul(query, key, preferred_element_type=jnp.float32).astype(dtype)
        return (jnp.matmul(scored, value) * weigh).sum()

    both = [jax.jit(jax.grad(f, (0, 1, 2)))(query, key, value) for f in (found, plain)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *both)
    assert scores(query, key).dtype == jnp.float32


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_columns_by_a_product_are_those_of_a_gather(platform, dtype, monkeypatch):
    """The form that a TPU's program has is run here as well, and gives the same bits."""
    monkeypatch.setattr(
        products.jax.lax,
        "platform_dependent",
        lambda *args, tpu, default: (tpu if platform == "tpu" else default)(*args),
    )
    rng = np.random.default_rng(0)
    kernel_DxV = jnp.asarray(rng.standard_normal((6, 40)), dtype)
    columns_C = jnp.asarray([3, 4, 17, 39])
    weigh_DxC = jnp.asarray(rng.standard_normal((6, 4)), dtype)
    np.testing.assert_array_equal(columns_of(kernel_DxV, columns_C), kernel_DxV[:, columns_C])

    def total(columns):
        return lambda kernel_DxV: (columns(kernel_DxV) * weigh_DxC).sum()

    found = jax.grad(total(lambda x: columns_of(x, columns_C)))(kernel_DxV)
    plain = jax.grad(total(lambda x: x[:, columns_C]))(kernel_DxV)
    np.testing.assert_array_equal(found, plain)
    assert found.dtype == kernel_DxV.dtype


def test_a_token_and_what_is_fused_with_it_have_one_scatter_in_the_gradient(tiny, random_params):
    """Each would be a sum of [V, D] over the devices."""
    config = tiny("v1_1", num_layers=1)

    def total(params, source_BxS, fused_BxSxF):
        args = ({"params": params}, source_BxS, fused_BxSxF)
        return T5(config).apply(*args, method="encode").sum()

    ids = np.array([[5, 6, 7]]), np.array([[[8, 9], [0, 3], [2, 0]]])
    text = jax.jit(jax.grad(total)).lower(random_params(config), *ids).as_text()
    table = f"tensor<{config.vocab_size}x{config.d_model}xf32>"
    # (tensor<40x16xf32>, tensor<1x9x1xi32>, tensor<1x9x16xf32>) -> tensor<40x16xf32>
    assert len(re.findall(rf"\({table}, [^)]*\) -> {table}", text)) == 1
