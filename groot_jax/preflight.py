"""Preflight job: compiles the steps of training for a TPU slice, with no TPU: do they fit?

    python -m groot_jax.preflight --config=configs/t5_base.py --topology=v5e:4x4
        [--config.mesh.fsdp=4] [--search] [--json]

For each step (stage 0, generation, update) it prints what a chip holds against its memory, what it
computes and exchanges, and a roofline estimate of its time. Exit status 1 where one does not fit.
Needs the package libtpu, but no TPU, corpus, weights or network.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from groot_jax import config as configs
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.scaling import chips
from groot_jax.scaling.chips import GIB, Slice

if TYPE_CHECKING:
    from groot_jax.scaling.check import Choice, Question

STEPS = ("nll", "generate", "update")
_UNITS = {"flops": "products", "hbm": "memory", "ici": "interconnect"}


def main(argv: list[str] | None = None) -> None:
    args = configs.parse_job(_parser(), argv)
    slice_ = chips.parse_topology(args.topology)
    steps = tuple(args.steps.split(","))
    for step in steps:
        if step not in STEPS:
            raise UserError(f"--steps={args.steps}: {step!r} is none of {', '.join(STEPS)}")
    for flag in ("words", "types", "tries", "source", "target"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag} is {value}, but has to be 1 or more")
    chips.prepare_environment()
    # Imported here: it brings in JAX, which reads its environment then.
    from groot_jax.scaling import check
    from groot_jax.scaling.workload import Sentences

    question = check.Question(
        args.config,
        slice_,
        Sentences(args.words, args.pieces, args.types),
        (args.source, args.target),
    )
    console = Console()
    found = check.check_steps(question, steps)
    report = {
        "fits": all(result["fits"] for result in found.values()),
        "chips": slice_.size,
        "hbm_per_chip_bytes": slice_.chip.hbm_bytes,
        "steps": found,
    }
    _show(console, slice_, found)
    if args.search:
        best = check.search(question, args.tries)
        _show_search(console, best)
        report["search"] = [{"choice": str(choice)} | result for choice, result in best]
    if not report["fits"]:
        failed = [step for step in steps if not found[step]["fits"]]
        advice = _advice(question, failed, args.tries)
        steps_of: dict[str, list[str]] = {}
        for step in failed:
            steps_of.setdefault(found[step]["reason"], []).append(step)
        reasons = "; ".join(f"{', '.join(at)}: {reason}" for reason, at in steps_of.items())
        report["reason"] = (
            f"it does not fit {slice_.name}, whose chips have {slice_.chip.hbm_bytes / GIB:.0f} "
            f"GiB ({reasons}); {advice}"
        )
    if args.json:
        print(json.dumps(report))
    if not report["fits"]:
        raise UserError(str(report["reason"]))


def _advice(question: Question, failed: list[str], tries: int) -> str:
    """The nearest mesh and batch that fit, or the slice that could."""
    from groot_jax.scaling import check

    choice = check.nearest_that_fits(question, failed, tries)
    if choice is not None:
        return f"these settings fit: {choice}"
    larger = check.larger_slice(question)
    if larger is None:
        return "no slice of these chips holds it"
    least = check.least_state(question) / GIB
    return (
        "none of the nearest meshes and batches does either: split over all chips, parameters and "
        f"moments take {least:.1f} GiB of each; {larger.name} is the next slice that holds them "
        "with room to spare"
    )


def _show(console: Console, slice_: Slice, found: dict[str, dict[str, Any]]) -> None:
    """One column a step, figures of one chip; then the verdict."""
    table = Table(title=f"{slice_.name}: {slice_.size} chips, each of them", title_justify="left")
    table.add_column("")
    for step in found:
        table.add_column(step, justify="right")
    rows: dict[str, list[str]] = {}

    def add(label: str, value: Any, form: Callable[[float], str]) -> None:
        rows.setdefault(label, []).append("-" if value is None else form(value))

    kinds = sorted({kind for result in found.values() for kind in result.get("collectives", {})})
    for result in found.values():
        for part in ("argument", "temp", "output", "aliased", "code", "resident", "needed"):
            add(f"{part} MiB", result.get(f"{part}_bytes"), lambda v: f"{v / 2**20:,.0f}")
        add("of MiB", slice_.chip.hbm_bytes, lambda v: f"{v / 2**20:,.0f}")
        add("GFLOP", result.get("flops"), lambda v: f"{v / 1e9:,.1f}")
        add("HBM traffic MiB", result.get("hbm_bytes"), lambda v: f"{v / 2**20:,.0f}")
        for kind in kinds:
            moved = result.get("collectives", {}).get(kind)
            rows.setdefault(f"{kind} MiB", []).append(
                f"{moved['bytes'] / 2**20:,.1f} in {moved['count']:,.0f}" if moved else "-"
            )
        add("estimated ms", result.get("estimated_seconds"), lambda v: f"{1e3 * v:,.2f}")
        for term, name in _UNITS.items():
            add(f"  {name} ms", result.get("seconds", {}).get(term), lambda v: f"{1e3 * v:,.2f}")
        rows.setdefault("bound by", []).append(_UNITS.get(result["bound_by"], "-"))
        add("batch (all chips)", result.get("batch_size"), lambda v: f"{v:,.0f}")
        add("sentences/s (all chips)", result.get("sentences_per_second"), lambda v: f"{v:,.0f}")
        add("model FLOP utilisation", result.get("model_flop_utilisation"), lambda v: f"{v:.1%}")
        rows.setdefault("compiler's effort", []).append(result.get("effort", "-"))
        rows.setdefault("verdict", []).append("fits" if result["fits"] else "does not fit")
    for label, cells in rows.items():
        if set(cells) != {"-"}:
            table.add_row(label, *cells)
    console.print(table)
    console.print(
        "Compiled by the TPU compiler; times are the least that published peak rates allow, and "
        "were measured nowhere.",
        highlight=False,
    )


def _show_search(console: Console, best: list[tuple[Choice, dict[str, Any]]]) -> None:
    table = Table(title="Updates under other meshes and batches", title_justify="left")
    for name in ("data", "fsdp", "tensor", "batch", "GiB a chip", "ms", "sentences/s", "bound by"):
        table.add_column(name, justify="right")
    for choice, result in best:
        fits = result["fits"]
        table.add_row(
            *map(str, choice.mesh),
            str(choice.batch_size),
            f"{result['needed_bytes'] / GIB:.1f}",
            f"{1e3 * result['estimated_seconds']:,.1f}" if fits else "-",
            f"{result['sentences_per_second']:,.0f}" if fits else "-",
            _UNITS[result["bound_by"]] if fits else "does not fit",
        )
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = configs.job_parser(
        "groot_jax.preflight",
        "Compile the steps of training for a TPU slice, without one: do they fit?",
        config_file=True,
        workdir=False,
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:AxB[xC]",
        help=f"the slice, such as v5e:4x4 or v5p:4x4x4; chips: {', '.join(chips.CHIPS)}",
    )
    parser.add_argument(
        "--steps", default="nll,generate,update", help="which of them (nll,generate,update)"
    )
    parser.add_argument("--words", type=int, default=32, help="words of each sentence (32)")
    parser.add_argument("--pieces", type=float, default=1.5, help="pieces of a word (1.5)")
    parser.add_argument("--types", type=int, default=12, help="types of spans (12)")
    parser.add_argument(
        "--source", type=int, help="source tokens to pad to; without: the bucket of the sentences"
    )
    parser.add_argument("--target", type=int, help="target tokens to pad to; likewise")
    parser.add_argument(
        "--search", action="store_true", help="try other meshes and batch sizes, list the best"
    )
    parser.add_argument(
        "--tries", type=int, default=6, help="meshes and batch sizes compiled at most (6)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


if __name__ == "__main__":
    exit_on_user_error(main)
