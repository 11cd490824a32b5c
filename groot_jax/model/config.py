"""Shapes and numerics of a T5 model: presets, and configurations read from Hugging Face's JSON.

Plain data; it imports nothing of JAX, holds no weights and reads no files.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from groot_jax.errors import UserError

ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu")
DTYPES = ("float32", "bfloat16")
REMAT = ("none", "dots", "full")
# Fields that say how the model is run; the others say what it is.
_HOW = ("dtype", "remat", "scan_layers")

Fields: TypeAlias = dict[str, Any]  # of T5Config, or of Hugging Face's config.json, by name


@dataclasses.dataclass(frozen=True)
class T5Config:
    """One T5 model; the fields up to `eos_token_id` are named as in Hugging Face's `config.json`.

    Raises UserError where a field's value is not supported.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    feed_forward_proj: str = "gated-gelu"
    tie_word_embeddings: bool = False  # The embedding is the head, too.
    # Whether the decoder's output is scaled by D^-0.5 ahead of the head. None becomes a bool: where
    # the head is tied, as in all that was released.
    scale_decoder_outputs: bool | None = None
    dropout_rate: float = 0.1
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    decoder_start_token_id: int = 0
    pad_token_id: int = 0
    eos_token_id: int = 1
    dtype: str = "float32"  # Of matrix products; parameters, softmax and layer norm are float32.
    # What the backward pass recomputes of a block: nothing, all but products with weights, all.
    remat: str = "none"
    # Whether the blocks of a stack but the first run as one loop: see `stack.Stack`.
    scan_layers: bool = False

    def __post_init__(self) -> None:
        activation = self.feed_forward_proj.removeprefix("gated-")
        _check("feed_forward_proj", activation, ACTIVATIONS, written=self.feed_forward_proj)
        _check("dtype", self.dtype, DTYPES)
        _check("remat", self.remat, REMAT)
        if self.scale_decoder_outputs is None:
            object.__setattr__(self, "scale_decoder_outputs", self.tie_word_embeddings)

    @property
    def gated(self) -> bool:
        """Whether feed-forward layers have two input kernels, one as a gate: T5 v1.1 and mT5."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """The activation's name; the released gated models use tanh-approximated GELU."""
        # transformers reads the file so as well: its "gelu" is the exact one, and the checkpoints
        # whose files say "gated-gelu" were trained with the approximation.
        if self.feed_forward_proj == "gated-gelu":
            return "gelu_new"
        return self.feed_forward_proj.removeprefix("gated-")

    @property
    def inner_dim(self) -> int:
        """H * Dh, the width of queries, keys and values. It need not be D: T5 v1.1 small has 384
        beside 512, and T5 11B 16,384 beside 1,024."""
        return self.num_heads * self.d_kv

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> T5Config:
        """Reads a Hugging Face `config.json` of T5, T5 v1.1, Flan-T5, ByT5 or mT5.

        Absent keys get the defaults of transformers' class. Raises UserError for another kind of
        model or a missing shape.

        Since its version 5 transformers writes `tie_word_embeddings: true` of every model, and of
        T5 `scale_decoder_outputs`, which is what that key has meant before; its mT5 never scales.
        Whether the head is tied is then a matter of the weights: see `pretrained.load_config`.
        """
        kind = config.get("model_type", "t5")
        if kind not in _HF_DEFAULTS:
            raise UserError(
                f"config.json: model_type is '{kind}', but only 't5' and 'mt5' checkpoints can be "
                "loaded; choose another checkpoint"
            )
        values = dict(_HF_DEFAULTS[kind])
        names = {field.name for field in dataclasses.fields(cls)} - set(_HOW)
        values |= {k: v for k, v in config.items() if k in names and v is not None}
        written_by = re.match(r"\d+", str(config.get("transformers_version", "4")))
        if kind == "mt5" and written_by and int(written_by[0]) >= 5:
            values["scale_decoder_outputs"] = False
        # As in transformers: the decoder is as deep as the encoder where the file does not say.
        values.setdefault("num_decoder_layers", values.get("num_layers"))
        missing = [
            field.name
            for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING and values.get(field.name) is None
        ]
        if missing:
            raise UserError(
                f"config.json: the key '{missing[0]}' is missing; is it a T5 model's config?"
            )
        return cls(**values)

    def to_hf(self) -> Fields:
        """The `config.json` from which transformers builds the same model."""
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in _HOW}
        return values | {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "is_encoder_decoder": True,
            "use_cache": True,
            "torch_dtype": "float32",
        }


def run_settings(model: ConfigDict) -> Fields:
    """The fields of T5Config that `config.model` sets, of whatever shape the model is."""
    return {
        "dtype": model.dtype,
        "dropout_rate": model.dropout,
        "remat": model.remat,
        "scan_layers": model.scan_layers,
    }


def from_scratch(model: ConfigDict, vocab_size: int) -> T5Config:
    """The shape that `config.model` asks for where `config.model.init` names no checkpoint.

    Raises UserError where it names no preset, variant, type or remat that there is.
    """
    # Layers of 0 are those of the preset.
    layers = {"num_layers": model.encoder_layers, "num_decoder_layers": model.decoder_layers}
    changes = run_settings(model) | {name: count for name, count in layers.items() if count}
    return preset(model.preset, model.variant, vocab_size, **changes)


# What released files may leave out, since it is what their class begins with.
_HF_DEFAULTS: dict[str, Fields] = {
    "t5": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "mt5": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}

# name -> (d_model, d_ff, layers of each stack, heads, d_kv). From `small` on they are the released
# checkpoints: https://github.com/google-research/text-to-text-transfer-transformer (xl = 3B, xxl =
# 11B) and its released_checkpoints.md for v1.1.
_TINY = {"nano": (128, 512, 2, 8, 16), "mini": (256, 1024, 4, 4, 64)}
_SHAPES: dict[str, dict[str, tuple[int, int, int, int, int]]] = {
    "v1_0": _TINY
    | {
        "small": (512, 2048, 6, 8, 64),
        "base": (768, 3072, 12, 12, 64),
        "large": (1024, 4096, 24, 16, 64),
        "xl": (1024, 16384, 24, 32, 128),
        "xxl": (1024, 65536, 24, 128, 128),
    },
    "v1_1": _TINY
    | {
        "small": (512, 1024, 8, 6, 64),
        "base": (768, 2048, 12, 12, 64),
        "large": (1024, 2816, 24, 16, 64),
        "xl": (2048, 5120, 24, 32, 64),
        "xxl": (4096, 10240, 24, 64, 64),
    },
}
# From scratch the embedding is most of the model, and a head of its own as much again: with 2,000
# pieces and 16,000 features of words, 2.3 of nano's 3.5 million parameters.
_SHAPES["tied"] = _SHAPES["v1_1"]


def preset(name: str, variant: str, vocab_size: int, **changes: Any) -> T5Config:
    """The preset `name` (nano, mini, small, base, large, xl, xxl) of `variant` (v1_0, v1_1, tied).

    v1_0 has ReLU and a tied head, v1_1 gated GELU and a head of its own, tied gated GELU and a tied
    head; `changes` replace fields. Raises UserError for a name that there is not.
    """
    _check("model.variant", variant, tuple(_SHAPES))
    _check("model.preset", name, tuple(_SHAPES[variant]))
    d_model, d_ff, layers, heads, d_kv = _SHAPES[variant][name]
    config = T5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
        feed_forward_proj="relu" if variant == "v1_0" else "gated-gelu",
        tie_word_embeddings=variant != "v1_1",
    )
    return dataclasses.replace(config, **changes)


def released(name: str) -> tuple[str, str, int] | None:
    """(preset, variant, rows of the embedding) of a well-known Hub id; None for any other.

    T5, T5 v1.1, Flan-T5 and mT5, in all their sizes. mT5 and Flan-T5 have the shapes of v1.1.

        "google/flan-t5-large" -> ("large", "v1_1", 32128)     "t5-3b" -> ("xl", "v1_0", 32128)
    """
    match = re.fullmatch(r"(?:(?:google|google-t5)/)?(t5-v1_1|flan-t5|mt5|t5)-(\w+)", name)
    if match is None:
        return None
    family, size = match.groups()
    variant = "v1_0" if family == "t5" else "v1_1"
    size = {"3b": "xl", "11b": "xxl"}.get(size, size) if family == "t5" else size
    if size not in _SHAPES[variant] or size in _TINY:
        return None
    # 32,000 and 250,000 pieces with 100 sentinels, rounded up to a multiple of 128.
    return size, variant, 250112 if family == "mt5" else 32128


def _check(key: str, value: str, known: tuple[str, ...], written: str | None = None) -> None:
    if value not in known:
        raise UserError(f"{key}: '{written or value}' is not known; use one of {', '.join(known)}")
