"""The layers of T5 in Flax Linen: norm, attention and feed-forward; `stack.py` piles them up.

Submodules are named so that the parameters fall into the tree of transformers' Flax T5. Every bias
and cache is an argument; what they mean is decided in `t5.py`. Activations are of `config.dtype`,
parameters float32. T5 has no bias vectors: a bias, here, is what is added to attention's scores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import normal

from groot_jax.mesh.layout import constrain
from groot_jax.model.config import T5Config
from groot_jax.model.dropout import dropped_out
from groot_jax.model.param_tree import Params as Params
from groot_jax.model.products import mixed, scores
from groot_jax.model.tree_attention import Tiles

Array: TypeAlias = jax.Array
# key_BxHxDhxL, value_BxHxLxDh. Keys lie by L: a head is narrower than the 128 lanes of a TPU, and
# on a CPU it saves a sixth of attention.
KeyValue: TypeAlias = tuple[Array, Array]
Layers: TypeAlias = tuple[KeyValue, ...]
# A bias of each block of a stack, or a single one that all of them share.
Biases: TypeAlias = tuple[Array, ...]

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "silu": nn.silu,
}


def relative_position_bucket(
    relative: Array, bidirectional: bool, num_buckets: int, max_distance: int
) -> Array:
    """Bucket of each relative position (key position - query position), as int32, same shape.

    Small distances have a bucket each, larger ones share logarithmically wider buckets up to
    `max_distance` (Raffel et al., arXiv 1910.10683, section 2.1). Without `bidirectional`, keys
    after the query fall into bucket 0.
    """
    # With 32 buckets and a largest distance of 128, where `both` is `bidirectional`:
    #     distance    0 .. 7  8-11  12-15  16-22  23-31  32-45  46-63  64-90  91 and more
    #     both        0 .. 7     8      9     10     11     12     13     14     15
    # and 16 more for keys after the query. The decoder, which looks back alone, has all 32 for
    # that: one each for 0 to 15, 16 for 16 to 18, ..., 31 from a distance of 113 on.
    offset = jnp.zeros_like(relative)
    if bidirectional:
        num_buckets //= 2
        offset = num_buckets * (relative > 0)
        distance = jnp.abs(relative)
    else:
        distance = jnp.maximum(-relative, 0)
    exact = num_buckets // 2
    # The maximum keeps the logarithm off 0; where it bites, `distance` itself is the bucket.
    ratio = jnp.log(jnp.maximum(distance, exact).astype(jnp.float32) / exact)
    large = exact + ratio / np.log(max_distance / exact) * (num_buckets - exact)
    large = jnp.minimum(large.astype(jnp.int32), num_buckets - 1)
    return offset + jnp.where(distance < exact, distance, large)


def dropout(module: nn.Module, x: Array, rate: float, deterministic: bool) -> Array:
    """`x`, or with `rate` of its elements dropped by a key that `module` is given.

    T5 drops at the input and the output of a stack, on attention weights, inside the feed-forward
    and on what each layer adds to the stream (arXiv 1910.10683, section 2.1).
    """
    if deterministic or rate == 0:
        return x
    return dropped_out(x, rate, module.make_rng("dropout"))


def additive(mask: Array) -> Array:
    """0 where the mask holds, else float32's lowest; float32, the mask's shape."""
    # Finite, for a padding row sees no key: with -inf its softmax would be 0 / 0, and NaN spreads
    # into the gradient even where the row counts for nothing.
    return jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)


class Norm(nn.Module):
    """T5's layer norm, [..., D] -> [..., D]: x / rms(x) * weight_D, computed in float32.

    Without the mean and the bias of layer norm (arXiv 1910.10683, section 2.1; as RMSNorm it is
    analysed in arXiv 1910.07467). It stands before each layer, not after: the stream itself is
    never normalised until the stack ends.
    """

    config: T5Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
        weight_D = self.param("weight", ones, (self.config.d_model,))
        # float32 in every compute type, as in transformers: one scale multiplies all D elements.
        x = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.config.layer_norm_epsilon)
        return (x * scale * weight_D).astype(self.config.dtype)


class Dense(nn.Module):
    """x @ kernel in the compute type, [..., I] -> [..., O], without a bias.

    `shape` is (I, O), `axes` their logical names, `stddev` the deviation of the initial kernel
    before `config.initializer_factor`.
    """

    config: T5Config
    shape: tuple[int, int]
    axes: tuple[str, str]
    stddev: float

    def setup(self) -> None:
        init = normal(self.config.initializer_factor * self.stddev)
        init = nn.with_logical_partitioning(init, self.axes)
        self.kernel = self.param("kernel", init, self.shape)

    def __call__(self, x: Array) -> Array:
        # As one matrix, [B, N, I] -> [B*N, I]: XLA's CPU backend takes twice the time for the
        # gradient of a [B, N, I] dot.
        flat = x.reshape(-1, self.shape[0]) @ self.kernel.astype(self.config.dtype)
        return flat.reshape(*x.shape[:-1], self.shape[1])


class Attention(nn.Module):
    """Multi-head attention in its parts: keys and values, queries over them, the relative bias.

    Parameters: kernels q, k and v, [D, H*Dh], o, [H*Dh, D], and in the first block of a stack
    `relative_attention_bias`, [buckets, H], which all blocks of the stack share; in UMT5 each block
    has one of its own.
    """

    config: T5Config
    has_relative_attention_bias: bool = False

    def setup(self) -> None:
        c = self.config
        # The scores are not divided by sqrt(Dh): q's initialiser has the factor, as in Mesh
        # TensorFlow's transformer. With Dh = 64, q starts at an eighth of k's deviation, and
        # released weights are trained so: dividing as well would flatten every softmax.
        shape, axes = (c.d_model, c.inner_dim), ("embed", "joined_kv")
        self.q = Dense(c, shape, axes, (c.d_model * c.d_kv) ** -0.5)
        self.k = Dense(c, shape, axes, c.d_model**-0.5)
        self.v = Dense(c, shape, axes, c.d_model**-0.5)
        self.o = Dense(c, shape[::-1], axes[::-1], c.inner_dim**-0.5)
        if self.has_relative_attention_bias:
            init = normal(c.initializer_factor * c.d_model**-0.5)
            self.relative_attention_bias = nn.Embed(
                c.relative_attention_num_buckets,
                c.num_heads,
                embedding_init=nn.with_logical_partitioning(init, ("relpos_buckets", "heads")),
            )

    def _split(self, x_BxNxE: Array) -> Array:
        # [B, N, E = H*Dh] -> [B, N, H, Dh] -> [B, H, N, Dh].
        heads = (*x_BxNxE.shape[:2], self.config.num_heads, self.config.d_kv)
        return constrain(x_BxNxE.reshape(heads).swapaxes(1, 2), "batch", "heads")

    def key_value(self, x_BxNxD: Array, tiles: Tiles | None = None) -> KeyValue:
        """key_BxHxDhxN and value_BxHxNxDh of each position, in the compute type; those that each
        tile attends to, in rows of tiles, where there are tiles."""
        key_BxNxE, value_BxNxE = self.k(x_BxNxD), self.v(x_BxNxD)
        if tiles is not None:
            key_BxNxE, value_BxNxE = tiles.keys(key_BxNxE), tiles.keys(value_BxNxE)
        return self._split(key_BxNxE).swapaxes(2, 3), self._split(value_BxNxE)

    def attend(self, x_BxNxD: Array, kv: KeyValue, bias: Array, deterministic: bool) -> Array:
        """[B, N, D]: attention of N queries over L keys; bias is float32, [B|1, H|1, N|1, L]."""
        key_BxHxDhxL, value_BxHxLxDh = kv
        query_BxHxNxDh = self._split(self.q(x_BxNxD))
        # Scores and softmax are float32 in every compute type: between 16 and 32 bfloat16 has steps
        # of 1/8, and a weight would be off by up to exp(1/16), 6 %.
        scores_BxHxNxL = scores(query_BxHxNxDh, key_BxHxDhxL)
        weights_BxHxNxL = jax.nn.softmax(scores_BxHxNxL + bias).astype(self.config.dtype)
        weights_BxHxNxL = dropout(self, weights_BxHxNxL, self.config.dropout_rate, deterministic)
        mixed_BxHxNxDh = mixed(weights_BxHxNxL, value_BxHxLxDh)
        # [B, H, N, Dh] -> [B, N, H, Dh] -> [B, N, H*Dh].
        return self.o(mixed_BxHxNxDh.swapaxes(1, 2).reshape(*x_BxNxD.shape[:2], -1))

    def bias(self, relative: Array, bidirectional: bool) -> Array:
        """Bias [..., H, N, L], float32, of the relative positions [..., N, L]: key minus query."""
        bucket = relative_position_bucket(
            relative,
            bidirectional,
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        # One row of H numbers a bucket: [..., N, L] -> [..., N, L, H] -> [..., H, N, L].
        return jnp.moveaxis(self.relative_attention_bias(bucket), -1, -3)


class SelfAttention(nn.Module):
    """Adds to the stream what its positions read of each other: x + attention(norm(x)).

    x_BxNxD -> [B, N, D], in the compute type; `bias` is float32, [B|1, H|1, N, L], and holds mask
    and relative bias. With `tiles` each tile of Q positions attends by itself, and the bias is
    [B*G, H, Q, P+Q]. `has_bias`: whether the table of that bias is here.
    """

    config: T5Config
    has_bias: bool

    def setup(self) -> None:
        self.SelfAttention = Attention(self.config, has_relative_attention_bias=self.has_bias)
        self.layer_norm = Norm(self.config)

    def __call__(
        self, x_BxNxD: Array, bias: Array, deterministic: bool, tiles: Tiles | None = None
    ) -> Array:
        normed = self.layer_norm(x_BxNxD)
        kv = self.SelfAttention.key_value(normed, tiles)
        if tiles is not None:  # [B, N, D] -> [B*G, Q, D], and back.
            normed = normed.reshape(-1, tiles.size, self.config.d_model)
        out = self.SelfAttention.attend(normed, kv, bias, deterministic).reshape(x_BxNxD.shape)
        return x_BxNxD + dropout(self, out, self.config.dropout_rate, deterministic)

    def extend(
        self, x_BxNxD: Array, bias: Array, cache: KeyValue, slot: Array | int
    ) -> tuple[Array, KeyValue]:
        """As a call, over the L slots of a cache, with N new ones from `slot` on; the cache too."""
        normed = self.layer_norm(x_BxNxD)
        new = self.SelfAttention.key_value(normed)
        # The slots are the last axis of the keys and the last but one of the values.
        key, value = (
            jax.lax.dynamic_update_slice_in_dim(old, part.astype(old.dtype), slot, axis)
            for old, part, axis in zip(cache, new, (3, 2), strict=True)
        )
        out = self.SelfAttention.attend(normed, (key, value), bias, deterministic=True)
        return x_BxNxD + out, (key, value)


class CrossAttention(nn.Module):
    """Adds to the stream what it reads of the source: x + attention(norm(x), kv).

    x_BxNxD -> [B, N, D], in the compute type; `kv` is of the encoder's output, which is not
    normalised here: the encoder's last norm has done it. `bias`: 0 or the mask's, no positions.
    """

    config: T5Config

    def setup(self) -> None:
        self.EncDecAttention = Attention(self.config)
        self.layer_norm = Norm(self.config)

    def __call__(self, x_BxNxD: Array, kv: KeyValue, bias: Array, deterministic: bool) -> Array:
        out = self.EncDecAttention.attend(self.layer_norm(x_BxNxD), kv, bias, deterministic)
        return x_BxNxD + dropout(self, out, self.config.dropout_rate, deterministic)


class DenseReluDense(nn.Module):
    """[B, N, D] -> [B, N, D] by way of F: act(x @ wi) @ wo, the name being transformers'.

    Gated (T5 v1.1, mT5): (act(x @ wi_0) * (x @ wi_1)) @ wo, GEGLU of Shazeer, arXiv 2002.05202.
    """

    config: T5Config

    def setup(self) -> None:
        c = self.config
        shape, axes = (c.d_model, c.d_ff), ("embed", "mlp")
        if c.gated:
            self.wi_0 = Dense(c, shape, axes, c.d_model**-0.5)
            self.wi_1 = Dense(c, shape, axes, c.d_model**-0.5)
        else:
            self.wi = Dense(c, shape, axes, c.d_model**-0.5)
        self.wo = Dense(c, shape[::-1], axes[::-1], c.d_ff**-0.5)

    def __call__(self, x_BxNxD: Array, deterministic: bool) -> Array:
        activation = _ACTIVATIONS[self.config.activation]
        x = x_BxNxD.reshape(-1, self.config.d_model)  # [B, N, D] -> [B*N, D]; see `Dense`.
        if self.config.gated:
            x = activation(self.wi_0(x)) * self.wi_1(x)
        else:
            x = activation(self.wi(x))
        x = constrain(x, "batch", "mlp")
        x = self.wo(dropout(self, x, self.config.dropout_rate, deterministic))
        return x.reshape(x_BxNxD.shape)


class FeedForward(nn.Module):
    """x + feed_forward(norm(x)), [B, N, D] -> [B, N, D], in the compute type."""

    config: T5Config

    def setup(self) -> None:
        self.DenseReluDense = DenseReluDense(self.config)
        self.layer_norm = Norm(self.config)

    def __call__(self, x: Array, deterministic: bool) -> Array:
        out = self.DenseReluDense(self.layer_norm(x), deterministic)
        return x + dropout(self, out, self.config.dropout_rate, deterministic)
