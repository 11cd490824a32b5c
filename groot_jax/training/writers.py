"""Where metrics go beside metrics.jsonl: TensorBoard and Weights & Biases (`config.report_to`).

Takes plain numbers; may not touch the device.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from groot_jax.errors import UserError
from groot_jax.runtime.files import write_text, writing
from groot_jax.runtime.hiding import hidden

# tensorboardX imports torch wherever it is installed, for its own convenience and at the price of
# seconds and memory; with torch hidden it does without.
with hidden("torch"):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar


class Writer(Protocol):
    """Takes the metrics of one system. Raises UserError where they cannot be kept."""

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None: ...

    def close(self, failed: bool) -> None: ...


class TensorBoard:
    """Event files in W/tensorboard/<system>, without TensorFlow."""

    def __init__(self, workdir: Path, system: str, start: int) -> None:
        """From step `start` on: what an earlier, killed run logged beyond it is dropped."""
        self._folder = workdir / "tensorboard" / system
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            # Not tensorboardX's own writer: its thread dies on a full disk, and then it blocks.
            self._board = EventsWriter(str(self._folder / "events"))
            # TensorBoard drops what was logged from here on when it reads this event.
            log = SessionLog(status=SessionLog.START)
            event = Event(wall_time=time.time(), step=start + 1, session_log=log)
            self._board.write_event(event)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One scalar a value, `train/loss` say."""
        now = time.time()
        with writing(self._folder):
            for key, value in values.items():
                summary = scalar(f"{split}/{key}", value)
                self._board.write_event(Event(wall_time=now, step=step, summary=summary))
            self._board.flush()

    def close(self, failed: bool) -> None:
        """Writes what is left."""
        del failed
        with writing(self._folder):
            self._board.close()


class WeightsAndBiases:
    """A run of wandb for each system of a work directory, in a group with its name.

    WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and wandb's other variables hold as they do elsewhere.
    """

    def __init__(self, workdir: Path, system: str, config: ConfigDict) -> None:
        """Raises UserError where wandb cannot start, as without a key."""
        with hidden("torch", "tensorflow"):
            import wandb
        name = workdir.absolute().name
        folder = workdir / "wandb"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with _told():
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or "groot_jax",
                group=name,
                name=f"{name}/{system}",
                # A run that is continued goes on as the same one; a folder that is made anew under
                # an old name does not.
                id=_kept_id(folder / f"{system}.id"),
                resume=None if _is_offline() else "allow",
                dir=str(workdir.absolute()),
                config=config.to_dict(),
                # Its own threads say what a network or a disk refuses; a run goes on meanwhile.
                settings=wandb.Settings(silent=True, console="off"),
            )
            # By their own numbers, not by wandb's: an update that is made again after a kill is
            # drawn where it was, and wandb takes no step twice.
            self._run.define_metric("update", hidden=True)
            self._run.define_metric("*", step_metric="update")

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One line of its history."""
        with _told():
            self._run.log({"update": step} | {f"{split}/{k}": v for k, v in values.items()})

    def close(self, failed: bool) -> None:
        """Waits until wandb has what it was given."""
        with _told():
            self._run.finish(exit_code=1 if failed else 0)


def check_writers(names: Sequence[str]) -> None:
    """Raises UserError where `config.report_to` names a package that is not installed: before the
    data are read, and not when training begins."""
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "config.report_to names wandb, which is not installed: pip install 'groot-jax[wandb]', "
            "or leave it out"
        )


def open_writers(workdir: Path, system: str, start: int, config: ConfigDict) -> list[Writer]:
    """Those of `config.report_to`, for a system that goes on after step `start`."""
    made: list[Writer] = []
    if "tensorboard" in config.report_to:
        made.append(TensorBoard(workdir, system, start))
    if "wandb" in config.report_to:
        made.append(WeightsAndBiases(workdir, system, config))
    return made


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # wandb has many kinds, and passes on those of its libraries.
        cause = " ".join(str(error).split())[:300]
        raise UserError(
            f"config.report_to: wandb failed ({type(error).__name__}: {cause}): run `wandb login`, "
            "set WANDB_MODE=offline, or leave wandb out of config.report_to; the same command then "
            "continues"
        ) from error


def _is_offline() -> bool:
    return os.environ.get("WANDB_MODE", "").lower() in ("offline", "disabled", "dryrun")


def _kept_id(path: Path) -> str:
    if path.is_file() and (known := path.read_text(encoding="utf-8").strip()):
        return known
    made = secrets.token_hex(4)
    write_text(path, made + "\n")
    return made
