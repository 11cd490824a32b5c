"""Orbax's manager of the checkpoints of one system: which it keeps, and how its saves fail.

A save begins in the main threads of all processes, which copy the arrays, and goes on in threads
beside them. What can fail of a disk is left to the latter: nothing ends the wait of a main thread
for one that did not come.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from groot_jax.runtime.barrier import Barrier
from groot_jax.training.evaluations import Evaluation, Merit, best_held


class KeepBestAndLatest(checkpoint_managers.PreservationPolicy):
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
        kept = self.kept([c.step for c in checkpoints])
        return [c.step in kept for c in checkpoints]

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Which of these stay; oldest first."""
        best = best_held(self.evaluations, steps, self._tie, self._merit)
        # The latest is for continuing, the best for all else. Both are one where training improves.
        return {*steps[-self._latest :], *([best.step] if best else [])} & {*steps}


def open_manager(
    folder: Path, policy: KeepBestAndLatest, create: bool, barrier: Barrier | None
) -> ocp.CheckpointManager:
    """A manager of the checkpoints in a folder, which it makes where it is to `create` it; by
    `barrier` the threads of its saves wait for those of other processes, None: by Orbax's own."""
    return ocp.CheckpointManager(
        folder,
        item_names=("state", "meta", "flight"),
        options=ocp.CheckpointManagerOptions(
            create=create,
            preservation_policy=policy,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(barrier_sync_fn=barrier),
            # `remove_drafts` does. Orbax's process 0 would, while the others wait for it to begin.
            cleanup_tmp_directories=False,
            # There is none, but all main threads would wait for each other here.
            save_root_metadata=False,
        ),
    )


def unlisted(folder: Path, remove: bool) -> dict[str, str]:
    """What keeps Orbax from listing a checkpoint, and with it all others in `folder`, by its step:
    JSON of another shape, in a file that it does without where there is none. With `remove` there
    is none then; sums tell that it is missing."""
    names, found = ocp.path.step.standard_name_format(), {}
    for path in folder.glob("*/_CHECKPOINT_METADATA"):
        if (step := path.parent.name).isdecimal():
            try:
                _ = names.find_step(folder, int(step)).commit_timestamp_nsecs
            except (ValueError, TypeError) as error:  # What is gone by now keeps nobody.
                found[step] = f"{path.name} is not what was written: {error}"
                if remove:
                    path.unlink(missing_ok=True)
    return found


def remove_drafts(folder: Path) -> None:
    """Removes what saves have left that did not land. Raises OSError."""
    for draft in folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft)
