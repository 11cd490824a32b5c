"""Arrays over the devices of one or several processes: put there from the host, and read back.

Each process holds the rows of a batch that lie on its own devices, and need fill no others: host
arrays have the full shape everywhere, so that indices mean the same in all processes.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from groot_jax.mesh.keys import new_key

AnyArray = np.ndarray | jax.Array  # Of a batch or table: on the host first, then placed or traced.


def put(tree: Any, shardings: Any) -> Any:
    """Host arrays as arrays that lie as `shardings`, one or a tree of them, says.

    Where that reaches beyond this process, each puts there what lies on its devices.
    """
    # `device_put` onto another process's devices asks all processes for the same values; here the
    # rows that a process does not fill are left as they are.
    if all(s.is_fully_addressable for s in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)
    return jax.tree.map(_put, tree, jax.tree.broadcast(shardings, tree))


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def read(x: jax.Array) -> np.ndarray:
    """The array on the host; zero where it lies on other processes' devices."""
    if x.is_fully_addressable:
        return np.asarray(x)
    host = np.zeros(x.shape, x.dtype)
    for shard in x.addressable_shards:
        host[shard.index] = np.asarray(shard.data)
    return host


def named_key(seed: int, name: str, sharding: NamedSharding) -> jax.Array:
    """The PRNG key of the random draws that belong to `name`, a function of both arguments alone.

    It lies as `sharding` says: a run of several processes has it on all of their devices.
    """

    def key() -> jax.Array:
        # A checksum, for Python's own `hash` of a text differs from process to process.
        return jax.random.fold_in(new_key(seed), zlib.crc32(name.encode()))

    return jax.jit(key, out_shardings=sharding)()
