"""Disks that fill up, refuse and vanish, for real: a training ends in one sentence, and the same
command gets to the same end once the disk is mended.

python -m pytest -m chaos tests/chaos/test_disks.py        # as root: it mounts and sets attributes
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from groot_jax.config import default_config
from groot_jax.contrast.update import TrainState
from groot_jax.errors import UserError
from groot_jax.evaluation.records import read_metrics
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.checkpoints import Checkpoints, saved_steps
from groot_jax.training.checksums import damage
from groot_jax.training.loop import Stage, Update, train
from tests.jobs.support import job_environment, one_error

TOTAL = 8
Outcome: TypeAlias = tuple[list[dict[str, object]], np.ndarray]  # metrics, parameters
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting and chattr are root's"),
]
STATE = TrainState(jnp.int32(0), {"w": jnp.zeros(2**18)}, (optax.EmptyState(),))
SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), STATE)


def run(
    workdir: Path,
    at: int = 0,
    fault: Callable[[], object] | None = None,
    retry_minutes: float = 0.025,
) -> None:
    """A training of 8 updates with a state of 1 MiB that does not compress, saved after each; the
    fault comes before update `at`."""

    def updates(state: TrainState, start: int, _: object) -> Iterator[Update]:
        for step in range(start + 1, TOTAL + 1):
            if step == at and fault is not None:
                fault()
            noise = np.random.default_rng(step).normal(size=2**18).astype(np.float32)
            state = TrainState(jnp.int32(step), {"w": state.params["w"] + noise}, state.opt_state)
            one = jnp.ones(())
            yield Update(state, {"loss": (one, one), "gold_score": (-one, one)}, {})

    config = default_config()
    config.update({"report_to": (), "log_every": 2})
    config.checkpoint.update({"every_steps": 1, "retry_minutes": retry_minutes})
    stage = Stage("groot", TOTAL, 4, lambda: STATE, SHAPES, updates, ())
    train(
        stage,
        workdir,
        config,
        lambda params: {"reward@1": 0.5, "mean_reward": float(params["w"][0])},
        Console(quiet=True),
        Hosts(),
    )


def outcome(workdir: Path) -> Outcome:
    clocks = ("seconds", "sentences_per_second")
    lines = [{k: v for k, v in i.items() if k not in clocks} for i in read_metrics(workdir)]
    with Checkpoints(workdir, "groot", read_only=True) as checkpoints:
        return lines, np.asarray(checkpoints.restore_params(TOTAL, SHAPES.params)["w"])


def sh(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    workdir = tmp_path_factory.mktemp("whole")
    run(workdir)
    return outcome(workdir)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The checkpoints of the work directory `tmp_path`, on a disk of their own, of 16 MiB."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


def shell(text: str) -> Callable[[Path], object]:
    return lambda disk: sh("sh", "-c", text.format(disk=disk))


# What breaks a disk, what mends it, and what is said.
FULL = "the disk is full"
FAULTS = {
    "it has no room": (
        shell("mount -o remount,size=3m {disk}"),
        shell("mount -o remount,size=16m {disk}"),
        FULL,
    ),
    "another job fills it": (
        shell("cat /dev/zero > {disk}/other 2> /dev/null || true"),
        shell("rm {disk}/other"),
        FULL,
    ),
    "it becomes read-only": (  # Not while a save is on its way.
        shell("until mount -o remount,ro {disk} 2> /dev/null; do sleep 0.1; done"),
        shell("mount -o remount,rw {disk}"),
        "[Rr]ead-only file system",
    ),
    "it has no more files": (
        shell(
            "until mount -o remount,nr_inodes=$(($(df --output=iused {disk} | tail -1) + 3)) {disk}"
            " 2> /dev/null; do sleep 0.1; done"
        ),
        shell("mount -o remount,nr_inodes=5000 {disk}"),
        FULL,
    ),
}


def assert_goes_on(workdir: Path, whole: Outcome) -> None:
    """The same command ends as if nothing had happened."""
    latest = saved_steps(workdir, "groot")[-1]
    assert latest >= 4 and not damage(workdir / "checkpoints" / "groot" / str(latest))
    run(workdir)
    lines, params = outcome(workdir)
    assert lines == whole[0] and params.tobytes() == whole[1].tobytes()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_refuses_ends_a_training_and_loses_nothing(
    disk: Path, whole: Outcome, fault: str
) -> None:
    breaks, mends, said = FAULTS[fault]
    with pytest.raises(UserError, match=said) as caught:
        run(disk.parent, 6, lambda: breaks(disk))
    assert str(disk / "groot") in str(caught.value) and "\n" not in str(caught.value)
    mends(disk)
    assert_goes_on(disk.parent, whole)


def test_a_folder_that_may_not_be_changed_ends_a_training_and_loses_nothing(
    tmp_path: Path, whole: Outcome
) -> None:
    folder = tmp_path / "checkpoints" / "groot"
    try:
        with pytest.raises(UserError, match=f"{folder}.*not permitted"):
            run(tmp_path, 6, lambda: sh("chattr", "+i", folder))
    finally:
        sh("chattr", "-i", folder)
    assert_goes_on(tmp_path, whole)


# A process of its own: it has to end, too, and not to wait for Orbax's threads.
JOB = """
import logging
from pathlib import Path
from groot_jax.errors import exit_on_user_error
from tests.chaos.test_disks import run
logging.getLogger("absl").setLevel(logging.CRITICAL)  # As the jobs do.
exit_on_user_error(lambda: run(Path({workdir!r})))
"""


@pytest.mark.parametrize(
    ("breaks", "mends", "said"),
    [
        (*FAULTS["it becomes read-only"][:2], "Read-only file system"),
        (shell("chattr +i {disk}/groot"), shell("chattr -i {disk}/groot"), "not permitted"),
    ],
)
def test_a_job_that_starts_where_nothing_can_be_written_leaves_with_a_sentence(
    tmp_path: Path,
    whole: Outcome,
    breaks: Callable[[Path], object],
    mends: Callable[[Path], object],
    said: str,
    request: pytest.FixtureRequest,
) -> None:
    # tmpfs knows no attributes.
    disk = request.getfixturevalue("disk") if "file" in said else tmp_path / "checkpoints"

    def stop() -> None:
        raise UserError("stopped")

    with pytest.raises(UserError, match="stopped"):
        run(tmp_path, 6, stop)
    breaks(disk)
    try:
        done = subprocess.run(
            [sys.executable, "-c", JOB.format(workdir=str(tmp_path))],
            env=job_environment(),
            capture_output=True,
            text=True,
            timeout=120,  # Orbax's threads have 300 s.
            check=False,
        )
    finally:
        mends(disk)
    assert done.returncode == 1
    line = one_error(done.stderr)
    assert said in line and str(disk / "groot") in line
    assert_goes_on(tmp_path, whole)


def test_a_mount_that_vanishes_is_a_sentence_and_nothing_goes_on_under_it(
    disk: Path,
) -> None:
    with pytest.raises(UserError, match=f"{disk / 'groot'}.*(is gone|No such file)"):
        run(disk.parent, 6, lambda: sh("umount", "-l", disk))
    # But of what was on its way.
    assert not any((disk / "groot" / name).exists() for name in ("6", "7", "8"))


def test_a_disk_that_is_mended_in_time_is_not_noticed(disk: Path, whole: Outcome) -> None:
    breaks, mends, _ = FAULTS["it has no room"]
    timer = threading.Timer(1.0, mends, (disk,))

    def fault() -> None:
        breaks(disk)
        timer.start()

    run(disk.parent, 6, fault, retry_minutes=0.5)
    lines, params = outcome(disk.parent)
    assert lines == whole[0] and params.tobytes() == whole[1].tobytes()
