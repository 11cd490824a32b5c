"""What the C library's allocator is told: what one program frees stays for the next one."""

from __future__ import annotations

import ctypes
import os
from glob import glob

import jax

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1
_ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd")


def keep_freed_memory() -> bool:
    """Before JAX starts its threads: on a CPU, programs get the memory of those before them.

    The temporaries of an update are hundreds of MiB. glibc gets so much from the kernel anew for
    each program, page by page, and the kernel fills it with zeros: a quarter of the time of GROOT's
    loop with a small model (docs/performance.md). From one heap that never shrinks it comes for
    nothing, and the process takes no more of it at its peak.

    Returns whether it was done. It is not where an accelerator runs the programs, where the user
    has settings of malloc's in the environment, and where the C library is no glibc.
    """
    library = _glibc()
    if (
        library is None
        or not _on_cpu()
        or any(
            name.startswith("MALLOC_") or (name == "GLIBC_TUNABLES" and "malloc" in value)
            for name, value in os.environ.items()
        )
    ):
        return False
    # One arena (heap) for all threads, so that what one frees another gets; no block in a mapping
    # of its own, which free() would give back at once; and the heap's end is never given back.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER))
    return all(library.mallopt(name, value) == 1 for name, value in settings)


def release_freed_memory() -> None:
    """Now and then: the kernel gets back all pages that nothing lies on, wherever they are.

    Compiling a program leaves some 30 MiB of holes in the heap that later ones rarely fit into.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc; else None."""
    try:
        return ctypes.CDLL(None) if os.confstr("CS_GNU_LIBC_VERSION") else None
    except (AttributeError, OSError, ValueError):
        return None


def _on_cpu() -> bool:
    """Whether JAX will run on the CPU, without asking it: that would start its threads."""
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    return platforms == "cpu" if platforms else not any(map(glob, _ACCELERATORS))
