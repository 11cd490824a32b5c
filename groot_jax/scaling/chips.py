"""TPU chips by their published figures, slices of them by name, and devices of a slice, no TPU.

The one place that knows libtpu. No JAX until devices are asked for: launchers read this, too.
Figures are those of Google's pages "System architecture" of each chip
(cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e), per chip.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from groot_jax.errors import UserError
from groot_jax.runtime.libtpu import enlarge_stacks

if TYPE_CHECKING:
    import jax

GIB = 1 << 30
# All slices that there are of v5e and v6e, by the tables on their pages.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclass(frozen=True)
class Chip:
    """What one chip can do at most, and the slices that there are of it."""

    name: str
    flops: float  # FLOP/s of bfloat16 products
    hbm_bytes: int
    hbm_rate: float  # bytes/s
    link_rate: float  # bytes/s of one link in one direction
    ring: int  # A dimension wraps around where its size is a multiple of this.
    shapes: tuple[str, ...] = ()  # of all slices; (): any three sizes that make up whole hosts


# `link_rate` is worked out from what Google publishes for all links of a chip, two a dimension:
#   v4   2400 Gbit/s over 6 links            = 300 GB/s / 6 =  50 GB/s
#   v5e  1600 Gbit/s over 4 links            = 200 GB/s / 4 =  50 GB/s
#   v5p  1200 GB/s both ways over 6 links    = 600 GB/s / 6 = 100 GB/s
#   v6e   800 GB/s both ways over 4 links    = 400 GB/s / 4 = 100 GB/s
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * GIB, 1228e9, 50e9, 4),
        Chip("v5e", 197e12, 16 * GIB, 819e9, 50e9, 16, _FLAT),
        Chip("v5p", 459e12, 95 * GIB, 2765e9, 100e9, 4),
        Chip("v6e", 918e12, 32 * GIB, 1640e9, 100e9, 16, _FLAT),
    )
}


@dataclass(frozen=True)
class Slice:
    """Chips of one kind, laid out as a grid. JAX sees one device per chip in all of them."""

    chip: Chip
    grid: tuple[int, ...]

    @property
    def shape(self) -> str:
        """As Google writes it, such as 4x4."""
        return "x".join(map(str, self.grid))

    @property
    def name(self) -> str:
        """As flags write it, such as v5e:4x4."""
        return f"{self.chip.name}:{self.shape}"

    @property
    def size(self) -> int:
        """Number of chips."""
        return math.prod(self.grid)

    def collective_rate(self, group: int) -> float:
        """Bytes/s that a chip can receive in a collective of `group` chips.

        The group is taken to lie along as few dimensions as hold it, the longest first, with a
        ring's two links along each that wraps around and one along the others. Where a mesh axis
        lies otherwise on the torus, it is slower.
        """
        # 16 chips of v5e:16x16 lie along one side, a ring: 2 links. 16 chips of v5e:4x4 take both
        # sides, neither of them a ring: 1 + 1 links, and so the same rate.
        links, held = 0, 1
        for size in sorted(self.grid, reverse=True):
            if held >= group:
                break
            links += 2 if size % self.chip.ring == 0 else 1
            held *= size
        return max(links, 1) * self.chip.link_rate


def parse_slice(text: str, flag: str = "--topology") -> Slice:
    """`v5e:4x4` -> 16 chips of v5e in a grid of (4, 4).

    Raises UserError, which names `flag`, for an unknown chip and for a shape that no slice has.
    """
    match = re.fullmatch(r"(v\w+):(\d+(?:x\d+)*)", text)
    known = ", ".join(CHIPS)
    if match is None:
        raise UserError(
            f"{flag}={text} is not CHIP:AxB or CHIP:AxBxC, such as v5e:4x4 or v5p:4x4x4; "
            f"chips: {known}"
        )
    if match[1] not in CHIPS:
        raise UserError(f"{flag}={text}: there is no chip {match[1]!r}; it can be {known}")
    found = Slice(CHIPS[match[1]], tuple(map(int, match[2].split("x"))))
    chip = found.chip
    if chip.shapes and found.shape not in chip.shapes:
        raise UserError(f"{flag}={text}: {chip.name} comes as {', '.join(chip.shapes)}")
    # Of whole hosts, each of which holds 2x2x1 chips: 1x4x1 has four chips, too, but no host.
    odd = any(size % 2 for size in found.grid[:2])
    if not chip.shapes and (len(found.grid) != 3 or odd or not found.size):
        raise UserError(
            f"{flag}={text}: {chip.name} has three sizes, of which the first two are even, such as "
            f"{chip.name}:2x2x1 or {chip.name}:4x4x4"
        )
    return found


def prepare_environment() -> None:
    """To be called before JAX is imported, which reads all of it then."""
    # On the CPU, where libtpu must not ask the machine for a TPU's metadata.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    enlarge_stacks()
    # Compiling takes no TPU, so that several processes may do it at a time.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    # What it would otherwise complain of on standard error.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")


def abstract_devices(tpu_slice: Slice) -> list[jax.Device]:
    """The slice's chips as JAX devices that programs can be compiled for, but not run on.

    Raises UserError without libtpu, and for a grid that libtpu knows no slice of.
    """
    from jax.experimental import topologies

    options: dict[str, object] = {}
    if tpu_slice.chip.name == "v4":
        # Both TensorCores of a chip as one device, which is what JAX does on a real one.
        options["chip_config_name"] = "megacore"
    if tpu_slice.size == 1:
        # libtpu takes every host to hold 2x2 chips, of which one alone would be no whole host.
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            "preflight needs the TPU compiler, the package libtpu: pip install libtpu"
        ) from None
    try:
        return list(
            topologies.get_topology_desc(
                topology_name=tpu_slice.name, platform="tpu", **options
            ).devices
        )
    except Exception as error:  # JaxRuntimeError, and IndexError for some odd grids.
        reason = " ".join(str(error).split())
        raise UserError(f"--topology={tpu_slice.name} is no slice ({reason})") from error
