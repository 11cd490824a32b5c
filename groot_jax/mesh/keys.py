"""PRNG keys that cost two integer operations to derive: JAX's interface over a hash.

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

_ODD = np.uint32(0x9E3779B1)  # 2^32 over the golden ratio, and odd: no two products are alike.
# What tells the keys of `split` from those of `fold_in` of the same numbers; any two would do.
_FOLD, _SPLIT = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


def hashed(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """uint32, as `x`: a hash of each element of `x` and of 64 bits, two words of uint32.

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


def _spread(number: jax.Array, salt: np.uint32) -> jax.Array:
    """[..., 2]: 64 bits of each number. Of one that is known when a program is compiled, such as
    that of a place in the model, the compiler works them out: it does so with numbers, and not
    with arrays of two, so that they are put together last."""
    x = number.astype(jnp.uint32)
    words = (hashed(x, jnp.uint32(salt ^ half), jnp.uint32(_ODD)) for half in (0, _ODD))
    return jnp.stack([*words], -1)


def _derived(key_2: jax.Array, number: jax.Array, salt: np.uint32) -> jax.Array:
    # Multiplied first, so that 1 folded in before 2 is not 2 before 1. That is little mixing, but
    # nobody sees a key: what is drawn with it is hashed, elements that are neighbours too.
    return key_2 * _ODD + _spread(number, salt)


def _seed(seed: jax.Array) -> jax.Array:
    # Of 64-bit integers, where JAX has them, the low 32 bits.
    return _spread(seed, _FOLD)


def _fold_in(key_2: jax.Array, number: jax.Array | int) -> jax.Array:
    return _derived(key_2, jnp.asarray(number), _FOLD)


def _split(key_2: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    numbers = jnp.arange(int(np.prod(shape)), dtype=jnp.uint32)
    keys = _derived(key_2, numbers, _SPLIT).reshape(*shape, 2)
    # Made once. All places of a model derive from a few keys that are split off in each step, and
    # the compiler would work those out again in the kernel of each place.
    return jax.lax.optimization_barrier(keys)


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


def new_key(seed: int | jax.Array) -> jax.Array:
    """The key of a seed, for `jax.random.fold_in`, `split` and `bits` of uint32."""
    return jax.random.key(seed, impl=HASHED)


def key_words(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """64 bits of a key of any kind, as two words of uint32."""
    if jax.random.key_impl(key) == HASHED:
        words_2 = jax.random.key_data(key)  # They are hashed already.
    else:
        words_2 = jax.random.bits(key, (2,), jnp.uint32)
    return words_2[0], words_2[1]
