"""Checkpoints of one system of a work directory: the best on dev and the latest, through Orbax.

W/checkpoints/<system>/<step>/ holds `state` (parameters, optimizer, step) and `meta` (JSON: the
evaluations on dev so far, whether the system is finished). A save lands whole or not at all.
"""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from groot_jax.errors import UserError, signals_delayed
from groot_jax.model.tree import Params

if TYPE_CHECKING:
    from groot_jax.contrast.update import TrainState


@dataclass
class Evaluation:
    """Dev metrics at a step."""

    step: int
    metrics: dict[str, float]


@dataclass
class Meta:
    """What a system needs to continue besides its arrays."""

    evaluations: list[Evaluation] = field(default_factory=list)
    finished: bool = False
    seconds: float = 0.0  # spent in training so far

    def to_json(self) -> dict[str, object]:
        """{"looks": [{"step": 4, "reward@1": 0.9, ...}, ...], "finished": false, "seconds": 7.5}

        On disk the evaluations keep the key that all checkpoints have them under.
        """
        return {
            "looks": [{"step": one.step, **one.metrics} for one in self.evaluations],
            "finished": self.finished,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Meta:
        """Reads what `to_json` made."""
        evaluations = [
            Evaluation(int(one["step"]), {k: v for k, v in one.items() if k != "step"})
            for one in value["looks"]
        ]
        return cls(evaluations, bool(value["finished"]), float(value["seconds"]))


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


def _best_held(
    evaluations: Sequence[Evaluation], steps: Collection[int], tie: float, merit: Merit
) -> Evaluation | None:
    """The best, or the best of those whose checkpoints are there, should its own be lost."""
    best = best_evaluation(evaluations, tie, merit)
    if best is None or best.step in steps:
        return best
    return best_evaluation([one for one in evaluations if one.step in steps], tie, merit)


class _KeepBestAndLatest(checkpoint_managers.PreservationPolicy):
    """Goes by the evaluations at hand: Orbax forgets the metrics of what an earlier run saved."""

    def __init__(self, latest: int, tie: float, merit: Merit) -> None:
        self._latest, self._tie, self._merit = latest, tie, merit
        self.evaluations: Sequence[Evaluation] = ()

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> list[bool]:
        """One answer a checkpoint; they come oldest first."""
        del context
        steps = {c.step for c in checkpoints}
        best = _best_held(self.evaluations, steps, self._tie, self._merit)
        # The latest is for continuing, the best for all else. Both are one where training improves.
        latest = {c.step for c in list(checkpoints)[-self._latest :]}
        return [c.step in latest or (best is not None and c.step == best.step) for c in checkpoints]


class Checkpoints:
    """The checkpoints of one system; a context manager that waits for what is being written."""

    def __init__(
        self,
        workdir: Path,
        system: str,
        *,
        keep: int = 1,
        tie: float = 0.0,
        merit: Merit = by_reward,
        read_only: bool = False,
    ) -> None:
        self.folder = (workdir / "checkpoints" / system).absolute()
        self._tie, self._merit = tie, merit
        self._policy = _KeepBestAndLatest(keep, tie, merit)
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                preservation_policy=self._policy,
                enable_async_checkpointing=True,
                # A reader beside a training job must not clean up what that is writing. (Orbax's
                # own `read_only` does no more, and warns of itself each time.)
                cleanup_tmp_directories=not read_only,
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.wait()
        finally:
            with self._saving():
                self._manager.close()

    @contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise _save_error(error, self.folder) from error

    def wait(self) -> None:
        """Until all saves have landed. Raises UserError when one could not be written."""
        with self._saving():
            self._manager.wait_until_finished()

    def save(self, step: int, state: TrainState, meta: Meta) -> None:
        """Starts writing a checkpoint in the background; the one before has landed by then.

        Raises UserError where the disk has no room, and where the save before failed.
        """
        # Here and not above: who only reads checkpoints has no use for optax.
        from groot_jax.training.optimizer import AveragedState

        # Orbax copies the arrays to the host before `save` returns, so that the next update may
        # take their memory; what goes on in the background is the writing.
        self.wait()
        self._check_room(state)
        self._policy.evaluations = meta.evaluations
        told = meta.to_json()
        if isinstance(state.opt_state, AveragedState):
            told["averaged"] = True  # Whoever reads parameters is to read their average.
        # What this call begins goes on in the background, but not if the call is cut off.
        with self._saving(), signals_delayed():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(told)
                ),
            )

    def _check_room(self, state: TrainState) -> None:
        """Raises UserError before a disk is filled to the brim for nothing."""
        # The arrays, and 5 % and 1 MiB to spare. Checkpoints that are to go stay until the new one
        # is there, so that their room does not count.
        needed = int(sum(leaf.nbytes for leaf in jax.tree.leaves(state)) * 1.05) + 2**20
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            mebibytes = f"{needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} are free"
            raise UserError(_full_disk(self.folder, mebibytes))

    def steps(self) -> list[int]:
        """Of the checkpoints that are there, in order."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The last step; None where there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step of the best checkpoint on dev; None where there is none."""
        latest = self.latest()
        if latest is None:
            return None
        # The latest knows of all evaluations, those of checkpoints that are gone included.
        best = _best_held(self.meta(latest).evaluations, self.steps(), self._tie, self._merit)
        return best.step if best else latest

    def meta(self, step: int) -> Meta:
        """What was saved beside the state of a step. Raises UserError where it cannot be read."""
        restored = self._restore(step, meta=ocp.args.JsonRestore())
        return Meta.from_json(restored.meta)

    def restore(self, step: int, shapes: TrainState) -> TrainState:
        """The state of a step, placed as `shapes`, each with its sharding, say.

        Raises UserError where it cannot be read.
        """
        return self._restore(step, state=ocp.args.StandardRestore(shapes)).state

    def restore_params(self, step: int, shapes: Params) -> Params:
        """What a step is to be used by: its parameters alone, since AdamW's moments are twice as
        large as they are, or their average, where training kept one (`optimizer.ema`)."""
        placed = ocp.checkpoint_utils.construct_restore_args(shapes)
        return self._restore_params(step, shapes, placed)

    def restore_params_to_host(self, step: int, shapes: Params) -> Params:
        """As `restore_params`, as arrays of numpy, whatever devices wrote them."""
        to_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        return self._restore_params(step, shapes, to_host)

    def _restore_params(self, step: int, shapes: Params, restore_args: Any) -> Params:
        averaged = self._restore(step, meta=ocp.args.JsonRestore()).meta.get("averaged", False)

        def in_state(params: Any) -> dict[str, Any]:
            return {"opt_state": {"average": params}} if averaged else {"params": params}

        args = ocp.args.PyTreeRestore(
            item=in_state(shapes),
            restore_args=in_state(restore_args),
            partial_restore=True,  # What `item` does not name is left on disk.
        )
        state = self._restore(step, state=args).state
        return state["opt_state"]["average"] if averaged else state["params"]

    def _restore(self, step: int, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            raise UserError(
                f"{self.folder / str(step)} cannot be read ({type(error).__name__}: "
                f"{_first_line(error)}); if it is damaged, remove that folder and run the same "
                "command again"
            ) from error


def saved_steps(workdir: Path, system: str) -> list[int]:
    """Steps of the checkpoints that have landed, in order; none where there is no such system."""
    # A save under way has a name such as 4.orbax-checkpoint-tmp until it is whole.
    folder = workdir / "checkpoints" / system
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def _first_line(error: Exception) -> str:
    """The first line of a message, its middle left out where it is long: the end says why."""
    # TensorStore's messages end with places in its own source, which help nobody here.
    line = (str(error).splitlines() or [""])[0].partition(" [source locations")[0]
    return line if len(line) <= 240 else f"{line[:80]} ... {line[-150:]}"


def _full_disk(folder: Path, why: str) -> str:
    return (
        f"{folder}: the disk is full ({why}), so the checkpoint was not written; earlier "
        "checkpoints are whole: make room and run the same command again"
    )


def _save_error(error: Exception, folder: Path) -> UserError:
    """What kept a checkpoint from being written, in one sentence."""
    # TensorStore reports a full disk as a ValueError with the system's text in it, and no errno.
    text = str(error)
    number = getattr(error, "errno", None)
    full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
    if full or "quota" in text.lower():
        return UserError(_full_disk(folder, "no space left on device"))
    cause = _first_line(error)
    if number in (errno.EACCES, errno.EROFS, errno.EPERM) or "Permission denied" in text:
        return UserError(f"{folder}: cannot be written ({cause}); check its owner")
    return UserError(
        f"{folder}: the checkpoint was not written ({type(error).__name__}: {cause}); earlier "
        "checkpoints are whole: mend the cause and run the same command again"
    )
