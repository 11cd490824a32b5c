"""The command lines of the jobs: flags, and `--config.KEY=VALUE`. No JAX here."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import groot_jax
from groot_jax.config.explaining import all_configs, all_keys, explained
from groot_jax.config.keys import Flat, check_keys, flatten, nearest
from groot_jax.config.loading import default_config, finish, load
from groot_jax.config.workdir import CONFIG_FILE, load_dumped
from groot_jax.errors import UserError
from groot_jax.runtime.files import expanded

# Asks a job for its flags, one a line, and nothing else: see completion.py.
LIST_FLAGS = "--list-flags"


class JobParser(argparse.ArgumentParser):
    """As argparse's; its mistakes are UserErrors. `--help` explains the keys of the config too,
    where a job has one (`keys`), and names the built-in configs, where it is given one (`files`).
    """

    def __init__(
        self, prog: str, description: str, epilog: str = "", keys: bool = False, files: bool = False
    ) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)
        self.keys, self._files = keys, files
        self.add_argument("--version", action="version", version=version())

    def format_help(self) -> str:
        files = all_configs() if self._files else ""
        return super().format_help() + files + (all_keys() if self.keys else "")

    def list_flags(self) -> str:
        """Each flag, and each value of those that have a choice, for completion."""
        words = ["--config.="] if self.keys else []
        for action in self._actions:
            # One that takes a value, such as --workdir, waits for it behind its "=".
            takes = "=" if action.nargs != 0 else ""
            long = [flag for flag in action.option_strings if flag.startswith("--")]
            words += [flag + takes for flag in long] or action.option_strings
            words += [f"{flag}={choice}" for flag in long for choice in action.choices or ()]
        return "\n".join(words)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help lists what there is")


def job_parser(
    prog: str, description: str, config_file: bool = False, workdir: bool = True
) -> JobParser:
    """A parser with what every job takes; the job adds flags of its own.

    `config_file`: the job starts from `--config=FILE.py`; otherwise from `--workdir`'s config.json.
    Without `workdir` it has no such folder and reads no data, which the config need not name then.
    """
    parser = JobParser(
        prog=f"python -m {prog}",
        description=description,
        epilog="--config.KEY=VALUE changes one key of the config, such as --config.groot.tau=0.2.",
        keys=True,
        files=config_file,
    )
    if config_file:
        parser.add_argument(
            "--config",
            required=True,
            metavar="FILE.py[:ARG]",
            help="the experiment, a file or a built-in one's name such as retail; what follows a "
            "colon goes to the file",
        )
    if workdir:
        parser.add_argument(
            "--workdir",
            required=True,
            type=lambda text: expanded(text, "--workdir"),
            metavar="FOLDER",
            help="the run's own folder: config, checkpoints, metrics, results and report",
        )
    return parser


def parse_job(
    parser: JobParser,
    argv: Sequence[str] | None = None,
    before_reading: Callable[[argparse.Namespace], None] = lambda args: None,
) -> argparse.Namespace:
    """The job's flags, with `config` replaced by the resolved, validated ConfigDict.

    `before_reading` is called with the flags before config.json is read from the work directory.
    Raises UserError for every mistake; `--help` prints and exits as usual.
    """
    plain, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    args = parse_flags(parser, plain)
    # The job that trains, or that only computes with a config, is given a file; all others read
    # what training wrote, of which they may change what training did not use up.
    if hasattr(args, "config"):
        args.config = load(args.config, overrides, has_data=hasattr(args, "workdir"))
    else:
        before_reading(args)
        path = args.workdir / CONFIG_FILE
        config = load_dumped(path)
        check_keys(config, default_config(), str(path))
        before = flatten(config)
        args.config = finish(config, overrides)
        _check_settled(before, flatten(args.config), args.workdir)
    return args


def parse_flags(parser: JobParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags alone, of a job without a config. Raises UserError for every mistake."""
    words = list(sys.argv[1:] if argv is None else argv)
    if LIST_FLAGS in words:
        print(parser.list_flags())
        parser.exit()
    # argparse would say "unrecognized arguments" and no more; this names the flag that was meant.
    known = [option for action in parser._actions for option in action.option_strings]
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == "--help" and equals and parser.keys:
            print(explained(value), end="")
            parser.exit()
        if flag.startswith("--") and flag != "--" and flag not in known:
            hint = nearest(flag, known)
            raise UserError(f"{parser.prog}: there is no flag {flag}{hint}; --help lists them")
    return parser.parse_args(words)


def version() -> str:
    """`groot_jax 0.2.0, jax 0.10.2, Python 3.12.1`: what a report of a bug begins with."""
    jax = importlib.metadata.version("jax")
    return f"groot_jax {groot_jax.__version__}, jax {jax}, Python {platform.python_version()}"


# What evaluation and prediction read of the config. All else, training has settled: the sizes of
# the model, its vocabulary and its format, and how it was trained.
_READ_LATER = (
    "checkpoint.",
    "compilation_cache",
    "data.",
    "decide.",
    "distributed.",
    "evaluate.",
    "generate.",
    "loader.",
    "mesh.",
    "model.dtype",
    "model.normalise",
    "model.remat",
    "model.scan_layers",
    "nll.checkpoint",
    "reward.",
    "seed",
    "systems",
    "text.long_sentences",
    "text.max_words",
    "text.overlap",
    "text.split",
)
_OF_TRAINING = ("data.augment", "data.hide_words", "data.train_limit", "data.unlabeled")


def _check_settled(theirs: Flat, ours: Flat, workdir: Path) -> None:
    # --config.groot.tau=0.2 of an evaluation would change nothing: it is refused, not ignored.
    for key, value in ours.items():
        read = key.startswith(_READ_LATER) and key not in _OF_TRAINING
        if not read and theirs.get(key) != value:
            raise UserError(
                f"--config.{key}={value}: training in {workdir} has settled it as "
                f"{theirs.get(key)!r}, and nothing reads it now; leave it out"
            )


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.KEY=VALUE` and `--config.KEY VALUE` out of the command line."""
    # ["-k", "5", "--config.seed=3", "--config.groot.tau", "0.2"]
    # -> ["-k", "5"] and [("seed", "3"), ("groot.tau", "0.2")]
    # Not flags of argparse's: keys of variants that are yet to be made are not known in advance.
    plain: list[str] = []
    overrides: list[tuple[str, str]] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--config."):
            plain.append(word)
            continue
        key, equals, text = word.removeprefix("--config.").partition("=")
        if not equals:
            # A negative number (-1) is a value, two dashes begin the next flag.
            following = next(words, None)
            if following is None or following.startswith("--"):
                raise UserError(f"--config.{key} has no value: write --config.{key}=VALUE")
            text = following
        overrides.append((key, text))
    return plain, overrides
