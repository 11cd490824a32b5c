"""PRNG keys that cost a dozen integer operations to derive: JAX's interface over a hash.

An update derives a key for each place that drops, some fifty of them. With JAX's threefry, or
`rbg`, which derives by threefry too, they were 9,000 of an update's 23,000 instructions: compiled
anew for each size of batch, and never more than a few numbers. Dropout asks for independent draws,
and not for a cipher.
"""

from __future__ import annotations

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np

# What tells the keys of `split` from those of `fold_in` of the same numbers; any two would do.
_FOLD, _SPLIT = np.array([0, 0x9E3779B9], np.uint32), np.array([0x85EBCA6B, 0xC2B2AE35], np.uint32)


def hashed(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """uint32, as `x`: a hash of each element of `x` and of 64 bits, two uint32 that broadcast.

    The rounds and multipliers are Chris Wellons's `lowbias32` (nullprogram.com, "Prospecting for
    Hash Functions"), with the second half of the bits let in between.
    """
    # Shifts carry high bits down and products carry low bits up: every bit of x reaches every bit
    # of the word. Without the second half, 2^32 keys alone would differ.
    x = x ^ first
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = x ^ second
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _derived(key_2: jax.Array, number: jax.Array, salt_2: np.ndarray) -> jax.Array:
    # Either word of the new key depends on both of the old one: of (a, b) they are
    # hash(number ^ salt; a, b) and hash(number ^ salt'; b, a).
    return hashed(number.astype(jnp.uint32)[..., None] ^ salt_2, key_2, key_2[::-1])


def _seed(seed: jax.Array) -> jax.Array:
    # Of 64-bit integers, where JAX has them, the low 32 bits.
    return _derived(jnp.zeros(2, jnp.uint32), seed, _FOLD)


def _fold_in(key_2: jax.Array, number: jax.Array) -> jax.Array:
    return _derived(key_2, number, _FOLD)


def _split(key_2: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    count = int(np.prod(shape))
    return _derived(key_2, jnp.arange(count, dtype=jnp.uint32), _SPLIT).reshape(*shape, 2)


def _bits(key_2: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    if width != 32:
        raise NotImplementedError(f"hashed keys draw words of 32 bits, not of {width}")
    index = jnp.arange(int(np.prod(shape)), dtype=jnp.uint32)
    return hashed(index, key_2[0], key_2[1]).reshape(shape)


HASHED = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="groot_hashed",
    tag="hsh",
)


def new_key(seed: int) -> jax.Array:
    """The key of a seed, for `jax.random.fold_in`, `split` and `bits` of uint32."""
    return jax.random.key(seed, impl=HASHED)


def key_words(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """64 bits of a key of any kind, as two words of uint32."""
    if jax.random.key_impl(key) == HASHED:
        words_2 = jax.random.key_data(key)  # They are hashed already.
    else:
        words_2 = jax.random.bits(key, (2,), jnp.uint32)
    return words_2[0], words_2[1]
