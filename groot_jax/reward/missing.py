"""Candidates without a reward: how many there were, and when they are too many to go on.

A service that is away would otherwise leave every pool empty, and every evaluation at 0, to the end
of a training that looks as if it had worked.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from groot_jax.errors import UserError
from groot_jax.reward.rewards import RewardSpec

WINDOW = 1000  # Calls that are looked back upon.
_FEW = 10  # Calls; of fewer, a share says nothing.


class Counts(NamedTuple):
    """Calls of users' functions: of a sum of two of them each candidate is two."""

    asked: int = 0
    dropped: int = 0  # After errors; see config.reward.on_error.
    abstained: int = 0  # None was returned.

    def plus(self, other: Counts) -> Counts:
        return Counts(*map(sum, zip(self, other, strict=True)))

    @property
    def none_left(self) -> bool:
        """Whether no call gave a reward."""
        return self.dropped + self.abstained >= self.asked


class Window:
    """The last `WINDOW` calls, or the chunks of calls that they lie in."""

    def __init__(self, spec: RewardSpec) -> None:
        self._spec = spec
        self._chunks: deque[Counts] = deque()
        self._sum = Counts()

    def add(self, chunk: Counts) -> None:
        """Raises UserError where more than `spec.max_dropped` of the calls were dropped, or none
        gave a reward."""
        if not chunk.asked:  # Of built-in rewards, without end.
            return
        self._chunks.append(chunk)
        self._sum = self._sum.plus(chunk)
        while self._sum.asked - self._chunks[0].asked >= WINDOW:
            oldest = self._chunks.popleft()
            self._sum = self._sum.plus(Counts(*(-count for count in oldest)))
        # A hundred may be dropped, however soon they come.
        if self._sum.dropped > most_dropped(self._spec, self._sum.asked):
            raise too_many_dropped(
                self._spec, f"of the last {self._sum.asked} candidates", self._sum
            )
        if self._sum.asked >= WINDOW and self._sum.none_left:
            raise _none_left(self._spec, f"none of the last {self._sum.asked} candidates")


def most_dropped(spec: RewardSpec, asked: int = 0) -> float:
    """How many of the last calls may be dropped."""
    return spec.max_dropped * max(asked, WINDOW)


class OneEvaluation:
    """The calls of one evaluation; `expected` of them in the end."""

    def __init__(self, spec: RewardSpec, expected: int) -> None:
        self._spec, self._expected, self.sum = spec, expected, Counts()

    def add(self, chunk: Counts) -> None:
        """Raises UserError where more are dropped than `spec.max_dropped` of all, or when all are
        asked and none has a reward."""
        self.sum = self.sum.plus(chunk)
        if self._expected < _FEW:
            return
        # As soon as that is certain: a service that is away takes a pause or two for each call.
        if self.sum.dropped > self._spec.max_dropped * self._expected:
            where = f"of the {self._expected} candidates of an evaluation"
            raise too_many_dropped(self._spec, where, self.sum)
        if self.sum.asked >= self._expected and self.sum.none_left:
            raise _none_left(
                self._spec, f"none of the {self._expected} candidates of an evaluation"
            )

    def line(self) -> str:
        """What is to be said of candidates that count as 0; nothing where there are none."""
        return (
            f"reward {self._spec.name!r}: of {self._expected} candidates of an evaluation "
            f"{self.sum.dropped} were dropped after errors and {self.sum.abstained} had no reward "
            "(None); they count as 0"
            if self.sum.dropped or self.sum.abstained
            else ""
        )


def too_many_dropped(spec: RewardSpec, where: str, found: Counts) -> UserError:
    return UserError(
        f"reward {spec.name!r}: {where} that it was asked for, {found.dropped} were dropped after "
        f"errors, more than config.reward.max_dropped={spec.max_dropped:g} allows; the first error "
        "is told above: mend the reward, or what it waits for, and run the same command again"
    )


def _none_left(spec: RewardSpec, where: str) -> UserError:
    return UserError(
        f"reward {spec.name!r}: {where} that it was asked for had a reward: it returned None, or "
        "was dropped after errors (config.reward.on_error=drop); it has to return numbers for some"
    )
