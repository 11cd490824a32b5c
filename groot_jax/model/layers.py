"""The layers of T5 in Flax Linen: norm, attention, feed-forward, blocks and stacks.

Submodules are named so that the parameters fall into the tree of transformers' Flax T5. Every bias
and cache is an argument; what they mean is decided in `t5.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import normal

from groot_jax.mesh.layout import constrain
from groot_jax.model.config import T5Config
from groot_jax.model.dropout import dropped_out

Array: TypeAlias = jax.Array
# key_BxHxDhxL, value_BxHxLxDh. Keys lie by L: a head is narrower than the 128 lanes of a TPU, and
# on a CPU it saves a sixth of attention.
KeyValue: TypeAlias = tuple[Array, Array]
Layers: TypeAlias = tuple[KeyValue, ...]
Params: TypeAlias = dict[str, Any]  # Parameters: nested dicts of arrays, as transformers has them.

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "silu": nn.silu,
}


# What a block under remat keeps for the backward pass.
_SAVED: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": None,
}


def relative_position_bucket(
    relative: Array, bidirectional: bool, num_buckets: int, max_distance: int
) -> Array:
    """Bucket of each relative position (key position - query position), as int32, same shape.

    Small distances have a bucket each, larger ones share logarithmically wider buckets up to
    `max_distance` (Raffel et al., arXiv 1910.10683, section 2.1). Without `bidirectional`, keys
    after the query fall into bucket 0.
    """
    offset = jnp.zeros_like(relative)
    if bidirectional:
        num_buckets //= 2
        offset = num_buckets * (relative > 0)
        distance = jnp.abs(relative)
    else:
        distance = jnp.maximum(-relative, 0)
    exact = num_buckets // 2
    ratio = jnp.log(jnp.maximum(distance, exact).astype(jnp.float32) / exact)
    large = exact + ratio / np.log(max_distance / exact) * (num_buckets - exact)
    large = jnp.minimum(large.astype(jnp.int32), num_buckets - 1)
    return offset + jnp.where(distance < exact, distance, large)


def dropout(module: nn.Module, x: Array, rate: float, deterministic: bool) -> Array:
    """`x`, or with `rate` of its elements dropped by a key that `module` is given."""
    if deterministic or rate == 0:
        return x
    return dropped_out(x, rate, module.make_rng("dropout"))


def additive(mask: Array) -> Array:
    """0 where the mask holds, else float32's lowest (finite: a row without keys has no NaN)."""
    return jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)


def residual(x_BxNxD: Array) -> Array:
    """The stream between blocks: split by sentence, so that weights come to it and not it to
    them."""
    return constrain(x_BxNxD, "batch", None, "hidden")


def partitioned(init: Any, axes: tuple[str, ...]) -> Any:
    """The initialiser `init` with a logical axis name for each dimension of the parameter."""
    return nn.with_logical_partitioning(init, axes)


class Norm(nn.Module):
    """T5's layer norm: float32 root mean square, no mean, no bias."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        ones = partitioned(nn.initializers.ones, ("norm",))
        weight_D = self.param("weight", ones, (self.config.d_model,))
        x = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.config.layer_norm_epsilon)
        return (x * scale * weight_D).astype(self.config.dtype)


class Dense(nn.Module):
    """x @ kernel in the compute type, [..., I] -> [..., O]."""

    config: T5Config
    shape: tuple[int, int]
    axes: tuple[str, str]
    stddev: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = normal(self.config.initializer_factor * self.stddev)
        kernel_IxO = self.param("kernel", partitioned(init, self.axes), self.shape)
        # As one matrix: XLA's CPU backend takes twice the time for the gradient of a [B, N, I] dot.
        flat = x.reshape(-1, self.shape[0]) @ kernel_IxO.astype(self.config.dtype)
        return flat.reshape(*x.shape[:-1], self.shape[1])


class Attention(nn.Module):
    config: T5Config
    has_relative_attention_bias: bool = False

    def setup(self) -> None:
        c = self.config
        # No 1/sqrt(d_kv) in the softmax: it is in q's initialiser (Mesh TensorFlow's transformer).
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
                embedding_init=partitioned(init, ("relpos_buckets", "heads")),
            )

    def _split(self, x_BxNxE: Array) -> Array:
        heads = (*x_BxNxE.shape[:2], self.config.num_heads, self.config.d_kv)
        return constrain(x_BxNxE.reshape(heads).swapaxes(1, 2), "batch", "heads")

    def key_value(self, x_BxNxD: Array) -> KeyValue:
        """key_BxHxDhxN and value_BxHxNxDh of each position."""
        return self._split(self.k(x_BxNxD)).swapaxes(2, 3), self._split(self.v(x_BxNxD))

    def attend(self, x_BxNxD: Array, kv: KeyValue, bias: Array, deterministic: bool) -> Array:
        """[B, N, D]: attention of N queries over L keys; bias is float32, [B|1, H|1, N|1, L]."""
        key_BxHxDhxL, value_BxHxLxDh = kv
        query_BxHxNxDh = self._split(self.q(x_BxNxD))
        scores_BxHxNxL = jnp.einsum(
            "bhnd,bhdl->bhnl", query_BxHxNxDh, key_BxHxDhxL, preferred_element_type=jnp.float32
        )
        weights_BxHxNxL = jax.nn.softmax(scores_BxHxNxL + bias).astype(self.config.dtype)
        weights_BxHxNxL = dropout(self, weights_BxHxNxL, self.config.dropout_rate, deterministic)
        mixed_BxHxNxDh = jnp.einsum("bhnl,bhld->bhnd", weights_BxHxNxL, value_BxHxLxDh)
        return self.o(mixed_BxHxNxDh.swapaxes(1, 2).reshape(*x_BxNxD.shape[:2], -1))

    def bias(self, relative: Array, bidirectional: bool) -> Array:
        """Bias [..., H, N, L], float32, of the relative positions [..., N, L]."""
        bucket = relative_position_bucket(
            relative,
            bidirectional,
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        return jnp.moveaxis(self.relative_attention_bias(bucket), -1, -3)


class SelfAttention(nn.Module):
    config: T5Config
    has_relative_attention_bias: bool

    def setup(self) -> None:
        self.SelfAttention = Attention(self.config, self.has_relative_attention_bias)
        self.layer_norm = Norm(self.config)

    def __call__(self, x_BxNxD: Array, bias: Array, deterministic: bool) -> Array:
        normed = self.layer_norm(x_BxNxD)
        kv = self.SelfAttention.key_value(normed)
        out = self.SelfAttention.attend(normed, kv, bias, deterministic)
        return x_BxNxD + dropout(self, out, self.config.dropout_rate, deterministic)

    def extend(
        self, x_BxNxD: Array, bias: Array, cache: KeyValue, slot: Array | int
    ) -> tuple[Array, KeyValue]:
        normed = self.layer_norm(x_BxNxD)
        new = self.SelfAttention.key_value(normed)
        key, value = (
            jax.lax.dynamic_update_slice_in_dim(old, part.astype(old.dtype), slot, axis)
            for old, part, axis in zip(cache, new, (3, 2), strict=True)
        )
        out = self.SelfAttention.attend(normed, (key, value), bias, deterministic=True)
        return x_BxNxD + out, (key, value)


class CrossAttention(nn.Module):
    config: T5Config

    def setup(self) -> None:
        self.EncDecAttention = Attention(self.config)
        self.layer_norm = Norm(self.config)

    def __call__(self, x_BxNxD: Array, kv: KeyValue, bias: Array, deterministic: bool) -> Array:
        out = self.EncDecAttention.attend(self.layer_norm(x_BxNxD), kv, bias, deterministic)
        return x_BxNxD + dropout(self, out, self.config.dropout_rate, deterministic)


class DenseReluDense(nn.Module):
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
        x = x_BxNxD.reshape(-1, self.config.d_model)
        if self.config.gated:
            x = activation(self.wi_0(x)) * self.wi_1(x)
        else:
            x = activation(self.wi(x))
        x = constrain(x, "batch", "mlp")
        x = self.wo(dropout(self, x, self.config.dropout_rate, deterministic))
        return x.reshape(x_BxNxD.shape)


class FeedForward(nn.Module):
    config: T5Config

    def setup(self) -> None:
        self.DenseReluDense = DenseReluDense(self.config)
        self.layer_norm = Norm(self.config)

    def __call__(self, x: Array, deterministic: bool) -> Array:
        out = self.DenseReluDense(self.layer_norm(x), deterministic)
        return x + dropout(self, out, self.config.dropout_rate, deterministic)


class Sublayers(nn.Module):
    """The two (encoder) or three (decoder) layers of a block, under the names 0, 1, 2."""

    config: T5Config
    decoder: bool
    first: bool

    def setup(self) -> None:
        c = self.config
        self.attention = SelfAttention(c, self.first, name="0")
        if self.decoder:
            self.cross_attention = CrossAttention(c, name="1")
        self.feed_forward = FeedForward(c, name="2" if self.decoder else "1")


class Block(nn.Module):
    config: T5Config
    decoder: bool
    first: bool

    def setup(self) -> None:
        self.layer = Sublayers(self.config, self.decoder, self.first)

    def __call__(
        self,
        x_BxNxD: Array,
        bias: Array,
        cross: tuple[KeyValue, Array] | None,
        deterministic: bool,
    ) -> Array:
        x_BxNxD = self.layer.attention(x_BxNxD, bias, deterministic)
        if cross is not None:
            x_BxNxD = self.layer.cross_attention(x_BxNxD, *cross, deterministic)
        return residual(self.layer.feed_forward(x_BxNxD, deterministic))

    def extend(
        self,
        x_BxNxD: Array,
        bias: Array,
        cache: KeyValue,
        slot: Array | int,
        cross: KeyValue,
        cross_bias: Array,
    ) -> tuple[Array, KeyValue]:
        x_BxNxD, cache = self.layer.attention.extend(x_BxNxD, bias, cache, slot)
        x_BxNxD = self.layer.cross_attention(x_BxNxD, cross, cross_bias, True)
        return residual(self.layer.feed_forward(x_BxNxD, True)), cache

    def cross_kv(self, encoded_BxSxD: Array) -> KeyValue:
        return self.layer.cross_attention.EncDecAttention.key_value(encoded_BxSxD)

    def relative_bias(self, relative: Array) -> Array:
        attention = self.layer.attention.SelfAttention
        return attention.bias(relative, bidirectional=not self.decoder)


class Blocks(nn.Module):
    config: T5Config
    decoder: bool

    def setup(self) -> None:
        c = self.config
        # `deterministic`, argument 4 counted from self, stays a Python bool under remat.
        cls = nn.remat(Block, static_argnums=(4,), policy=_SAVED[c.remat])
        cls = Block if c.remat == "none" else cls
        count = c.num_decoder_layers if self.decoder else c.num_layers
        self.blocks = [cls(c, self.decoder, i == 0, name=str(i)) for i in range(count)]


@functools.lru_cache(maxsize=16)
def _block_shapes(config: T5Config, decoder: bool) -> Any:
    """Boxed shapes of the parameters of a block that is not the first."""
    block = Block(config, decoder, first=False, parent=None)
    x_1x1xD, bias = jnp.zeros((1, 1, config.d_model)), jnp.zeros((1, 1, 1, 1))

    def use(block: Block) -> None:
        cross = (block.cross_kv(x_1x1xD), bias) if decoder else None
        block(x_1x1xD, bias, cross, deterministic=True)

    return jax.eval_shape(nn.init(use, block), jax.random.key(0))["params"]


def _in_compute_type(config: T5Config, params: Any) -> Any:
    """Kernels in the type that they are multiplied in; norms as they are."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.astype(config.dtype) if path[-1].key == "kernel" else x, params
    )


class Stack(nn.Module):
    config: T5Config
    decoder: bool

    def setup(self) -> None:
        self.block = Blocks(self.config, self.decoder)
        self.final_layer_norm = Norm(self.config)

    def __call__(
        self,
        x_BxNxD: Array,
        bias: Array,
        cross: tuple[Layers, Array] | None,
        deterministic: bool,
    ) -> Array:
        rate = self.config.dropout_rate
        x_BxNxD = residual(dropout(self, x_BxNxD, rate, deterministic))
        scanned = self.config.scan_layers and not self.is_initializing()
        blocks = self.block.blocks
        for i, block in enumerate(blocks[:1] if scanned else blocks):
            kv = (cross[0][i], cross[1]) if cross is not None else None
            x_BxNxD = block(x_BxNxD, bias, kv, deterministic)
        if scanned and len(blocks) > 1:
            x_BxNxD = self._scan(x_BxNxD, bias, cross, deterministic)
        return dropout(self, self.final_layer_norm(x_BxNxD), rate, deterministic)

    def _scan(
        self,
        x_BxNxD: Array,
        bias: Array,
        cross: tuple[Layers, Array] | None,
        deterministic: bool,
    ) -> Array:
        """All blocks but the first, which holds the relative bias, as one loop over their stacked
        parameters: the compiler has one block to work on instead of twenty-three.

        They are stacked here, so that the tree stays transformers'.
        """
        c, rest = self.config, self.block.blocks[1:]
        params = [_in_compute_type(c, block.variables["params"]) for block in rest]
        # The stack is split like its parts. Without it, the compiler would gather all of it.
        names = nn.get_partition_spec(_block_shapes(c, self.decoder))
        stacked = jax.tree.map(
            lambda axes, *layers: constrain(jnp.stack(layers), None, *axes), names, *params
        )
        kv = jax.tree.map(lambda *layers: jnp.stack(layers), *cross[0][1:]) if cross else None
        keys = None if deterministic else jax.random.split(self.make_rng("dropout"), len(rest))
        block = Block(c, self.decoder, first=False, parent=None)

        def body(x_BxNxD: Array, layer: tuple[Any, KeyValue | None, Array | None]) -> Any:
            params, kv, key = layer
            attended = (kv, cross[1]) if kv is not None and cross is not None else None
            rngs = {} if key is None else {"dropout": key}
            variables = {"params": params}
            return block.apply(variables, x_BxNxD, bias, attended, deterministic, rngs=rngs), None

        if c.remat != "none":
            body = jax.checkpoint(body, policy=_SAVED[c.remat], prevent_cse=False)
        return jax.lax.scan(body, x_BxNxD, (stacked, kv, keys))[0]

    def relative_bias(self, relative: Array) -> Array:
        return self.block.blocks[0].relative_bias(relative)
