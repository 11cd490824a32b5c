"""Checkpoints of one system of a work directory: the best on dev and the latest, through Orbax.

W/checkpoints/<system>/<step>/ holds `state` (parameters, optimizer, step), `meta` (JSON: the
evaluations before it, and what else it takes to continue), `flight` (beams that wait for their
update) and sums of the files (checksums.py). A save lands whole or not at all. meta.json beside the
steps has all metas once more, each with the evaluation of its own state, made after the save.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from groot_jax.errors import RunAgain, UserError, signals_delayed
from groot_jax.generate.inputs import Beams
from groot_jax.model.param_tree import Params
from groot_jax.runtime.barrier import Barrier
from groot_jax.runtime.checksums import read_guarded, write_guarded
from groot_jax.runtime.files import writing
from groot_jax.runtime.hosts import Hosts, of_a_connection
from groot_jax.training.checksums import META_FILE, damage, unverified, write_checksums
from groot_jax.training.evaluations import Evaluation as Evaluation
from groot_jax.training.evaluations import Merit, Meta, best_held, by_reward
from groot_jax.training.evaluations import best_evaluation as best_evaluation
from groot_jax.training.evaluations import by_loss as by_loss
from groot_jax.training.faults import (
    check_writable,
    read_error,
    save_error,
    unwritten,
)
from groot_jax.training.manager import KeepBestAndLatest, open_manager, remove_drafts, unlisted
from groot_jax.training.reading import Damaged as Damaged
from groot_jax.training.reading import Gone, reading, removed_meanwhile
from groot_jax.training.reading import saved_steps as saved_steps

if TYPE_CHECKING:
    from groot_jax.contrast.update import TrainState

_ASIDE = "damaged"  # 15.damaged is what could not be read of checkpoint 15.
_Found = TypeVar("_Found")


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
        hosts: Hosts | None = None,
    ) -> None:
        """`keep`: latest ones that are kept, two at least, so that one can take the other's place;
        `hosts`: the processes that make the same calls; without them, each reads by itself.
        Raises UserError where their folder cannot be made or looked into."""
        self.folder = (workdir / "checkpoints" / system).absolute()
        self._tie, self._merit, self._read_only = tie, merit, read_only
        self._hosts = hosts or Hosts()
        self._policy = KeepBestAndLatest(max(keep, 2), tie, merit)
        # This process's share of the files that are summed, as (which, of how many).
        self._share = (jax.process_index(), jax.process_count())
        self._writing: int | None = None  # The step of a save that has not landed yet.
        self._summing: threading.Thread | None = None
        self._there = ""  # A file that lies in the folder by now.
        # Whether the manager has to be opened anew: it raises a failure at whatever it is asked.
        self._broken = False
        self._drafts = False  # Whether drafts of saves that failed are this process's to remove.
        self._look(partial(self._open, create=not read_only))

    def _look(self, look: Callable[[], None]) -> None:
        """Lets Orbax list the folder, once more where training, beside this job, has removed what
        it had found there."""
        for left in reversed(range(_TRIES)):
            try:
                with self._saving():
                    return look()
            except UserError as error:
                # Orbax finds a folder gone, or no longer a folder.
                vanished = isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)
                if not (vanished and left and self._read_only):
                    raise

    def _open(self, create: bool) -> None:
        # Before anything that can fail: all processes have to name it alike.
        name = f"save/{self.folder.name}/{self._hosts.turn}"
        self._barrier = Barrier(self._hosts, name) if self._hosts.count > 1 else None
        bad = unlisted(self.folder, remove=not self._read_only) if self._hosts.main else {}
        for step, why in self._hosts.broadcast(bad).items():
            if self._read_only:
                raise Damaged(self.folder / step, why)
        with self._saving():
            self._manager = open_manager(self.folder, self._policy, create, self._barrier)
        self._broken = False
        # A reader beside a training job must not remove what that is writing.
        self._drafts = not self._read_only and self._share[0] == 0

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.wait()
        finally:
            if not self._broken:
                with self._saving():
                    self._manager.close()

    @contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            # Of several processes one may have died: who that is, is found out elsewhere.
            if self._share[1] > 1 and of_a_connection(error):
                raise
            told = read_error if self._read_only else save_error
            raise told(error, self.folder) from error

    # ---- Writing ----

    def poll(self) -> None:
        """Sees to a save that has landed. Raises UserError where it could not be written, after
        which another can be tried."""
        failed = self._barrier is not None and self._barrier.failed
        if self.writing and (failed or not self._manager.is_saving_in_progress()):
            self._landed()

    def wait(self) -> None:
        """Until all saves have landed. Raises as `poll` does."""
        if self._writing is not None:
            self._landed()
        if self._summing is not None:
            self._summing.join()
            self._summing = None

    @property
    def writing(self) -> bool:
        """Whether a save is on its way to the disk."""
        return self._writing is not None

    def _landed(self) -> None:
        step, self._writing = self._writing, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._broken = True
            raise unwritten(error, self.folder, self._hosts) from error
        if (self.folder / META_FILE).is_file():  # Its own write may have failed.
            self._there = META_FILE
        folder = self.folder / str(step)
        self._summing = threading.Thread(target=_sum, args=(folder, *self._share), daemon=True)
        self._summing.start()

    def abandon(self) -> None:
        """Where a save has failed in one process, and is over in all: the next begins anew."""
        self._broken = True

    def ready(self, state: TrainState) -> None:
        """Before a save, in all processes: all of it that a disk can fail. Raises UserError where
        the one before failed, or what it left cannot be removed; where there is no room; and, of
        several processes, where the folder takes no file of this one's."""
        self._begin_anew()
        # The arrays, and 5 % and 1 MiB to spare. Checkpoints that are to go stay until the new one
        # is there, so that their room does not count.
        needed = int(sum(leaf.nbytes for leaf in jax.tree.leaves(state)) * 1.05) + 2**20
        trial = f".trial.{self._hosts.index}" if self._hosts.count > 1 else ""
        check_writable(self.folder, needed, trial, self._there)

    def _begin_anew(self) -> None:
        self.wait()
        if self._broken:
            self._open(create=False)
        if self._drafts:
            with self._saving():
                remove_drafts(self.folder)
            self._drafts = False

    def save(self, step: int, state: TrainState, meta: Meta, flight: Sequence[Beams] = ()) -> None:
        """Starts writing a checkpoint in the background; the one before has landed by then.

        Raises UserError where the save cannot begin, and where the one before failed; RunAgain
        where the other processes now wait for this one.
        """
        # Orbax has copied the arrays when `save` returns: the next update may take their memory.
        self._begin_anew()
        self._policy.evaluations = meta.evaluations
        meta.averaged = hasattr(state.opt_state, "average")  # `AveragedState`, without optax.
        meta.flight = [list(beams.tokens_BxKxT.shape) for beams in flight]
        items: dict[str, ocp.args.CheckpointArgs] = {
            "state": ocp.args.StandardSave(state),
            "meta": ocp.args.JsonSave(meta.to_json()),
        }
        if flight:
            items["flight"] = ocp.args.StandardSave([beams._asdict() for beams in flight])
        # It is where a save failed once it had landed, when an old one was to go. On a disk with a
        # cache others may not see it yet, and would wait for process 0.
        there = self._hosts.broadcast(step in self.steps())
        # What this call begins goes on in the background, but not if the call is cut off.
        try:
            with self._saving(), signals_delayed():
                if not there:
                    self._manager.save(step, args=ocp.args.Composite(**items))
                self._writing = step
        except UserError as error:
            if self._hosts.count == 1:
                raise
            raise RunAgain(str(error)) from error
        self.record(step, meta)

    def record(self, step: int, meta: Meta) -> None:
        """Writes the meta of a checkpoint once more, or anew after the evaluation of its state.
        Raises UserError where the disk refuses."""
        if self._share[0]:
            return
        held = {str(step), *map(str, self.steps())}
        metas = {key: value for key, value in self._metas().items() if key in held}
        write_guarded(self.folder / META_FILE, {**metas, str(step): meta.to_json()})

    def tidy(self, meta: Meta) -> None:
        """Removes what is to go by now: a job that was killed may not have come to it."""
        self._policy.evaluations = meta.evaluations
        steps = self.steps()
        for step in sorted({*steps} - self._policy.kept(steps)):
            with self._saving():
                self._manager.delete(step)

    # ---- Reading ----

    def steps(self) -> list[int]:
        """Of the checkpoints that are there, in order."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The last step; None where there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step of the best checkpoint on dev; None where there is none."""
        steps = self.steps()
        best = best_held(self.evaluations(), steps, self._tie, self._merit)
        return best.step if best else self.latest()

    def best_of_all(self) -> int | None:
        """As `best`, of checkpoints that are gone, too."""
        best = best_evaluation(self.evaluations(), self._tie, self._merit)
        return best.step if best else self.latest()

    def evaluations(self) -> list[Evaluation]:
        """All that were made, those of checkpoints that are gone included."""
        # The latest knows of them. Where it says nothing, as a folder that somebody made there, the
        # one before does.
        for step in reversed(self.steps()):
            with suppress(Damaged):
                return self.meta(step).evaluations
        return []

    def meta(self, step: int) -> Meta:
        """What was saved beside the state of a step. Raises Damaged, or another UserError."""
        # Process 0 reads for all: on a disk with a cache others may see what it wrote later.
        metas = self._hosts.broadcast(self._metas() if self._hosts.main else None)
        recorded = metas.get(str(step))
        value = recorded or self._restore(step, meta=ocp.args.JsonRestore()).meta
        try:
            return Meta.from_json(value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            why = f"meta is not what was written: {error}"
            raise Damaged(self.folder / str(step), why) from error

    def _metas(self) -> dict[str, Any]:
        return read_guarded(self.folder / META_FILE) or {}

    def problem(self, step: int) -> str:
        """What is damaged in this process's share of the files of a step; empty: nothing that
        their sums tell. Raises UserError where they cannot be read."""
        with self._reading(step):
            return damage(self.folder / str(step), *self._share)

    def doubt(self, step: int) -> str:
        """Why what was read of a step is not known to be what was written; empty: it is."""
        with self._reading(step):
            return unverified(self.folder / str(step))

    def checked(self, step: int, read: Callable[[], _Found]) -> _Found:
        """What `read` reads of a step, while beside it this process's share of the files is
        compared with their sums. Raises Damaged where they differ."""
        # Beside it, since one after the other they took a tenth longer than the restore alone.
        with ThreadPoolExecutor(1) as pool:
            comparison = pool.submit(self.problem, step)
            try:
                found = read()
            except UserError:
                if problem := comparison.result():
                    raise Damaged(self.folder / str(step), problem) from None
                raise
            if problem := comparison.result():
                raise Damaged(self.folder / str(step), problem)
        return found

    def set_aside(self, step: int) -> str:
        """Takes a damaged checkpoint out of the way, for whoever wants to look; its new name."""
        name = f"{step}.{_ASIDE}"
        taken = sum(path.name.startswith(name) for path in self.folder.iterdir())
        name = f"{name}.{taken + 1}" if taken else name
        if not self._share[0]:
            with writing(self.folder / name):
                (self.folder / str(step)).rename(self.folder / name)
        return name

    def reload(self) -> None:
        """Looks anew which checkpoints there are."""
        self._look(self._manager.reload)

    def restore(self, step: int, shapes: TrainState) -> TrainState:
        """The state of a step, placed as `shapes`. Raises Damaged, or another UserError."""
        return self._restore(step, state=ocp.args.StandardRestore(shapes)).state

    def restore_flight(self, step: int, shapes: Sequence[Beams]) -> list[Beams]:
        """As `restore`, the beams that waited for their update."""
        args = ocp.args.StandardRestore([beams._asdict() for beams in shapes])
        return [Beams(**one) for one in self._restore(step, flight=args).flight]

    def restore_params(self, step: int, shapes: Params) -> Params:
        """What a step is to be used by: its parameters alone, since AdamW's moments are twice as
        large as they are, or their average, where training kept one (`optimizer.ema`). Files are
        compared with their sums."""
        return self._used(step, shapes, ocp.checkpoint_utils.construct_restore_args(shapes))

    def restore_params_to_host(self, step: int, shapes: Params) -> Params:
        """As `restore_params`, as arrays of numpy, whatever devices wrote them."""
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        return self._used(step, shapes, how)

    def _used(self, step: int, shapes: Params, how: Any) -> Params:
        averaged = self.meta(step).averaged
        args = ocp.args.PyTreeRestore(
            item={"opt_state": {"average": shapes}} if averaged else {"params": shapes},
            restore_args={"opt_state": {"average": how}} if averaged else {"params": how},
            partial_restore=True,  # What `item` does not name is left on disk.
        )
        state = self.checked(step, lambda: self._restore(step, state=args).state)
        return state["opt_state"]["average"] if averaged else state["params"]

    def read_params(
        self, choose: Callable[[Checkpoints], int], shapes: Params
    ) -> tuple[int, Params]:
        """The step that `choose` names, and its parameters; chosen again where training, beside
        this job, has removed that one meanwhile. What its sums do not tell of is noted on
        stderr."""
        for left in reversed(range(_TRIES)):
            try:
                step = choose(self)
                params = self.restore_params(step, shapes)
                if (doubt := self.doubt(step)) and not self._share[0]:
                    print(f"note: {self.folder / str(step)} {doubt}", file=sys.stderr)
                return step, params
            except Gone:
                if not left:
                    raise
            except Damaged as error:
                # Of several processes each would find out for itself, and not the same.
                if not left or self._share[1] > 1 or not removed_meanwhile(error.folder):
                    raise
            self.reload()
        raise AssertionError

    def _restore(self, step: int, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
        with self._reading(step):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _reading(self, step: int) -> AbstractContextManager[None]:
        return reading(self.folder / str(step), self._share[1] > 1)


_TRIES = 5  # times that a reader chooses again, while training replaces what it has chosen


def _sum(folder: Path, index: int, count: int) -> None:
    # Without sums a checkpoint is read as it is: no reason to end a training. It may be gone, too.
    with suppress(UserError, OSError):
        if folder.is_dir():
            write_checksums(folder, index, count)
