"""Tiny models and random weights for the tests of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from groot_jax.model.config import T5Config
from groot_jax.model.param_tree import param_shapes

# Sizes differ from each other, and few buckets reach far, so that no mix-up goes unseen.
TINY: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 20,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "v1_0": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "v1_1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "umt5": {
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "bias_per_layer": True,
    },
}


@pytest.fixture(scope="session")
def tiny() -> Callable[..., T5Config]:
    def make(variant: str = "v1_1", **changes: Any) -> T5Config:
        return T5Config(**(TINY | VARIANTS[variant] | changes))

    return make


@pytest.fixture(scope="session")
def random_params() -> Callable[[T5Config], Any]:
    """Every parameter random, norm weights too, so that each of them shows in the logits."""

    def make(config: T5Config) -> Any:
        rng = np.random.default_rng(0)

        def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
            noise = rng.standard_normal(shape.shape).astype(np.float32)
            return 1 + 0.2 * noise if path[-1].key == "weight" else 0.3 * noise

        return jax.tree_util.tree_map_with_path(leaf, param_shapes(config))

    return make


@pytest.fixture(scope="session")
def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """source_BxS with padding, decoder inputs_BxT and labels_BxT."""
    rng = np.random.default_rng(1)
    source_BxS = rng.integers(2, 40, (3, 21)).astype(np.int32)
    source_BxS[1, 15:] = 0
    source_BxS[2, 4:] = 0
    labels_BxT = rng.integers(2, 40, (3, 19)).astype(np.int32)
    inputs_BxT = np.pad(labels_BxT, ((0, 0), (1, 0)))[:, :-1]
    return source_BxS, inputs_BxT, labels_BxT


@pytest.fixture
def flax_t5(monkeypatch: pytest.MonkeyPatch) -> Callable[[T5Config], Any]:
    """transformers' Flax T5 or mT5 of a configuration, one method mended for current JAX."""
    import jax.numpy as jnp

    pytest.importorskip(
        "transformers.models.t5.modeling_flax_t5", reason="transformers 5 has no Flax T5"
    )
    from transformers import (
        FlaxMT5ForConditionalGeneration,
        FlaxT5ForConditionalGeneration,
        MT5Config,
    )
    from transformers import T5Config as HfConfig
    from transformers.models.t5 import modeling_flax_t5

    def bucket(relative_position, bidirectional=True, num_buckets=32, max_distance=128):
        relative_buckets = 0
        if bidirectional:
            num_buckets //= 2
            relative_buckets += (relative_position > 0) * num_buckets
            relative_position = jnp.abs(relative_position)
        else:
            relative_position = -jnp.clip(relative_position, max=0)
        max_exact = num_buckets // 2
        is_small = relative_position < max_exact
        if_large = max_exact + (
            jnp.log(relative_position / max_exact)
            / jnp.log(max_distance / max_exact)
            * (num_buckets - max_exact)
        )
        if_large = jnp.clip(if_large, max=num_buckets - 1)
        return (relative_buckets + jnp.where(is_small, relative_position, if_large)).astype("i4")

    monkeypatch.setattr(
        modeling_flax_t5.FlaxT5Attention, "_relative_position_bucket", staticmethod(bucket)
    )

    def make(config: T5Config, multilingual: bool = False) -> Any:
        values = {k: v for k, v in config.to_hf().items() if k not in ("model_type", "torch_dtype")}
        hf: Any = (MT5Config if multilingual else HfConfig)(**values)
        cls = FlaxMT5ForConditionalGeneration if multilingual else FlaxT5ForConditionalGeneration
        return cls(hf, seed=0, _do_init=False)

    return make
