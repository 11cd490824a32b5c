"""Products in another form are those that they stand for, and so are their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax.model import products
from groot_jax.model.products import columns_of, mixed, scores


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
