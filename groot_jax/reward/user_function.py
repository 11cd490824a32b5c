"""Users' functions as rewards: importing one, calling it under a deadline, checking its result.

Whatever goes wrong in a call becomes a UserError of one sentence that names the function and the
sentence it was called for, never a number. This room imports nothing of JAX.
"""

from __future__ import annotations

import ctypes
import difflib
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
from typing import TYPE_CHECKING, Any, TypeVar

from groot_jax.data.labeling import Labeling
from groot_jax.errors import UserError

if TYPE_CHECKING:
    from groot_jax.reward.rewards import BatchReward, Reward, Words

Function = Callable[..., Any]  # The user's; what it takes and returns is seen when it is called.
T = TypeVar("T")


class Board(ctypes.Structure):
    """What a lane is at, for whoever watches over its calls from another thread or process.

    Two numbers of eight bytes each: of this process, or (`Board.from_buffer`) in memory that two
    processes share. Each is written whole, so that it needs no lock.
    """

    _fields_ = (("item", ctypes.c_int64), ("began", ctypes.c_double))

    item: int  # Number, in its chunk, of the item in work.
    began: float  # `time.monotonic()` at which the user's call began; 0.0 outside of one.


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
    try:
        target = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # A script without a main guard may call sys.exit.
        raise UserError(
            f"config.reward.name: module {module_name!r} of reward {name!r} does not import: "
            f"{_describe(error)}"
        ) from error
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


def guard(name: str, function: Function, deadline: float, board: Board) -> Reward:
    """A function of (candidate, gold, words) as a reward that raises UserErrors only.

    It has `deadline` seconds a call; an alarm ends it in the main thread, elsewhere whoever reads
    the board has to watch.
    """

    def reward(candidate: Labeling, gold: Labeling, words: Words) -> float:
        arguments = (candidate, gold, words)
        value = _call(function, arguments, deadline, board, lambda: called_for(name, words))
        return _checked(value, name, words)

    return reward


def guard_batch(name: str, function: Function, deadline: float, board: Board) -> BatchReward:
    """As `guard`, for a function that takes three lists and returns a list.

    When a call fails, its items are tried one by one to find the sentence to name.
    """

    def listing(*lists: list) -> list:
        # A generator does its work, and fails, only here: inside the call that is watched.
        values = function(*lists)
        return list(values) if isinstance(values, Iterable) else [values]

    def score(
        candidates: Sequence[Labeling], golds: Sequence[Labeling], words: Sequence[Words]
    ) -> list[float]:
        count = len(candidates)
        if not count:
            return []
        lists = (list(candidates), list(golds), list(words))

        def at() -> str:
            return called_for(name, words[0], count)

        try:
            values = _call(listing, lists, deadline, board, at)
        except UserError:
            if count > 1:
                for candidate, gold, own in zip(*lists, strict=True):
                    score([candidate], [gold], [own])
            raise  # None fails alone: a batch of this size is too much, say.
        if len(values) != count:
            raise UserError(
                f"{at()} returned {len(values)} values for {count} "
                "candidates, but in batch form it returns a list with one float for each"
            )
        return [_checked(value, name, own) for value, own in zip(values, words, strict=True)]

    return score


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
    board.began = time.monotonic()
    try:
        try:
            if alarm:
                # Again and again: a bare `except` of theirs may have swallowed the first.
                signal.setitimer(signal.ITIMER_REAL, deadline, deadline)
            return function(*arguments)
        finally:
            # Before anything else is done about an exception, which the next alarm would end.
            if alarm:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                signal.signal(signal.SIGALRM, previous or signal.SIG_DFL)
            board.began = 0.0
    except _Late:
        raise UserError(late_message(at(), deadline)) from None
    except (Exception, SystemExit) as error:
        raise UserError(f"{at()} raised {_describe(error)}") from error


def _on_alarm(signum: int, frame: object) -> None:
    raise _Late


def _checked(value: Any, name: str, words: Words) -> float:
    """The value as a float of [0, 1]: True is 1.0, and 1.0000000001 is 1.0, as sums of floats that
    should be 1 may lie beyond. Raises a UserError for any other."""
    try:
        # float("0.5") would be a number, and float(b"0.5") too: a mistake of theirs stays one.
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except Exception:
        number = math.nan
    if not -1e-9 <= number <= 1.0 + 1e-9:  # nan is neither, so it ends here as well.
        at = called_for(name, words)
        listed = isinstance(value, Iterable) and not isinstance(value, str | bytes)
        raise UserError(
            f"{at} returned {reprlib.repr(value)}, which is no number in [0, 1]"
            + ("; a function of lists wants config.reward.batch=true" if listed else "")
        )
    return min(max(number, 0.0), 1.0)


def called_for(name: str, words: Words, batch: int = 1) -> str:
    """How a UserError about a call begins; of a `batch` of several, `words` is the first."""
    several = f"a batch of {batch} that begins with " if batch > 1 else ""
    return f'reward {name!r}, called for {several}the sentence "{" ".join(words)}",'


def late_message(at: str, deadline: float) -> str:
    """A UserError's sentence about the call `at` that was not back in time."""
    return f"{at} was not back after {deadline:g} seconds; mend it, or raise config.reward.deadline"


def _describe(error: BaseException) -> str:
    """`ValueError: no such brand (my_module.py:12)`: type, text and the user's innermost line."""
    frames = [
        frame
        # Outermost first. Imports of the interpreter's own are in files named "<frozen ...>".
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in _PASSED and not frame.filename.startswith("<frozen")
    ]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return type(error).__name__ + (f": {text}" if text else "") + where
