"""Runs the commands of a launcher, or only prints them, and reads its command line.

Everything that a launcher does to the world goes through a `Runner`. With `--dry-run` nothing is
run: each command is printed as a shell would take it, and commands that ask for something are
answered with what they say when all goes well. Mistakes of the user, and commands that fail, are
UserErrors of one sentence.
"""

from __future__ import annotations

import argparse
import math
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from groot_jax.errors import UserError

_LAST_LINES = 5


class CommandFailed(UserError):
    """A command that could not be started or ended with another status than 0."""


class Runner:
    """Runs commands one after the other, or prints them (`dry_run`)."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run

    def run(self, *argv: str, stdin: str = "") -> None:
        """Runs a command with its output shown. Raises CommandFailed."""
        status, last = self._show(argv, stdin)
        if status:
            raise CommandFailed(_failure(argv, status, last))

    def status(self, *argv: str) -> int:
        """Runs a command with its output shown and returns its exit status."""
        return self._show(argv, "")[0]

    def read(self, *argv: str, assumed: str) -> str:
        """What a command prints, or in a dry run `assumed`. Raises CommandFailed."""
        if self.dry_run:
            print(_as_shell(argv, ""))
            return assumed
        try:
            # With nothing to read, a program that asks something fails at once and does not wait.
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise CommandFailed(_cannot_start(argv, error)) from error
        if done.returncode:
            last = done.stderr.splitlines() or done.stdout.splitlines()
            raise CommandFailed(_failure(argv, done.returncode, last[-_LAST_LINES:]))
        return done.stdout

    def say(self, text: str) -> None:
        """A line of the launcher itself, apart from what the commands print."""
        if not self.dry_run:
            print(f"launch: {text}", file=sys.stderr, flush=True)

    def sleep(self, seconds: float) -> None:
        """Waits, but not in a dry run, in which nothing is waited for."""
        if not self.dry_run:
            time.sleep(seconds)

    def _show(self, argv: Sequence[str], stdin: str) -> tuple[int, Sequence[str]]:
        """The exit status and the last lines of standard error."""
        if self.dry_run:
            print(_as_shell(argv, stdin))
            return 0, ()
        print("+", shlex.join(argv), file=sys.stderr, flush=True)
        # Standard output is this process's own. Standard error goes through it line by line, so
        # that it is seen at once and its end can be told again in the sentence about a failure.
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise CommandFailed(_cannot_start(argv, error)) from error
        assert process.stderr is not None
        last: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            if process.stdin is not None:
                # What has failed already reads no more; its own words say why.
                with suppress(BrokenPipeError):
                    process.stdin.write(stdin)
                    process.stdin.close()
            for line in process.stderr:
                sys.stderr.write(line)
                sys.stderr.flush()
                last.append(line.rstrip())
            return process.wait(), last
        except BaseException:  # Ctrl-C, too: nothing is left running behind.
            process.terminate()
            process.wait()
            raise


def _as_shell(argv: Sequence[str], stdin: str) -> str:
    """("echo", "a b") -> echo 'a b'; with what it reads, if anything, as a here-document."""
    line = shlex.join(argv)
    if not stdin:
        return line
    # In quotes, so that the shell expands nothing in it; END_ where a line of the text is END.
    end = "END"
    while end in stdin.splitlines():
        end += "_"
    return f"{line} <<'{end}'\n{stdin.rstrip()}\n{end}"


def _cannot_start(argv: Sequence[str], error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {argv[0]} on PATH: install it, or try --dry-run, which needs none"
    return f"cannot start {argv[0]}: {error.strerror}"


def _failure(argv: Sequence[str], status: int, last: Sequence[str]) -> str:
    # gcloud compute tpus tpu-vm create NAME: six words say what it was, the flags come behind.
    words = " ".join(argv[:6])
    said = " / ".join(line.strip() for line in last if line.strip())
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    return f"`{words}{' ...' if len(argv) > 6 else ''}` {how}{f': {said}' if said else ''}"


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are UserErrors. Shared by all launchers."""

    def __init__(self, prog: str, description: str | None = None, add_help: bool = True) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            add_help=add_help,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help lists what there is")


def add_repeated(
    to: argparse._ActionsContainer, flag: str, metavar: str, text: str | None = None
) -> None:
    """A flag that may be given several times, to a parser or a group of one."""
    to.add_argument(flag, action="append", default=[], metavar=metavar, help=text)


def split_command(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """["--name=a", "--", "python", "x.py"] -> (["--name=a"], ["python", "x.py"])"""
    at = words.index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])


def passed_on(args: argparse.Namespace, *flags: str) -> list[str]:
    """Those of the flags that were given, as another program takes them: ["--network=n"]."""
    values = ((flag, getattr(args, flag.replace("-", "_"))) for flag in flags)
    return [f"--{flag}={value}" for flag, value in values if value]


def number(least: float, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """For `type=` of an argument: a finite number of at least `least`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # Which is not at least anything.
        if not least <= value < math.inf:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {what} of at least {least}")
        return value

    return parse
