"""T5 in Flax Linen: the encoder, and a decoder over token trees and over beam-search steps.

Its parameter tree is that of transformers' FlaxT5ForConditionalGeneration, key by key. Caches are
arguments and results, never hidden collections; no strings, no files, no search in here.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal

from groot_jax.mesh.arrays import AnyArray
from groot_jax.mesh.layout import constrain, gather, looked_up
from groot_jax.model.config import T5Config
from groot_jax.model.layers import Array, Biases, Dense, Layers, Params, additive
from groot_jax.model.param_tree import logical_axes
from groot_jax.model.products import columns_of
from groot_jax.model.scratch import Start, started
from groot_jax.model.stack import Stack, in_compute_type, of_block
from groot_jax.model.tree_attention import in_tiles, tile_size, tree_mask


class T5(nn.Module):
    """T5 v1.0, v1.1 / Flan, ByT5, mT5 and UMT5, as `config` says; see the methods.

    Use through `T5(config).apply({"params": params}, ..., method="encode")`. Methods that take
    `deterministic=False` need `rngs={"dropout": key}`. Ids are int32 in [0, V), hidden states of
    `config.dtype`, logits float32.

    Parameters: `shared`, the embedding [V, D] of both stacks, `encoder`, `decoder`, and `lm_head`,
    [D, V], where the head is not the embedding.
    """

    config: T5Config

    def setup(self) -> None:
        c = self.config
        # Deviation 1, as in Mesh TensorFlow: embeddings start at the scale that norms give out.
        init = nn.with_logical_partitioning(normal(c.initializer_factor), ("vocab", "embed"))
        self.shared = nn.Embed(c.vocab_size, c.d_model, embedding_init=init)
        self.encoder = Stack(c, decoder=False)
        self.decoder = Stack(c, decoder=True)
        if not c.tie_word_embeddings:
            # T5X's scale; with transformers' 1.0 random logits have a deviation of sqrt(D).
            shape, axes = (c.d_model, c.vocab_size), ("embed", "vocab")
            self.lm_head = Dense(c, shape, axes, c.d_model**-0.5)

    def __call__(
        self,
        source_BxS: Array,
        inputs_BxT: Array,
        fused_source_BxSxF: Array | None = None,
        fused_inputs_BxT: Array | None = None,
        aligned_BxT: Array | None = None,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Teacher-forced logits_BxTxV, float32, of plain sequences."""
        encoded_BxSxD = self.encode(source_BxS, fused_source_BxSxF, deterministic=deterministic)
        length = inputs_BxT.shape[1]
        hidden_BxTxD = self.decode(
            inputs_BxT,
            jnp.arange(length)[None],
            jnp.tril(jnp.ones((1, length, length), bool)),
            self.cross_kv(encoded_BxSxD),
            (source_BxS != self.config.pad_token_id)[:, None],
            fused_inputs_BxT,
            None if aligned_BxT is None else rows_at(encoded_BxSxD, aligned_BxT),
            deterministic=deterministic,
        )
        return self.logits(hidden_BxTxD)

    def encode(
        self, source_BxS: Array, fused_BxSxF: Array | None = None, *, deterministic: bool = True
    ) -> Array:
        """Encoder output encoded_BxSxD; columns that hold the pad id are seen by no query.

        Of the ids in `fused_BxSxF` that are not 0, the embeddings are added to the token's.
        """
        # Keys along columns, queries along rows: for S = 3, [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]].
        position_S = jnp.arange(source_BxS.shape[1])
        biases = self.encoder.relative_bias(position_S[None, None, :] - position_S[None, :, None])
        mask = additive((source_BxS != self.config.pad_token_id)[:, None, None, :])
        embedded = self._embed(source_BxS, fused_BxSxF)
        return self.encoder(embedded, tuple(b + mask for b in biases), None, deterministic)

    def cross_kv(self, encoded_BxSxD: Array) -> Layers:
        """Each decoder layer's cross-attention (key_BxHxDhxS, value_BxHxSxDh): once a sentence."""
        return tuple(block.cross_kv(encoded_BxSxD) for block in self.decoder.block.blocks)

    def decode(
        self,
        tokens_BxN: Array,
        positions_BxN: Array,
        mask_BxNxN: Array | None,
        cross: Layers,
        source_mask_BxNxS: Array,
        fused_BxN: Array | None = None,
        aligned_BxNxD: Array | None = None,
        *,
        end_BxN: Array | None = None,
        num_positions: int | None = None,
        deterministic: bool = True,
    ) -> Array:
        """hidden_BxNxD of the N nodes of a token tree; node i sees node j where mask[b, i, j].

        Args:
          tokens_BxN: decoder input ids, the start id at a sentence's root.
          positions_BxN: depth of each node; relative bias goes by their difference. Leading
            dimension B, or 1 where all sentences share it.
          mask_BxNxN: bool, itself included; leading dimension B or 1. None: as `end_BxN` says.
          cross: result of `cross_kv`, shared by all nodes of a row.
          source_mask_BxNxS: bool, source columns that a node sees; padding is seen by none. Second
            dimension N, or 1 where all nodes of a row share it.
          fused_BxN: ids whose embedding is added to the token's; 0 adds nothing.
          aligned_BxNxD: encoder output that is added to the token's embedding, see `rows_at`.
          end_BxN: for nodes in depth-first order, the first node after those below each; see
            `tree_attention.py`. A row may hold several trees.
          num_positions: all positions are below it; N without it.

        A plain causal sequence is N = T, positions arange(T)[None], mask tril(ones)[None]. Two that
        begin alike, 0 5 6 and 0 5 7, are a tree of four nodes instead of six:

            tokens 0 5 6 7   positions 0 1 2 2   mask 1 . . .   end 4 4 3 4
                                                      1 1 . .
                                                      1 1 1 .
                                                      1 1 . 1
        """
        T, tiles = num_positions or tokens_BxN.shape[1], None
        if mask_BxNxN is None:
            assert end_BxN is not None, "decode needs mask_BxNxN or end_BxN"
            if size := tile_size(tokens_BxN.shape[1], T):
                tiles = in_tiles(end_BxN, positions_BxN, size, T)
            else:
                mask_BxNxN = tree_mask(end_BxN)
        if tiles is not None:
            seen, (at_BxNxT, at_BxMxT) = tiles.mask, tiles.positions(T)
        else:
            assert mask_BxNxN is not None
            seen = mask_BxNxN
            at_BxNxT = at_BxMxT = jax.nn.one_hot(positions_BxN, T, dtype=jnp.float32)
        biases = self._tree_bias(at_BxNxT, at_BxMxT)
        mask = additive(seen[:, None])  # [B, N, N] -> [B, 1, N, N], for all heads.
        cross_bias = additive(source_mask_BxNxS[:, None])
        fused_BxNx1 = None if fused_BxN is None else fused_BxN[..., None]
        embedded = self._embed(tokens_BxN, fused_BxNx1, aligned_BxNxD)
        biases = tuple(b + mask for b in biases)
        return self.decoder(embedded, biases, (cross, cross_bias), deterministic, tiles)

    def init_cache(self, batch: int, slots: int) -> Layers:
        """Zeros for `extend`: per decoder layer key_BxHxDhxL and value_BxHxLxDh, L = slots."""
        c = self.config
        shape = (batch, c.num_heads, slots, c.d_kv)
        value = constrain(jnp.zeros(shape, c.dtype), "batch", "heads")
        return tuple((value.swapaxes(2, 3), value) for _ in range(c.num_decoder_layers))

    def bias_by_distance(self, steps: int) -> Biases:
        """bias_HxT, float32: the decoder's relative bias at distance 0 .. T-1, for `extend`; one
        for all blocks or one for each."""
        biases = self.decoder.relative_bias(-jnp.arange(steps)[None, :])
        return tuple(bias[:, 0, :] for bias in biases)

    def extend(
        self,
        tokens_BxN: Array,
        slot: Array | int,
        distance_BxNxL: Array,
        mask_BxNxL: Array,
        cache: Layers,
        cross: Layers,
        source_mask_BxS: Array,
        fused_BxN: Array,
        aligned_BxNxD: Array | None,
        biases_HxT: Biases,
    ) -> tuple[Array, Layers]:
        """One search step: N new nodes a sentence -> (hidden_BxNxD, the cache with them).

        They are written into slots `slot` .. `slot` + N-1 of the cache (one slice a layer). Node i
        sees slot l where mask[b, i, l], its own included, and lies distance[b, i, l] tokens behind
        it; the distance of unseen slots does not matter. It has leading dimension B, or 1 where all
        sentences share it. Nothing is reordered: the mask says which slots are ancestors.
        `biases_HxT` is `bias_by_distance(T)`, looked up once for all steps; larger distances count
        as T - 1. The rest is as in `decode`.
        """
        distance_BxNxL = jnp.clip(distance_BxNxL, 0, biases_HxT[0].shape[1] - 1)
        mask = additive(mask_BxNxL[:, None])
        # [H, T] at [B, N, L] -> [H, B, N, L] -> [B, H, N, L].
        biases_BxHxNxL = tuple(
            jnp.moveaxis(bias_HxT[:, distance_BxNxL], 0, 1) + mask for bias_HxT in biases_HxT
        )
        cross_bias = additive(source_mask_BxS[:, None, None, :])
        # `decoding_params` has gathered the table's columns: nothing is left for `looked_up` to do.
        x_BxNxD = self._embed(
            tokens_BxN, fused_BxN[..., None], aligned_BxNxD, lay_out=lambda rows: rows
        )
        extended = []
        blocks = self.decoder.block.blocks
        for i, (block, layer_cache, kv) in enumerate(zip(blocks, cache, cross, strict=True)):
            x_BxNxD, layer_cache = block.extend(
                x_BxNxD, of_block(biases_BxHxNxL, i), layer_cache, slot, (kv, cross_bias)
            )
            extended.append(layer_cache)
        return self.decoder.final_layer_norm(x_BxNxD), tuple(extended)

    def output_weights(self, columns_C: Array | None = None) -> Array:
        """What `project` multiplies with for those vocabulary columns (None: all), in the compute
        type: [C, D] where the embedding is the head, else [D, C]."""
        if self.config.tie_word_embeddings:
            table_VxD = self.shared.embedding
            weights = table_VxD if columns_C is None else table_VxD[columns_C]
        else:
            kernel_DxV = self.lm_head.kernel
            if columns_C is not None and columns_C.ndim == 1:
                return columns_of(kernel_DxV.astype(self.config.dtype), columns_C)
            weights = kernel_DxV if columns_C is None else kernel_DxV[:, columns_C]
        return weights.astype(self.config.dtype)

    def project(self, hidden: Array, weights: Array) -> Array:
        """Logits [..., C], float32, of hidden states [..., D]; `weights`: of `output_weights`."""
        hidden = self._scaled(hidden)
        if self.config.tie_word_embeddings:
            # Only the product's dimensions change: the table is read as it lies, without a copy.
            weights = weights.T
        return jnp.matmul(hidden, weights, preferred_element_type=jnp.float32)

    def _scaled(self, hidden: Array) -> Array:
        """Mesh TensorFlow scales what a tied head reads by D^-0.5, and so must all that reads such
        weights: rows of deviation 1 and a hidden state of mean square 1 have products of deviation
        sqrt(D)."""
        return hidden * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else hidden

    def logits(self, hidden: Array, columns_C: Array | None = None) -> Array:
        """Logits [..., C], float32, of the vocabulary columns `columns_C` (None: all)."""
        return self.project(hidden, self.output_weights(columns_C))

    def logit_of(self, hidden_BxNxD: Array, ids_BxN: Array) -> Array:
        """One logit per hidden state, that of its id; float32, [B, N].

        What `logits` would have there, for D products each instead of V * D.
        """
        weights_BxNxD = self.output_weights(ids_BxN)
        hidden_BxNxD = self._scaled(hidden_BxNxD)
        if not self.config.tie_word_embeddings:
            weights_BxNxD = jnp.moveaxis(weights_BxNxD, 0, -1)  # [D, B, N] -> [B, N, D].
        return jnp.einsum(
            "...d,...d->...", hidden_BxNxD, weights_BxNxD, preferred_element_type=jnp.float32
        )

    def mean_logit(self, hidden: Array) -> Array:
        """Mean logit over the whole vocabulary, float32, [...], of hidden states [..., D]."""
        # mean_v(h . w_v) = h . mean_v(w_v): the logit of one average column, without the others.
        axis = 0 if self.config.tie_word_embeddings else 1
        mean = self.output_weights().mean(axis, keepdims=True, dtype=jnp.float32)
        return self.project(hidden, mean.astype(self.config.dtype))[..., 0]

    def _tree_bias(self, at_BxNxT: Array, at_BxMxT: Array) -> Biases:
        """Relative bias of each query and key, [B, H, N, M], by the difference in position; one for
        all blocks or one for each.

        Read off a small [H, T, T] table by two products with one-hot positions: gathering B*N*N
        rows of the embedding would make its gradient a scatter of as many. In full precision, as
        the search reads it: an accelerator would round the bias to bfloat16 on the way.
        """
        # bias[b, h, n, m] = table[h, position of n, position of m]: either product picks one row.
        position_T = jnp.arange(at_BxNxT.shape[-1])
        relative_1xTxT = position_T[None, None, :] - position_T[None, :, None]
        exact = jax.lax.Precision.HIGHEST
        return tuple(
            jnp.einsum("bnt,htu,bmu->bhnm", at_BxNxT, bias_1xHxTxT[0], at_BxMxT, precision=exact)
            for bias_1xHxTxT in self.decoder.relative_bias(relative_1xTxT)
        )

    def _embed(
        self,
        ids_BxN: Array,
        fused_BxNxF: Array | None,
        aligned_BxNxD: Array | None = None,
        lay_out: Callable[[Array], Array] = looked_up,
    ) -> Array:
        """What a stack starts from, [B, N, D], in the compute type: the sum of the embeddings of an
        id and of its fused ids other than 0, and of `aligned`. T5 scales no embedding."""
        table_VxD = self.shared.embedding
        if fused_BxNxF is None or not fused_BxNxF.shape[-1]:
            x_BxNxD = lay_out(table_VxD[ids_BxN])
        else:
            # One gather of all: the gradient of each is a scatter into [V, D], whose sum devices
            # exchange.
            B, N, F = fused_BxNxF.shape
            all_ids = jnp.concatenate([ids_BxN, fused_BxNxF.reshape(B, N * F)], 1)
            rows = lay_out(table_VxD[all_ids])  # [B, N + N*F, D]
            rows_BxNxFxD = rows[:, N:].reshape(B, N, F, -1)
            added_BxNxD = jnp.where(fused_BxNxF[..., None] != 0, rows_BxNxFxD, 0.0).sum(2)
            x_BxNxD = rows[:, :N] + added_BxNxD
        x_BxNxD = x_BxNxD.astype(self.config.dtype)
        return x_BxNxD if aligned_BxNxD is None else x_BxNxD + aligned_BxNxD


def rows_at(encoded_BxSxD: Array, at_BxN: AnyArray) -> Array:
    """encoded[b, at[b, n]], [B, N, D]: the encoder's output of the word that a step is about."""
    return jnp.take_along_axis(encoded_BxSxD, at_BxN[..., None], axis=1)


def init_params(
    config: T5Config, seed: int, shardings: Params | None = None, start: Start | None = None
) -> Params:
    """Random parameters (nested dict of float32 arrays) with T5's initialisers, changed by `start`,
    where `shardings` says; the same ones wherever that is."""

    # One program, whose results lie where they should from the start: parameters that were drawn
    # first and placed then would all be on one device in between.
    def init() -> Params:
        params = nn.unbox(_init(config, jax.random.key(seed)))
        return params if start is None else started(config, params, start)

    return jax.jit(init, out_shardings=shardings)()


def decoding_params(config: T5Config, params: Params) -> Params:
    """What `extend` and `project` read of the parameters, for a loop: kernels in the compute type,
    and gathered once on a mesh that splits them like sentences."""
    read = {name: params[name] for name in ("decoder", "shared")}
    axes = logical_axes(config)
    return gather(in_compute_type(config, read), {name: axes[name] for name in read})


def _init(config: T5Config, key: Array) -> Params:
    # Any ids do: no parameter has the batch or a length in its shape.
    ids_1x1 = jnp.zeros((1, 1), jnp.int32)
    return T5(config).init(key, ids_1x1, ids_1x1)["params"]
