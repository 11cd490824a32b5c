"""Report job: the report of a work directory made anew, or several of them side by side.

    python -m groot_jax.report W
    python -m groot_jax.report W1 W2 ... [--output=FILE.html]

It reads what evaluations have left and scores nothing. Of several, it prints the tables, and writes
a page where --output names one.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()

import argparse
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from groot_jax import config as configs
from groot_jax.config.keys import flatten
from groot_jax.errors import UserError, exit_on_user_error, told_as
from groot_jax.evaluation.comparison import (
    Compared,
    groups_of,
    names_of,
    terminal_tables,
    write_page,
)
from groot_jax.evaluation.report import write_report
from groot_jax.evaluation.results import known_worse, results_table, write_results
from groot_jax.runtime.files import expanded
from groot_jax.training.monitor import say
from groot_jax.training.systems import worse_systems


def main(argv: list[str] | None = None) -> None:
    """Runs the job. Raises UserError for what the user can mend."""
    parser = configs.JobParser(
        prog="python -m groot_jax.report", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "workdirs",
        nargs="+",
        type=lambda text: expanded(text, "WORKDIR"),
        metavar="WORKDIR",
        help="work directories, or folders that evaluate has written results to",
    )
    parser.add_argument(
        "--output",
        type=lambda text: expanded(text, "--output"),
        metavar="FILE.html",
        help="of several work directories: the page to write",
    )
    args = configs.parse_flags(parser, argv)
    console = Console()
    if len(args.workdirs) == 1:
        one_report(args, console)
        return
    configurations = [configs.load_dumped(path / configs.CONFIG_FILE) for path in args.workdirs]
    compared = [
        Compared.read(path, name, changes(config), worse_of(path, config))
        for path, name, config in zip(
            args.workdirs, names_of(args.workdirs), configurations, strict=True
        )
    ]
    groups = groups_of(compared, configurations[0].evaluate.bootstrap)
    for table in terminal_tables(groups):
        console.print(table)
    if args.output is None:
        say(console, "--output=FILE.html writes a page, with charts and the settings that differ")
        return
    with told_as("--workdir", "--output"):
        write_page(args.output, compared, groups)
    say(console, f"report: {args.output}")


def one_report(args: argparse.Namespace, console: Console) -> None:
    """Makes results.json and the report of one work directory anew, and prints its tables."""
    if args.output is not None:
        raise UserError(
            f"--output={args.output} is for several work directories; the report of one is in it, "
            f"{args.workdirs[0] / 'report' / 'index.html'}: leave --output out"
        )
    (workdir,) = args.workdirs
    config = configs.load_dumped(workdir / configs.CONFIG_FILE)
    results = write_results(workdir, config.evaluate.bootstrap, worse_of(workdir, config))
    path = write_report(workdir, results)
    for split in ("dev", "test"):
        if any(split in system for system in results["systems"].values()):
            console.print(results_table(results, split))
    say(console, f"report: {path}")


def worse_of(workdir: Path, config: ConfigDict) -> Mapping[str, str]:
    """The systems whose best is worse than what they started from, as `worse_systems`; in a folder
    of results alone, those that its results.json names."""
    if (workdir / "checkpoints").is_dir():
        return worse_systems(workdir, config)
    return known_worse(workdir)


def changes(config: ConfigDict) -> dict[str, object]:
    """The settings that a run was trained under and that are not the defaults."""
    default = flatten(configs.default_config())
    return {
        key: value
        for key, value in flatten(config).items()
        if default.get(key) != value and not configs.is_free(key)
    }


if __name__ == "__main__":
    exit_on_user_error(main)
