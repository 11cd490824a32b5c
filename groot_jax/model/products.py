"""Products in the form that a backend is fast with: the two of attention, with gradients that XLA's
CPU backend has a fast kernel for, and columns of the head, which a TPU takes by a product."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import export

from groot_jax.mesh.arrays import AnyArray

# N * L * Dh up to which the gradients are written out: 32 queries, 32 keys and heads of 64, say.
_SMALL = 1 << 16


def scores(query_BxHxNxDh: jax.Array, key_BxHxDhxL: jax.Array) -> jax.Array:
    """query @ key, float32 in every compute type: [B, H, N, L]."""
    if _is_small(query_BxHxNxDh, key_BxHxDhxL):
        return _product(query_BxHxNxDh, key_BxHxDhxL)
    return jnp.matmul(query_BxHxNxDh, key_BxHxDhxL, preferred_element_type=jnp.float32)


def mixed(weights_BxHxNxL: jax.Array, value_BxHxLxDh: jax.Array) -> jax.Array:
    """weights @ value, in the compute type: [B, H, N, Dh]."""
    if _is_small(weights_BxHxNxL, value_BxHxLxDh):
        return _product(weights_BxHxNxL, value_BxHxLxDh)
    return jnp.matmul(weights_BxHxNxL, value_BxHxLxDh)


def _is_small(x: jax.Array, y: jax.Array) -> bool:
    size = x.shape[-2] * x.shape[-1] * y.shape[-1]
    if export.is_symbolic_dim(size):  # Of a program for any length, which takes no gradients.
        return False
    return size <= _SMALL and x.dtype == y.dtype == jnp.float32


@jax.custom_vjp
def _product(x_BxHxNxI: jax.Array, y_BxHxIxO: jax.Array) -> jax.Array:
    return jnp.matmul(x_BxHxNxI, y_BxHxIxO)


def _forward(x: jax.Array, y: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, y), (x, y)


def _backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The gradient of y is x^T @ grad. XLA takes the transpose into the product, and that form, a
    # product over the first of two axes, its CPU backend gives to a library that takes .4 ms for
    # 256 heads of 8 words, where the plain form takes .04: a seventh of nano's update. So there
    # the transpose is made first.
    x, y = saved
    transposed = jax.lax.platform_dependent(
        x.swapaxes(-1, -2), cpu=jax.lax.optimization_barrier, default=lambda x: x
    )
    return jnp.matmul(grad, y.swapaxes(-1, -2)), jnp.matmul(transposed, grad)


_product.defvjp(_forward, _backward)


@jax.custom_vjp
def columns_of(kernel_DxV: jax.Array, columns_C: AnyArray) -> jax.Array:
    """kernel[:, columns], [D, C], of distinct columns.

    On a TPU a gather along the last axis, and the scatter that is its gradient, have the kernel lie
    the other way round: of base's head parameters and both moments were copied into that layout and
    back, 1.2 GB an update. There it is a product with one-hot columns, of which each output has one
    term: as exact as a gather.
    """
    return jax.lax.platform_dependent(
        kernel_DxV, columns_C, tpu=_columns_by_product, default=lambda x, at: x[:, at]
    )


def _columns_by_product(kernel_DxV: jax.Array, columns_C: jax.Array) -> jax.Array:
    one_hot_CxV = jax.nn.one_hot(columns_C, kernel_DxV.shape[1], dtype=kernel_DxV.dtype)
    return jnp.matmul(kernel_DxV, one_hot_CxV.T, precision=jax.lax.Precision.HIGHEST)


def _columns_forward(
    kernel_DxV: jax.Array, columns_C: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Of the kernel its shape alone is needed later, which an empty slice has.
    return columns_of(kernel_DxV, columns_C), (kernel_DxV[:0], columns_C)


def _columns_backward(
    saved: tuple[jax.Array, jax.Array], grad_DxC: jax.Array
) -> tuple[jax.Array, None]:
    shape_0xV, columns_C = saved
    size = shape_0xV.shape[1]

    def by_product(grad_DxC: jax.Array, columns_C: jax.Array) -> jax.Array:
        one_hot_CxV = jax.nn.one_hot(columns_C, size, dtype=grad_DxC.dtype)
        return jnp.matmul(grad_DxC, one_hot_CxV, precision=jax.lax.Precision.HIGHEST)

    def by_scatter(grad_DxC: jax.Array, columns_C: jax.Array) -> jax.Array:
        zeros_DxV = jnp.zeros((grad_DxC.shape[0], size), grad_DxC.dtype)
        return zeros_DxV.at[:, columns_C].add(grad_DxC)

    grad_DxV = jax.lax.platform_dependent(grad_DxC, columns_C, tpu=by_product, default=by_scatter)
    return grad_DxV, None


columns_of.defvjp(_columns_forward, _columns_backward)
