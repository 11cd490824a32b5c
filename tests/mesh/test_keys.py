"""Keys by hashing: every derived key is another one, and their bits are as good as drawn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax.mesh.keys import key_words, new_key
from groot_jax.model.dropout import random_words


def words(keys: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys)).reshape(-1, 2)


def test_seeds_folds_and_splits_never_meet():
    """4,000 keys, in each of the ways that training derives them, and one from the other."""
    numbers = jnp.arange(1000)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    every = np.concatenate(
        [
            *(words(k) for k in (jax.vmap(new_key)(numbers), fold(new_key(0), numbers))),
            *(words(jax.random.split(k, 500)) for k in (new_key(0), new_key(1))),
            words(fold(jax.random.fold_in(new_key(0), 7), numbers)),
        ]
    )
    assert len(np.unique(every, axis=0)) == len(every) == 4000
    for half in every.T:  # Of 4,000 draws of 2^32 values, two are alike once in 500.
        assert len(np.unique(half)) >= 3998


@pytest.mark.parametrize("derive", ["fold_in", "split", "seed", "step"])
def test_bits_of_derived_keys_are_even_and_independent_of_their_neighbours(derive):
    numbers = jnp.arange(1 << 14, dtype=jnp.uint32)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    keys = {
        "fold_in": lambda: fold(new_key(3), numbers),
        "split": lambda: jax.random.split(new_key(3), len(numbers)),
        "seed": lambda: jax.vmap(new_key)(numbers),
        # The same place of one step after the other.
        "step": lambda: jax.vmap(jax.random.fold_in)(
            fold(new_key(3), numbers), jnp.full_like(numbers, 12345)
        ),
    }[derive]()
    found = words(keys)
    bits = (found[:, :, None] >> np.arange(32, dtype=np.uint32) & 1).reshape(len(found), 64)
    signs = 2.0 * bits - 1
    # Of n draws a mean, or a mean of products, is within five of its deviations, 1 / sqrt(n), but
    # for 1 in 1.7 million; there are 64 * 64 * 3 of them.
    bound = 5.5 / np.sqrt(len(found))
    assert np.abs(signs.mean(0)).max() < bound
    within = signs.T @ signs / len(signs) - np.eye(64)
    assert np.abs(within).max() < bound
    for shift in (1, 2):
        assert np.abs(signs[shift:].T @ signs[:-shift] / len(signs)).max() < bound


def test_dropout_s_masks_of_all_places_and_steps_are_independent():
    """8 steps, an encoder and a decoder, 8 places: 128 masks of 16,384 elements, in pairs, each
    element with those beside it too."""

    def places(step):
        keys = jax.random.split(jax.random.fold_in(new_key(0), step))
        fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
        return fold(keys, jnp.arange(8))

    keys = jax.vmap(places)(jnp.arange(8)).reshape(-1)
    drawn = jax.jit(jax.vmap(lambda key: random_words(key, (64, 256))))(keys)
    kept = (np.asarray(drawn) >= np.uint32(0.1 * 2**32)).reshape(len(keys), -1)
    spread = (kept - 0.9) / 0.3
    bound = 5.5 / np.sqrt(spread.shape[1])
    assert np.abs(spread.mean(1)).max() < bound
    for shift in (0, 1, 256):
        pairs = spread @ np.roll(spread, shift, 1).T / spread.shape[1]
        pairs -= np.eye(len(keys)) * (shift == 0)
        # The square of a skewed draw has a deviation of 2.7 itself.
        assert np.abs(pairs).max() < bound * (3 if shift == 0 else 1.2)


def test_words_of_any_kind_of_key():
    for key in (new_key(5), jax.random.key(5), jax.random.key(5, impl="rbg")):
        first, second = key_words(key)
        assert first.dtype == jnp.uint32 and first.shape == second.shape == ()
        assert int(first) != int(second)


def test_hashed_keys_draw_words_of_32_bits_alone():
    drawn = np.asarray(jax.random.bits(new_key(1), (4, 4), jnp.uint32))
    assert len(np.unique(drawn)) == 16
    with pytest.raises(NotImplementedError, match="32 bits"):
        jax.random.bits(new_key(1), (2,), jnp.uint8)
