"""Where every parameter and moment lies, as text: what test_shardings.py compares.

python -m tests.model.golden_shardings > tests/model/golden_shardings.txt
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh, AxisType

from groot_jax.config import default_config
from groot_jax.mesh.layout import MESH_AXES, factored_sharding
from groot_jax.model.config import preset
from groot_jax.model.param_tree import param_shapes
from groot_jax.model.partitioning import param_shardings

PRESETS = ("base", "xxl")
MESHES = ((8, 1, 1), (2, 2, 2), (4, 16, 8))
ROWS = 32128


def lines() -> Iterator[str]:
    """A line for each kind of parameter, the same in all blocks: shape, axes, shape on a device,
    and the axes of Adafactor's rows and columns where it has them."""
    rules = default_config().mesh.rules.to_dict()
    for sizes in MESHES:
        mesh: Any = AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))
        for name in PRESETS:
            yield f"[{name}, " + ", ".join(map("{}={}".format, MESH_AXES, sizes)) + "]"
            config = preset(name, "v1_1", ROWS)
            shapes = flatten_dict(param_shapes(config), sep="/")
            shardings = flatten_dict(param_shardings(mesh, config, rules), sep="/")
            seen: dict[str, str] = {}
            for key in sorted(shapes):
                line = _line(shapes[key], shardings[key])
                kind = re.sub(r"/block/\d+/", "/block/*/", key)
                assert seen.setdefault(kind, line) == line, key
            width = max(map(len, seen))
            yield from (f"{kind:{width}}  {line}" for kind, line in seen.items())
            yield ""


def _line(shape: jax.ShapeDtypeStruct, sharding: Any) -> str:
    def axes(spec: Any) -> str:
        return " ".join("+".join((a,) if isinstance(a, str) else a) if a else "." for a in spec)

    def dims(sizes: Any) -> str:
        return "x".join(map(str, sizes))

    text = f"{dims(shape.shape)} = {axes(sharding.spec)} -> "
    text += dims(sharding.shard_shape(shape.shape))
    if len(shape.shape) == 2:
        row, column = (
            factored_sharding((size,), shape.shape, sharding).spec for size in shape.shape
        )
        text += f"; row {axes(row)}, column {axes(column)}"
    return text


if __name__ == "__main__":
    print("\n".join(lines()), end="")
