"""Tiles of token trees see what the trees say, and the decoder computes the same by them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax.contrast.tree import build_tree
from groot_jax.model.t5 import T5
from groot_jax.model.tree_attention import in_tiles, keys_a_query, tile_size, tree_mask

T, NODES = 9, 128


def forest(seed: int, kinds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, depths and ends of two rows of trees, and of padding, [2, N]; few kinds of tokens
    make trees that branch late."""
    rng = np.random.default_rng(seed)
    token_BxN, depth_BxN = np.zeros((2, 2, NODES), np.int32)
    end_BxN = np.tile(np.arange(1, NODES + 1, dtype=np.int32), (2, 1))
    for b in range(2):
        at = 0
        while True:
            pool = [(*rng.integers(2, 2 + kinds, rng.integers(0, T)).tolist(), 1) for _ in range(7)]
            tree = build_tree(pool, 0)
            here = slice(at, at + len(tree.tokens))
            if here.stop > NODES - 5:  # What is left is padding.
                break
            token_BxN[b, here], depth_BxN[b, here] = tree.tokens, tree.depths
            end_BxN[b, here] = np.add(tree.ends, at)
            at = here.stop
    return token_BxN, depth_BxN, end_BxN


def masks_of_ancestors(depth_BxN: np.ndarray, end_BxN: np.ndarray) -> np.ndarray:
    """Who sees whom, by following each node up to its root."""
    mask = np.zeros((*depth_BxN.shape, NODES), bool)
    for b, n in np.ndindex(depth_BxN.shape):
        path = [n]
        # The parent: the last node before this one that is one less deep.
        while depth_BxN[b, path[-1]]:
            above = np.flatnonzero(depth_BxN[b, : path[-1]] == depth_BxN[b, path[-1]] - 1)
            path.append(int(above[-1]))
        mask[b, n, path] = True
    return mask


@pytest.mark.parametrize(("seed", "kinds"), [(0, 1), (1, 2), (2, 9)])
def test_tiles_see_the_path_of_each_node_and_nothing_else(seed, kinds):
    _, depth_BxN, end_BxN = forest(seed, kinds)
    expected = masks_of_ancestors(depth_BxN, end_BxN)
    assert np.array_equal(tree_mask(end_BxN), expected)
    size = tile_size(NODES, T)
    assert size == 32
    tiles = in_tiles(jnp.asarray(end_BxN), jnp.asarray(depth_BxN), size, T)
    # The keys of each tile, by name: node n is n + 1, and 0 is nobody.
    names_BxNx1 = np.tile(np.arange(1.0, NODES + 1)[None, :, None], (2, 1, 1))
    name = np.asarray(tiles.keys(jnp.asarray(names_BxNx1)))[..., 0].astype(int)
    assert name.shape[1] == keys_a_query(NODES, T) == T - 1 + size
    seen = np.zeros_like(expected)
    for tile, query, key in np.argwhere(np.asarray(tiles.mask)):
        b, g = divmod(tile, NODES // size)
        assert name[tile, key] > 0
        seen[b, g * size + query, name[tile, key] - 1] = True
    assert np.array_equal(seen, expected)
    assert np.asarray(tiles.mask).sum() == expected.sum()  # No key stands there twice.


@pytest.mark.parametrize(
    ("variant", "changes"),
    [("v1_0", {}), ("umt5", {}), ("v1_1", {"remat": "full", "scan_layers": True})],
)
def test_decode_by_tiles_equals_decode_by_mask_and_so_do_gradients(
    variant, changes, tiny, random_params
):
    config = tiny(variant, **changes)
    model, params = T5(config), random_params(config)
    token_BxN, depth_BxN, end_BxN = forest(3, 3)
    rng = np.random.default_rng(0)
    source_BxS = rng.integers(2, 40, (2, 7)).astype(np.int32)
    weight_BxNxD = rng.standard_normal((2, NODES, config.d_model)).astype(np.float32)

    def value(params, **which):
        encoded = model.apply({"params": params}, source_BxS, method=model.encode)
        hidden = model.apply(
            {"params": params},
            token_BxN,
            depth_BxN,
            which.get("mask"),
            model.apply({"params": params}, encoded, method=model.cross_kv),
            source_BxS[:, None] != 0,
            end_BxN=which.get("end"),
            num_positions=T,
            method=model.decode,
        )
        return (hidden * weight_BxNxD).sum(), hidden

    graded = jax.jit(jax.value_and_grad(value, has_aux=True))
    mask = masks_of_ancestors(depth_BxN, end_BxN)
    (_, plain), plain_grad = graded(params, mask=mask)
    (_, tiled), tiled_grad = graded(params, end=jnp.asarray(end_BxN))
    np.testing.assert_allclose(tiled, plain, atol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3), tiled_grad, plain_grad
    )


def test_short_rows_and_deep_trees_stay_in_one_piece():
    assert tile_size(128, 9) == 32
    assert tile_size(512, 52) == 64
    assert tile_size(64, 9) == 0  # 40 keys of 64.
    assert tile_size(512, 400) == 0
    assert tile_size(150, 9) == 0  # No number of tiles.
    assert keys_a_query(512, 52) == 115
    assert keys_a_query(64, 9) == 64
