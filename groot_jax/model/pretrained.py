"""Hugging Face checkpoints to parameters and back, with neither PyTorch nor pickle.

Reads config.json with safetensors or Flax msgpack weights (sharded ones too) from a folder, proves
them by their headers first, and places them tensor by tensor; writes safetensors that transformers
loads. Tokenizers and the Hub are not its business.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import save_file

from groot_jax.errors import UserError
from groot_jax.model.config import T5Config
from groot_jax.model.new_rows import check_rows, drawn_rows, moments
from groot_jax.model.param_tree import Params, param_shapes
from groot_jax.model.stored import (
    WEIGHT_FILES,
    StoredTensor,
    aligned,
    read_headers,
    shards,
    weight_files,
)

# One embedding under up to three names; the last name is of old checkpoints and unused.
_SHARED = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_REPEATED = {
    *_SHARED,
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
}
# Where rows of new pieces go: (parameter, its axis of the vocabulary).
_GROWS: dict[tuple[str, ...], int] = {("shared", "embedding"): 0, ("lm_head", "kernel"): 1}

# transformers' own limit of a file.
SHARD_BYTES = 5 * 10**9

Key = tuple[str, ...]  # path in the parameters' tree
Weights = dict[Key, np.ndarray]
Index = tuple[slice, ...]


# ---- In ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint folder whose config.json, names, types and shapes are proven; no weight of it is
    in memory yet.

    `tensors`: of each parameter, where it lies; `transposed`: whether the file has kernels as torch
    does, [O, I], where the parameter is [I, O].
    """

    folder: Path
    config: T5Config
    tensors: dict[Key, StoredTensor]
    transposed: bool
    _moments: dict[Key, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def params(self, rows: int | None = None, shardings: Params | None = None) -> Params:
        """The parameters, float32, with `rows` (None: as many as there are) in the embedding.

        Without `shardings`, a tree of a NamedSharding each, they are host arrays. With them they
        are placed one after the other: the host holds one of them at a time, and each process reads
        what lies on its own devices. (Where rows are added it reads all of the embedding, too: they
        are drawn around its mean.) Raises UserError for NaN and infinite values.
        """
        rows = self.config.vocab_size if rows is None else rows
        check_rows(self.config.vocab_size, rows)
        where = {} if shardings is None else flatten_dict(shardings)
        shapes = flatten_dict(param_shapes(dataclasses.replace(self.config, vocab_size=rows)))
        # In the order of the file: a disk, or a network behind it, reads on.
        order = sorted(shapes, key=lambda k: (self.tensors[k].file, self.tensors[k].pieces[0]))
        placed = {key: self._place(key, shapes[key].shape, where.get(key)) for key in order}
        return unflatten_dict({key: placed[key] for key in shapes})

    def _place(self, key: Key, shape: tuple[int, ...], sharding: Any) -> Any:
        if sharding is None:
            return self._read(key, tuple(slice(0, size) for size in shape))
        read: dict[Any, np.ndarray] = {}  # Devices that hold the same part share one reading.

        def part(index: Index | None) -> np.ndarray:
            assert index is not None  # Of a device of this process.
            bounds = tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
            if bounds not in read:
                read[bounds] = self._read(key, tuple(slice(*ends) for ends in bounds))
            return read[bounds]

        return jax.make_array_from_callback(shape, sharding, part)

    def _read(self, key: Key, index: Index) -> np.ndarray:
        """The part `index` of a parameter, with new rows where it goes beyond the file."""
        tensor, out = self.tensors[key], aligned(tuple(s.stop - s.start for s in index))
        turned = self.transposed and key[-1] == "kernel"
        there = tensor.shape[::-1] if turned else tensor.shape
        # Rows 32,100 to 32,228 of an embedding of 32,128: 28 lie in the file, 100 are drawn.
        inside = tuple(
            slice(min(s.start, n), min(s.stop, n)) for s, n in zip(index, there, strict=True)
        )
        stored = out[tuple(slice(0, s.stop - s.start) for s in inside)]
        if stored.size:
            tensor.read_into(stored.T if turned else stored, inside[::-1] if turned else inside)
        if stored.shape != out.shape:
            axis = _GROWS[key]
            first, wanted = there[axis], index[axis]
            mean, std = self._moments_of(key)
            new = drawn_rows(mean, std, wanted.stop - first)[:, index[1 - axis]]
            new = new[max(wanted.start - first, 0) :]
            np.moveaxis(out, axis, 0)[stored.shape[axis] :] = new
        return out

    def _moments_of(self, key: Key) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of each dimension over the vocabulary, [D] each, once a checkpoint."""
        if key not in self._moments:
            tensor = self.tensors[key]
            by_row = key == ("shared", "embedding") or self.transposed  # The file has [V, D].
            self._moments[key] = moments(tensor.chunks(), by_row)
        return self._moments[key]


def open_checkpoint(
    folder: str | os.PathLike[str], eos_id: int | None = None, **changes: Any
) -> Pretrained:
    """Proves a checkpoint folder by config.json and the headers of its weight files.

    `eos_id`: the tokenizer's; `changes` (dtype, ...) replace fields of the configuration. A head in
    the weights that is not the embedding is one of its own, whatever config.json says. Raises
    UserError where a file is missing or unreadable, and where a tensor is missing, unknown, of
    another shape than the configuration says, or of a type that cannot be trained.
    """
    folder = Path(folder)
    config = _read_config(folder, eos_id)
    files = [folder / name for name in weight_files(os.listdir(folder), folder)]
    if files[0].name.endswith(".index.json"):
        files = shards(files[0])
    found: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_headers(file).items():
            if name in found:
                raise UserError(f"{folder}: {found[name].file.name} and {file.name} hold '{name}'")
            found[name] = tensor
    torch = files[0].suffix == ".safetensors"
    shared_names = _SHARED if torch else ("shared/embedding",)
    head_name = "lm_head.weight" if torch else "lm_head/kernel"
    head = found.get(head_name)
    copies = [found[name] for name in shared_names if name in found]
    shared = copies[0] if copies else None
    for other in copies[1:]:
        # transformers 5 reads such a file as two embeddings, and 4 drops one of them.
        if not _same(copies[0], other, turned=False):
            raise UserError(
                f"{other.file}: the tensor '{other.name}' is not the same as '{copies[0].name}', "
                "but encoder and decoder of a T5 share one embedding: choose another checkpoint"
            )
    if config.tie_word_embeddings and head is not None:
        if shared is not None and not _same(shared, head, turned=not torch):
            config = dataclasses.replace(config, tie_word_embeddings=False)
        elif shared is None:  # Files of tied models hold the one tensor under any of its names.
            shared = found.pop(head_name)
        else:
            found.pop(head_name)
    named = {(torch_name(key) if torch else "/".join(key)): key for key in _shapes_of(config)}
    tensors = {named[name]: tensor for name, tensor in found.items() if name in named}
    if shared is not None:
        tensors["shared", "embedding"] = shared
    unknown = sorted(found.keys() - named.keys() - (_REPEATED if torch else set()))
    _check_headers(config, tensors, unknown, folder, torch)
    return Pretrained(folder, dataclasses.replace(config, **changes), tensors, torch)


def load_config(folder: str | os.PathLike[str], **changes: Any) -> T5Config:
    """The configuration of a checkpoint folder, which may lack the weights; `changes` (dtype, ...)
    replace fields. Raises UserError as `open_checkpoint` does."""
    folder = Path(folder)
    if any((folder / name).is_file() for name in WEIGHT_FILES):
        return open_checkpoint(folder, **changes).config
    return dataclasses.replace(_read_config(folder), **changes)


def load_pretrained(folder: str | os.PathLike[str]) -> tuple[T5Config, Params]:
    """The configuration and parameters, host arrays of float32, of a checkpoint folder. Raises
    UserError as `open_checkpoint` and `Pretrained.params` do."""
    checkpoint = open_checkpoint(folder)
    return checkpoint.config, checkpoint.params()


def _read_config(folder: Path, eos_id: int | None = None) -> T5Config:
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; a checkpoint folder holds config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold one JSON object")
    return T5Config.from_hf(raw, str(path), eos_id)


def _shapes_of(config: T5Config) -> dict[Key, jax.ShapeDtypeStruct]:
    return flatten_dict(param_shapes(config))


def _same(shared: StoredTensor, head: StoredTensor, turned: bool) -> bool:
    """Whether embedding and head, which may be `turned`, are the same values; read by chunks."""
    if len(shared.shape) != 2 or (head.shape[::-1] if turned else head.shape) != shared.shape:
        return False
    shared.check_type()
    head.check_type()
    at = 0
    for rows in shared.chunks():
        index = slice(at, at + len(rows)), slice(0, rows.shape[1])
        other = aligned(rows.shape)
        head.read_into(other.T if turned else other, index[::-1] if turned else index)
        if not np.array_equal(rows, other):
            return False
        at += len(rows)
    return True


def _check_headers(
    config: T5Config,
    tensors: dict[Key, StoredTensor],
    unknown: Sequence[str],
    folder: Path,
    torch: bool,
) -> None:
    """Raises UserError for the first tensor that is not as `config` says; names are the file's."""
    for key, parameter in _shapes_of(config).items():
        shape = parameter.shape[::-1] if torch and key[-1] == "kernel" else parameter.shape
        wanted = f"the configuration asks for shape {shape}"
        name = torch_name(key) if torch else "/".join(key)
        if key not in tensors:
            raise UserError(f"{folder}: the tensor '{name}' is missing; {wanted}")
        if tensors[key].shape != shape:
            raise UserError(
                f"{tensors[key].file}: the tensor '{tensors[key].name}' has shape "
                f"{tensors[key].shape}, but {wanted}"
            )
        tensors[key].check_type()
    if unknown:
        raise UserError(
            f"{folder}: the tensor '{unknown[0]}' is none of this T5 model's; does config.json "
            "belong to these weights?"
        )


# ---- New rows ---------------------------------------------------------------------------------


def resize_embeddings(params: Params, new_vocab: int) -> Params:
    """`params` with `new_vocab` rows in the embedding, and columns in the head where it has one.

    Old rows stay; new ones are as `drawn_rows` says. The caller sets `vocab_size` in the
    configuration. Raises UserError where the vocabulary would shrink.
    """
    flat = dict(flatten_dict(params))
    for key, vocab_axis in _GROWS.items():
        if key not in flat:
            continue
        # As [V, D] either way: the head is [D, V].
        old = np.moveaxis(np.asarray(flat[key], np.float32), vocab_axis, 0)
        check_rows(len(old), new_vocab)
        new = drawn_rows(*moments([old], by_row=True), new_vocab - len(old))
        flat[key] = np.ascontiguousarray(np.moveaxis(np.concatenate([old, new]), 0, vocab_axis))
    return unflatten_dict(flat)


# ---- Out --------------------------------------------------------------------------------------


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
        torch_name(key): value.T if key[-1] == "kernel" else value
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
            # A kernel is turned when its file is written, and not ahead: xl, 11 GB, would be there
            # twice. transformers refuses a safetensors file that does not name the framework of
            # its layout.
            turned = {name: np.ascontiguousarray(x) for name, x in shard.items()}
            save_file(turned, part, metadata={"format": "pt"})
            del turned
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


def torch_name(key: tuple[str, ...]) -> str:
    """The name of a parameter in transformers' torch model; its kernels are transposed there.

    ("encoder", "block", "0", "layer", "0", "SelfAttention", "q", "kernel"), [D, H*Dh]
    -> "encoder.block.0.layer.0.SelfAttention.q.weight", [H*Dh, D]
    """
    return ".".join((*key[:-1], "weight"))


def _checked(config: T5Config, weights: Weights, folder: Path) -> Weights:
    """`weights` as float32, if they are the configuration's; else names the first that differs."""
    expected = _shapes_of(config)
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
