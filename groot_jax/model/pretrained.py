"""Hugging Face checkpoints to parameters and back, with neither PyTorch nor pickle.

Reads config.json with safetensors or Flax msgpack weights (sharded ones too) from a folder or the
Hub; writes safetensors that transformers loads. Tokenizers are not its business.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from groot_jax.errors import UserError
from groot_jax.model.config import T5Config
from groot_jax.model.layers import Params
from groot_jax.model.t5 import param_shapes

# In the order in which they are looked for.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)
HUB_PATTERNS = ("*.json", "*.safetensors", "flax_model*.msgpack", "spiece.model", "*.txt")

# One embedding under up to three names; the last name is of old checkpoints and unused.
_SHARED = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_REPEATED = {
    *_SHARED,
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
}

# transformers' own limit of a file.
SHARD_BYTES = 5 * 10**9

Weights = dict[tuple[str, ...], np.ndarray]  # path in the parameters' tree -> array


def load_config(source: str | os.PathLike[str], **changes: Any) -> T5Config:
    """The configuration of a checkpoint folder or a Hub id; `changes` (dtype, ...) replace fields.

    A head in the weights that is not the embedding is one of its own, whatever the file says.
    Raises UserError where it cannot be had, or is not that of a T5 model.
    """
    folder = fetch(source)
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; a checkpoint folder holds config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold one JSON object")
    config = T5Config.from_hf(raw)
    if config.tie_word_embeddings and _has_own_head(folder):
        config = dataclasses.replace(config, tie_word_embeddings=False)
    return dataclasses.replace(config, **changes)


def load_pretrained(source: str | os.PathLike[str]) -> tuple[T5Config, Params]:
    """The configuration and parameters of a checkpoint folder or a Hub id.

    Parameters are host arrays (numpy, float32), so that a large model can be placed shard by shard
    with `jax.device_put`. Raises UserError where files are missing or unreadable, where the Hub
    cannot be reached, and where a tensor is missing, unknown or of another shape than the
    configuration says.
    """
    folder = fetch(source)
    config = load_config(folder)
    weights = _read_weights(config, folder)
    if config.tie_word_embeddings:  # Some files repeat the embedding as the head.
        weights.pop(("lm_head", "kernel"), None)
        weights.pop(("lm_head.weight",), None)
    return config, unflatten_dict(_checked(config, weights, folder))


def fetch(source: str | os.PathLike[str]) -> Path:
    """`source` where it is a folder, else the local snapshot of that Hub id, fetched if need be.

    Raises UserError where it is neither, and where the Hub cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    # Imported here: a run from scratch needs no Hub client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name = os.fspath(source)
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except HFValidationError:
        raise UserError(
            f"{name}: is neither an existing folder nor a Hub id (owner/name)"
        ) from None
    except Exception as error:  # The client raises a dozen unrelated kinds, of several libraries.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{name}: is no existing folder, and could not be fetched from the Hugging Face Hub "
            f"({reason}); check the name and the network, or download it and give the folder"
        ) from None


def save_pretrained(
    folder: str | os.PathLike[str],
    config: T5Config,
    params: Params,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and model.safetensors under torch's names; transformers loads both.

    More than `shard_bytes` become several files with an index. Each file is complete or absent.
    Raises UserError where the disk refuses, and where `params` are not those of `config`.
    """
    folder = Path(folder)
    config, portable_params = portable(config, params, folder)
    tensors = {
        torch_name(key): np.ascontiguousarray(value.T if key[-1] == "kernel" else value)
        for key, value in flatten_dict(portable_params).items()
    }
    shards = _split(tensors, shard_bytes)
    count = len(shards)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    files = dict(zip(names, shards, strict=True))
    texts = {"config.json": config.to_hf()}
    if count > 1:
        texts["model.safetensors.index.json"] = {
            "metadata": {"total_size": sum(x.nbytes for x in tensors.values())},
            "weight_map": {name: file for file, shard in files.items() for name in shard},
        }
    part = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, shard in files.items():
            part = folder / f"{name}.part"
            # transformers refuses a safetensors file that does not name the framework of its
            # layout.
            save_file(shard, part, metadata={"format": "pt"})
            part.replace(folder / name)
        for name, content in texts.items():
            part = folder / f"{name}.part"
            part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            part.replace(folder / name)
        if count > 1:  # Whoever finds one whole file reads no index.
            (folder / "model.safetensors").unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        if part != folder:
            part.unlink(missing_ok=True)
        raise UserError(f"{folder}: the model could not be written ({error})") from None


def portable(
    config: T5Config, params: Params, folder: str | os.PathLike[str]
) -> tuple[T5Config, Params]:
    """Configuration and parameters, float32 on the host, that mean the same model to transformers
    4 and 5. Raises UserError, which names `folder`, where the two do not fit each other."""
    weights = _checked(config, flatten_dict(params), Path(folder))
    if config.scale_decoder_outputs != config.tie_word_embeddings:
        # Before its version 5 transformers scales where the head is tied, and only there: such a
        # model becomes one with a head of its own that holds the scale, or the lack of it.
        scale = config.d_model**-0.5 if config.scale_decoder_outputs else 1.0
        embedding = weights["shared", "embedding"]
        weights["lm_head", "kernel"] = scale * weights.get(("lm_head", "kernel"), embedding.T)
        config = dataclasses.replace(config, tie_word_embeddings=False, scale_decoder_outputs=False)
    return config, unflatten_dict(weights)


def _split(tensors: dict[str, np.ndarray], most: int) -> list[dict[str, np.ndarray]]:
    """The tensors in their order, in as many parts as hold `most` bytes each; one that is larger
    has a part of its own."""
    parts: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > most:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts


def resize_embeddings(params: Params, new_vocab: int) -> Params:
    """`params` with `new_vocab` rows in the embedding, and columns in the head where it has one.

    Old rows stay; new ones are drawn from a normal distribution with the mean and the deviation of
    the old ones, per dimension. The caller sets `vocab_size` in the configuration. Raises UserError
    where the vocabulary would shrink.
    """
    flat = dict(flatten_dict(params))
    # Rows with T5's initial deviation among trained ones would have logits out of line with all
    # others; drawn like these, they begin as an average piece.
    rng = np.random.default_rng(0)
    for key, vocab_axis in ((("shared", "embedding"), 0), (("lm_head", "kernel"), 1)):
        if key not in flat:
            continue
        # As [V, D] either way: the head is [D, V].
        old = np.moveaxis(np.asarray(flat[key], np.float32), vocab_axis, 0)
        if new_vocab < len(old):
            raise UserError(
                f"vocabulary: the checkpoint has {len(old)} embeddings and the tokenizer only "
                f"{new_vocab} pieces; use the checkpoint's own tokenizer"
            )
        shape = (new_vocab - len(old), old.shape[1])
        new = old.mean(0) + old.std(0) * rng.standard_normal(shape, np.float32)
        flat[key] = np.ascontiguousarray(np.moveaxis(np.concatenate([old, new]), 0, vocab_axis))
    return unflatten_dict(flat)


def torch_name(key: tuple[str, ...]) -> str:
    """The name of a parameter in transformers' torch model; its kernels are transposed there.

    ("encoder", "block", "0", "layer", "0", "SelfAttention", "q", "kernel"), [D, H*Dh]
    -> "encoder.block.0.layer.0.SelfAttention.q.weight", [H*Dh, D]
    """
    return ".".join((*key[:-1], "weight"))


def _read_weights(config: T5Config, folder: Path) -> Weights:
    found = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        message = f"{folder}: holds no {' or '.join(WEIGHT_FILES[::2])}"
        if any(folder.glob("*.bin")):
            message += (
                "; its .bin weights are pickles, which are never loaded: convert them where torch "
                "is installed with `model.save_pretrained(folder, safe_serialization=True)`"
            )
        raise UserError(message)
    files = _shards(folder / found) if found.endswith(".index.json") else [folder / found]
    if "safetensors" in found:
        tensors = {name: x for file in files for name, x in _safetensors(file).items()}
        return _from_torch(config, tensors)
    return {key: x for file in files for key, x in _msgpack(file).items()}


def _has_own_head(folder: Path) -> bool:
    """Whether safetensors hold a head that differs from the embedding."""
    found = [folder / name for name in WEIGHT_FILES[:2] if (folder / name).is_file()]
    if not found:
        return False  # Flax files are of a time when config.json said so.
    held: dict[str, np.ndarray] = {}
    for file in _shards(found[0]) if found[0].name.endswith(".index.json") else found:
        try:
            with safe_open(file, framework="numpy") as tensors:
                names = {"lm_head.weight", *_SHARED}.intersection(tensors.keys())
                held |= {name: tensors.get_tensor(name) for name in names}
        except (OSError, SafetensorError):
            return False  # Whoever reads the whole file says what is wrong with it.
    head = held.pop("lm_head.weight", None)
    return head is not None and bool(held) and not np.array_equal(head, next(iter(held.values())))


def _shards(index: Path) -> list[Path]:
    # {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors", ...}, ...}
    # -> [model-00001-of-00002.safetensors, model-00002-of-00002.safetensors] beside the index.
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: is no index of weight files ({error!r})") from None
    for name in names:
        # A name with a path in it could point outside the folder.
        if Path(name).name != name or not (index.parent / name).is_file():
            raise UserError(f"{index}: names the file '{name}', which is not in the folder")
    return [index.parent / name for name in names]


def _safetensors(file: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read as safetensors ({error})") from None


def _msgpack(file: Path) -> Weights:
    try:
        tree = flax.serialization.msgpack_restore(file.read_bytes())
        flat = flatten_dict(tree)
    except Exception as error:  # msgpack's own errors share no base class.
        raise UserError(f"{file}: cannot be read as Flax msgpack ({error})") from None
    # Sharded files hold flat trees whose keys are paths joined by "/": ("shared/embedding",), where
    # whole ones have ("shared", "embedding").
    return {tuple("/".join(key).split("/")): value for key, value in flat.items()}


def _from_torch(config: T5Config, tensors: Mapping[str, np.ndarray]) -> Weights:
    """Tensors under torch's names -> parameters' paths; unknown names stay, to be reported."""
    names = (*_SHARED, "lm_head.weight") if config.tie_word_embeddings else _SHARED
    # The first name that is there: files of tied models hold the one tensor under any of them.
    shared = next((tensors[name] for name in names if name in tensors), None)
    keys = {torch_name(key): key for key in flatten_dict(param_shapes(config))}
    weights: Weights = {} if shared is None else {("shared", "embedding"): shared}
    for name in tensors.keys() - _REPEATED:
        key = keys.get(name, (name,))
        weights[key] = tensors[name].T if key[-1] == "kernel" else tensors[name]
    return weights


def _checked(config: T5Config, weights: Weights, folder: Path) -> Weights:
    """`weights` as float32, if they are the configuration's; else names the first that differs."""
    expected = flatten_dict(param_shapes(config))
    for key, shape in expected.items():
        wanted = f"the configuration asks for shape {shape.shape}"
        name = "/".join(key)
        if key not in weights:
            raise UserError(f"{folder}: the tensor '{name}' is missing; {wanted}")
        found = weights[key].shape
        if found != shape.shape:
            raise UserError(f"{folder}: the tensor '{name}' has shape {found}, but {wanted}")
    unknown = sorted("/".join(key) for key in weights.keys() - expected.keys())
    if unknown:
        raise UserError(
            f"{folder}: the tensor '{unknown[0]}' is none of this T5 model's; does config.json "
            "belong to these weights?"
        )
    return {key: np.asarray(weights[key], np.float32) for key in expected}
