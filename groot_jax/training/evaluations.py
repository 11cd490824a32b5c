"""What a system is told by on dev: its evaluations, which of them is the best, and the meta that
stands beside each checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass
class Evaluation:
    """Dev metrics at a step."""

    step: int
    metrics: dict[str, float]


# Written where there is something to be written.
_OPTIONAL = ("sums", "flight", "averaged", "start", "origin", "gold", "gold_since", "due", "owed")


@dataclass
class Meta:
    """What a system needs to continue besides its arrays."""

    evaluations: list[Evaluation] = field(default_factory=list)
    finished: bool = False
    seconds: float = 0.0  # spent in training so far
    sums: dict[str, Any] | None = None  # of the updates since the last evaluation, as JSON
    flight: list[list[int]] = field(default_factory=list)  # shapes [B, K, T] of beams on their way
    averaged: bool = False  # whether what is to be used is an average of the parameters
    start: float | None = None  # reward@1 on dev of what it started from, where that is known
    origin: int | None = None  # the step of stage 0 that it started from
    gold: float | None = None  # gold's mean log-probability that a fall is measured from
    # Of the updates since the last evaluation: gold's log-probabilities, summed; sentences
    gold_since: list[float] = field(default_factory=list)
    due: bool = False  # whether its state is still to be evaluated
    # A line of metrics.jsonl that could not be written, of updates up to {"step", "values"}
    owed: dict[str, Any] | None = None

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation; 0: there is none yet."""
        return self.evaluations[-1].step if self.evaluations else 0

    def to_json(self) -> dict[str, object]:
        """{"looks": [{"step": 4, "reward@1": 0.9, ...}, ...], "finished": false, "seconds": 7.5}

        On disk the evaluations keep the key that all checkpoints have them under.
        """
        more = {name: getattr(self, name) for name in _OPTIONAL}
        # By type: a reward of 0.0 is something.
        return {
            "looks": [{"step": one.step, **one.metrics} for one in self.evaluations],
            "finished": self.finished,
            "seconds": self.seconds,
            **{key: value for key, value in more.items() if type(value) is float or value},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Meta:
        """Reads what `to_json` made. Raises ValueError, TypeError, KeyError or AttributeError where
        it is something else."""
        evaluations = [
            Evaluation(int(one["step"]), {k: float(v) for k, v in one.items() if k != "step"})
            for one in value["looks"]
        ]
        return cls(
            evaluations,
            bool(value["finished"]),
            float(value["seconds"]),
            sums=value.get("sums"),
            flight=[[int(n) for n in shape] for shape in value.get("flight", ())],
            averaged=bool(value.get("averaged", False)),
            start=value.get("start"),
            origin=value.get("origin"),
            gold=value.get("gold"),
            gold_since=[float(x) for x in value.get("gold_since", ())],
            due=bool(value.get("due", False)),
            owed=_line(value.get("owed")),
        )

    def worse(self, tie: float) -> str:
        """A sentence where the best on dev is below what the system started from, by more than
        `tie`; else nothing."""
        if self.start is None or not self.evaluations:
            return ""
        # A system of which that is known is told by its reward.
        best = max(self.evaluations, key=lambda one: one.metrics["reward@1"])
        found = best.metrics["reward@1"]
        if found >= self.start - tie:
            return ""
        return (
            f"its best on dev (reward@1 {found:.3f}, at step {best.step}) is worse than what it "
            f"started from ({self.start:.3f})"
        )


def _line(owed: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if owed is None:
        return None
    return {"step": int(owed["step"]), "values": {k: float(v) for k, v in owed["values"].items()}}


# The metrics of an evaluation -> (what has to be high, what decides among those that are high).
Merit: TypeAlias = Callable[[Mapping[str, float]], tuple[float, float]]


def by_reward(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Of labelers: the reward of rank 1, then the mean over the top k."""
    return metrics["reward@1"], metrics["mean_reward"]


def by_loss(metrics: Mapping[str, float]) -> tuple[float, float]:
    """The lowest loss, by however little."""
    # A training that diverged has the loss NaN, which is neither above nor below any number.
    loss = math.inf if math.isnan(metrics["loss"]) else metrics["loss"]
    return -loss, -loss


def best_evaluation(
    evaluations: Sequence[Evaluation], tie: float, merit: Merit = by_reward
) -> Evaluation | None:
    """The best so far, one after the other: a new one takes the place of the best when that falls
    more than `tie` below the highest first merit so far (the rank-1 reward), or when the new one is
    within `tie` of it and has a higher second merit (the mean over the top k).

    One that has lost its place never comes back: its checkpoint is gone.
    """
    # Under tie .005, as (reward@1, mean): (.800, .5), then (.797, .6), which is within the tie and
    # has the higher mean: best. Then (.8025, .4): the top rises to .8025 and .797 falls out of the
    # tie, so that the third is best, though the first would be within the tie as well.
    best: Evaluation | None = None
    top = -math.inf
    for one in evaluations:
        top = max(top, merit(one.metrics)[0])
        near = [x for x in (best, one) if x and merit(x.metrics)[0] >= top - tie]
        # Of equals the earlier one: nothing speaks for more training.
        best = max(near, key=lambda x: (merit(x.metrics)[1], -x.step))
    return best


def best_held(
    evaluations: Sequence[Evaluation], steps: Collection[int], tie: float, merit: Merit
) -> Evaluation | None:
    """The best, or the best of those whose checkpoints are there, should its own be lost."""
    best = best_evaluation(evaluations, tie, merit)
    if best is None or best.step in steps:
        return best
    return best_evaluation([one for one in evaluations if one.step in steps], tie, merit)
