"""Rows of a batch: as many as the devices divide, and which of them a process fills and counts.

`sharding` is that of the rows (`Layout.batch`); without one, a single device has them all.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding

from groot_jax.mesh.layout import batch_ways


def padded_rows(sharding: NamedSharding | None, batch_size: int, parts: int = 1) -> int:
    """`batch_size` rounded up to what the devices, times `parts`, divide; padding fills up."""
    # 18 sentences on 4 devices: 20 rows. In 8 parts, each of which takes all 4 devices: 32.
    least = (batch_ways(sharding) if sharding else 1) * parts
    return -(-batch_size // least) * least


def own_rows(sharding: NamedSharding | None, batch_size: int, parts: int = 1) -> np.ndarray:
    """bool [padded_rows]: the rows on a device of this process, which has to fill them."""
    size = padded_rows(sharding, batch_size, parts)
    if sharding is None:
        return np.ones(size, bool)
    own: np.ndarray = np.zeros(size, bool)
    for index in sharding.addressable_devices_indices_map((size,)).values():
        assert index is not None
        own[index] = True
    return own


def counted_rows(sharding: NamedSharding | None, rows: int) -> np.ndarray:
    """bool [rows]: those that this process is the first to hold, so that each is counted once."""
    if sharding is None:
        return np.ones(rows, bool)
    # Where the tensor axis splits parameters, its devices hold the same rows: two processes with
    # one device each, under tensor=2, both hold every row, and the first of them counts all.
    owner: np.ndarray = np.full(rows, -1)
    for device, index in sharding.devices_indices_map((rows,)).items():
        assert isinstance(device, jax.Device)
        held = owner[index]
        owner[index] = np.where(held < 0, device.process_index, held)
    return np.asarray(owner == jax.process_index())
