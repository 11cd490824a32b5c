"""What libtpu, a TPU's compiler and runtime, is told through the environment."""

from __future__ import annotations

import os

_STACK = "fibers_default_thread_stack_size"


def enlarge_stacks() -> None:
    """Before a TPU is first asked for: gives the compiler's threads a stack of 1 MiB.

    With their own of 64 KiB libtpu 0.0.42 ends the process with a stack overflow on some programs,
    the loop over XXL's layers on v5p:8x8x8 among them. A size that the user has set stays.
    """
    flags = os.environ.get("LIBTPU_INIT_ARGS", "")
    if _STACK not in flags:
        os.environ["LIBTPU_INIT_ARGS"] = f"{flags} --{_STACK}={1 << 20}".strip()
