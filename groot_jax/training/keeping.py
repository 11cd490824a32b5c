"""When the state of a system is saved, and what happens when that fails, or when a signal comes.

All processes of a run save at the same step: those who see a reason tell the others.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

from ml_collections import ConfigDict
from rich.console import Console

from groot_jax.contrast.update import TrainState
from groot_jax.errors import RunAgain, UserError, Wish, raise_signal
from groot_jax.runtime.hosts import Hosts
from groot_jax.runtime.printing import reader_gone
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.evaluations import Meta
from groot_jax.training.faults import Elsewhere
from groot_jax.training.monitor import say

# Seconds between two tries of a save, the last of them again and again.
_PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0)
# Seconds of training after which processes ask each other again; they do so in a message that the
# next update hides, but a thousand messages a second would be felt.
_ASK_EVERY = 0.5
_LISTEN_EVERY = 0.2  # Seconds between two looks for a signal while a save waits for its next try.

# What a process tells of a save, in JSON: [why it failed, whether only since it did elsewhere].
_Told: TypeAlias = list[Any]
_WELL: _Told = ["", False]


class Keeper:
    """Decides when one system is saved."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        system: str,
        settings: ConfigDict,
        hosts: Hosts,
        console: Console,
        wish: Wish,
    ) -> None:
        """`settings`: config.checkpoint."""
        self._checkpoints, self._system, self._settings = checkpoints, system, settings
        self._hosts, self._console, self._wish = hosts, console, wish
        self.signal = 0  # The one that ends the job, once all processes know of it.
        self._saved = -1  # The last step of which a save has begun.
        self._last = time.monotonic()  # When that was.
        self._asked, self._asked_at = 0, self._last  # The last step at which processes asked; when.
        self._ask_at = 0  # The step at which they ask next.
        self._failed_at: float | None = None  # Since when saves have failed.
        self._tries, self._again_at = 0, 0.0

    def due(self, step: int) -> bool:
        """After each update, in all processes: whether the state is to be saved now, by the number
        of steps, by the clock, after a save that failed, since a signal has come, or since standard
        output takes no more, which ends a job like one."""
        every = self._settings.every_steps
        by_steps = every > 0 and step % every == 0
        if step < self._ask_at:
            return by_steps
        if not self._wish.number and reader_gone(self._console):
            self._wish.number = signal.SIGPIPE
        writing = self._checkpoints.writing
        told = _told(self._checkpoints.poll)
        if writing and told == _WELL and not self._checkpoints.writing:
            self._well()
        # For the clock process 0 speaks alone: those of others run otherwise.
        number, problem, late, pause = self._hosts.merge(
            [self._wish.number, told, self._late(), self._pause(step)], _agreed
        )
        self._ask_at = step + pause
        self.signal = self.signal or number
        if problem and self.signal and self._hosts.count == 1:
            # Asked to end, it tries once more at once, with the state at hand.
            self._saved = -1
        elif problem:
            # It fails in the others within the same moment: what they say of it may say more.
            self._save_failed(self._first(self._checkpoints.wait, told))
        return bool(by_steps or (late and not problem) or self.signal)

    def _late(self) -> bool:
        now = time.monotonic()
        if self._failed_at is not None:
            return now >= self._again_at
        every = self._settings.every_minutes * 60
        # One at a time: on a slow disk, the next begins when the last has landed.
        return every > 0 and now - self._last >= every and not self._checkpoints.writing

    def _pause(self, step: int) -> int:
        """Updates until processes ask again; alone, a process asks itself after each."""
        if self._hosts.count == 1:
            return 1
        now = time.monotonic()
        seconds = (now - self._asked_at) / max(step - self._asked, 1)
        self._asked, self._asked_at = step, now
        return max(1, min(int(_ASK_EVERY / max(seconds, 1e-6)), 1000))

    @property
    def asked_to_end(self) -> int:
        """The signal that this process has been sent, or all know of; 0: none."""
        return self.signal or self._wish.number

    def save(self, step: int, state: TrainState, begin: Callable[[], None]) -> None:
        """Begins a save at a step, where none has begun there. Raises UserError where saves have
        failed for `checkpoint.retry_minutes`; until then it is tried again later."""
        if step == self._saved:
            return
        # Within `begin` main threads wait for each other: what can be known before it is.
        problem = self._first(partial(self._checkpoints.ready, state))
        if not problem:
            self._well()  # On a slow disk it has waited for the save before, which has landed.
            problem = self._first(begin)
        if problem:
            self._save_failed(problem)
            return
        self._saved, self._last = step, time.monotonic()

    def _first(self, check: Callable[[], None], told: _Told = _WELL) -> str:
        """The sentence of the first process in which a check fails, or which had something to tell
        before it; empty: none has."""
        # RunAgain comes through: the others are not where they could be told.
        told = told if told != _WELL else _told(check)
        number, problem = self._hosts.merge([self._wish.number, told], _agreed)
        self.signal = self.signal or number
        return str(problem)

    def landed(self, step: int, state: TrainState, begin: Callable[[], None]) -> None:
        """Waits until the save of a step has landed, trying again where it fails."""
        while True:
            self.save(step, state, begin)
            if problem := self._first(self._checkpoints.wait):
                self._save_failed(problem)
            if self._saved == step:
                return
            self._pause_between_tries()

    def record(self, step: int, meta: Meta) -> None:
        """Writes the meta of a step anew, after its evaluation; as `landed` where it is the last,
        else the next save makes up for it."""
        while True:
            problem = self._first(partial(self._checkpoints.record, step, meta))
            if not problem:
                return
            self._failed(problem)
            if not meta.finished:
                return
            self._pause_between_tries()

    def _pause_between_tries(self) -> None:
        """In all processes; a signal to any of them ends it, and what follows is the last try."""
        while not self.signal:
            left = self._again_at - time.monotonic()
            self.signal, over = self._hosts.merge([self._wish.number, left <= 0], _first_of_each)
            if over:
                return
            if not self.signal:
                time.sleep(min(max(left, 0.0), _LISTEN_EVERY))

    def _well(self) -> None:
        """The last save has landed: if no part of it failed, the next failure is a new one."""
        if self._saved >= 0:
            self._failed_at, self._tries = None, 0

    def _save_failed(self, sentence: str) -> None:
        """In all processes, whichever it failed in: they begin it anew together."""
        self._saved = -1
        self._checkpoints.abandon()
        self._failed(sentence)

    def _failed(self, sentence: str) -> None:
        """Sets the time of the next try; raises UserError where there is none."""
        now = time.monotonic()
        self._failed_at = now if self._failed_at is None else self._failed_at
        left = self._settings.retry_minutes * 60 - (now - self._failed_at)
        if self._hosts.count == 1:
            self.signal = self.asked_to_end
        if self.signal:  # Whoever sent it may start the job again, where there is room by then.
            say(self._console, f"{self._system}: {sentence}")
            self.leave()
        if left <= 0:
            raise UserError(sentence)
        pause = min(_PAUSES[min(self._tries, len(_PAUSES) - 1)], left)
        self._tries, self._again_at = self._tries + 1, now + pause
        say(self._console, f"{self._system}: {sentence}; it is tried again in {pause:.0f} s")

    def leave_if_asked(self, error: UserError) -> None:
        """Where a signal came before the error, it ends the job: whoever sent it may start that
        again, and the error come no more."""
        if number := self.asked_to_end:
            say(self._console, f"{self._system}: {error}")
            raise_signal(number)

    def leave(self) -> None:
        """Ends the job as the signal does that all processes know of."""
        raise_signal(self.signal)


def _told(check: Callable[[], None]) -> _Told:
    try:
        check()
    except RunAgain:
        raise
    except UserError as error:
        return [str(error), isinstance(error, Elsewhere)]
    return _WELL


def _foremost(said: list[_Told]) -> str:
    """The first sentence of a process about itself; else the first that there is, else nothing."""
    sentences = [one for one in said if one != _WELL]
    return str(min(sentences, key=itemgetter(1), default=_WELL)[0])


def _agreed(said: list[list[Any]]) -> list[Any]:
    """[signal, what its save tells, more], of all processes -> what all of them go by: the first
    signal, the foremost sentence, and process 0's more."""
    signals, told, *more = zip(*said, strict=True)
    return [next(filter(None, signals), 0), _foremost([*told]), *(first for first, *_ in more)]


def _first_of_each(said: list[list[object]]) -> list[object]:
    """[signal, whether a pause is over], of all processes -> the first signal; by process 0's
    clock."""
    signals, (over, *_) = zip(*said, strict=True)
    return [next(filter(None, signals), 0), over]
