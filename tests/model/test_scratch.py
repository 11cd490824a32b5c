"""How a model from scratch starts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from groot_jax.model.config import preset
from groot_jax.model.scratch import Start
from groot_jax.model.t5 import T5, init_params

CONFIG = preset("nano", "tied", 64)


def test_only_what_start_names_is_changed():
    plain = init_params(CONFIG, 0)
    ours = init_params(CONFIG, 0, start=Start(0.5, 0.25, 3.0))
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(ours), strict=True
    ):
        name = "/".join(part.key for part in path)
        if name == "shared/embedding":
            np.testing.assert_array_equal(y, x * 0.5)
        elif name.endswith(("/o/kernel", "/wo/kernel")):
            np.testing.assert_array_equal(y, x * 0.25)
        elif "relative_attention_bias" in name and name.startswith("encoder"):
            assert (y != x).sum() == 7  # The eighth head looks everywhere.
        else:
            np.testing.assert_array_equal(y, x)


def test_the_first_heads_attend_to_one_neighbour_each():
    params = init_params(CONFIG, 0, start=Start(1.0, 1.0, 30.0))
    relative = jnp.arange(-4, 5)[None, None, :]  # Keys before and after a query.
    (bias,) = T5(CONFIG).apply(
        {"params": params}, relative, method=lambda t5, r: t5.encoder.relative_bias(r)
    )
    weights_HxL = np.asarray(jax.nn.softmax(bias[0, :, 0]))
    assert (weights_HxL.argmax(-1) - 4).tolist()[:7] == [-1, 1, -2, 2, 0, -3, 3]
    assert weights_HxL.max(-1)[:7].min() > 0.99
