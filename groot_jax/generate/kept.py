"""Searches as they were traced, on disk between runs, beside the compiled programs.

JAX's own cache finds a compiled program by what is to be compiled, so that a job which starts anew
traces and lowers its search before it finds it: for the first answer of a small model that is as
long as all else. What was traced is kept under the facts that it was traced from.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax import export

_ROOMS = ("generate", "mesh", "model")  # All code that a search is traced from.
_PACKAGES = ("jax", "jaxlib", "flax")
# The search of one sentence by a small model: 2.1 instead of 5.5 s of processor time to compile,
# and 4.7 instead of 2.4 ms to run.
_HURRIED = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def kept(
    traced: Callable[..., Any], args: Sequence[Any], facts: object, hurried: bool = False
) -> Callable[..., Any]:
    """`traced`, a jitted function of trees of arrays on one device that returns a tuple of arrays,
    as a function of the same arguments that need not be traced again.

    args: what it will be called with, or shapes. facts: all that its program depends on beside them
    and the code of the package, told apart by `repr`. hurried: see `_HURRIED`.

    Without a folder of compiled programs on this machine, or flatbuffers, in whose format JAX
    writes, that is `traced` itself.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or "://" in folder:
        return traced
    leaves, tree = jax.tree.flatten(tuple(args))
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    told = repr((facts, tree, [(x.shape, str(x.dtype)) for x in shapes], _circumstances()))
    path = Path(folder) / "searches" / f"{hashlib.blake2b(told.encode()).hexdigest()[:32]}.bin"
    # An error of any kind costs time and nothing else: the call itself will meet it again, if it is
    # one, and say it.
    try:
        program = export.deserialize(bytearray(path.read_bytes()))
    except Exception:  # It is not there, or not whole.
        flat = jax.jit(lambda *leaves: tuple(traced(*jax.tree.unflatten(tree, leaves))))
        try:
            program = export.export(flat)(*shapes)
            _write(path, bytes(program.serialize()))
        except Exception:
            return traced
    hurried = hurried and jax.default_backend() == "cpu"
    call, lowered = jax.jit(program.call, compiler_options=_HURRIED if hurried else None), False

    def called(*args: Any) -> Any:
        nonlocal call, lowered
        leaves = jax.tree.leaves(args)
        with nullcontext() if lowered else _without_lapack():
            try:
                answer = call(*leaves)
            except jax.errors.JaxRuntimeError:
                if lowered or not hurried:
                    raise
                call = jax.jit(program.call)  # Another XLA may not know these options.
                answer = call(*leaves)
        lowered = True
        return answer

    return called


_sparing = threading.Lock()  # One at a time: two would put back what the other has put there.


@contextmanager
def _without_lapack() -> Iterator[None]:
    """JAX gets ready for LAPACK when it lowers a program that was exported, whatever that calls. It
    imports scipy.linalg for it: .2 s of the 1.7 that a first answer takes. A search calls none."""
    with _sparing:
        try:
            from jax._src.export import _export  # No public setting spares it.

            ready = _export._ensure_backends_initialized
        except (ImportError, AttributeError):  # Another JAX does what it does.
            yield
            return
        _export._ensure_backends_initialized = lambda platforms: None
        try:
            yield
        finally:
            _export._ensure_backends_initialized = ready


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; nowhere, where the folder cannot be written."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(draft, path)
        except OSError:
            os.unlink(draft)


@cache
def _circumstances() -> tuple[object, ...]:
    """What a program depends on that nobody hands over: the code, and settings of JAX."""
    digest = hashlib.blake2b()
    package = Path(__file__).resolve().parent.parent
    for room in _ROOMS:
        for file in sorted((package / room).glob("*.py")):
            digest.update(file.read_bytes())
    settings = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion")
    return (
        digest.hexdigest(),
        [version(name) for name in _PACKAGES],
        [str(jax.config.values[name]) for name in settings],
        jax.default_backend(),
    )
