"""Attention's products: the gradients that are written out are those that JAX would derive."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax.model.products import mixed, scores


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
