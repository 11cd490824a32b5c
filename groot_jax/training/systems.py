"""Which systems a work directory holds checkpoints of, and which of them a job is to take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from groot_jax.errors import UserError
from groot_jax.runtime.checksums import read_guarded
from groot_jax.runtime.files import expanded
from groot_jax.runtime.json_files import reading
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.checksums import META_FILE
from groot_jax.training.evaluations import Meta
from groot_jax.training.reading import names_in, saved_steps


def systems_of(workdir: Path, config: ConfigDict) -> list[str]:
    """The systems that have a checkpoint, stage 0 first."""
    # Then those of the config in its order, and what an earlier config has left.
    names = dict.fromkeys(("nll", *config.systems, *names_in(workdir / "checkpoints")))
    return [name for name in names if saved_steps(home_of(workdir, config, name), name)]


def trained_systems(
    workdir: Path, config: ConfigDict, wanted: Sequence[str] = (), flag: str = "--system"
) -> list[str]:
    """As `systems_of`. Raises UserError where there is none, or one of `wanted` is not there, which
    `flag` has named."""
    folder, found = workdir / "checkpoints", systems_of(workdir, config)
    if not found:
        raise UserError(f"{folder} holds no checkpoint; run groot_jax.train first")
    for system in wanted:
        if system not in found:
            raise UserError(f"{flag}={system}: {folder} holds {', '.join(found)} only")
    return found


def home_of(workdir: Path, config: ConfigDict, system: str) -> Path:
    """The work directory that holds a system's checkpoints: stage 0 may be another's."""
    if system == "nll" and config.nll.checkpoint:
        return expanded(config.nll.checkpoint, "config.nll.checkpoint")
    return workdir


def choose_system(
    workdir: Path, config: ConfigDict, wanted: str | None = None, flag: str = "--system"
) -> str:
    """`wanted`, or the last of `config.systems` that was trained: the one that the run was for.

    Raises UserError as `trained_systems`.
    """
    found = trained_systems(workdir, config, [wanted] if wanted else (), flag)
    # Checkpoints of systems that the config has no more do not count, unless there is nothing else.
    trained = [name for name in ("nll", *config.systems) if name in found]
    return wanted or (trained or found)[-1]


def choose_step(checkpoints: Checkpoints, wanted: str, flag: str = "--checkpoint") -> int:
    """The step that `best`, `latest` or a number names, the value of `flag`. UserError where it is
    not there."""
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{checkpoints.folder} holds no checkpoint; run groot_jax.train first")
    if wanted == "latest":
        return steps[-1]
    if wanted == "best":
        best = checkpoints.best()
        assert best is not None  # It is where there is any step.
        return best
    if not wanted.isdecimal() or int(wanted) not in steps:
        raise UserError(
            f"{flag}={wanted}: {checkpoints.folder} holds steps "
            f"{', '.join(map(str, steps))}; give one of them, best or latest"
        )
    return int(wanted)


def recorded_meta(workdir: Path, system: str) -> Meta | None:
    """Of the latest checkpoint, read without JAX, by one process of several, say; None where none
    is recorded."""
    metas = read_guarded(workdir / "checkpoints" / system / META_FILE) or {}
    steps = [step for step in saved_steps(workdir, system) if str(step) in metas]
    return Meta.from_json(metas[str(steps[-1])]) if steps else None


def worse_systems(workdir: Path, config: ConfigDict) -> dict[str, str]:
    """The systems whose best on dev is below what they started from, each with a sentence. Raises
    UserError where the checkpoints may not be looked at."""
    found, tie = {}, config.checkpoint.tie
    with reading(workdir / "checkpoints"):
        for system in systems_of(workdir, config):
            meta = recorded_meta(workdir, system)
            if meta is not None and (line := meta.worse(tie)):
                found[system] = line
    return found
