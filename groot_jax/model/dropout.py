"""Dropout whose draws are a hash of each element's index: cheap, and the same on every mesh."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from groot_jax.mesh.keys import hashed, key_words
from groot_jax.mesh.layout import device_index


def random_words(key: jax.Array, shape: tuple[int, ...], start: jax.Array | int = 0) -> jax.Array:
    """uint32 of `shape`, each a hash of its index (from `start` on) and of 64 bits of `key`.

    No generator's state is involved, so the compiler makes the words where they are used, in the
    backward pass again if it likes, and of a sharded array each device makes its own.
    """
    # Of shape (2, 3): 3 * row + column, 0 to 5. By iotas, since those are split with the array.
    index = jnp.uint32(start)
    stride = 1
    for axis in reversed(range(len(shape))):
        # Beyond 2^32 elements the words repeat.
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        index = index + along * np.uint32(stride % 2**32)
        stride *= shape[axis]
    return hashed(index, *key_words(key))


def dropped_out(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """`x` with a share `rate` of its elements zeroed, and the others scaled to keep the mean.

    Rows come first in `x`: a device that is given its own alone draws what the whole would.
    """
    # Device 2 of those that hold [16, 32, 512] each begins at element 2 * 16 * 32 * 512 = 524,288.
    start = jnp.uint32(device_index()) * np.uint32(math.prod(x.shape) % 2**32)
    # A rate of 0.1 is 429,496,730 of the 2^32 words.
    kept = random_words(key, x.shape, start) >= np.uint32(min(round(rate * 2**32), 2**32 - 1))
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))
