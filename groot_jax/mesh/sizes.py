"""How the mesh axes share the devices. No JAX here: launchers check a mesh before they rent any."""

from __future__ import annotations

import math

from groot_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")


def fill_mesh(data: int, fsdp: int, tensor: int, devices: int, where: str = "") -> dict[str, int]:
    """The size of each mesh axis on so many devices; one size may be -1: what is left.

    Raises UserError where the sizes do not multiply to `devices`; `where` says of what these are.
    """
    sizes = dict(zip(MESH_AXES, (data, fsdp, tensor), strict=True))
    written = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    # 16 devices: data=-1, fsdp=2, tensor=2 -> data=4. With tensor=3 none is left over evenly, so
    # that the -1 stays and is refused below.
    if len(free) == 1 and known > 0 and devices % known == 0:
        sizes[free[0]] = devices // known
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != devices:
        raise UserError(
            f"config.mesh: {written} does not fit {devices} devices{where}; the sizes must "
            f"multiply to {devices}, and one of them may be -1 for what is left"
        )
    return sizes
