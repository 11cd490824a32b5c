"""The one exception that means "the user can mend this", and how a job ends on it.

A job prints its message as one sentence and exits with status 1; anything else is a bug and keeps
its traceback.
"""

from __future__ import annotations

import atexit
import errno
import io
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TERMINATE_ONCE_IN = 30.0  # Seconds in which further SIGTERMs are taken for the same one.
_AGAIN_IN = 0.05  # Seconds until a signal that Python dropped is sent again.

# Called with what ends a job, before it ends: other processes of the run may have to be told.
at_failure: list[Callable[[BaseException], None]] = []
# Called, beside the job's main thread, before this process ends because another of the run has.
at_peer_failure: list[Callable[[], None]] = []


class UserError(Exception):
    """One sentence that names what is at fault (file:line, key, sentence) and what to do."""


@contextmanager
def told_as(key: str, given: str) -> Iterator[None]:
    """A UserError raised inside names `given`, what the user wrote, in the place of `key`."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(key, given)) from error


class Terminated(BaseException):
    """A SIGTERM: unwinds the job as Ctrl-C does."""


def exit_on_user_error(main: Callable[[], object], advice: str = "") -> None:
    """Runs `main`; a UserError, or a disk that is full, becomes one line on stderr and exit
    status 1. Ctrl-C and SIGTERM, too, become one line, which `advice` ends."""
    _quiet_after_failure()
    for stream in (sys.stdout, sys.stderr):
        # A terminal, or PYTHONIOENCODING, that lacks a letter gets its number and not a traceback:
        # in ASCII "café" is written "caf\xe9".
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _signals():
            _telling(main)
    except UserError as error:
        _fail(str(error))
    # 128 + the signal's number, as a shell says it: 130 for SIGINT (2), 143 for SIGTERM (15).
    except KeyboardInterrupt:
        print(f"interrupted{advice}", file=sys.stderr)
        _leave_at_once(130)
    except Terminated:
        print(f"terminated{advice}", file=sys.stderr)
        _leave_at_once(143)
    except BrokenPipeError:
        # Whoever read the output has enough of it. Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(1)


def _fail(sentence: str) -> None:
    # Saves that were cut off would complain once more when the interpreter takes them apart.
    atexit.register(setattr, sys, "unraisablehook", lambda _: None)
    print("error:", " ".join(sentence.splitlines()), file=sys.stderr)
    _leave(1)


def _telling(main: Callable[[], object]) -> None:
    """Runs `main`, tells the other processes of the run what ends it, and raises that."""
    try:
        try:
            main()
            sys.stdout.flush()  # What is written late may find the disk full, the reader gone.
        except Exception as error:
            # As a UserError before anybody is told: the others print the sentence too.
            if sentence := _out_of_memory(error) or _disk_full(error):
                raise UserError(sentence) from error
            raise
    except BaseException as error:
        for tell in at_failure:
            tell(error)
        bug = isinstance(error, Exception) and not isinstance(error, UserError | BrokenPipeError)
        if at_failure and bug:
            # Not left to the interpreter, whose own end would wait for the other processes.
            traceback.print_exc()
            _leave_at_once(1)
        raise


def _disk_full(error: Exception) -> str:
    """A sentence where a disk, or the user's share of it, is full; else nothing."""
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return ""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}; make room and run the same command again"


def _out_of_memory(error: Exception) -> str:
    """A sentence where an accelerator, or the CPU in its place, has no memory left for a program;
    else nothing. Known by its text: this room imports no JAX."""
    text = " ".join(str(error).split())
    if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError") or (
        "RESOURCE_EXHAUSTED" not in text
    ):
        return ""
    # "allocating 2147483648 bytes" of the CPU becomes 2.00 GiB; "allocate 1.50GiB" of a GPU stays.
    asked = re.search(r"allocat\w+ (\d+) bytes|allocate ([\d.]+ ?[KMGT]i?B)", text)
    much = ""
    if asked:
        size = f"{int(asked[1]) / 2**30:.2f} GiB" if asked[1] else asked[2]
        much = f" ({size} more were asked for)"
    return (
        f"the device has no memory left{much}: lower batch_size of config.nll, config.groot or "
        "config.evaluate, raise config.groot.accumulate, take config.model.remat=full or split the "
        "model (config.mesh.fsdp); python -m groot_jax.preflight says beforehand what fits"
    )


def _leave(status: int) -> NoReturn:
    if at_failure:  # There is a run of several: see `_telling`.
        _leave_at_once(status)
    sys.exit(status)


def _leave_at_once(status: int) -> NoReturn:
    """Without the interpreter's own end, in which threads that compile meanwhile would crash."""
    with suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGINT and SIGTERM as exceptions, unless whoever started the job ignores them, as a shell
    that runs a script does with SIGINT for what it starts by `&`.

    Where Python drops what is raised (callbacks of the garbage collector, of which JAX has one,
    and finalisers), the signal is sent again.
    """
    raised = -math.inf  # When SIGTERM last raised; at first every time is long after it.

    def terminate(*_: object) -> None:
        nonlocal raised
        # Schedulers send it again while what is under way is saved.
        if time.monotonic() - raised > _TERMINATE_ONCE_IN:
            raised = time.monotonic()
            raise Terminated

    def dropped(event: sys.UnraisableHookArgs) -> None:
        nonlocal raised
        # The hook is told of any exception that is dropped; all but those of signals go on to it.
        number = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}.get(event.exc_type)
        if number not in mine:
            hook(event)
            return
        raised = -math.inf  # That one did not count.
        # Later, from another thread: the callback that swallowed it is still at work.
        again = threading.Timer(_AGAIN_IN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    wanted: dict[int, Callable[[int, FrameType | None], object]] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: terminate,
    }
    before = {number: signal.getsignal(number) for number in wanted}
    mine = [number for number in wanted if before[number] not in (signal.SIG_IGN, None)]
    for number in mine:
        signal.signal(number, wanted[number])
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in mine:
            signal.signal(number, before[number])


@contextmanager
def signals_delayed() -> Iterator[None]:
    """SIGINT and SIGTERM wait for the end of what may not be cut in two; for the main thread."""
    caught: list[int] = []
    # Who ignores a signal goes on ignoring it: SIG_IGN and SIG_DFL are numbers, no functions.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    mine = [number for number in before if callable(before[number])]
    for number in mine:
        signal.signal(number, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
        if caught:  # One is enough: it ends the job.
            signal.raise_signal(caught[0])


def prepare_job(interrupted: str = "interrupted\n") -> None:
    """For a process that is a job: its module calls this before its own imports, which bring in JAX
    and take seconds.

    XLA logs at level ERROR that a program takes long to compile, in a block that asks for a bug
    report. What ends a job comes as an exception, or at level FATAL. Until `exit_on_user_error`
    takes over, Ctrl-C prints `interrupted` and ends the process with status 130: where imports are
    cut depends on chance.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    # A handler that ends at once and no KeyboardInterrupt: raised inside an import, that prints a
    # traceback, or is swallowed by an `except` around the import of an optional part.
    def leave(*_: object) -> None:
        os.write(2, interrupted.encode())
        os._exit(130)

    # Not where whoever started the job ignores SIGINT, or a program around it handles it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def _quiet_after_failure() -> None:
    """When one array of a checkpoint fails, those under way find the reader's event loop closed,
    and each would print a traceback beside the sentence that says what happened."""
    before = sys.unraisablehook

    def hook(event: sys.UnraisableHookArgs) -> None:
        if str(event.exc_value) != "Event loop is closed":
            before(event)

    sys.unraisablehook = hook
