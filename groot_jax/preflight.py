"""Preflight job: compiles the steps of training for a TPU slice, with no TPU: do they fit?

    python -m groot_jax.preflight --config=configs/t5_base.py --topology=v5e:4x4
        [--config.mesh.fsdp=4] [--profile] [--search] [--json]

For each step (stage 0, generation, update) it prints what a chip holds against its memory, what it
computes and exchanges, and a roofline estimate of its time. Exit status 1 where one does not fit.
Needs the package libtpu, but no TPU, corpus, weights or network.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below, which take seconds.

import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from groot_jax import config as configs
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.scaling.chips import CHIPS, GIB, Slice, parse_slice, prepare_environment

if TYPE_CHECKING:
    from groot_jax.scaling.check import Choice, Question, StepReport

STEPS = ("nll", "generate", "update")
_MIB = 1 / 2**20  # of a byte; exact, since it is a power of two
# What a term of the roofline is called in a table: what a chip multiplies with, reads from and
# exchanges through.
_UNITS = {"flops": "products", "hbm": "memory", "ici": "interconnect"}


def main(argv: list[str] | None = None) -> None:
    """Prints the table, the search and the report. Raises UserError where a step does not fit."""
    args = configs.parse_job(_parser(), argv)
    # All flags are checked before JAX is imported, which takes seconds.
    tpu_slice = parse_slice(args.topology)
    steps = tuple(args.steps.split(","))
    for step in steps:
        if step not in STEPS:
            raise UserError(f"--steps={args.steps}: {step!r} is none of {', '.join(STEPS)}")
    # --pieces may be less than 1: each word has one piece at least.
    for flag in ("words", "types", "tries", "source", "target"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag} is {value}, but has to be 1 or more")
    prepare_environment()
    # Imported here: it brings in JAX, which reads its environment then.
    from groot_jax.scaling import check
    from groot_jax.scaling.workload import Sentences

    sentences = Sentences(args.words, args.pieces, args.types, args.source, args.target)
    question = check.Question(args.config, tpu_slice, sentences)
    console = Console()
    found = check.check_steps(question, steps)
    report = {
        "fits": all(result["fits"] for result in found.values()),
        "chips": tpu_slice.size,
        "hbm_per_chip_bytes": tpu_slice.chip.hbm_bytes,
        "steps": found,
    }
    _show(console, tpu_slice, found)
    if args.profile:
        _show_profiles(console, found)
    if args.search:
        best = check.search(question, args.tries)
        _show_search(console, best)
        report["search"] = [{"choice": str(choice)} | result for choice, result in best]
    if not report["fits"]:
        failed = [step for step in steps if not found[step]["fits"]]
        advice = _advice(question, failed, args.tries)
        # Steps that fail for the same reason, such as a mesh that does not fit, are told together.
        steps_of: dict[str, list[str]] = {}
        for step in failed:
            steps_of.setdefault(found[step]["reason"], []).append(step)
        reasons = "; ".join(f"{', '.join(at)}: {reason}" for reason, at in steps_of.items())
        report["reason"] = (
            f"it does not fit {tpu_slice.name}, whose chips have "
            f"{tpu_slice.chip.hbm_bytes / GIB:.0f} GiB ({reasons}); {advice}"
        )
    # The last line of standard output, whatever it says; the sentence goes to standard error.
    if args.json:
        print(json.dumps(report))
    if not report["fits"]:
        raise UserError(str(report["reason"]))


def _advice(question: Question, failed: list[str], tries: int) -> str:
    """The nearest mesh and batch that fit, or the slice that could; `failed` are the steps that
    have to, `tries` the choices that are compiled at most."""
    from groot_jax.scaling import check

    # A mesh and a batch cost nothing to change, another slice does: they come first.
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


def _show(console: Console, tpu_slice: Slice, found: dict[str, StepReport]) -> None:
    """One column a step, figures of one chip; then the verdict."""
    table = Table(title=f"{tpu_slice.name}: {tpu_slice.size} chips, each of them")
    table.title_justify = "left"
    table.add_column("")
    for step in found:
        table.add_column(step, justify="right")
    rows: dict[str, list[str]] = {}  # label -> the cell of each step, in their order

    def add(label: str, value: float | None, form: str = "{:,.0f}", scale: float = 1.0) -> None:
        rows.setdefault(label, []).append("-" if value is None else form.format(scale * value))

    # A step that was refused lacks some of the figures; a row that no step has is left out.
    kinds = sorted({kind for result in found.values() for kind in result["collectives"]})
    for result in found.values():
        for part in ("argument", "temp", "output", "aliased", "code", "resident", "needed"):
            add(f"{part} MiB", result.get(f"{part}_bytes"), scale=_MIB)
        add("of MiB", tpu_slice.chip.hbm_bytes, scale=_MIB)
        add("GFLOP", result["flops"], "{:,.1f}", 1e-9)
        add("HBM traffic MiB", result["hbm_bytes"], scale=_MIB)
        for kind in kinds:
            # `12.5 in 48`: so many MiB in all, in so many exchanges.
            moved = result["collectives"].get(kind)
            rows.setdefault(f"{kind} MiB", []).append(
                f"{moved['bytes'] * _MIB:,.1f} in {moved['count']:,.0f}" if moved else "-"
            )
        add("estimated ms", result["estimated_seconds"], "{:,.2f}", 1e3)
        for term, name in _UNITS.items():
            add(f"  {name} ms", result.get("seconds", {}).get(term), "{:,.2f}", 1e3)
        rows.setdefault("bound by", []).append(_UNITS.get(result["bound_by"], "-"))
        add("batch (all chips)", result.get("batch_size"))
        add("sentences/s (all chips)", result.get("sentences_per_second"))
        add("model FLOP utilisation", result.get("model_flop_utilisation"), "{:.1%}")
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


def _show_profiles(console: Console, found: dict[str, StepReport]) -> None:
    """What takes longest in each step, with its place in the model."""
    for step, result in found.items():
        if "profile" not in result:  # Refused: there is no program.
            continue
        table = Table(title=f"{step}: what takes longest on a chip", title_justify="left")
        for name in ("ms", "HBM MiB", "GFLOP", "times"):
            table.add_column(name, justify="right")
        table.add_column("where", overflow="fold")
        for item in result["profile"]:
            table.add_row(
                f"{1e3 * item['seconds']:,.2f}",
                f"{_MIB * item['hbm_bytes']:,.0f}",
                f"{1e-9 * item['flops']:,.1f}",
                f"{item['times']:,.0f}",
                item["source"],
            )
        console.print(table)


def _show_search(console: Console, best: list[tuple[Choice, StepReport]]) -> None:
    table = Table(title="Updates under other meshes and batches", title_justify="left")
    for name in ("data", "fsdp", "tensor", "batch", "GiB a chip", "ms", "sentences/s", "bound by"):
        table.add_column(name, justify="right")
    for choice, result in best:
        # What does not fit has a size, but nothing that would run and take time.
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


def _parser() -> configs.JobParser:
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
        help=f"the slice, such as v5e:4x4 or v5p:4x4x4; chips: {', '.join(CHIPS)}",
    )
    parser.add_argument(
        "--steps", default="nll,generate,update", help="which of them (nll,generate,update)"
    )
    parser.add_argument("--words", type=int, default=32, help="words of each sentence (32)")
    parser.add_argument("--pieces", type=float, help="pieces of a word (1.5; of ByT5 6)")
    parser.add_argument("--types", type=int, default=12, help="types of spans (12)")
    parser.add_argument(
        "--source", type=int, help="source tokens to pad to; without: the bucket of the sentences"
    )
    parser.add_argument("--target", type=int, help="target tokens to pad to; likewise")
    parser.add_argument(
        "--profile", action="store_true", help="list what takes longest, and where in the model"
    )
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
