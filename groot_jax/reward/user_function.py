"""Users' functions as rewards: importing one, calling it under a deadline, checking its result.

Whatever goes wrong in a call becomes a UserError of one sentence that names the function and the
sentence it was called for, never a number. This room imports nothing of JAX.
"""

from __future__ import annotations

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
from collections.abc import Callable, Iterable, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

from groot_jax.data.labeling import Labeling
from groot_jax.errors import UserError

if TYPE_CHECKING:
    from groot_jax.reward.rewards import BatchReward, Reward, Words


class Board:
    """What a lane is at, for whoever watches over its calls from another thread or process.

    `cells`: two numbers to keep it in, of this process or mapped into the memory of several.
    """

    def __init__(self, cells: MutableSequence[float] | memoryview[float] | None = None) -> None:
        self._cells: Any = [0.0, 0.0] if cells is None else cells

    @property
    def item(self) -> int:
        """Number, in its chunk, of the item in work."""
        return int(self._cells[0])

    @item.setter
    def item(self, index: int) -> None:
        self._cells[0] = index

    @property
    def began(self) -> float:
        """`time.monotonic()` at which the user's call began; 0.0 outside of one."""
        return float(self._cells[1])

    @began.setter
    def began(self, seconds: float) -> None:
        self._cells[1] = seconds


# Files whose frames say nothing about where a user's code went wrong.
_PASSED = (__file__, importlib.__file__)
_FUNCTION = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def import_function(name: str) -> Callable[..., Any]:
    """The function of `package.module:function`; the current directory is importable.

    Raises a UserError that names the module and the cause.
    """
    if not _FUNCTION.fullmatch(name):
        raise UserError(f"config.reward.name: {name!r} is not of the form package.module:function")
    module_name, _, path = name.partition(":")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        target = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
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


def guard(name: str, function: Callable[..., Any], deadline: float, board: Board | None) -> Reward:
    """A function of (candidate, gold, words) as a reward that raises UserErrors only.

    It has `deadline` seconds a call; an alarm ends it in the main thread, elsewhere whoever reads
    the board has to watch.
    """

    def reward(candidate: Labeling, gold: Labeling, words: Words) -> float:
        try:
            value = _call(function, (candidate, gold, words), deadline, board)
        except _Late:
            raise UserError(late_message(called_for(name, words), deadline)) from None
        except (Exception, SystemExit) as error:
            raise UserError(f"{called_for(name, words)} raised {_describe(error)}") from error
        return _checked(value, name, words)

    return reward


def guard_batch(
    name: str, function: Callable[..., Any], deadline: float, board: Board | None
) -> BatchReward:
    """As `guard`, for a function that takes three lists and returns a list.

    When a call fails, its items are tried one by one to find the sentence to name.
    """

    def listing(*lists: list) -> list:
        # A generator does its work, and fails, only here.
        values = function(*lists)
        return list(values) if isinstance(values, Iterable) else [values]

    def score(
        candidates: Sequence[Labeling], golds: Sequence[Labeling], words: Sequence[Words]
    ) -> list[float]:
        count = len(candidates)
        if not count:
            return []
        lists = (list(candidates), list(golds), list(words))
        try:
            values = _call(listing, lists, deadline, board)
        except (Exception, SystemExit, _Late) as error:
            if count > 1:
                for candidate, gold, own in zip(*lists, strict=True):
                    score([candidate], [gold], [own])
            at = called_for(name, words[0], count)
            if isinstance(error, _Late):
                message = late_message(at, deadline)
            else:
                message = f"{at} raised {_describe(error)}"
            raise UserError(message) from error
        if len(values) != count:
            raise UserError(
                f"{called_for(name, words[0], count)} returned {len(values)} values for {count} "
                "candidates, but in batch form it returns a list with one float for each"
            )
        return [_checked(value, name, own) for value, own in zip(values, words, strict=True)]

    return score


class _Late(BaseException):
    """Raised inside a user's call at its deadline; no `except Exception` of theirs stops it."""


def _call(
    function: Callable[..., Any], arguments: tuple, deadline: float, board: Board | None
) -> Any:
    """Calls a user's function with the board set; raises _Late where the alarm can be had."""
    alarm = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGALRM, _on_alarm) if alarm else None
    if board is not None:
        board.began = time.monotonic()
    try:
        if alarm:
            # Again and again: a bare `except` of theirs may have swallowed the first.
            signal.setitimer(signal.ITIMER_REAL, deadline, deadline)
        return function(*arguments)
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, previous or signal.SIG_DFL)
        if board is not None:
            board.began = 0.0


def _on_alarm(signum: int, frame: object) -> None:
    raise _Late


def _checked(value: Any, name: str, words: Words) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except Exception:
        number = math.nan
    if not -1e-9 <= number <= 1.0 + 1e-9:
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
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in _PASSED and not frame.filename.startswith("<frozen")
    ]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return type(error).__name__ + (f": {text}" if text else "") + where
