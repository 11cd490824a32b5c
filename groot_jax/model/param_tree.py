"""The tree of T5's parameters: names, shapes and what each dimension is, without the layers.

What is known of `layers.py` and `stack.py` by heart: to have Flax initialise a model for it takes
longer than to read the checkpoint of a small one. Knows no values.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from groot_jax.model.config import T5Config

Params: TypeAlias = dict[str, Any]  # Parameters: nested dicts of arrays, as transformers has them.
# A parameter: its dimensions, each with its logical axis.
_Dims: TypeAlias = tuple[tuple[int, str], ...]


def param_shapes(config: T5Config) -> Params:
    """A ShapeDtypeStruct for each parameter, in the parameters' tree."""
    return jax.tree.map(
        lambda dims: jax.ShapeDtypeStruct(tuple(size for size, _ in dims), jnp.float32),
        _tree(config),
        is_leaf=lambda x: isinstance(x, tuple),
    )


def logical_axes(config: T5Config) -> Params:
    """A PartitionSpec of logical axis names for each parameter, in the parameters' tree."""
    return jax.tree.map(
        lambda dims: PartitionSpec(*(name for _, name in dims)),
        _tree(config),
        is_leaf=lambda x: isinstance(x, tuple),
    )


def _tree(config: T5Config) -> Params:
    embed, vocab = (config.d_model, "embed"), (config.vocab_size, "vocab")
    tree: Params = {
        "shared": {"embedding": (vocab, embed)},
        "encoder": _stack(config, config.num_layers, decoder=False),
        "decoder": _stack(config, config.num_decoder_layers, decoder=True),
    }
    if not config.tie_word_embeddings:
        tree["lm_head"] = _kernel(embed, vocab)
    return tree


def _kernel(*dims: tuple[int, str]) -> Params:
    return {"kernel": dims}


def _stack(config: T5Config, count: int, decoder: bool) -> Params:
    def block(has_bias: bool) -> Params:
        parts = [{"SelfAttention": _attention(config, has_bias)}]
        if decoder:
            parts.append({"EncDecAttention": _attention(config, has_bias=False)})
        parts.append({"DenseReluDense": _feed_forward(config)})
        return {"layer": {str(i): part | _norm(config) for i, part in enumerate(parts)}}

    blocks = {str(i): block(i == 0 or config.bias_per_layer) for i in range(count)}
    return {"block": blocks, "final_layer_norm": _norm(config)["layer_norm"]}


def _norm(config: T5Config) -> Params:
    return {"layer_norm": {"weight": ((config.d_model, "norm"),)}}


def _attention(config: T5Config, has_bias: bool) -> Params:
    embed, heads = (config.d_model, "embed"), (config.inner_dim, "joined_kv")
    tree: Params = {name: _kernel(embed, heads) for name in ("q", "k", "v")}
    tree["o"] = _kernel(heads, embed)
    if has_bias:
        buckets = (config.relative_attention_num_buckets, "relpos_buckets")
        tree["relative_attention_bias"] = {"embedding": (buckets, (config.num_heads, "heads"))}
    return tree


def _feed_forward(config: T5Config) -> Params:
    embed, inner = (config.d_model, "embed"), (config.d_ff, "mlp")
    names = ("wi_0", "wi_1") if config.gated else ("wi",)
    return {name: _kernel(embed, inner) for name in names} | {"wo": _kernel(inner, embed)}
