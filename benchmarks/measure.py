"""Timing, tables and JSON that all benchmarks share.

A time is the median over rounds in which the calls that are compared take turns, each waited for,
so that an hour in which the machine is slower makes all of them slower. Compilation is timed apart.
Knows nothing of models.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
from jax.stages import Compiled

from groot_jax.runtime.allocator import keep_freed_memory

# What is timed: it starts programs and returns their arrays, which the clock waits for.
Call: TypeAlias = Callable[[], Any]
# A line of a table and of the JSON: a column's name -> its value, None where it was not measured.
Row: TypeAlias = dict[str, Any]
Params: TypeAlias = Any  # A model's tree of parameters, which no type of JAX describes.

# Matrix products a second, dense, of one chip: (bfloat16, float32 as XLA multiplies it by default).
# From the makers' data sheets; matched against the start of `jax.Device.device_kind`.
PEAK_FLOPS: dict[str, tuple[float, float]] = {
    "NVIDIA B200": (2250e12, 1100e12),
    "NVIDIA GH200": (989e12, 494e12),
    "NVIDIA H200": (989e12, 494e12),
    "NVIDIA H100 PCIe": (756e12, 378e12),
    "NVIDIA H100": (989e12, 494e12),
    "NVIDIA A100": (312e12, 156e12),
    "NVIDIA A10G": (70e12, 35e12),
    "NVIDIA L4": (121e12, 60e12),
    "NVIDIA L40S": (362e12, 183e12),
    "Tesla V100": (125e12, 15.7e12),
    "Tesla T4": (65e12, 8.1e12),
    "TPU v4": (275e12, 275e12),
    "TPU v5 lite": (197e12, 197e12),
    "TPU v5p": (459e12, 459e12),
    "TPU v6 lite": (918e12, 918e12),
}
# Seconds before a call: torch's threads go on spinning for a while after a product, and would take
# the core from the call that comes next.
_REST = 0.02


def arguments(doc: str | None, *, sizes: str = "mini,small") -> argparse.ArgumentParser:
    """A parser with the flags that every benchmark takes. `sizes`: the models timed by default;
    empty: the benchmark knows its model and its rounds itself, and has no flags for them."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: shows that it runs")
    if sizes:
        parser.add_argument("--sizes", default=sizes, help=f"presets, comma separated ({sizes})")
        parser.add_argument("--rounds", type=int, default=5, help="alternated runs of a call (5)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="type of matrix products; auto: bfloat16, and float32 on a CPU",
    )
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Flags, with `sizes` as a tuple and `dtype` decided; --quick turns to pico and two rounds."""
    args = parser.parse_args()
    # As the jobs do. It speeds up whatever runs in this process, so the baselines gain by it too.
    keep_freed_memory()
    if "sizes" in args:
        if args.quick:
            args.sizes, args.rounds = "pico", min(args.rounds, 2)
        args.sizes = tuple(filter(None, args.sizes.split(",")))
    if args.dtype == "auto":
        args.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return args


def compiled(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Compiled, float]:
    """The program for these arguments, and the seconds that tracing and compiling it took.

    `options` go to `jax.jit`.
    """
    begun = time.perf_counter()
    # Ahead of time, so that the first call is a call like all others.
    program = jax.jit(function, **options).lower(*args).compile()
    return program, time.perf_counter() - begun


def alternate(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call over `rounds` of `all_rounds`."""
    return medians(all_rounds(calls, rounds))


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each call's rounds."""
    return {name: statistics.median(values) for name, values in times.items()}


def spread(times: Sequence[float], base: Sequence[float]) -> list[float | None]:
    """First and third quartile of time / base over the rounds that both were measured in."""
    ratios = [time / own for time, own in zip(times, base, strict=True)]
    if len(ratios) == 1:
        return [rounded(ratios[0], 3)] * 2
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive")
    return [rounded(quartiles[0], 3), rounded(quartiles[2], 3)]


def all_rounds(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in `rounds` rounds of all of them, after one unmeasured.

    Calls a and b run as a b, a b, a b, ... The first round is the unmeasured one: it compiles what
    is not compiled yet, and fills caches. A call ends when the arrays that it returns are there.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for measured in [False] + [True] * rounds:
        for name, call in calls.items():
            time.sleep(_REST)
            begun = time.perf_counter()
            jax.block_until_ready(call())
            if measured:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return times


def peak_flops(dtype: str) -> float | None:
    """The device's peak for matrix products of a type, FLOP/s; None where the table lacks it."""
    kind = jax.devices()[0].device_kind
    # The longest name first: an H100 PCIe is no H100.
    for name in sorted(PEAK_FLOPS, key=len, reverse=True):
        if kind.startswith(name):
            return PEAK_FLOPS[name][dtype == "float32"]
    return None


def device() -> Row:
    """What ran: backend, kind of device, cores that this process may use, and which of the vector
    instructions that products live on the processor has."""
    # A container or taskset may leave fewer cores than the machine has; macOS cannot tell.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    kind = jax.devices()[0].device_kind
    return {
        "backend": jax.default_backend(),
        "device": kind,
        "cores": cores,
        "vectors": _vector_instructions(),
    }


def _vector_instructions() -> list[str]:
    """As Linux names them; nothing elsewhere."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return []
    known = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return [name for name in known if name in flags]


def show(rows: Sequence[Row], columns: Sequence[str] = ()) -> None:
    """Prints rows as a Markdown table; `columns` picks and orders them."""
    columns = list(columns or rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    # Columns padded to their widest cell: readable as text, and a table where Markdown is shown.
    widths = [max(map(len, texts)) for texts in zip(columns, *cells, strict=True)]
    for line in (columns, ["-" * width for width in widths], *cells):
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        print("| " + " | ".join(padded) + " |", flush=True)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def finish(result: Row, as_json: bool) -> None:
    """The last line of a benchmark: one JSON object, where it was asked for."""
    if as_json:
        print(json.dumps(result, allow_nan=False), flush=True)


def rounded(value: float | None, digits: int = 4) -> float | None:
    """`value` with so many significant digits: 0.0123456 is 0.01235. None stays None."""
    return None if value is None else float(f"{value:.{digits}g}")
