"""Tensors as they lie in weight files: names, shapes and types at once, values a slice at a time.

Reads safetensors and Flax msgpack, and knows no model. Nothing here unpickles or runs anything.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from groot_jax.errors import UserError
from groot_jax.runtime.files import stands_for_another

# In the order in which they are looked for.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)
# Bytes that are read, checked and cast at once: small beside any model, large beside a page.
_CHUNK = 8 << 20
# What safetensors and msgpack call the types of weights that can be trained.
_FLOATS = {
    **dict.fromkeys(("F64", "float64"), np.dtype(np.float64)),
    **dict.fromkeys(("F32", "float32"), np.dtype(np.float32)),
    **dict.fromkeys(("F16", "float16"), np.dtype(np.float16)),
    **dict.fromkeys(("BF16", "bfloat16"), np.dtype(ml_dtypes.bfloat16)),
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, unread. `type`: the file's word for it. `pieces`: where its elements
    lie, in their order, as (offset of the first byte, count of elements)."""

    file: Path
    name: str
    type: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]

    def check_type(self) -> None:
        """Raises UserError for a type that is not one of floating-point weights."""
        if self.type not in _FLOATS:
            raise UserError(
                f"{self.file}: the tensor '{self.name}' is of type {self.type}, and quantized or "
                "whole-number weights cannot be trained: choose a checkpoint in float32, bfloat16 "
                "or float16"
            )

    def read_into(self, out: np.ndarray, index: tuple[slice, ...]) -> None:
        """Writes the slice `index` of the tensor to `out`, float32, of the slice's shape.

        Raises UserError for a value that is NaN or infinite, or becomes so as float32.
        """
        at = index[0].start
        for values in self.chunks(index):
            out[at - index[0].start : at - index[0].start + len(values)] = values
            at += len(values)

    def chunks(self, index: tuple[slice, ...] | None = None) -> Iterator[np.ndarray]:
        """The slice `index` (without: all) as float32, some rows at a time; as `read_into`."""
        rows, *rest = index or tuple(slice(0, size) for size in self.shape)
        width = math.prod(self.shape[1:])
        step = max(1, _CHUNK // max(1, 4 * width))
        for at in range(rows.start, rows.stop, step):
            upto = min(at + step, rows.stop)
            block = self._elements(at * width, upto * width).reshape(upto - at, *self.shape[1:])
            with np.errstate(over="ignore", invalid="ignore"):
                values = block[(slice(None), *rest)].astype(np.float32)
            if not np.isfinite(values).all():
                row = at + int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(1)))
                raise UserError(
                    f"{self.file}: the tensor '{self.name}' holds NaN or infinite values (first in "
                    f"row {row}): the file is damaged, or was saved after a training that diverged;"
                    " choose another checkpoint"
                )
            yield values

    def _elements(self, start: int, stop: int) -> np.ndarray:
        """Elements start .. stop - 1, flat; mapped where they lie in one piece."""
        dtype, parts, first = _FLOATS[self.type], [], 0
        for offset, count in self.pieces:
            begin, end = max(start, first), min(stop, first + count)
            if begin < end:
                # A map of its own for each chunk: pages of a map that stays open would pile up.
                at = offset + (begin - first) * dtype.itemsize
                parts.append(np.memmap(self.file, dtype, "r", at, (end - begin,)))
            first += count
        if not parts:
            return np.zeros(0, dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty float32 array that begins where XLA wants one to: the CPU then takes it as it is."""
    size = 4 * math.prod(shape)
    raw: np.ndarray = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)


def weight_files(names: Collection[str], where: object) -> list[str]:
    """Those of a folder's files that hold its weights, in one format; an index first, if any.

    Raises UserError, which begins with `where`, if none can be read.
    """
    found = next((name for name in WEIGHT_FILES if name in names), None)
    if found is not None:
        stem, _, suffix = found.removesuffix(".index.json").rpartition(".")
        parts = [n for n in names if n.startswith(f"{stem}-") and n.endswith(f".{suffix}")]
        return [found, *sorted(parts)] if found.endswith(".index.json") else [found]
    message = f"{where}: holds no {' or '.join(WEIGHT_FILES[::2])}"
    if any(name.endswith(".bin") for name in names):
        message += (
            "; its .bin weights are pickles, which are never loaded: convert them where torch "
            "is installed with `model.save_pretrained(folder, safe_serialization=True)`"
        )
    raise UserError(message)


def shards(index: Path) -> list[Path]:
    """The weight files that an index names, beside it. Raises UserError for one that is none."""
    # {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors", ...}, ...}
    # -> [model-00001-of-00002.safetensors, model-00002-of-00002.safetensors] beside the index.
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index}: is no index of weight files ({error!r})") from None
    if not names:
        raise UserError(f"{index}: names no weight files")
    for name in names:
        # A name with a path in it could point outside the folder.
        if Path(name).name != name or not (index.parent / name).is_file():
            raise UserError(f"{index}: names the file '{name}', which is not in the folder")
    return [index.parent / name for name in names]


def read_headers(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a .safetensors or .msgpack file by name; no value is read.

    Names of msgpack are paths: shared/embedding. Raises UserError where it cannot be read.
    """
    with contextlib.suppress(OSError), file.open("rb") as stream:
        if said := stands_for_another(stream.read(64)):
            raise UserError(f"{file}: {said}")
    return _safetensors(file) if file.suffix == ".safetensors" else _msgpack(file)


def _safetensors(file: Path) -> dict[str, StoredTensor]:
    try:
        # Opened by the library first, which checks that the header's offsets are what they may be.
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as safetensors ({error})") from None
    header.pop("__metadata__", None)
    # The data follow the header: 8 bytes with its size, the header, and from there the offsets run.
    return {
        name: StoredTensor(
            file,
            name,
            entry["dtype"],
            tuple(entry["shape"]),
            ((8 + size + entry["data_offsets"][0], math.prod(entry["shape"])),),
        )
        for name, entry in header.items()
    }


def _msgpack(file: Path) -> dict[str, StoredTensor]:
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as m:
            walk = _Walk(file, m)
            tree = walk.value()
            if walk.at != len(m):
                raise ValueError("it goes on after its end")
        found: dict[str, StoredTensor] = {}
        _flatten(tree, (), found)
        return found
    except (OSError, ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as Flax msgpack ({error})") from None


# Flax cuts arrays of 1 GiB and more into flat chunks under this key.
_CHUNKED = "__msgpack_chunked_array__"


def _flatten(tree: Any, path: tuple[str, ...], found: dict[str, StoredTensor]) -> None:
    """Adds the arrays of a tree of dicts to `found`, under their paths joined by "/"."""
    name = "/".join(path)
    if isinstance(tree, dict) and _CHUNKED in tree:
        shape = tuple(tree["shape"][str(i)] for i in range(len(tree["shape"])))
        chunks = [tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]
        pieces = tuple(piece for chunk in chunks for piece in chunk.pieces)
        if sum(count for _, count in pieces) != math.prod(shape):
            raise ValueError(f"the chunks of {name} do not fill its shape {shape}")
        tree = StoredTensor(chunks[0].file, name, chunks[0].type, shape, pieces)
    if isinstance(tree, StoredTensor):
        found[name] = StoredTensor(tree.file, name, tree.type, tree.shape, tree.pieces)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            _flatten(value, (*path, str(key)), found)
    else:
        raise ValueError(f"{name or 'it'} is no array")


class _Walk:
    """Goes through msgpack value by value, and steps over the bytes of arrays.

    The bytes and what they mean: the specification of MessagePack. Flax packs an array as extension
    type 1 that holds (shape, name of the type, bytes). Raises ValueError or IndexError.
    """

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file, self.data, self.at = file, data, 0

    def _take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise ValueError("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def _number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "big", signed=signed)

    def value(self) -> Any:
        code = self._take(1)[0]
        if code < 0x80:
            return code
        if code < 0x90:
            return self._map(code & 0x0F)
        if code < 0xA0:
            return [self.value() for _ in range(code & 0x0F)]
        if code < 0xC0:
            return self._take(code & 0x1F).decode()
        if code >= 0xE0:
            return code - 0x100
        match code:
            case 0xC0:
                return None
            case 0xC2 | 0xC3:
                return code == 0xC3
            case 0xC4 | 0xC5 | 0xC6:
                return self._bytes(self._number(1 << code - 0xC4))
            case 0xC7 | 0xC8 | 0xC9:
                return self._extension(self._number(1 << code - 0xC7))
            case 0xCC | 0xCD | 0xCE | 0xCF:
                return self._number(1 << code - 0xCC)
            case 0xD0 | 0xD1 | 0xD2 | 0xD3:
                return self._number(1 << code - 0xD0, signed=True)
            case 0xD4 | 0xD5 | 0xD6 | 0xD7 | 0xD8:
                return self._extension(1 << code - 0xD4)
            case 0xD9 | 0xDA | 0xDB:
                return self._take(self._number(1 << code - 0xD9)).decode()
            case 0xDC | 0xDD:
                return [self.value() for _ in range(self._number(2 << code - 0xDC))]
            case 0xDE | 0xDF:
                return self._map(self._number(2 << code - 0xDE))
        raise ValueError(f"the byte {code:#x} means nothing there")

    def _map(self, count: int) -> dict[Any, Any]:
        return {self.value(): self.value() for _ in range(count)}

    def _bytes(self, count: int) -> tuple[int, int]:
        """(offset, count) of bytes, which are stepped over."""
        if self.at + count > len(self.data):
            raise ValueError("it ends too early")
        self.at += count
        return self.at - count, count

    def _extension(self, count: int) -> StoredTensor:
        kind, end = self._number(1), self.at + count
        if kind != 1:
            raise ValueError(f"an extension of type {kind} is no array")
        shape, type_, (offset, size) = self.value()
        width = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}.get(type_)
        elements = math.prod(shape)
        if self.at != end or (width and elements * width != size):
            raise ValueError(f"an array of shape {tuple(shape)} does not have its bytes")
        return StoredTensor(self.file, "", str(type_), tuple(shape), ((offset, elements),))
