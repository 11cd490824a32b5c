"""Where parameters live: logical axis names, one rules table, one mesh (data, fsdp, tensor).

Turns the names that the model gives its parameters into NamedShardings. It moves no data and knows
nothing of what the parameters are for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from groot_jax.errors import UserError
from groot_jax.model.config import T5Config
from groot_jax.model.t5 import logical_axes, param_shapes

MESH_AXES = ("data", "fsdp", "tensor")

Rules: TypeAlias = Mapping[str, str | tuple[str, ...] | None]

# Logical axis -> mesh axes; None: replicated.
DEFAULT_RULES: Rules = {
    "batch": ("data", "fsdp"),
    "vocab": "tensor",
    "embed": "fsdp",
    "mlp": "tensor",
    "joined_kv": "tensor",
    "heads": "tensor",
    "relpos_buckets": None,
    "norm": None,
}


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
    return jax.make_mesh(
        tuple(sizes.values()),
        MESH_AXES,
        axis_types=(AxisType.Auto,) * len(MESH_AXES),
        devices=devices,
    )


def param_shardings(mesh: Mesh, config: T5Config, rules: Rules = DEFAULT_RULES) -> Any:
    """A NamedSharding for each parameter of `config`, in the parameters' tree.

    A dimension that its mesh axes do not divide evenly (a vocabulary of odd size, say) is
    replicated. Raises UserError for a logical axis without a rule.
    """

    def sharding(shape: jax.ShapeDtypeStruct, names: PartitionSpec) -> NamedSharding:
        axes = (_mesh_axes(mesh, rules, name) for name in names)
        fits = (
            axis if size % _axis_size(mesh, axis) == 0 else None
            for size, axis in zip(shape.shape, axes, strict=True)
        )
        return NamedSharding(mesh, PartitionSpec(*fits))

    return jax.tree.map(sharding, param_shapes(config), logical_axes(config))


def batch_sharding(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
    """Sharding of an array whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(_mesh_axes(mesh, rules, "batch")))


def batch_ways(sharding: NamedSharding) -> int:
    """Devices that a batch is split over."""
    return _axis_size(sharding.mesh, sharding.spec[0])


def _mesh_axes(mesh: Mesh, rules: Rules, name: str) -> str | tuple[str, ...] | None:
    if name not in rules:
        raise UserError(f"partitioning rules: no rule for '{name}'; give it a mesh axis or None")
    axes = rules[name]
    unknown = set((axes,) if isinstance(axes, str) else axes or ()) - set(mesh.axis_names)
    if unknown:
        raise UserError(
            f"partitioning rules: '{name}' names the mesh axis '{min(unknown)}', but the mesh has "
            f"{', '.join(mesh.axis_names)}"
        )
    return axes


def _axis_size(mesh: Mesh | AbstractMesh, axes: str | tuple[str, ...] | None) -> int:
    return math.prod(
        mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ())
    )
