"""Where parameters live: the names that the model gives them, laid over a mesh.

Turns logical axis names into NamedShardings. It moves no data and knows nothing of what the
parameters are for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from groot_jax.errors import UserError
from groot_jax.mesh.layout import DEFAULT_RULES, MESH_AXES, Layout, Rules
from groot_jax.model.config import T5Config
from groot_jax.model.t5 import logical_axes, param_shapes

_REPLICATED = 0.02  # A larger share of the parameters' bytes is worth a word.


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with axes data, fsdp, tensor over all devices, or those given; one size may be -1:
    what is left.

    Raises UserError where the sizes do not multiply to the number of devices.
    """
    sizes = dict(zip(MESH_AXES, (data, fsdp, tensor), strict=True))
    count = jax.device_count() if devices is None else len(devices)
    written = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(free) == 1 and known > 0 and count % known == 0:
        sizes[free[0]] = count // known
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != count:
        raise UserError(
            f"config.mesh: {written} does not fit {count} devices; the sizes must multiply to "
            f"{count}, and one of them may be -1 for what is left"
        )
    # `jax.make_mesh` refuses what takes a part of a TPU's torus dimension, 4 of 16 chips, say.
    grid = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices=devices, allow_split_physical_axes=True
    )
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def param_shardings(
    mesh: Mesh | AbstractMesh, config: T5Config, rules: Rules = DEFAULT_RULES
) -> Any:
    """A NamedSharding for each parameter of `config`, in the parameters' tree.

    A dimension that its mesh axes do not divide evenly (a vocabulary of odd size, say) is
    replicated. Raises UserError for a logical axis without a rule.
    """
    layout = Layout(mesh, rules)
    return jax.tree.map(
        lambda shape, names: layout.sharding(shape.shape, tuple(names)),
        param_shapes(config),
        logical_axes(config),
    )


def factored_sharding(
    moment: Sequence[int], shape: Sequence[int], sharding: NamedSharding
) -> NamedSharding:
    """The sharding of an optimizer's moment, by that of its parameter.

    A moment has its parameter's shape, or that without one dimension (Adafactor's rows and
    columns), and lies as the dimensions that are left. Any other is replicated.
    """
    spec = list(sharding.spec)
    if tuple(moment) == tuple(shape):
        return sharding
    for dropped in range(len(shape)):
        left = [i for i in range(len(shape)) if i != dropped]
        if tuple(moment) == tuple(shape[i] for i in left):
            return NamedSharding(sharding.mesh, PartitionSpec(*(spec[i] for i in left)))
    return NamedSharding(sharding.mesh, PartitionSpec())


def replicated_share(shapes: Any, shardings: Any) -> float:
    """Share of the parameters' bytes that every device holds in whole."""
    total = whole = 0
    for shape, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True):
        size = math.prod(shape.shape) * shape.dtype.itemsize
        total += size
        whole += size if sharding.shard_shape(shape.shape) == tuple(shape.shape) else 0
    return whole / total


def replication_problem(mesh: Mesh | AbstractMesh, config: T5Config, shardings: Any) -> str:
    """A sentence where fsdp or tensor splits too little of the parameters; otherwise nothing."""
    share = replicated_share(param_shapes(config), shardings)
    if mesh.shape["fsdp"] * mesh.shape["tensor"] == 1 or share <= _REPLICATED:
        return ""
    return (
        f"config.mesh: {share:.0%} of the parameters' bytes lie on every device whole, though "
        f"fsdp={mesh.shape['fsdp']} and tensor={mesh.shape['tensor']}: take sizes that divide the "
        "model's dimensions, or change config.mesh.rules"
    )


def batch_sharding(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
    """Sharding of an array whose first axis is the batch."""
    return Layout(mesh, rules).batch


def batch_ways(sharding: NamedSharding) -> int:
    """Devices that a batch is split over."""
    axes = sharding.spec[0]
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(sharding.mesh.shape[axis] for axis in names)
