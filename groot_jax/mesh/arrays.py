"""Arrays over the devices of one or several processes: put there from the host, and read back.

Each process holds the rows of a batch that lie on its own devices, and need fill no others: host
arrays have the full shape everywhere, so that indices mean the same in all processes.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding


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


def own_rows(sharding: NamedSharding, size: int) -> np.ndarray:
    """bool [size]: rows that lie on a device of this process, which has to fill them."""
    own: np.ndarray = np.zeros(size, bool)
    for index in sharding.addressable_devices_indices_map((size,)).values():
        assert index is not None
        own[index] = True
    return own


def counted_rows(sharding: NamedSharding, size: int) -> np.ndarray:
    """bool [size]: rows that this process is the first to hold, so that each is counted once."""
    owner: np.ndarray = np.full(size, -1)
    for device, index in sharding.devices_indices_map((size,)).items():
        assert isinstance(device, jax.Device)
        rows = owner[index]
        owner[index] = np.where(rows < 0, device.process_index, rows)
    return np.asarray(owner == jax.process_index())
