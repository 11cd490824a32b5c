"""The one exception that means "the user can mend this", and how a job ends on it.

A job prints its message as one sentence and exits with a status that says what to do next:

    1           what the sentence says has to be mended first; or a bug, with its traceback
    75          nothing of the job's: another process of the run was lost, say; run it again
    128 + n     signal n: 129 SIGHUP, 130 SIGINT, 143 SIGTERM; run it again to continue

Every failure leaves at once, without the end of the interpreter, which waits for threads: those of
a save that cannot be written held a job for 301 s after its sentence.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_FULL = (errno.ENOSPC, errno.EDQUOT)
RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: "temporary failure, the user is invited to retry".
# Seconds in which the same signal means the same wish: Slurm sends SIGTERM to a task and to srun,
# which passes it on.
_ONE_WISH = 2.0
# Seconds from a signal to the end, whatever the job is in the midst of. Launchers grant 120 s.
LEAVE_WITHIN = 100.0
_PATIENCE = 5.0  # Seconds that a signal waits for what may be done in a moment, as a reward's call.
_LAST_WORDS = 2.0  # Seconds for which a job that ends waits for whoever reads its last words.
_AGAIN_IN = 0.05  # Seconds until a signal that Python dropped is sent again.
_WORDS = {signal.SIGHUP: "hung up", signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

# Called with what ends a job, before it ends: other processes of the run may have to be told.
at_failure: list[Callable[[BaseException], None]] = []
# Called, beside the job's main thread, before this process ends because another of the run has.
at_peer_failure: list[Callable[[], None]] = []


class UserError(Exception):
    """One sentence that names what is at fault (file:line, key, sentence) and what to do."""


class RunAgain(UserError):
    """A UserError that the same command gets over as it is: it exits with status 75."""


@contextmanager
def told_as(key: str, given: str) -> Iterator[None]:
    """A UserError raised inside names `given`, what the user wrote, in the place of `key`."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(key, given)) from error


class Terminated(BaseException):
    """A SIGTERM or SIGHUP, which is its argument: unwinds the job as Ctrl-C does."""


def raise_signal(number: int) -> NoReturn:
    """Unwinds the job as the signal does where nothing delays it. SIGPIPE, which nobody sends
    here, stands for a standard output that takes no more: a UserError."""
    if number == signal.SIGPIPE:
        raise UserError(unheard())
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number)


def unheard() -> str:
    """The sentence of a job whose standard output takes no more."""
    return (
        "standard output could not be written (its reader has gone, or its disk is full); give it "
        "another one, a file say, and run the same command again to continue"
    )


def raise_signal_behind(error: BaseException) -> None:
    """Raises the signal that `error` was made of, where there is one: Orbax makes a bare Exception
    of whatever comes while it reads an array, Ctrl-C among it."""
    while cause := error.__cause__:
        if isinstance(cause, KeyboardInterrupt | Terminated):
            raise cause
        error = cause


def exit_status(error: BaseException) -> int:
    """With which a job ends on what unwinds it."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, Terminated):
        return 128 + int(error.args[0] if error.args else signal.SIGTERM)
    return RUN_AGAIN if isinstance(error, RunAgain) else 1


def exit_on_user_error(main: Callable[[], object], advice: str = "") -> None:
    """Runs `main`; a UserError, or a disk that is full, becomes one line on stderr and exit
    status 1 or 75 (see the module). Ctrl-C, SIGTERM and SIGHUP, too, become one line, which
    `advice` ends."""
    _quiet_after_failure()
    for stream in (sys.stdout, sys.stderr):
        # A terminal, or PYTHONIOENCODING, that lacks a letter gets its number and not a traceback:
        # in ASCII "café" is written "caf\xe9".
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _signals(advice):
            _telling(main)
    except UserError as error:
        _leave(exit_status(error), "error: " + " ".join(str(error).splitlines()))
    except (KeyboardInterrupt, Terminated) as error:
        status = exit_status(error)
        _leave(status, f"{_WORDS[signal.Signals(status - 128)]}{advice}")
    except BrokenPipeError:
        # Whoever read the output has enough of it. Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(1)
    except SystemExit:
        raise  # Of a command line that is no good, or asks for --help.
    except BaseException:
        # A bug. Not left to the interpreter, whose end waits for threads and other processes.
        _leave(1, traceback.format_exc().rstrip())


def _telling(main: Callable[[], object]) -> None:
    """Runs `main`, tells the other processes of the run what ends it, and raises that."""
    try:
        try:
            main()
            if sys.stdout is not None:  # It is where the shell's `>&-` has closed it.
                sys.stdout.flush()  # What is written late may find the disk full, the reader gone.
        except Exception as error:
            raise_signal_behind(error)
            # As a UserError before anybody is told: the others print the sentence too.
            if sentence := _out_of_memory(error) or _disk_full(error):
                raise UserError(sentence) from error
            raise
    except BaseException as error:
        for tell in at_failure:
            tell(error)
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


def _leave(status: int, last_words: str = "") -> NoReturn:
    """Without the interpreter's own end: see the module; and threads that compile would crash."""

    def finish() -> None:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError, ValueError):
                if last_words and stream is sys.stderr:
                    print(last_words, file=stream)
                stream.flush()

    _within(_LAST_WORDS, finish)
    leave(status)


def _within(seconds: float, act: Callable[[], object]) -> None:
    """Acts; waits no longer than this, as for a pipe or terminal that nobody reads."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)


leave: Callable[[int], NoReturn] = os._exit  # Tests put an exception in its place.

# ---- Signals ----------------------------------------------------------------------------------


class Wish:
    """What signals ask of a piece of work that ends by itself, at a moment of its own choice."""

    number = 0  # The signal that came first; 0: none has.
    since = 0.0  # When it came.


_wish: Wish | None = None  # Of the work that is under way; None: a signal raises at once.


@contextmanager
def signals_wished() -> Iterator[Wish]:
    """In this block the first signal raises nothing: it is noted in the `Wish`, which the block
    asks now and then, and raises at the block's end. A second one ends the process at once, as
    everywhere."""
    global _wish
    before, _wish = _wish, Wish()
    wish = _wish
    try:
        yield wish
    finally:
        _wish = before
    if wish.number:  # It came after the block had asked for the last time.
        raise_signal(wish.number)


def raise_overdue() -> None:
    """For a long wait within `signals_wished`: raises a signal that was noted `_PATIENCE` ago."""
    if _wish is not None and _wish.number and time.monotonic() - _wish.since > _PATIENCE:
        raise_signal(_wish.number)


@contextmanager
def signals_at_once() -> Iterator[None]:
    """Within `signals_wished`, for work that loses nothing when it is cut off: signals raise, one
    that has come already, too."""
    global _wish
    before, _wish = _wish, None
    try:
        if before is not None and before.number:
            raise_signal(before.number)
        yield
    finally:
        _wish = before


class _Ending:
    """A thread that hears signals while the main one is in C++, where handlers of Python's do not
    run: from the first on, who asks again leaves at once, and all leave within `LEAVE_WITHIN`."""

    def __init__(self, numbers: Collection[int], advice: str) -> None:
        self._numbers, self._advice = numbers, advice
        self.resent = 0  # Signals on their way that are no new wish: see `_signals`.
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        # The interpreter writes the number of each signal here, as a byte, when it arrives.
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._writing)  # The thread then reads the end.

    def _run(self) -> None:
        first, since = 0, 0.0
        while number := int.from_bytes(os.read(self._reading, 1)):
            if number not in self._numbers:
                continue
            if self.resent:
                self.resent -= 1
            elif not first:
                first, since = number, time.monotonic()
                timer = threading.Timer(LEAVE_WITHIN, self._leave, (number,))
                timer.daemon = True
                timer.start()
            elif number == signal.SIGINT or time.monotonic() - since > _ONE_WISH:
                self._leave(number)
        os.close(self._reading)

    def _leave(self, number: int) -> None:
        for say in at_peer_failure:
            with suppress(Exception):
                say()
        text = f"{_WORDS[signal.Signals(number)]}, and left at once{self._advice}\n"
        _within(_LAST_WORDS, lambda: os.write(2, text.encode()))
        leave(128 + number)


@contextmanager
def _signals(advice: str) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP as exceptions, unless whoever started the job ignores them, as a
    shell that runs a script does with SIGINT for what it starts by `&`, and nohup with SIGHUP.

    Where Python drops what is raised (callbacks of the garbage collector, of which JAX has one,
    and finalisers), the signal is sent again.
    """
    heard = False  # One is enough; of more, `_Ending` hears.

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal heard
        if heard:
            return
        heard = True
        if _wish is None:
            raise_signal(number)
        _wish.number, _wish.since = number, time.monotonic()

    def dropped(event: sys.UnraisableHookArgs) -> None:
        nonlocal heard
        # The hook is told of any exception that is dropped; all but those of signals go on to it.
        if not issubclass(event.exc_type, KeyboardInterrupt | Terminated):
            hook(event)
            return
        heard = False  # That one did not count.
        ending.resent += 1
        number = exit_status(event.exc_value or KeyboardInterrupt()) - 128
        # Later, from another thread: the callback that swallowed it is still at work.
        again = threading.Timer(_AGAIN_IN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    before = {number: signal.getsignal(number) for number in _WORDS}
    mine = [number for number in _WORDS if before[number] not in (signal.SIG_IGN, None)]
    ending = _Ending(mine, advice)
    for number in mine:
        signal.signal(number, handle)
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number in mine:
            signal.signal(number, before[number])
        ending.close()


@contextmanager
def signals_delayed() -> Iterator[None]:
    """Signals wait for the end of what may not be cut in two; for the main thread."""
    caught: list[int] = []
    # Who ignores a signal goes on ignoring it: SIG_IGN and SIG_DFL are numbers, no functions.
    before = {number: signal.getsignal(number) for number in _WORDS}
    mine = [number for number in before if callable(before[number])]
    for number in mine:
        signal.signal(number, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
        if caught:  # One is enough: it ends the job.
            handler = before[signal.Signals(caught[0])]
            assert callable(handler)
            # Called and not raised anew: it is no second signal.
            handler(caught[0], None)


def prepare_job(speak: bool = True) -> None:
    """For a process that is a job: its module calls this before its own imports, which bring in JAX
    and take seconds.

    XLA logs at level ERROR that a program takes long to compile, in a block that asks for a bug
    report. What ends a job comes as an exception, or at level FATAL. Until `exit_on_user_error`
    takes over, a signal prints its word, if the job shall `speak`, and ends the process with 128
    and its number: where imports are cut depends on chance.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    # A handler that ends at once and no KeyboardInterrupt: raised inside an import, that prints a
    # traceback, or is swallowed by an `except` around the import of an optional part.
    def end(number: int, _: FrameType | None) -> None:
        if speak:
            os.write(2, f"{_WORDS[signal.Signals(number)]}\n".encode())
        os._exit(128 + number)

    # Not where whoever started the job ignores a signal, or a program around it handles it.
    for number in _WORDS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, end)


def _quiet_after_failure() -> None:
    """When one array of a checkpoint fails, those under way find the event loop of the reader or
    writer closed, and each would print a traceback beside the sentence that says what happened;
    those that have not begun, that a coroutine was never awaited."""
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    before = sys.unraisablehook

    def hook(event: sys.UnraisableHookArgs) -> None:
        if str(event.exc_value) != "Event loop is closed":
            before(event)

    sys.unraisablehook = hook
