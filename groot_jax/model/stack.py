"""Blocks and stacks of T5: the layers of `layers.py`, one after the other.

A block is self-attention, cross-attention (decoder only) and feed-forward, each with a norm before
it and added to the stream; a stack is dropout, its blocks, a norm and dropout. Submodules are named
so that the parameters fall into the tree of transformers' Flax T5.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from groot_jax.mesh.layout import constrain
from groot_jax.model.config import T5Config
from groot_jax.model.layers import (
    Array,
    Biases,
    CrossAttention,
    FeedForward,
    KeyValue,
    Layers,
    Norm,
    Params,
    SelfAttention,
    dropout,
)
from groot_jax.model.tree_attention import Tiles

# What a block under remat keeps for the backward pass beside its input. dots: products with
# weights, each a plain matrix product; those of attention have the batch dimensions B and H and
# are worked out again. full: nothing.
_SAVED: dict[str, Callable[..., bool] | None] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": None,
}


def residual(x_BxNxD: Array) -> Array:
    """The stream between blocks: split by sentence, so that weights come to it and not it to
    them."""
    return constrain(x_BxNxD, "batch", None, "hidden")


class Sublayers(nn.Module):
    """The two (encoder) or three (decoder) layers of a block, under the names 0, 1, 2."""

    config: T5Config
    decoder: bool
    has_bias: bool

    def setup(self) -> None:
        c = self.config
        self.attention = SelfAttention(c, self.has_bias, name="0")
        if self.decoder:
            self.cross_attention = CrossAttention(c, name="1")
        self.feed_forward = FeedForward(c, name="2" if self.decoder else "1")


class Block(nn.Module):
    """One block, [B, N, D] -> [B, N, D] in the compute type.

    `bias` is that of self-attention, float32, [B|1, H|1, N, N]; `cross`, None in the encoder: keys
    and values of the source, and the source's mask as a bias. `tiles`: see `SelfAttention`.
    """

    config: T5Config
    decoder: bool
    has_bias: bool

    def setup(self) -> None:
        self.layer = Sublayers(self.config, self.decoder, self.has_bias)

    def __call__(
        self,
        x_BxNxD: Array,
        bias: Array,
        cross: tuple[KeyValue, Array] | None,
        deterministic: bool,
        tiles: Tiles | None = None,
    ) -> Array:
        x_BxNxD = self.layer.attention(x_BxNxD, bias, deterministic, tiles)
        if cross is not None:
            x_BxNxD = self.layer.cross_attention(x_BxNxD, *cross, deterministic)
        return residual(self.layer.feed_forward(x_BxNxD, deterministic))

    def extend(
        self,
        x_BxNxD: Array,
        bias: Array,
        cache: KeyValue,
        slot: Array | int,
        cross: tuple[KeyValue, Array],
    ) -> tuple[Array, KeyValue]:
        """A decoder block for N new nodes from slot `slot` of its cache on, and that cache with
        them; `bias` is [B, H, N, L], over all slots."""
        x_BxNxD, cache = self.layer.attention.extend(x_BxNxD, bias, cache, slot)
        x_BxNxD = self.layer.cross_attention(x_BxNxD, *cross, True)
        return residual(self.layer.feed_forward(x_BxNxD, True)), cache

    def cross_kv(self, encoded_BxSxD: Array) -> KeyValue:
        """key_BxHxDhxS and value_BxHxSxDh, which cross-attention reads of the encoder's output."""
        return self.layer.cross_attention.EncDecAttention.key_value(encoded_BxSxD)


class Blocks(nn.Module):
    """The blocks of a stack under the names 0, 1, 2, ...; it holds them and computes nothing."""

    config: T5Config
    decoder: bool

    def setup(self) -> None:
        c = self.config
        cls = Block
        if c.remat != "none":
            # `deterministic`, argument 4 counted from self, stays a Python bool under remat.
            cls = nn.remat(Block, static_argnums=(4,), policy=_SAVED[c.remat])
        count = c.num_decoder_layers if self.decoder else c.num_layers
        self.blocks = [
            cls(c, self.decoder, i == 0 or c.bias_per_layer, name=str(i)) for i in range(count)
        ]


def of_block(biases: Biases, i: int) -> Array:
    """The bias of block i: its own, or the one that all blocks share."""
    return biases[i] if len(biases) > 1 else biases[0]


@functools.lru_cache(maxsize=16)
def _block_shapes(config: T5Config, decoder: bool) -> Params:
    """Shapes of the parameters of a block that is not the first, boxed with their axes' names."""
    block = Block(config, decoder, has_bias=config.bias_per_layer, parent=None)
    x_1x1xD, bias = jnp.zeros((1, 1, config.d_model)), jnp.zeros((1, 1, 1, 1))

    # A parameter has a shape once it is used, and a call alone uses neither the keys of the source
    # nor the table of relative biases.
    def use(block: Block) -> None:
        if config.bias_per_layer:
            block.layer.attention.SelfAttention.bias(jnp.zeros((1, 1), jnp.int32), not decoder)
        cross = (block.cross_kv(x_1x1xD), bias) if decoder else None
        block(x_1x1xD, bias, cross, deterministic=True)

    return jax.eval_shape(nn.init(use, block), jax.random.key(0))["params"]


def in_compute_type(config: T5Config, params: Params) -> Params:
    """Kernels in the type that they are multiplied in; norms and embeddings as they are.

    `Dense` casts as well; done before a loop, each turn reads half as many bytes in bfloat16.
    """
    return jax.tree.map_with_path(
        lambda path, x: x.astype(config.dtype) if path[-1].key == "kernel" else x, params
    )


class Stack(nn.Module):
    """The encoder or the decoder: embeddings [B, N, D] -> [B, N, D], in the compute type.

    `biases`: float32, [B|1, H|1, N, N], of self-attention, one for all blocks or one for each.
    `cross`: each block's keys and values of the source, and the source's mask as a bias; None in
    the encoder. `tiles`: those that self-attention goes by, and the biases are of; None: by
    whole rows.
    """

    config: T5Config
    decoder: bool

    def setup(self) -> None:
        self.block = Blocks(self.config, self.decoder)
        self.final_layer_norm = Norm(self.config)

    def __call__(
        self,
        x_BxNxD: Array,
        biases: Biases,
        cross: tuple[Layers, Array] | None,
        deterministic: bool,
        tiles: Tiles | None = None,
    ) -> Array:
        rate = self.config.dropout_rate
        x_BxNxD = residual(dropout(self, x_BxNxD, rate, deterministic))
        # The loop reads parameters, which are not there yet while they are initialised.
        scanned = self.config.scan_layers and not self.is_initializing()
        blocks = self.block.blocks
        for i, block in enumerate(blocks[:1] if scanned else blocks):
            kv = (cross[0][i], cross[1]) if cross is not None else None
            x_BxNxD = block(x_BxNxD, of_block(biases, i), kv, deterministic, tiles)
        if scanned and len(blocks) > 1:
            x_BxNxD = self._scan(x_BxNxD, biases, cross, deterministic, tiles)
        return dropout(self, self.final_layer_norm(x_BxNxD), rate, deterministic)

    def _scan(
        self,
        x_BxNxD: Array,
        biases: Biases,
        cross: tuple[Layers, Array] | None,
        deterministic: bool,
        tiles: Tiles | None,
    ) -> Array:
        """All blocks but the first, which holds the relative bias, as one loop over their stacked
        parameters: in T5 large the compiler has one block to work on instead of twenty-three.

        They are stacked here, so that the tree stays transformers': a kernel is [D, F] twenty-three
        times in it, and [23, D, F] in the loop.
        """
        c, rest = self.config, self.block.blocks[1:]
        params = [in_compute_type(c, block.variables["params"]) for block in rest]
        # The stack is split like its parts. Without it, the compiler would gather all of it.
        names = nn.get_partition_spec(_block_shapes(c, self.decoder))
        stacked = jax.tree.map(
            lambda axes, *layers: constrain(jnp.stack(layers), None, *axes), names, *params
        )
        kv = jax.tree.map(lambda *layers: jnp.stack(layers), *cross[0][1:]) if cross else None
        # A key for each turn: with one for all, each block would drop the same elements.
        keys = None if deterministic else jax.random.split(self.make_rng("dropout"), len(rest))
        block = Block(c, self.decoder, has_bias=c.bias_per_layer, parent=None)
        own = jnp.stack(jnp.broadcast_arrays(*biases[1:])) if len(biases) > 1 else None

        def body(
            x_BxNxD: Array, layer: tuple[Params, KeyValue | None, Array | None, Array | None]
        ) -> tuple[Array, None]:
            params, kv, key, own_bias = layer
            bias = biases[0] if own_bias is None else own_bias
            attended = (kv, cross[1]) if kv is not None and cross is not None else None
            rngs = {} if key is None else {"dropout": key}
            variables = {"params": params}
            args = (x_BxNxD, bias, attended, deterministic, tiles)
            return block.apply(variables, *args, rngs=rngs), None

        if c.remat != "none":
            # In a loop XLA cannot merge the second computation with the first, which `prevent_cse`
            # would keep it from at some cost.
            body = jax.checkpoint(body, policy=_SAVED[c.remat], prevent_cse=False)
        return jax.lax.scan(body, x_BxNxD, (stacked, kv, keys, own))[0]

    def relative_bias(self, relative: Array) -> Biases:
        """Bias [..., H, N, L], float32, of relative positions [..., N, L]: one for all of its
        blocks, or one for each, as `config.bias_per_layer` says.

        The encoder looks both ways. The decoder's queries see no later key, so that all of its
        buckets can be spent on what lies behind.
        """
        blocks = self.block.blocks if self.config.bias_per_layer else self.block.blocks[:1]
        return tuple(
            block.layer.attention.SelfAttention.bias(relative, bidirectional=not self.decoder)
            for block in blocks
        )
