"""Memory that a program has freed is there for the next one, unless the user wants it otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
# What it said, and how many pages a large array took from the kernel after the first one.
PROGRAM = """
import resource
import numpy as np
from groot_jax.runtime.allocator import keep_freed_memory

done = keep_freed_memory()
np.ones(1 << 25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 25)
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 10 * (1 << 25) * 8 // 4096
# numpy asks for large pages by itself.
PLAIN = {"JAX_PLATFORMS": "cpu", "NUMPY_MADVISE_HUGEPAGE": "0"}


def run(program: str = PROGRAM, **variables: str) -> tuple[str, int]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    env |= PLAIN | {"PYTHONPATH": str(Path(__file__).parents[2])} | variables
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    said, faults = done.stdout.split()
    return said, int(faults)


def test_large_arrays_are_made_of_memory_that_was_freed():
    said, faults = run()
    assert said == "True" and faults < PAGES / 100


@pytest.mark.parametrize(
    "variables",
    [
        {"MALLOC_ARENA_MAX": "8"},
        {"GLIBC_TUNABLES": "glibc.malloc.check=0"},
        {"JAX_PLATFORMS": "cuda,cpu"},
    ],
)
def test_the_users_settings_and_accelerators_are_left_alone(variables):
    said, faults = run(**variables)
    assert said == "False" and faults > PAGES / 2


HOLES = """
import numpy as np
from groot_jax.runtime.allocator import keep_freed_memory, release_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

assert keep_freed_memory()
arrays = [np.ones(1 << 14) for _ in range(2000)]  # 128 KiB each.
del arrays[::2]
before = resident()
release_freed_memory()
print("True", before - resident())
"""


def test_what_lies_between_memory_in_use_goes_back_to_the_kernel():
    said, pages = run(HOLES)
    assert said == "True" and pages > 0.8 * 1000 * (1 << 14) * 8 / 4096
