"""The speed benchmarks on one GPU, within ten minutes, and their tables in docs/performance.md.

    python benchmarks/gpu.py wheels --folder=wheels   where there is a network: fetches all it needs
    python benchmarks/gpu.py run --wheels=wheels      on the GPU, which needs none: installs, runs

`run` makes an environment in the folder of wheels, goes through generation, update, loop and floor
of base and then of large in bfloat16, and writes a section with the device's name into the page
after each of them, so that nothing is lost whenever it ends. What the deadline leaves no time for
is named there. Without --wheels it runs in the environment that it is started from. --quick has
tiny shapes and runs on a CPU as well: it shows that everything is in place.

Exit status 1: a benchmark failed; its last words stand in the page.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
EXTRAS = "cuda12,ctranslate2"
BENCHMARKS = ("generate", "update", "floor", "loop")
LEAST = 20.0  # Seconds without which a benchmark is not begun.
# The sentence of the page that a first section makes untrue.
NONE_YET = "Nobody has run these measurements on a GPU yet."

Result: TypeAlias = dict[str, Any]  # the JSON of a benchmark


class Step(NamedTuple):
    """A benchmark of one size: its file, its flags, and the columns of its rows that are shown."""

    name: str
    title: str
    flags: tuple[str, ...]
    columns: dict[str, str]  # key of the JSON -> heading


class Outcome(NamedTuple):
    """What became of a step: its JSON, or why there is none."""

    result: Result | None
    reason: str = ""


def steps_of(size: str, quick: bool) -> list[Step]:
    """In the order of their worth, should the time be short."""
    tiny = ("--quick",) if quick else ("--dtype=bfloat16",)
    sized = (*tiny, "--rounds=3", "--json", *(() if quick else (f"--sizes={size}",)))
    # Few shapes, for each is a program to compile: one size of batches, and one of bins.
    loop = () if quick else (f"--override=--config.model.preset={size}", "--updates=50")
    few = ("--override=--config.loader.rungs=1", "--override=--config.loader.node_buckets=(512,)")
    return [
        Step(
            "generate",
            "Generation, ms a batch",
            (*sized, "--modes=legal,full", "--baselines=ct2,hf_flax"),
            {
                "size": "size",
                "mode": "mode",
                "ours_ms": "ours",
                "ct2_bfloat16_ms": "CTranslate2 bfloat16",
                "ct2_int8_ms": "CTranslate2 int8",
                "hf_flax_ms": "Flax, one jit",
                "outputs_equal": "outputs equal",
                "flop_utilisation": "share of the peak",
            },
        ),
        Step(
            "update",
            "Loss and gradient, ms a batch",
            (*sized, "--modes=legal", "--pools=random"),
            {
                "size": "size",
                "mode": "mode",
                "pool": "pool",
                "ours_ms": "ours",
                "hf_tiled_ms": "tiled Flax",
                "ratio": "ratio",
                "equal": "equal",
                "ours_step_ms": "with AdamW",
                "flop_utilisation": "share of the peak",
            },
        ),
        Step(
            "floor",
            "The floor of each part, ms",
            sized,
            {
                "size": "size",
                "part": "part",
                "gflop": "GFLOP",
                "floor_ms": "floor",
                "ours_ms": "ours",
                "floor_ratio": "achieved / floor",
                "flop_utilisation": "share of the peak",
            },
        ),
        Step(
            "loop",
            "The loop",
            (*tiny, "--json", "--steps=20", *loop, *few),
            {
                "sentences_per_second": "sentences a second",
                "device_wait_share": "device waits for the host",
                "baseline_sentences_per_second": "transformers' parts",
                "ratio": "ratio",
            },
        ),
    ]


# ---- Running ----------------------------------------------------------------------------------


def run_step(python: Path, step: Step, seconds: float, env: dict[str, str]) -> Outcome:
    """One benchmark, stopped when its time is over."""
    command = [str(python), str(ROOT / "benchmarks" / f"{step.name}.py"), *step.flags]
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome(None, f"not done in {seconds:.0f} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return Outcome(None, f"failed: {lines[-1]}")
    return Outcome(json.loads(done.stdout.splitlines()[-1]))


def environment(python: Path) -> dict[str, str]:
    """That of the benchmarks: programs are kept, since update and floor have some in common, and
    CTranslate2 finds the CUDA libraries that came with JAX."""
    libraries = sorted(python.parent.parent.glob("lib/python*/site-packages/nvidia/*/lib"))
    path = [*map(str, libraries), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache" / "gpu"),
        "PYTHONPATH": str(ROOT),
    }
    return env | ({"LD_LIBRARY_PATH": os.pathsep.join(path)} if path else {})


def install(wheels: Path) -> Path:
    """The Python of an environment with everything in it, from the wheels alone."""
    python = wheels / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(wheels / "venv")], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-index", f"--find-links={wheels}"]
    subprocess.run([*pip, f"groot_jax[{EXTRAS}]"], check=True)
    return python


def fetch(folder: Path) -> None:
    """Wheels of the project and of all that it needs, at the versions of constraints.txt."""
    pip = [sys.executable, "-m", "pip", "wheel", f"--wheel-dir={folder}"]
    subprocess.run([*pip, f"{ROOT}[{EXTRAS}]", "-c", str(ROOT / "constraints.txt")], check=True)


def device_of(python: Path, env: dict[str, str]) -> tuple[str, str]:
    """(backend, kind of device) that JAX finds."""
    code = "import jax; print(jax.default_backend(), jax.devices()[0].device_kind, sep='|')"
    done = subprocess.run([str(python), "-c", code], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"JAX does not start: {done.stderr.strip().splitlines()[-1]}")
    backend, kind = done.stdout.strip().splitlines()[-1].split("|")
    return backend, kind


# ---- The page ---------------------------------------------------------------------------------


def tables(outcomes: Sequence[tuple[str, Step, Outcome]]) -> dict[str, str]:
    """Title -> Markdown, of the benchmarks that were run or were to be."""
    found: dict[str, str] = {}
    for title in dict.fromkeys(step.title for _, step, _ in outcomes):
        own = [(size, step, outcome) for size, step, outcome in outcomes if step.title == title]
        columns = own[0][1].columns
        # A benchmark that has one row for all has no column for the size.
        headings = [*([] if "size" in columns else ["size"]), *columns.values()]
        lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
        left_out = []
        for size, _, outcome in own:
            if outcome.result is None:
                left_out.append(f"{size}: {outcome.reason}.")
                continue
            for row in outcome.result.get("results", [outcome.result]):
                cells = [*([] if "size" in columns else [size]), *map(_cell, _values(row, columns))]
                lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"Left out: {' '.join(left_out)}"] if left_out else []
        found[title] = "\n".join(lines)
    return found


def _values(row: Result, columns: dict[str, str]) -> list[Any]:
    return [row.get(key) for key in columns]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def with_tables(text: str, device: str, new: dict[str, str]) -> str:
    """The page with these tables in the section of that device, at its end if there is none. Its
    other tables, of earlier runs, stay."""
    begin, end = f"<!-- begin {device} -->", f"<!-- end {device} -->"
    text = text.replace(NONE_YET, "What was run on a GPU stands at the end of the page.")
    before, found, rest = text.partition(begin)
    old, _, after = rest.partition(end) if found else ("", "", "")
    # **Title**, a blank line, and the table up to the next title.
    kept = dict(re.findall(r"\*\*(.+?)\*\*\n\n(.*?)\s*(?=\n\*\*|\Z)", old, re.DOTALL))
    lines = [begin, f"## On {device}", "", "    python benchmarks/gpu.py run", ""]
    lines += ["Medians of three alternated runs; `ours` and the baselines in bfloat16.", ""]
    for title, table in (kept | new).items():
        lines += [f"**{title}**", "", table, ""]
    return before.rstrip("\n") + "\n\n" + "\n".join([*lines, end]) + (after or "\n")


def write(page: Path, text: str) -> None:
    """The whole page or none of it."""
    draft = page.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(page)


# ---- The command ------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """All steps; the exit status."""
    begun = time.monotonic()
    if not args.page.is_file():
        raise SystemExit(f"--page={args.page} is no file: name the page that gets the tables")
    python = install(args.wheels) if args.wheels else Path(sys.executable)
    env = environment(python)
    backend, device = device_of(python, env)
    if backend == "cpu" and not args.quick:
        raise SystemExit(
            "JAX finds no GPU here and would run on the CPU: see `nvidia-smi`, or add --quick"
        )
    only = args.only.split(",")
    if unknown := [name for name in only if name not in BENCHMARKS]:
        raise SystemExit(f"--only={args.only}: {unknown[0]!r} is none of {', '.join(BENCHMARKS)}")
    sizes = ["pico"] if args.quick else args.sizes.split(",")
    outcomes: list[tuple[str, Step, Outcome]] = []
    for size in sizes:
        for step in steps_of(size, args.quick):
            if step.name not in only:
                continue
            left = args.deadline - (time.monotonic() - begun)
            if left < LEAST:
                outcome = Outcome(None, f"no time left of {args.deadline:.0f} s")
            else:
                print(f"{step.name} of {size}, {left:.0f} s left", flush=True)
                outcome = run_step(python, step, left, env)
            if outcome.reason:
                print(f"  {outcome.reason}", flush=True)
            outcomes.append((size, step, outcome))
            # At once: what was measured stays, whatever becomes of the rest.
            text = args.page.read_text(encoding="utf-8")
            write(args.page, with_tables(text, device, tables(outcomes)))
    print(f"{args.page} has the tables of {device}")
    return int(any(outcome.reason.startswith("failed") for _, _, outcome in outcomes))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    wheels = commands.add_parser("wheels", help="fetch what `run` installs; needs a network")
    wheels.add_argument("--folder", type=Path, required=True)
    runs = commands.add_parser("run", help="install, measure, write the page; needs no network")
    runs.add_argument("--wheels", type=Path, help="what `wheels` fetched; without: as it is here")
    runs.add_argument("--sizes", default="base,large", help="models, in their order (base,large)")
    runs.add_argument("--only", default=",".join(BENCHMARKS), help="some of the benchmarks")
    runs.add_argument("--deadline", type=float, default=600.0, help="seconds for all of it (600)")
    runs.add_argument("--page", type=Path, default=PAGE, help="where the tables go")
    runs.add_argument("--quick", action="store_true", help="tiny shapes, on a CPU too")
    args = parser.parse_args(argv)
    if args.command == "wheels":
        fetch(args.folder.expanduser())
        return 0
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
