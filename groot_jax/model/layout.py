"""Which devices hold which part of an array: one mesh, and rules from logical names to its axes.

Parameters have their names in the model (`nn.with_logical_partitioning`); activations get theirs by
`constrain`, which says nothing unless a layout is in use. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from groot_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes, several separated by commas; "": replicated. As config.mesh.rules.
Rules: TypeAlias = Mapping[str, str]

DEFAULT_RULES: Rules = {
    "batch": "data,fsdp",
    "vocab": "tensor",
    "embed": "fsdp",
    "mlp": "tensor",
    "joined_kv": "tensor",
    "heads": "tensor",
    "hidden": "",
    "relpos_buckets": "",
    "norm": "",
}


@dataclass(frozen=True)
class Layout:
    """A mesh with the rules that lay arrays over it."""

    mesh: Mesh | AbstractMesh
    rules: Rules

    def axes(self, name: str | None) -> tuple[str, ...]:
        """Mesh axes of a logical one; None has none. Raises UserError where no rule is usable."""
        if name is None:
            return ()
        if name not in self.rules:
            raise UserError(
                f"config.mesh.rules has no rule for '{name}': give it mesh axes, or '' to replicate"
            )
        axes = tuple(part.strip() for part in self.rules[name].split(",") if part.strip())
        for axis in axes:
            if axis not in self.mesh.axis_names:
                raise UserError(
                    f"config.mesh.rules.{name} names the mesh axis '{axis}', but the mesh has "
                    f"{', '.join(self.mesh.axis_names)}"
                )
        return axes

    def ways(self, name: str) -> int:
        """Devices that a logical axis is split over."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes(name))

    def sharding(self, shape: Sequence[int], names: Sequence[str | None]) -> NamedSharding:
        """The sharding of an array by the logical name of each dimension.

        A dimension that its mesh axes do not divide evenly (a vocabulary of odd size, say), or
        whose mesh axes an earlier one has taken, is replicated.
        """
        spec: list[str | tuple[str, ...] | None] = []
        taken: set[str] = set()
        for size, name in zip(shape, names, strict=True):
            axes = self.axes(name)
            ways = math.prod(self.mesh.shape[axis] for axis in axes)
            if not axes or size % ways or not taken.isdisjoint(axes):
                spec.append(None)
                continue
            taken.update(axes)
            spec.append(axes[0] if len(axes) == 1 else axes)
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    @property
    def batch(self) -> NamedSharding:
        """Of an array whose first axis is the sentences."""
        axes = self.axes("batch")
        return NamedSharding(self.mesh, PartitionSpec(axes if len(axes) != 1 else axes[0]))

    @property
    def everywhere(self) -> NamedSharding:
        """Of an array that every device holds."""
        return NamedSharding(self.mesh, PartitionSpec())


_in_use: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def use_layout(layout: Layout | None) -> Iterator[None]:
    """What is traced inside has its activations laid out; for the body of a jitted function."""
    token = _in_use.set(layout)
    try:
        yield
    finally:
        _in_use.reset(token)


def constrain(x: Any, *names: str | None) -> Any:
    """`x`, laid over the mesh by the logical name of each dimension; those left out have none.

    `x` may be a tree of arrays. It is `x` itself where no layout is in use, or on one device.
    """
    layout = _in_use.get()
    if layout is None or layout.mesh.size == 1:
        return x

    def one(leaf: jax.Array) -> jax.Array:
        padded = (*names, *(None,) * (leaf.ndim - len(names)))
        return jax.lax.with_sharding_constraint(leaf, layout.sharding(leaf.shape, padded))

    return jax.tree.map(one, x)


def by_sentence(function: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    """`function` of each device's own rows of `x`, for what the compiler would not split: it must
    work row by row, and every result have the rows first."""
    layout = _in_use.get()
    if layout is None or layout.mesh.size == 1 or x.shape[0] % layout.ways("batch"):
        return function(x)
    rows = layout.batch.spec
    return jax.shard_map(function, mesh=layout.mesh, in_specs=rows, out_specs=rows)(x)


def looked_up(x: jax.Array) -> jax.Array:
    """Rows [B, N, D] of a table whose columns may be split as sentences are, laid out by sentence.

    In two steps, since the compiler finds no exchange from the one to the other in a single one
    where a second mesh axis splits the sentences: it would hold all rows on every device.
    """
    layout = _in_use.get()
    if layout is None or layout.mesh.size == 1:
        return x
    columns = layout.axes("embed")
    rows = tuple(axis for axis in layout.axes("batch") if axis not in columns)
    halfway = Layout(layout.mesh, {"batch": ",".join(rows), "embed": ",".join(columns)})
    sharding = halfway.sharding(x.shape, ("batch", None, "embed"))
    return constrain(jax.lax.with_sharding_constraint(x, sharding), "batch", None, "hidden")


def gather(params: Any, names: Any) -> Any:
    """Parameters as a computation over sentences reads them: whole along the mesh axes that split
    the sentences, still split along the others.

    The compiler would gather them wherever they are used: in each turn of a loop anew. `names`: of
    each parameter's dimensions, in their tree. Without a layout they come back as they are.
    """
    layout = _in_use.get()
    if layout is None or layout.mesh.size == 1:
        return params
    batch = set(layout.axes("batch"))
    rules = {
        name: "" if batch & set(layout.axes(name)) else rule for name, rule in layout.rules.items()
    }
    whole = Layout(layout.mesh, rules)
    return jax.tree.map(
        lambda x, axes: jax.lax.with_sharding_constraint(x, whole.sharding(x.shape, tuple(axes))),
        params,
        names,
    )
