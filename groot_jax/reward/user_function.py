"""Users' functions as rewards: importing one, calling it under a deadline, checking its result.

Whatever goes wrong in a call becomes a UserError of one sentence that names the function and the
sentence it was called for, never a number. This room imports nothing of JAX.
"""

from __future__ import annotations

import ctypes
import difflib
import functools
import importlib
import math
import os
import re
import reprlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from groot_jax.data.labeling import Labeling
from groot_jax.errors import Terminated, UserError

if TYPE_CHECKING:
    from groot_jax.reward.rewards import BatchReward, Reward, RewardSpec, Words

Function = Callable[..., Any]  # The user's; what it takes and returns is seen when it is called.
T = TypeVar("T")


class Board(ctypes.Structure):
    """What a lane is at, for whoever watches over its calls from another thread or process.

    Numbers of eight bytes each: of this process, or (`Board.from_buffer`) in memory that two
    processes share. Each is written whole, so that it needs no lock.
    """

    _fields_ = (
        ("item", ctypes.c_int64),
        ("call", ctypes.c_int64),
        ("began", ctypes.c_double),
        ("beat", ctypes.c_int64),
        ("retried", ctypes.c_int64),
        ("dropped", ctypes.c_int64),
        ("abstained", ctypes.c_int64),
        ("asked", ctypes.c_int64),
    )

    item: int  # Number, in its chunk, of the item in work.
    call: int  # Number, among the chunk's triples, of the one in work; of a batch the first.
    began: float  # `time.monotonic()` at which the user's call began; 0.0 outside of one.
    beat: int  # Grows while the lane waits before it calls again.
    # Since the chunk began: calls made once more, candidates left out after errors, and by None;
    # all that were asked for.
    retried: int
    dropped: int
    abstained: int
    asked: int

    def clear(self) -> None:
        """As before a chunk."""
        ctypes.memset(ctypes.addressof(self), 0, ctypes.sizeof(self))


# Files whose frames say nothing about where a user's code went wrong: this one, which calls it, and
# that of importlib.import_module.
_PASSED = (__file__, importlib.__file__)
_FUNCTION = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def import_function(name: str) -> Function:
    """The function of `package.module:function`; the current directory is importable. A method of
    a class is `package.module:Class.method`.

    Raises a UserError that names the module and the cause.
    """
    if not _FUNCTION.fullmatch(name):
        raise UserError(f"config.reward.name: {name!r} is not of the form package.module:function")
    module_name, _, path = name.partition(":")
    # "" stands for the current directory: of `python -c` it is on the path already.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    process = os.getpid()
    try:
        try:
            target = importlib.import_module(module_name)
        finally:
            # A child that their module forked would go on as a second job, or scoring process.
            if os.getpid() != process:
                os._exit(0)
    # All that there is: a script without a main guard may call sys.exit.
    except BaseException as error:
        if _is_ours(error):
            raise
        raise UserError(
            f"config.reward.name: module {module_name!r} of reward {name!r} does not import: "
            f"{_describe(error)}"
        ) from None
    for attribute in path.split("."):
        if not hasattr(target, attribute):
            near = difflib.get_close_matches(attribute, dir(target), n=1)
            raise UserError(
                f"config.reward.name: module {module_name!r} has no function {path!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        target = getattr(target, attribute)
    if not callable(target):
        raise UserError(
            f"config.reward.name: {name!r} is not a function but of type {type(target).__name__}"
        )
    return target


def guard(name: str, function: Function, spec: RewardSpec, board: Board) -> Reward:
    """A function of (candidate, gold, words) as a reward that raises UserErrors only.

    It has `spec.deadline` seconds a call; an alarm ends it in the main thread, elsewhere whoever
    reads the board has to watch. A call that fails is made `spec.retries` times more. NaN stands
    for a candidate without a reward: None was returned, or every call failed under
    `spec.on_error="drop"`.
    """

    def reward(candidate: Labeling, gold: Labeling, words: Words) -> float:
        def read(*arguments: Any) -> float | _NoNumber | None:
            return _read(function(*arguments))

        def call() -> float:
            arguments = (candidate, gold, words)
            at = functools.partial(called_for, name, words)
            value = _call(read, arguments, spec.deadline, board, at)
            return _checked(value, name, words, board)

        board.asked += 1
        try:
            return _again(call, spec.retries, board)
        except UserError as error:
            return _dropped(error, spec, board)

    return reward


# Seconds before a call is made once more: 0.5, 1, 2, ... and at most 30, so that ten of them bridge
# a service that is away for three minutes.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_BEAT = 0.1  # Seconds between signs of life while it waits.


def _again(call: Callable[[], T], retries: int, board: Board) -> T:
    """What the call returns, of `retries` + 1 times that it is made; the last UserError counts."""
    for attempt in range(retries):
        try:
            return call()
        except UserError:
            board.retried += 1
        end = time.monotonic() + min(_FIRST_PAUSE * 2.0**attempt, _LONGEST_PAUSE)
        while (left := end - time.monotonic()) > 0:
            board.beat += 1
            time.sleep(min(_BEAT, left))
    return call()


_told: set[str] = set()  # Rewards of which this process has said that candidates are dropped.


def _dropped(error: UserError, spec: RewardSpec, board: Board) -> float:
    """NaN where a failing candidate is to be left out; else raises the error."""
    if spec.on_error != "drop":
        raise error
    board.dropped += 1
    if spec.name not in _told:
        _told.add(spec.name)
        said = (
            f"warning: {error}; config.reward.on_error=drop leaves the candidate out, and others "
            "without saying so again"
        )
        with suppress(Exception):  # Their function may have closed the stream.
            print(said, file=sys.stderr, flush=True)
    return math.nan


def guard_batch(name: str, function: Function, spec: RewardSpec, board: Board) -> BatchReward:
    """As `guard`, for a function that takes three lists and returns a list.

    When all calls of a batch fail, its items are tried one by one, to find the sentence to name or
    the candidates to drop.
    """

    def listing(*lists: list) -> list[float | _NoNumber | None]:
        # Copies: theirs to sort or to empty. A generator does its work, and fails, only here:
        # inside the call that is watched.
        values = function(*map(list, lists))
        return [_read(v) for v in (values if isinstance(values, Iterable) else [values])]

    def once(lists: tuple[list, list, list]) -> list[float]:
        words = lists[2]
        at = functools.partial(called_for, name, words[0], len(words))
        values = _call(listing, lists, spec.deadline, board, at)
        if len(values) != len(words):
            raise _WrongLength(
                f"{at()} returned {len(values)} values for {len(words)} "
                "candidates, but in batch form it returns a list with one float for each"
            )
        return [_checked(v, name, own, board) for v, own in zip(values, words, strict=True)]

    def score(
        candidates: Sequence[Labeling], golds: Sequence[Labeling], words: Sequence[Words]
    ) -> list[float]:
        if not candidates:
            return []
        lists = (list(candidates), list(golds), list(words))
        board.asked += len(candidates)
        try:
            return _again(lambda: once(lists), spec.retries, board)
        except _WrongLength:
            raise  # No matter of one candidate: what is returned has another form.
        except UserError as error:
            if len(candidates) == 1:
                return [_dropped(error, spec, board)]
            rewards = []
            for candidate, gold, own in zip(*lists, strict=True):
                try:
                    rewards += once(([candidate], [gold], [own]))
                except UserError as alone:
                    rewards.append(_dropped(alone, spec, board))
            if spec.on_error == "drop":
                return rewards
            raise  # None fails alone: a batch of this size is too much, say.

    return score


class _WrongLength(UserError):
    """Of what a batch-form reward returned."""


class _Late(BaseException):
    """Raised inside a user's call at its deadline; no `except Exception` of theirs stops it."""


def _call(
    function: Callable[..., T],
    arguments: tuple,
    deadline: float,
    board: Board,
    at: Callable[[], str],
) -> T:
    """Calls a user's function with the board set. Raises a UserError, which begins with `at`, for
    what it raises and, where the alarm can be had, for a call that is not back in time."""
    # Python runs signal handlers in the main thread and lets only that one set them.
    alarm = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGALRM, _on_alarm) if alarm else None
    process = os.getpid()
    board.began = time.monotonic()
    try:
        try:
            if alarm:
                # Again and again: a bare `except` of theirs may have swallowed the first.
                signal.setitimer(signal.ITIMER_REAL, deadline, deadline)
            return function(*arguments)
        finally:
            # A child that their function forked comes back here, too. It has the board and the pipe
            # of its parent, and would give the parent's answer a second time.
            if os.getpid() != process:
                os._exit(0)
            # Before anything else is done about an exception, which the next alarm would end.
            if alarm:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                signal.signal(signal.SIGALRM, previous or signal.SIG_DFL)
            board.began = 0.0
    except _Late:
        raise UserError(late_message(at(), deadline)) from None
    except BaseException as error:
        if _is_ours(error):
            raise
        # Without its cause, by which a job tells signals, and lost processes of the run: a user's
        # KeyboardInterrupt or ConnectionError is neither.
        raise UserError(f"{at()} raised {_describe(error)}") from None


def _is_ours(error: BaseException) -> bool:
    """Whether a signal to the job may have raised it, and not what was called. Python raises those
    in the main thread alone, and a scoring process ignores Ctrl-C."""
    return (
        isinstance(error, KeyboardInterrupt | Terminated)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    )


def _on_alarm(signum: int, frame: object) -> None:
    raise _Late


class _NoNumber(NamedTuple):
    """What stands for a value that is no number: how it reads, and whether it is a list."""

    text: str
    listed: bool


def _read(value: Any) -> float | _NoNumber | None:
    """What a function returned, as a number. Part of its call: `__float__` may be theirs, and that
    of JAX waits until the number is worked out."""
    if value is None:
        return None
    listed = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    try:
        # float("0.5") would be a number, and float(b"0.5") too: a mistake of theirs stays one.
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):  # What float says of what is no number.
        number = math.nan
    except Exception:
        if not listed:
            raise
        number = math.nan  # A tensor of several: each library has an error of its own.
    if not -1e-9 <= number <= 1.0 + 1e-9:  # nan is neither, so it ends here as well.
        return _NoNumber(reprlib.repr(value), listed)
    return number


def _checked(value: float | _NoNumber | None, name: str, words: Words, board: Board) -> float:
    """The value as a float of [0, 1]: True is 1.0, and 1.0000000001 is 1.0, as sums of floats that
    should be 1 may lie beyond; NaN for None. Raises a UserError for what is none."""
    if value is None:
        board.abstained += 1
        return math.nan
    if isinstance(value, _NoNumber):
        raise UserError(
            f"{called_for(name, words)} returned {value.text}, which is no number in [0, 1]"
            + ("; a function of lists wants config.reward.batch=true" if value.listed else "")
        )
    return min(max(value, 0.0), 1.0)


def called_for(name: str, words: Words, batch: int = 1) -> str:
    """How a UserError about a call begins; of a `batch` of several, `words` is the first."""
    several = f"a batch of {batch} that begins with " if batch > 1 else ""
    return f'reward {name!r}, called for {several}the sentence "{" ".join(words)}",'


def late_message(at: str, deadline: float) -> str:
    """A UserError's sentence about the call `at` that was not back in time."""
    return f"{at} was not back after {deadline:g} seconds; mend it, or raise config.reward.deadline"


def _describe(error: BaseException) -> str:
    """`ValueError: no such brand (my_module.py:12)`: type, text and the user's innermost line."""
    text = ""
    frames = [
        frame
        # Outermost first. Imports of the interpreter's own are in files named "<frozen ...>".
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in _PASSED and not frame.filename.startswith("<frozen")
    ]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    with suppress(Exception):  # Theirs to write, like the class.
        text = " ".join(str(error).split())
    return type(error).__name__ + (f": {text}" if text else "") + where
