"""Which devices hold which part of an array: one mesh, and rules from logical names to its axes.

Parameters have their names in the model (`nn.with_logical_partitioning`); activations get theirs by
`constrain`, which says nothing unless a layout is in use. Knows no model. With data=2, fsdp=2,
tensor=2 and the rules of configs/default.py, for example:

    source ids   [64, 32]       batch, none          [16, 32] on a device; two hold the same
    q's kernel   [512, 384]     embed, joined_kv     [256, 192]: fsdp and tensor halve it
    activations  [64, 32, 512]  batch, none, hidden  [16, 32, 512]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import mesh_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from groot_jax.errors import UserError
from groot_jax.mesh.sizes import MESH_AXES, fill_mesh

# Logical axis -> mesh axes, several separated by commas; "": replicated. As config.mesh.rules.
Rules: TypeAlias = Mapping[str, str]

Arrays = TypeVar("Arrays")  # arrays, or what stands for them, in nested containers; or a single one


@dataclass(frozen=True)
class Layout:
    """A mesh with the rules that lay arrays over it."""

    mesh: Mesh | AbstractMesh
    rules: Rules
    ordered: bool = False  # what `summed` sums is added in the order of the devices
    # What is traced is one device's program over its own rows: see `summed`.
    inside: bool = False

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

    def ways(self, name: str | None) -> int:
        """Devices that a logical axis is split over; 1 for None. Raises as `axes` does."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes(name))

    def sharding(self, shape: Sequence[int], names: Sequence[str | None]) -> NamedSharding:
        """The sharding of an array by the logical name of each dimension.

        A dimension that its mesh axes do not divide evenly (a vocabulary of odd size, say), or
        whose mesh axes an earlier one has taken, is replicated. Raises as `axes` does.
        """
        spec: list[str | tuple[str, ...] | None] = []
        taken: set[str] = set()
        for size, name in zip(shape, names, strict=True):
            axes = self.axes(name)
            # A device has one place on each mesh axis, so an axis can split one dimension alone.
            if not axes or size % self.ways(name) or not taken.isdisjoint(axes):
                spec.append(None)
                continue
            taken.update(axes)
            spec.append(axes)
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    @property
    def batch(self) -> NamedSharding:
        """Of an array whose first axis is the sentences."""
        return NamedSharding(self.mesh, PartitionSpec(self.axes("batch")))

    @property
    def everywhere(self) -> NamedSharding:
        """Of an array that every device holds."""
        return NamedSharding(self.mesh, PartitionSpec())


# What is traced reads its layout here, since those that read it lie many calls below those that
# know it: a dropout in the twelfth block, `top_k` in a step of the search's loop. Handed over, it
# would be a field of ten modules and a parameter of all between them in generate/ and contrast/,
# and `summed` would have to rebuild the model, since one device's rows need another layout than
# the whole. A layout says where values lie and not what they are, so what reads it stays pure. It
# is read while JAX traces, and `jax.jit` keeps traces without knowing of it: set it inside the
# jitted function, never around the call.
_in_use: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def use_layout(layout: Layout | None) -> Iterator[None]:
    """What is traced inside has its activations laid out; for the body of a jitted function."""
    token = _in_use.set(layout)
    try:
        yield
    finally:
        _in_use.reset(token)


def _splitting() -> Layout | None:
    """The layout in use; None where there is nothing to split: a single device, or one's rows."""
    layout = _in_use.get()
    return None if layout is None or layout.inside or layout.mesh.size == 1 else layout


def constrain(x: Arrays, *names: str | None) -> Arrays:
    """`x`, laid over the mesh by the logical name of each dimension; those left out have none.

    `x` may be a tree of arrays. It is `x` itself where no layout is in use, or on one device.
    """
    layout = _splitting()
    if layout is None:
        return x

    def one(leaf: jax.Array) -> jax.Array:
        padded = (*names, *(None,) * (leaf.ndim - len(names)))
        return jax.lax.with_sharding_constraint(leaf, layout.sharding(leaf.shape, padded))

    return jax.tree.map(one, x)


def ways_of(name: str) -> int:
    """Devices that a logical axis is split over, in the layout in use; 1 where there is none."""
    layout = _splitting()
    return 1 if layout is None else layout.ways(name)


def by_sentence(function: Callable[[jax.Array], Arrays], x: jax.Array) -> Arrays:
    """`function` of each device's own rows of `x`, for what the compiler would not split: it must
    work row by row, and every result have the rows first."""
    layout = _splitting()
    if layout is None or x.shape[0] % layout.ways("batch"):
        return function(x)
    rows = layout.batch.spec
    return jax.shard_map(function, mesh=layout.mesh, in_specs=rows, out_specs=rows)(x)


def summed(
    function: Callable[..., Arrays], params: object, batch: object, *shared: object
) -> Arrays:
    """`function(params, batch, *shared)`, a tree of float32 sums over the rows of the batch.

    How a mesh adds up its devices' shares depends on what connects them: four numbers have another
    sum in the last bit as (a + b) + (c + d), and training amplifies it. With an ordered layout each
    device sums its own rows, whatever the others do, and the shares are added in the order of the
    devices: any number of processes has the same bits. Sent and received is what a reduction sends.
    """
    layout = _splitting()
    if layout is None or not layout.ordered:
        return function(params, batch, *shared)
    rows, whole = layout.batch.spec, PartitionSpec()

    def own_rows(*arguments: object) -> Arrays:
        with use_layout(dataclasses.replace(layout, inside=True)):
            return _added(function(*arguments), layout.axes("batch"), layout.ways("batch"))

    return jax.shard_map(
        own_rows,
        mesh=layout.mesh,
        in_specs=(whole, rows, *(whole for _ in shared)),
        out_specs=whole,
        check_vma=False,  # It would add up the gradient of what is shared by itself.
    )(params, batch, *shared)


def _added(tree: Arrays, axes: tuple[str, ...], ways: int) -> Arrays:
    """The sum of the devices' trees: each device adds one part of all, and hands it round."""
    # Ten sums on W = 4 devices: padded to 12, as [W, P = 3]. `all_to_all` sends row w to device w,
    # which gets the W shares of that part, [W, 3], row by row in the order of the devices. A
    # `psum` would send as much, but add in an order of its own.
    flat_N, unflatten = ravel_pytree(tree)
    N = len(flat_N)
    parts_WxP = jnp.pad(flat_N, (0, -N % ways)).reshape(ways, -1)
    sum_P = jax.lax.all_to_all(parts_WxP, axes, 0, 0).sum(0)
    return unflatten(jax.lax.all_gather(sum_P, axes, tiled=True)[:N])


def device_index() -> jax.Array | int:
    """Which share of the rows is traced: 0, but inside of an ordered `summed`."""
    # Counted as the rows lie: under "fsdp,data" on a 2 x 2 mesh, share 1 is that of fsdp 0, data 1.
    layout = _in_use.get()
    return 0 if layout is None or not layout.inside else jax.lax.axis_index(layout.axes("batch"))


def looked_up(x: jax.Array) -> jax.Array:
    """Rows [B, N, D] of a table whose columns may be split as sentences are, laid out by sentence.

    In two steps, since the compiler finds no exchange from the one to the other in a single one
    where a second mesh axis splits the sentences: it would hold all rows on every device.
    """
    layout = _splitting()
    if layout is None:
        return x
    # Under the rules of configs/default.py: the rows over data alone, the columns over fsdp, then
    # from that to the rows over data and fsdp.
    columns = layout.axes("embed")
    rows = tuple(axis for axis in layout.axes("batch") if axis not in columns)
    halfway = Layout(layout.mesh, {"batch": ",".join(rows), "embed": ",".join(columns)})
    sharding = halfway.sharding(x.shape, ("batch", None, "embed"))
    return constrain(jax.lax.with_sharding_constraint(x, sharding), "batch", None, "hidden")


def gather(params: Arrays, names: object) -> Arrays:
    """Parameters as a computation over sentences reads them: whole along the mesh axes that split
    the sentences, still split along the others.

    The compiler would gather them wherever they are used: in each turn of a loop anew. `names`: of
    each parameter's dimensions, in their tree. Without a layout they come back as they are.
    """
    layout = _splitting()
    if layout is None:
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


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with axes data, fsdp, tensor over all devices, or those given; one size may be -1:
    what is left.

    Raises UserError where the sizes do not multiply to the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = fill_mesh(data, fsdp, tensor, count)
    # `jax.make_mesh` refuses what takes a part of a TPU's torus dimension, 4 of 16 chips, say.
    grid = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices=devices, allow_split_physical_axes=True
    )
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def factored_sharding(
    moment: Sequence[int], shape: Sequence[int], sharding: NamedSharding
) -> NamedSharding:
    """The sharding of an optimizer's moment, by that of its parameter.

    A moment has its parameter's shape, or that without one dimension (Adafactor's rows and
    columns), and lies as the dimensions that are left. Any other is replicated.
    """
    # [512, 1024] split as (fsdp, tensor): Adafactor's [512] as (fsdp), its [1024] as (tensor). Of
    # a square one, [512, 512], both have the shape of what is left without dimension 0: (tensor).
    spec = list(sharding.spec)
    if tuple(moment) == tuple(shape):
        return sharding
    for dropped in range(len(shape)):
        left = [i for i in range(len(shape)) if i != dropped]
        if tuple(moment) == tuple(shape[i] for i in left):
            return NamedSharding(sharding.mesh, PartitionSpec(*(spec[i] for i in left)))
    return NamedSharding(sharding.mesh, PartitionSpec())


def replicated_share(shapes: object, shardings: object) -> float:
    """Share, 0 to 1, of the bytes of a tree of arrays that every device holds in whole."""
    total = whole = 0
    for shape, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True):
        size = math.prod(shape.shape) * shape.dtype.itemsize
        total += size
        whole += size if sharding.shard_shape(shape.shape) == tuple(shape.shape) else 0
    return whole / total


def adds_in_order(sums: str, layout: Layout, params: object, platform: str) -> bool:
    """Whether gradients are added in the order of the devices; `sums`: `config.mesh.sums`,
    `params`: a sharding for each parameter.

    Raises UserError where it must and cannot be.
    """
    if sums == "any":
        return False
    # Each device must be able to work out the gradient of its own rows by itself.
    whole = all(sharding.is_fully_replicated for sharding in jax.tree.leaves(params))
    possible = whole and layout.ways("batch") == layout.mesh.size
    if sums == "ordered" and not possible:
        raise UserError(
            "config.mesh.sums=ordered needs all devices on the data axis: take config.mesh.fsdp=1 "
            "and config.mesh.tensor=1, or config.mesh.sums=any"
        )
    return possible and (sums == "ordered" or platform == "cpu")
