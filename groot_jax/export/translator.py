"""The model in CTranslate2's format, converted from our parameters without torch.

A linear layer there is [out, in], as in torch. Queries, keys and values of a self-attention are one
matrix, keys and values of a cross-attention another; T5 scales no queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from groot_jax.errors import UserError
from groot_jax.evaluation.records import Json
from groot_jax.export.words import TOKENIZER_FILE
from groot_jax.model.config import T5Config
from groot_jax.model.layers import Params
from groot_jax.model.pretrained import portable
from groot_jax.runtime.hiding import hidden
from groot_jax.trained import Trained

QUANTIZATIONS = ("float32", "int8", "int8_float32", "int16", "float16", "bfloat16")
_ACTIVATIONS = {"relu": "RELU", "gelu_new": "GELUTanh", "gelu": "GELU", "silu": "SWISH"}
# Added to the logit of the start token, which no output holds: exp(-3e4) is 0, and float16 has it.
_NEVER = -3e4


def write_ctranslate2(trained: Trained, facts: Json, folder: Path, quantization: str) -> None:
    """As `write_model`, of a labeler and the facts of its export."""
    write_model(
        trained.task.model_config,
        trained.params,
        folder,
        quantization,
        unknown=facts["unknown"],
        columns=facts["columns"],
    )


def write_model(
    config: T5Config,
    params: Params,
    folder: Path,
    quantization: str,
    *,
    unknown: int,
    columns: Sequence[int] | None = None,
) -> None:
    """model.bin, config.json and the vocabularies. `quantization`: of `QUANTIZATIONS`.

    unknown: id of the unknown piece. columns: ids that the softmax runs over; None: all. Where some
    do not share in it, the decoder's vocabulary is `columns` and the start token. Tokens have the
    names of tokenizer.json in the folder, and `<id_7>` stands for id 7 without one. Raises
    UserError where CTranslate2 is missing or lacks the activation, and for UMT5.
    """
    try:
        # It imports torch and transformers wherever they are installed, to no end here.
        with hidden("torch", "transformers", "tensorflow"):
            from ctranslate2.specs import common_spec, transformer_spec
    except ImportError:
        raise UserError(
            "--format=ctranslate2: the package ctranslate2 is not installed; pip install "
            "'groot_jax[ctranslate2]'"
        ) from None
    if config.bias_per_layer:
        # It adds the first block's bias in all blocks, whatever the others' are.
        raise UserError(
            "--format=ctranslate2: it has one relative bias for all layers, and UMT5 one for each; "
            "take --format=transformers or --format=stablehlo"
        )
    model, params = portable(config, params, folder)
    params = jax.tree.map(np.array, params)  # Copies: quantization writes into what it is given.
    name = _ACTIVATIONS.get(model.activation)
    if name is None:
        raise UserError(
            f"--format=ctranslate2: it has no activation {model.activation!r}; take "
            "--format=transformers"
        )
    spec = transformer_spec.TransformerSpec.from_config(
        (model.num_layers, model.num_decoder_layers),
        model.num_heads,
        pre_norm=True,
        activation=common_spec.Activation[name],
        ffn_glu=model.gated,
        relative_attention_bias=True,
        rms_norm=True,
    )
    for stack, side in ((spec.encoder, "encoder"), (spec.decoder, "decoder")):
        _fill_stack(stack, params[side], model.relative_attention_max_distance)
    names = _names(folder, model.vocab_size)
    table_VxD = np.ascontiguousarray(params["shared"]["embedding"])
    head_VxD = table_VxD
    if "lm_head" in params:
        head_VxD = np.ascontiguousarray(params["lm_head"]["kernel"].T)
    start = model.decoder_start_token_id
    kept = list(range(model.vocab_size))
    if columns is not None:
        kept = [start, *(id_ for id_ in columns if id_ != start)]
        bias_C = np.zeros(len(kept), np.float32)
        # The start token has to be in the vocabulary; only what follows it shares in the softmax.
        bias_C[0] = 0.0 if start in columns else _NEVER
        spec.decoder.projection.bias = bias_C
        head_VxD = head_VxD[kept]
    spec.encoder.embeddings[0].weight = table_VxD
    spec.decoder.embeddings.weight = table_VxD if columns is None else table_VxD[kept]
    spec.decoder.projection.weight = head_VxD
    if model.tie_word_embeddings:  # `portable`: such a model scales, and no other one.
        spec.decoder.scale_outputs = np.float32(model.d_model**-0.5)
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary([names[id_] for id_ in kept])
    spec.config.decoder_start_token = names[start]
    spec.config.bos_token = names[model.pad_token_id]
    spec.config.eos_token = names[model.eos_token_id]
    spec.config.unk_token = names[unknown]
    spec.config.layer_norm_epsilon = model.layer_norm_epsilon
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def _fill_stack(spec: Any, params: Any, max_distance: int) -> None:
    """An encoder's or a decoder's spec, from its part of the parameters' tree."""
    spec.scale_embeddings = False
    spec.layer_norm.gamma = params["final_layer_norm"]["weight"]
    bias_RxH: np.ndarray | None = None
    for i, layer_spec in enumerate(spec.layer):
        block = params["block"][str(i)]["layer"]
        attention = block["0"]["SelfAttention"]
        if "relative_attention_bias" in attention:  # The first block's is for all without one.
            bias_RxH = attention["relative_attention_bias"]["embedding"]
        own = layer_spec.self_attention
        _fill_attention(own, block["0"], attention, fused=("q", "k", "v"))
        own.relative_attention_bias = bias_RxH
        own.relative_attention_max_distance = np.int32(max_distance)
        if "EncDecAttention" in block["1"]:
            cross = layer_spec.attention
            _fill_attention(cross, block["1"], block["1"]["EncDecAttention"], fused=("k", "v"))
        last = block[str(len(block) - 1)]
        dense = last["DenseReluDense"]
        first = "wi_0" if "wi_0" in dense else "wi"
        layer_spec.ffn.linear_0.weight = _out_in(dense[first])
        if "wi_1" in dense:
            layer_spec.ffn.linear_0_noact.weight = _out_in(dense["wi_1"])
        layer_spec.ffn.linear_1.weight = _out_in(dense["wo"])
        layer_spec.ffn.layer_norm.gamma = last["layer_norm"]["weight"]


def _fill_attention(spec: Any, layer: Any, attention: Any, fused: tuple[str, ...]) -> None:
    """Queries apart, or fused with the rest; then the output."""
    spec.queries_scale = np.float32(1.0)
    spec.layer_norm.gamma = layer["layer_norm"]["weight"]
    joined = np.concatenate([_out_in(attention[name]) for name in fused])
    if "q" not in fused:
        spec.linear[0].weight = _out_in(attention["q"])
    spec.linear[-2].weight = joined
    spec.linear[-1].weight = _out_in(attention["o"])


def _out_in(layer: Any) -> np.ndarray:
    return np.ascontiguousarray(layer["kernel"].T)


def _names(folder: Path, size: int) -> list[str]:
    """A name for each id, no two alike: those of tokenizer.json, numbers for what it lacks."""
    known: dict[int, str] = {}
    if (folder / TOKENIZER_FILE).exists():
        from tokenizers import Tokenizer

        vocabulary = Tokenizer.from_file(str(folder / TOKENIZER_FILE)).get_vocab()
        known = {id_: name for name, id_ in vocabulary.items()}
    taken = set(known.values())
    names = [known.get(id_, f"<id_{id_}>") for id_ in range(size)]
    assert len(set(names)) == size, [name for name in taken if name.startswith("<id_")]
    return names
