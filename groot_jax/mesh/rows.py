"""Rows of a batch: as many as the devices divide, and which of them a process fills and counts."""

from __future__ import annotations

import jax
import numpy as np

from groot_jax.mesh.layout import Layout


def padded_rows(layout: Layout, batch_size: int, parts: int = 1) -> int:
    """`batch_size` rounded up to what the devices, times `parts`, divide; padding fills up."""
    # 18 sentences on 4 devices: 20 rows. In 8 parts, each of which takes all 4 devices: 32.
    least = layout.ways("batch") * parts
    return -(-batch_size // least) * least


def own_rows(layout: Layout, batch_size: int, parts: int = 1) -> np.ndarray:
    """bool [padded_rows]: the rows on a device of this process, which has to fill them."""
    size = padded_rows(layout, batch_size, parts)
    own: np.ndarray = np.zeros(size, bool)
    for index in layout.batch.addressable_devices_indices_map((size,)).values():
        assert index is not None
        own[index] = True
    return own


def counted_rows(layout: Layout, rows: int) -> np.ndarray:
    """bool [rows]: those that this process is the first to hold, so that each is counted once."""
    # Where the tensor axis splits parameters, its devices hold the same rows: two processes with
    # one device each, under tensor=2, both hold every row, and the first of them counts all.
    owner: np.ndarray = np.full(rows, -1)
    for device, index in layout.batch.devices_indices_map((rows,)).items():
        assert isinstance(device, jax.Device)
        held = owner[index]
        owner[index] = np.where(held < 0, device.process_index, held)
    return np.asarray(owner == jax.process_index())
