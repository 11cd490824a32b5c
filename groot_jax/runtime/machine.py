"""What a job ran on and with: host, processor, devices, versions. W/jobs.jsonl keeps a line a job.

{"job": "train", "started": "2026-01-31T12:00:00+00:00", "command": "groot train ...",
 "host": "...", "cpu": "...", "cores": 8, "memory_gib": 31.2, "devices": "1 cpu", "processes": 1,
 "python": "3.12.1", "versions": {"groot_jax": "0.2.0", "jax": "0.10.2", ...}}
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

import groot_jax
from groot_jax.runtime.files import open_lines, writing

# Those that figures may depend on.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "grain", "tokenizers", "sentencepiece")


def note_job(folder: Path, job: str, argv: Sequence[str] | None = None) -> None:
    """Adds a line to the jobs of a work directory. Raises UserError where the disk refuses.

    `argv`: the words of its command line, without: those of this process.
    """
    words = ["groot", job, *(sys.argv[1:] if argv is None else argv)]
    line = {
        "job": job,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(words),
        **machine(),
    }
    path = folder / "jobs.jsonl"
    with writing(path), open_lines(path) as file:
        # Words of a command line that are no UTF-8 come as lone surrogates.
        file.write(json.dumps(line) + "\n")


def machine() -> dict[str, Any]:
    """This machine, its devices, and the versions of what computes on them."""
    kinds = Counter(device.device_kind for device in jax.devices())
    versions = {"groot_jax": groot_jax.__version__}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "host": socket.gethostname(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "memory_gib": round(_memory() / 2**30, 1),
        "devices": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
        "processes": jax.process_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0
