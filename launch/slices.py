"""TPU slices by the name that preflight uses, such as `v5e:4x4`: chips, hosts, Google's names."""

from __future__ import annotations

import math
from dataclasses import dataclass

from groot_jax.errors import UserError


@dataclass(frozen=True)
class Generation:
    """What Google calls one generation of TPUs, and how its hosts are cut."""

    gke_accelerator: str  # value of the node label cloud.google.com/gke-tpu-accelerator
    runtime_version: str  # software of a TPU VM
    shapes: tuple[str, ...]  # all there are; () where any 3D shape is
    most_chips_on_one_host: int  # of a slice of one host; those of several have 4 on each


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
GENERATIONS = {
    "v4": Generation("tpu-v4-podslice", "tpu-ubuntu2204-base", (), 4),
    "v5e": Generation("tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", _FLAT, 8),
    "v5p": Generation("tpu-v5p-slice", "v2-alpha-tpuv5", (), 4),
    "v6e": Generation("tpu-v6e-slice", "v2-alpha-tpuv6e", _FLAT, 8),
}
_CHIPS_PER_HOST = 4


@dataclass(frozen=True)
class Slice:
    """A TPU slice. JAX sees one device per chip in all of these generations."""

    generation: str
    shape: str  # such as 4x4
    chips: int
    chips_per_host: int

    @property
    def name(self) -> str:
        return f"{self.generation}:{self.shape}"

    @property
    def hosts(self) -> int:
        return self.chips // self.chips_per_host

    @property
    def google(self) -> Generation:
        return GENERATIONS[self.generation]

    def gcloud_flags(self) -> tuple[str, ...]:
        """How `gcloud compute tpus` is told."""
        if self.generation == "v5e":
            return (f"--accelerator-type=v5litepod-{self.chips}",)
        if self.generation == "v6e":
            return (f"--accelerator-type=v6e-{self.chips}",)
        return (f"--type={self.generation}", f"--topology={self.shape}")


def parse_slice(text: str, chips_per_host: int = 0) -> Slice:
    """`v5e:4x4` and the like; `chips_per_host` 0: as usual. Raises UserError."""
    generation, _, shape = text.partition(":")
    if generation not in GENERATIONS:
        raise UserError(
            f"--topology={text}: it starts with one of {', '.join(GENERATIONS)} and a colon, "
            "such as v5e:4x4"
        )
    known = GENERATIONS[generation]
    sizes = [int(size) if size.isdecimal() else 0 for size in shape.split("x")]
    chips = math.prod(sizes)
    if known.shapes and shape not in known.shapes:
        raise UserError(f"--topology={text}: {generation} comes as {', '.join(known.shapes)}")
    if not known.shapes and (len(sizes) != 3 or chips < 4 or chips % 4):
        raise UserError(
            f"--topology={text}: {generation} has three sizes whose product is a multiple of 4, "
            f"such as {generation}:2x2x1 or {generation}:4x4x4"
        )
    usual = chips if chips <= known.most_chips_on_one_host else _CHIPS_PER_HOST
    chips_per_host = chips_per_host or usual
    if chips % chips_per_host or chips_per_host > known.most_chips_on_one_host:
        raise UserError(
            f"--chips-per-host={chips_per_host}: a host of {text} cannot have that many; "
            f"usual are {usual}"
        )
    return Slice(generation, shape, chips, chips_per_host)
