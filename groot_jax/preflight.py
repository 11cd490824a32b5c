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
import sys
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from groot_jax import config as configs
from groot_jax.errors import exit_on_user_error
from groot_jax.scaling import chips
from groot_jax.scaling.chips import Slice

# JAX is imported below: chips.prepare_environment has to come first.


def main(argv: list[str] | None = None) -> None:
    args = configs.parse_job(_parser(), argv)
    slice_ = chips.parse_topology(args.topology)
    chips.prepare_environment()
    console = Console()
    report = run(args.config, slice_, args, console)
    if args.json:
        print(json.dumps(report))
    if not report["fits"]:
        sys.exit(1)


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
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    return parser


def run(config: ConfigDict, slice_: Slice, args: argparse.Namespace, console: Console) -> dict:
    """Compiles the steps and prints a table; the report as --json prints it."""
    # Imported here: it brings in JAX, which reads its environment then.
    from groot_jax.scaling.check import check_step, open_programs

    programs = open_programs(config, slice_, args)
    steps: dict[str, Any] = {}
    for step in args.steps.split(","):
        steps[step] = check_step(programs, step, slice_)
        console.print(steps[step])
    return {
        "fits": all(result["fits"] for result in steps.values()),
        "chips": slice_.size,
        "hbm_per_chip_bytes": slice_.chip.hbm_bytes,
        "steps": steps,
    }


if __name__ == "__main__":
    exit_on_user_error(main)
