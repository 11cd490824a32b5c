"""Writes the batch script that trains on one or more nodes of a Slurm cluster, and submits it.

    python launch/slurm/submit.py --name=groot --nodes=4 --gpus-per-node=8 --time=24:00:00 \\
        --setup='source .venv/bin/activate' -- \\
        python -m groot_jax.train --config=configs/retail.py --workdir=runs/demo

One process per node, which has all its GPUs. After a preemption, and when the time is over, the job
queues again and the same command continues from its checkpoints. `--dry-run` prints the command
with the script and submits nothing.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from groot_jax.errors import UserError, exit_on_user_error
from launch.commands import Parser, Runner, add_repeated, number, passed_on, split_command
from launch.jobs import check_name, check_workdir, parse_command, parse_environment
from launch.templates import templates_in


def make_parser() -> Parser:
    """The flags; what follows `--` is not for it."""
    parser = Parser("launch/slurm/submit.py", __doc__ or "")
    parser.add_argument("--name", required=True, help="of the job")
    parser.add_argument("--nodes", type=number(1), default=1)
    parser.add_argument("--gpus-per-node", type=number(0), default=0)
    parser.add_argument("--cpus-per-task", type=number(0), default=0, help="for its one process")
    parser.add_argument("--time", help="limit, such as 24:00:00")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    add_repeated(
        parser, "--sbatch-flag", "FLAG", "any other, such as --sbatch-flag=--constraint=h100"
    )
    parser.add_argument("--setup", default="", help="shell lines to begin with: modules, venv")
    add_repeated(parser, "--env", "KEY=VALUE")
    parser.add_argument("--output", default="groot-%j.log", help="the log (groot-%%j.log)")
    parser.add_argument(
        "--warn", type=number(1), default=120, help="seconds before the end at which to stop (120)"
    )
    parser.add_argument("--max-restarts", type=number(0), default=10, help="when time is over (10)")
    parser.add_argument("--dry-run", action="store_true", help="print the script, submit nothing")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Hands the batch script to sbatch. Raises UserError."""
    flags, command = split_command(sys.argv[1:] if argv is None else argv)
    args = make_parser().parse_args(flags)
    Runner(args.dry_run).run("sbatch", stdin=render(args, command))


def render(args: argparse.Namespace, words: list[str]) -> str:
    """The batch script. Raises UserError."""
    job = parse_command(words)
    # Whether the nodes share it cannot be seen from here: docs/launch.md asks for it.
    check_workdir(job.workdir, [], "")
    if args.gpus_per_node:
        job.check_mesh(args.nodes * args.gpus_per_node, "the nodes")
    # One task on each node, for one process that has all its GPUs. B: warns the script alone, which
    # then tells the job, see job.sh.j2. A job that queues again goes on writing the same log.
    flags = [
        f"--job-name={check_name(args.name)}",
        f"--nodes={args.nodes}",
        "--ntasks-per-node=1",
        f"--signal=B:USR1@{args.warn}",
        "--requeue",
        "--open-mode=append",
        f"--output={args.output}",
    ]
    flags += passed_on(args, "gpus-per-node", "cpus-per-task", "time", "partition", "account")
    flags += args.sbatch_flag
    # Each becomes a line `#SBATCH --KEY=VALUE`, which a line break would end.
    for flag in flags:
        if not flag.startswith("--") or any(c in flag for c in "\n\r"):
            raise UserError(f"{flag!r} is no flag of sbatch: write --KEY=VALUE, on one line")
    exports = {"PYTHONUNBUFFERED": "1"}
    if args.cpus_per_task:
        exports["SRUN_CPUS_PER_TASK"] = str(args.cpus_per_task)  # srun looks nowhere else.
    if args.nodes > 1:
        exports["GROOT_DISTRIBUTED"] = "auto"
        if args.gpus_per_node:
            # Under Slurm JAX gives each process one GPU unless it is told otherwise.
            devices = ",".join(str(device) for device in range(args.gpus_per_node))
            exports["JAX_LOCAL_DEVICE_IDS"] = devices
    exports |= parse_environment(args.env)
    template = templates_in(Path(__file__).resolve().parent).get_template("job.sh.j2")
    # bash takes the quotes off again, so that every word and value arrives as it was given.
    return template.render(
        flags=[shlex.quote(flag) for flag in flags],
        exports=[f"{key}={shlex.quote(value)}" for key, value in exports.items()],
        setup=args.setup,
        command=shlex.join(job.command),
        max_restarts=args.max_restarts,
    )


if __name__ == "__main__":
    exit_on_user_error(main)
