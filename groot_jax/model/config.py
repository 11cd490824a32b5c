"""Shapes and numerics of a T5 model: presets, and configurations read from Hugging Face's JSON.

Plain data; it imports nothing of JAX, holds no weights and reads no files.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from ml_collections import ConfigDict

from groot_jax.errors import UserError

ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "swish")
DTYPES = ("float32", "bfloat16")
REMAT = ("none", "dots", "full")
# Fields that say how the model is run; the others say what it is.
_HOW = ("dtype", "remat", "scan_layers")
# Fields that config.json has no key for: its model_type says them.
_BY_KIND = ("bias_per_layer",)

Fields: TypeAlias = dict[str, Any]  # of T5Config, or of Hugging Face's config.json, by name


@dataclasses.dataclass(frozen=True)
class T5Config:
    """One T5 model; the fields up to `eos_token_id` are named as in Hugging Face's `config.json`.

    bias_per_layer: whether each block has a relative bias of its own (UMT5); else all blocks of a
      stack share that of the first.

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
    bias_per_layer: bool = False
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
        name = self.feed_forward_proj.removeprefix("gated-")
        return "silu" if name == "swish" else name  # Two names of x * sigmoid(x).

    @property
    def inner_dim(self) -> int:
        """H * Dh, the width of queries, keys and values. It need not be D: T5 v1.1 small has 384
        beside 512, and T5 11B 16,384 beside 1,024."""
        return self.num_heads * self.d_kv

    @classmethod
    def from_hf(
        cls, config: Mapping[str, Any], where: str = "config.json", eos_id: int | None = None
    ) -> T5Config:
        """Reads a Hugging Face `config.json` of T5, T5 v1.1, Flan-T5, ByT5, mT5 or UMT5.

        Absent keys get the defaults of transformers' class. `eos_id`: which one it is where
        `eos_token_id` is a list; without, its first. Raises UserError, which begins with `where`,
        for another kind of model, a missing shape, and a value that such a key cannot have.

        Since its version 5 transformers writes `tie_word_embeddings: true` of every model, and of
        T5 and UMT5 `scale_decoder_outputs`, which is what that key has meant before; its mT5 never
        scales. Whether the head is tied is then a matter of the weights: see
        `pretrained.open_checkpoint`.
        """
        kind = config.get("model_type", "t5")
        if not isinstance(kind, str) or kind not in _HF_DEFAULTS:
            raise UserError(
                f"{where}: model_type is {kind!r}, but only 't5', 'mt5' and 'umt5' checkpoints can "
                "be loaded; choose another checkpoint"
            )
        if config.get("quantization_config"):
            raise UserError(
                f"{where}: has a quantization_config, and quantized weights cannot be trained: "
                "choose a checkpoint in float32, bfloat16 or float16"
            )
        values = dict(_HF_DEFAULTS[kind])
        names = {field.name for field in dataclasses.fields(cls)} - {*_HOW, *_BY_KIND}
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
                f"{where}: the key '{missing[0]}' is missing; is it a T5 model's config?"
            )
        ids = values.get("eos_token_id")
        if isinstance(ids, list) and ids:
            # Several ids end an output there; training writes one of them, the tokenizer's.
            values["eos_token_id"] = eos_id if eos_id in ids else ids[0]
        for key, value in values.items():
            _check_value(where, key, value)
        made = _within(where, values, cls)
        _check_activation(where, made, config.get("dense_act_fn"), config.get("is_gated_act"))
        return made

    def to_hf(self) -> Fields:
        """The `config.json` from which transformers builds the same model."""
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in (*_HOW, *_BY_KIND)}
        kind, name = ("umt5", "UMT5") if self.bias_per_layer else ("t5", "T5")
        return values | {
            "model_type": kind,
            "architectures": [f"{name}ForConditionalGeneration"],
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
    "umt5": {
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": True,
        "bias_per_layer": True,
    },
}

# What each key of config.json has to be, as it stands in "d_model is '64', but has to be ...".
_Kind: TypeAlias = tuple[str, Callable[[Any], bool]]


def _is_int(value: object) -> bool:
    return type(value) is int  # Not isinstance, for which True is an int.


# A size beyond is a slip of the pen, and breaks what counts with 32 bits: mT5's vocabulary, the
# largest, has 250,112 rows, and the deepest stack that was released, ByT5's, 36 layers.
_LARGEST, _DEEPEST = 1 << 24, 1000


def _size(most: int) -> _Kind:
    return f"a whole number of 1 to {most}", lambda v: _is_int(v) and 1 <= v <= most


_ID: _Kind = ("one id, a whole number of 0 or more", lambda v: _is_int(v) and v >= 0)
_FLAG: _Kind = ("true or false", lambda v: isinstance(v, bool))
_TEXT: _Kind = ("text", lambda v: isinstance(v, str))
_NOT_NEGATIVE: _Kind = ("a number of 0 or more", lambda v: _is_number(v) and v >= 0)
_KINDS: dict[str, _Kind] = {
    **dict.fromkeys(("vocab_size", "d_model", "d_kv", "d_ff", "num_heads"), _size(_LARGEST)),
    **dict.fromkeys(("num_layers", "num_decoder_layers"), _size(_DEEPEST)),
    **dict.fromkeys(("tie_word_embeddings", "scale_decoder_outputs", "bias_per_layer"), _FLAG),
    **dict.fromkeys(("decoder_start_token_id", "pad_token_id", "eos_token_id"), _ID),
    "feed_forward_proj": _TEXT,
    # Half of them for either direction, and of that half one for each small distance.
    "relative_attention_num_buckets": (
        f"an even whole number of 4 to {_LARGEST}",
        lambda v: _is_int(v) and 4 <= v <= _LARGEST and v % 2 == 0,
    ),
    "relative_attention_max_distance": _size(_LARGEST),
    "dropout_rate": ("at least 0 and below 1", lambda v: _is_number(v) and 0 <= v < 1),
    "layer_norm_epsilon": _NOT_NEGATIVE,
    "initializer_factor": _NOT_NEGATIVE,
}


def _is_number(value: object) -> bool:
    # A whole number of JSON may be one that no float can be; NaN is below nothing.
    return type(value) in (int, float) and abs(cast(float, value)) <= sys.float_info.max


def _check_value(where: str, key: str, value: object) -> None:
    wanted, holds = _KINDS[key]
    if not holds(value):
        raise UserError(f"{where}: {key} is {value!r}, but has to be {wanted}")


def _within(where: str, values: Fields, cls: type[T5Config]) -> T5Config:
    """The model of checked values; raises UserError for those that do not go together."""
    buckets, distance = (
        values.get(f"relative_attention_{name}", default)
        for name, default in (("num_buckets", 32), ("max_distance", 128))
    )
    if distance <= buckets // 2:
        # Half of the decoder's buckets are one distance each, and the others share the rest.
        raise UserError(
            f"{where}: relative_attention_max_distance is {distance}, but has to be above half of "
            f"relative_attention_num_buckets, {buckets // 2}"
        )
    for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        if values.get(name, 0) >= values["vocab_size"]:
            raise UserError(
                f"{where}: {name} is {values[name]}, but vocab_size is {values['vocab_size']}"
            )
    heads, width = values["num_heads"], values["d_kv"]
    if heads * width > _LARGEST:
        raise UserError(
            f"{where}: num_heads is {heads} and d_kv {width}, but their product has to be at most "
            f"{_LARGEST}"
        )
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_activation(where: str, config: T5Config, name: object, gated: object) -> None:
    """transformers writes feed_forward_proj in two other keys, too, and obeys those."""
    names = {"swish": "silu", "gelu": config.activation if config.gated else "gelu"}
    if gated not in (None, config.gated) or (
        name is not None and names.get(str(name), name) != config.activation
    ):
        raise UserError(
            f"{where}: feed_forward_proj is {config.feed_forward_proj!r}, but dense_act_fn is "
            f"{name!r} and is_gated_act {gated!r}; they have to say the same"
        )


# name -> (d_model, d_ff, layers of each stack, heads, d_kv). From `small` on they are the released
# checkpoints: https://github.com/google-research/text-to-text-transfer-transformer (xl = 3B, xxl =
# 11B) and its released_checkpoints.md for v1.1. `pico` is to try out whether a pipeline runs.
_TINY = {
    "pico": (32, 64, 1, 4, 8),
    "nano": (128, 512, 2, 8, 16),
    "mini": (256, 1024, 4, 4, 64),
}
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
# ByT5's encoder is three times as deep as its decoder: arXiv 2105.13626, table 1.
_BYT5 = {
    "small": (1472, 3584, 12, 6, 64),
    "base": (1536, 3968, 18, 12, 64),
    "large": (1536, 3840, 36, 16, 64),
    "xl": (2560, 6720, 36, 32, 64),
    "xxl": (4672, 12352, 36, 64, 64),
}


def preset(name: str, variant: str, vocab_size: int, **changes: Any) -> T5Config:
    """The preset `name` (pico, nano, mini, small, base, large, xl, xxl) of `variant` (v1_0, v1_1,
    tied).

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


def released(name: str) -> tuple[T5Config, int] | None:
    """The configuration of a well-known Hub id and the size of its tokenizer; None for any other.

    T5, T5 v1.1, Flan-T5, mT5 and ByT5, in all their sizes. mT5 and Flan-T5 have the shapes of v1.1,
    ByT5 some of its own.
    """
    match = re.fullmatch(r"(?:(?:google|google-t5)/)?(t5-v1_1|flan-t5|mt5|byt5|t5)-(\w+)", name)
    if match is None:
        return None
    family, size = match.groups()
    if family == "byt5":
        if size not in _BYT5:
            return None
        d_model, d_ff, layers, heads, d_kv = _BYT5[size]
        # 256 bytes, three special ids and 125 sentinels.
        return T5Config(384, d_model, d_kv, d_ff, layers, layers // 3, heads), 384
    variant = "v1_0" if family == "t5" else "v1_1"
    size = {"3b": "xl", "11b": "xxl"}.get(size, size) if family == "t5" else size
    if size not in _SHAPES[variant] or size in _TINY:
        return None
    # 32,000 and 250,000 pieces with 100 sentinels; the rows are rounded up to a multiple of 128.
    rows, pieces = (250112, 250100) if family == "mt5" else (32128, 32100)
    return preset(size, variant, rows), pieces


def _check(key: str, value: str, known: tuple[str, ...], written: str | None = None) -> None:
    if value not in known:
        raise UserError(f"{key}: '{written or value}' is not known; use one of {', '.join(known)}")
