"""What Google's tools call a slice, and how many hosts it has. Figures: groot_jax/scaling/chips.py.

Names are those of Google's pages on TPU software versions (cloud.google.com/tpu/docs/runtimes) and
on TPUs in GKE (cloud.google.com/kubernetes-engine/docs/concepts/tpus).
"""

from __future__ import annotations

from dataclasses import dataclass

from groot_jax.errors import UserError
from groot_jax.scaling.chips import Slice


@dataclass(frozen=True)
class Generation:
    """What Google calls one generation of TPUs, and how its hosts are cut."""

    # The same chip has one name in GKE and another in gcloud: tpu-v5-lite-podslice, v5litepod.
    gke_accelerator: str  # value of the node label cloud.google.com/gke-tpu-accelerator
    runtime_version: str  # software of a TPU VM
    most_chips_on_one_host: int  # of a slice of one host; those of several have 4 on each


GENERATIONS = {
    "v4": Generation("tpu-v4-podslice", "tpu-ubuntu2204-base", 4),
    "v5e": Generation("tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite", 8),
    "v5p": Generation("tpu-v5p-slice", "v2-alpha-tpuv5", 4),
    "v6e": Generation("tpu-v6e-slice", "v2-alpha-tpuv6e", 8),
}
_CHIPS_PER_HOST = 4


def chips_per_host(tpu_slice: Slice, asked: int = 0) -> int:
    """Chips that each host of the slice has; `asked` 0: as usual. Raises UserError.

    v5e:2x4 is one host of 8 chips, or, asked for 4, two hosts; v5e:4x4 is four hosts of 4.
    """
    most = GENERATIONS[tpu_slice.chip.name].most_chips_on_one_host
    usual = tpu_slice.size if tpu_slice.size <= most else _CHIPS_PER_HOST
    if asked and (tpu_slice.size % asked or asked > most):
        raise UserError(
            f"--chips-per-host={asked}: a host of {tpu_slice.name} cannot have that many; "
            f"usual are {usual}"
        )
    return asked or usual


def gcloud_flags(tpu_slice: Slice) -> tuple[str, ...]:
    """How `gcloud compute tpus` is told which slice: v5e:4x4 -> --accelerator-type=v5litepod-16."""
    # Their type says the number of chips alone, which fixes the shape: each number has one.
    name = {"v5e": "v5litepod", "v6e": "v6e"}.get(tpu_slice.chip.name)
    if name:
        return (f"--accelerator-type={name}-{tpu_slice.size}",)
    return (f"--type={tpu_slice.chip.name}", f"--topology={tpu_slice.shape}")
