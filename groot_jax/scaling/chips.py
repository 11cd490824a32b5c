"""TPU chips by their published figures, and abstract devices of a slice of them, without a TPU.

The one place that knows libtpu. Figures are those of Google's pages "System architecture" of each
chip (cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e), per chip.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Any

from groot_jax.errors import UserError
from groot_jax.runtime.libtpu import enlarge_stacks

GIB = 1 << 30


@dataclass(frozen=True)
class Chip:
    """What one chip can do at most."""

    name: str
    flops: float  # FLOP/s of bfloat16 products
    hbm_bytes: int
    hbm_rate: float  # bytes/s
    link_rate: float  # bytes/s of one link in one direction
    dimensions: int  # of the torus; a chip has two links along each
    ring: int  # A dimension wraps around where its size is a multiple of this.


# `link_rate`: v4 2400 Gbit/s over 6 links; v5e 1600 Gbit/s over 4; v5p 1200 GB/s both ways over 6;
# v6e 800 GB/s both ways over 4.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * GIB, 1228e9, 50e9, 3, 4),
        Chip("v5e", 197e12, 16 * GIB, 819e9, 50e9, 2, 16),
        Chip("v5p", 459e12, 95 * GIB, 2765e9, 100e9, 3, 4),
        Chip("v6e", 918e12, 32 * GIB, 1640e9, 100e9, 2, 16),
    )
}


@dataclass(frozen=True)
class Slice:
    """Chips of one kind, laid out as a grid."""

    chip: Chip
    grid: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.grid))}"

    @property
    def size(self) -> int:
        return math.prod(self.grid)

    def collective_rate(self, group: int) -> float:
        """Bytes/s that a chip can receive in a collective of `group` chips.

        The group is taken to lie along as few dimensions as hold it, the longest first, with a
        ring's two links along each that wraps around and one along the others. Where a mesh axis
        lies otherwise on the torus, it is slower.
        """
        links, held = 0, 1
        for size in sorted(self.grid, reverse=True):
            if held >= group:
                break
            links += 2 if size % self.chip.ring == 0 else 1
            held *= size
        return max(links, 1) * self.chip.link_rate


def parse_topology(text: str) -> Slice:
    """`v5e:4x4` and the like. Raises UserError."""
    match = re.fullmatch(r"(v\w+):(\d+(?:x\d+)*)", text)
    known = ", ".join(CHIPS)
    if match is None:
        raise UserError(
            f"--topology={text} is not CHIP:AxB or CHIP:AxBxC, such as v5e:4x4 or v5p:4x4x4; "
            f"chips: {known}"
        )
    if match[1] not in CHIPS:
        raise UserError(f"--topology={text}: there is no chip {match[1]!r}; it can be {known}")
    chip = CHIPS[match[1]]
    grid = tuple(map(int, match[2].split("x")))
    if len(grid) != chip.dimensions:
        example = "x".join(["4"] * chip.dimensions)
        raise UserError(
            f"--topology={text}: a slice of {chip.name} has {chip.dimensions} dimensions, as in "
            f"{chip.name}:{example}"
        )
    return Slice(chip, grid)


def prepare_environment() -> None:
    """Before JAX is imported: on the CPU, and libtpu must not look for a TPU's metadata."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    enlarge_stacks()
    # Compiling takes no TPU, so that several processes may do it at a time.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    # What it would otherwise complain of on standard error.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")


def abstract_devices(slice_: Slice) -> list[Any]:
    """The slice's chips as JAX devices that programs can be compiled for, but not run on.

    Raises UserError without libtpu, and for a grid that there is no slice of.
    """
    from jax.experimental import topologies

    # Both TensorCores of a v4 chip as one device, which is what JAX does on a real one.
    options = {"chip_config_name": "megacore"} if slice_.chip.name == "v4" else {}
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            "preflight needs the TPU compiler, the package libtpu: pip install libtpu"
        ) from None
    try:
        found = topologies.get_topology_desc(
            topology_name=slice_.name, platform="tpu", **options
        ).devices
    except Exception as error:  # JaxRuntimeError, and IndexError for some odd grids.
        reason = " ".join(str(error).split())
        raise UserError(f"--topology={slice_.name} is no slice ({reason})") from error
    return list(found)
