"""Verify job: whether a work directory holds what training wrote. It reads all and changes nothing.

    python -m groot_jax.verify W        (or: groot verify W)

One line for each checkpoint and file: whole, damaged, or not verified, as what has no sums (of
version 0.1, say). Ends with status 1 where something is damaged. Uses no device.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below.

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.config.workdir import config_damage
from groot_jax.data.card import CARD, CARD_FILE
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.evaluation.records import (
    JOBS_FILE,
    METRICS_FILE,
    SAMPLES_FILE,
    read_records,
    read_tuning,
)
from groot_jax.evaluation.shapes import JOB, METRICS, SAMPLES
from groot_jax.runtime.checksums import folder_damage, read_guarded
from groot_jax.runtime.files import expanded
from groot_jax.runtime.json_files import good_lines, parsed
from groot_jax.task import load_task
from groot_jax.training.checksums import META_FILE, damage, unverified
from groot_jax.training.reading import names_in, parts_of, saved_steps
from groot_jax.training.status import training_ended

_Seen = TypeVar("_Seen")


class Found(NamedTuple):
    """What is to be said of a file or a folder."""

    name: str  # in the work directory
    problem: str = ""  # what is wrong with it; empty: nothing
    doubt: str = ""  # why nobody knows
    parts: int = 0  # files and folders in it, while it is looked at


def main(argv: list[str] | None = None) -> None:
    """Runs the job. Raises UserError for what is no work directory, and where one is damaged."""
    parser = configs.JobParser(
        prog="python -m groot_jax.verify",
        description="Compare a work directory with the sums of its files.",
    )
    parser.add_argument(
        "workdir",
        type=lambda text: expanded(text, "WORKDIR"),
        metavar="WORKDIR",
        help="work directory of a training",
    )
    workdir = configs.parse_flags(parser, argv).workdir
    config = configs.load_dumped(workdir / configs.CONFIG_FILE)
    found = []
    for one in chain(
        _written_once(workdir, config), _checkpoints(workdir), _results(workdir, config)
    ):
        if one is not None:
            found.append(one)
            print(f"{one.name}: {one.problem or one.doubt or 'whole'}")
    bad = [one.name for one in found if one.problem]
    if bad:
        raise UserError(
            f"{workdir}: {len(bad)} of {len(found)} are damaged or cannot be read "
            f"({', '.join(bad[:5])}): training goes on from the newest checkpoint that is whole, "
            "and sets newer ones aside; bring back copies of other files"
        )


def _tried(look: Callable[[], _Seen]) -> tuple[_Seen | None, str]:
    """What `look` returns, and what is wrong with what it has looked at; empty: nothing."""
    try:
        return look(), ""
    except UserError as error:
        return None, str(error)
    except (OSError, ValueError, RecursionError) as error:
        return None, f"cannot be read ({getattr(error, 'strerror', None) or error})"


_PAUSE, _LOOKS = 0.5, 20


def _settled(look: Callable[[], Found | None]) -> Found | None:
    """What `look` finds, a problem or a doubt once two looks in a row agree: training may be
    removing what is looked at, or writing it."""
    found = look()
    for _ in range(_LOOKS):
        if found is None or not (found.problem or found.doubt):
            break
        time.sleep(_PAUSE)
        before, found = found, look()
        if found == before:
            break
    return found


_NO_SUMS = "is not verified: it has no sums to compare with"


def _written_once(workdir: Path, config: ConfigDict) -> Iterator[Found | None]:
    """Of config.json, and of the folder that is made when training begins."""
    yield _settled(partial(_summed, configs.CONFIG_FILE, partial(config_damage, workdir)))
    # A pretraining has a task of another kind.
    name = "pretraining" if (workdir / "pretraining").exists() else "task"
    found = _summed(name, partial(folder_damage, workdir / name))
    # Which takes sums that are damaged for none: they say nothing of the files.
    if name == "task" and not found.problem:
        found = found._replace(problem=_tried(partial(load_task, workdir, config))[1])
    yield found


def _summed(name: str, damage_of: Callable[[], str | None]) -> Found:
    found, problem = _tried(damage_of)
    return Found(name, problem or found or "", "" if problem or found is not None else _NO_SUMS)


# ---- Checkpoints ------------------------------------------------------------------------------


def _checkpoints(workdir: Path) -> Iterator[Found | None]:
    """Of each checkpoint, of each system's metas, and of systems whose checkpoints are all gone."""
    root = workdir / "checkpoints"
    held = []
    for system in names_in(root):
        steps, problem = _tried(partial(saved_steps, workdir, system))
        if steps or problem:
            held.append(system)
        if problem:
            yield Found(f"checkpoints/{system}", problem)
        for step in steps or ():
            yield _settled(partial(_checkpoint, workdir, root / system / str(step)))
        if steps:
            yield _settled(partial(_metas, workdir, system))
    for system in _trained(workdir):
        if system not in held:
            yield Found(
                f"checkpoints/{system}", "holds no checkpoint, though its training is logged"
            )


def _checkpoint(workdir: Path, folder: Path) -> Found | None:
    """None where it is no longer there."""
    found, problem = _tried(lambda: (damage(folder), unverified(folder)))
    if not folder.exists():
        return None
    told, doubt = found or (problem, "")
    # Of one that is being removed two looks find different numbers of parts, and do not agree.
    return Found(str(folder.relative_to(workdir)), told, doubt, parts_of(folder))


def _metas(workdir: Path, system: str) -> Found:
    folder = workdir / "checkpoints" / system
    found = Found(str((folder / META_FILE).relative_to(workdir)))
    if META_FILE not in names_in(folder):
        # Those of version 0.1 have neither sums nor this file.
        sums = [*folder.glob("*/checksums.*")]
        return found._replace(problem="is missing") if sums else found._replace(doubt=_NO_SUMS)
    metas, problem = _tried(partial(read_guarded, folder / META_FILE))
    return found._replace(problem=problem or ("" if metas else "is not what was written"))


def _trained(workdir: Path) -> list[str]:
    """The systems that must have a checkpoint, by what metrics.jsonl has of them."""
    steps: dict[str, set[int]] = {}
    lines, _ = _tried(partial(good_lines, workdir / METRICS_FILE, METRICS))
    for _, line in lines[0] if lines else ():
        if line["split"] == "dev":
            steps.setdefault(line["system"], set()).add(line["step"])
    # A save has landed when the next one begins, or the next system; but while training runs, it
    # may be waiting for room on the disk.
    ended, _ = _tried(partial(training_ended, workdir))
    last = [*steps][-1:]
    return [name for name in steps if name not in last or (ended and len(steps[name]) > 1)]


# ---- Results ----------------------------------------------------------------------------------


def _results(workdir: Path, config: ConfigDict) -> Iterator[Found]:
    """Of the files of JSON, by those who read them; folders of other settings have the same."""
    for folder in (workdir, *sorted((workdir / "other").glob("*/"))):
        checks: dict[Path, Callable[[], object]] = {}
        for path in sorted((*folder.glob("*.jsonl"), *folder.glob("predictions/*.jsonl"))):
            checks[path] = partial(_lines, path)
        for name, shape in _OBJECTS.items():
            checks[folder / name] = partial(_object, folder / name, shape)
        checks[folder / "eval"] = partial(read_records, folder)
        for path in sorted((folder / "decisions").glob("*-*.json")):
            system, _, step = path.stem.rpartition("-")
            if step.isdecimal():
                reward = config.reward.name
                checks[path] = partial(read_tuning, folder, system, int(step), reward)
        checks[folder / configs.STATUS_FILE] = partial(training_ended, folder)
        for path, check in checks.items():
            if path.exists() or path.is_symlink():
                yield Found(str(path.relative_to(workdir)), _tried(check)[1])


# What those who read these files take for granted.
_OBJECTS = {"results.json": {"systems": dict, "differences": dict}, CARD_FILE: CARD}
_LINES = {METRICS_FILE: METRICS, SAMPLES_FILE: SAMPLES, JOBS_FILE: JOB}


def _object(path: Path, shape: Any) -> None:
    parsed(path.read_bytes(), shape)


def _lines(path: Path) -> None:
    if why := good_lines(path, _LINES.get(path.name, {}))[1]:
        raise UserError(f"{why}: the others are read")


if __name__ == "__main__":
    exit_on_user_error(main)
