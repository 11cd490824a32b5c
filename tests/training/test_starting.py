"""What stage 1 starts from where the best checkpoint of stage 0 is damaged or gone."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from groot_jax.contrast.update import TrainState
from groot_jax.errors import UserError
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.checkpoints import Checkpoints, saved_steps
from groot_jax.training.evaluations import Evaluation, Meta
from groot_jax.training.reading import Damaged
from groot_jax.training.starting import read_start

REWARDS = {4: 0.9, 8: 0.7, 12: 0.8}  # The best is not the latest.


def state(step: int) -> TrainState:
    draw = np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)
    return TrainState(jnp.int32(step), {"w": jnp.asarray(draw)}, (optax.EmptyState(),))


SHAPES = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0).params
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("saved")
    with Checkpoints(workdir, "nll") as checkpoints:
        looks = []
        for step, reward in REWARDS.items():
            looks.append(Evaluation(step, {"reward@1": reward, "mean_reward": 0.5}))
            checkpoints.save(step, state(step), Meta([*looks], finished=step == 12))
    return workdir


@pytest.fixture
def workdir(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def started(
    workdir: Path, begun: dict[str, int | None] | None = None, own: bool = True
) -> tuple[int, str]:
    """The step that is taken, and what is said of it."""
    said = io.StringIO()
    with Checkpoints(workdir, "nll", read_only=True) as checkpoints:
        step, params = read_start(
            checkpoints, begun or {}, SHAPES, Hosts(), Console(file=said), own
        )
    np.testing.assert_array_equal(params["w"], state(step).params["w"])
    return step, said.getvalue()


def damage(workdir: Path, step: int) -> None:
    files = (path for path in (workdir / "checkpoints/nll" / str(step)).rglob("*"))
    path = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(path, path.stat().st_size - 1)


def test_the_best_is_taken_and_nothing_said(workdir: Path) -> None:
    assert started(workdir) == (4, "")
    assert started(workdir, {"nll_continued": 4}) == (4, "")
    # Of an earlier version it is not known what they started from.
    assert started(workdir, {"nll_continued": None}) == (4, "")


def test_a_damaged_one_is_set_aside_and_the_next_best_taken(workdir: Path) -> None:
    damage(workdir, 4)
    step, said = started(workdir)
    assert step == 12 and "checkpoint 4 is damaged (" in said and "lies in 4.damaged" in said
    assert "stage 1 starts from step 12 of nll" in said
    assert saved_steps(workdir, "nll") == [8, 12]
    # The systems after the first start where that one did, and nothing more is said.
    assert started(workdir, {"nll_continued": 12}) == (12, "")


def test_one_that_is_gone_is_said_to_be(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints/nll/4")
    step, said = started(workdir)
    assert step == 12 and "step 4, the best on dev, is not there" in said


@pytest.mark.parametrize("begun", [4, None])
@pytest.mark.parametrize("gone", [True, False])
def test_where_stage_1_has_begun_from_it_nothing_else_is_taken(
    workdir: Path, gone: bool, begun: int | None
) -> None:
    if gone and begun is None:
        pytest.skip("nobody knows")
    damage(workdir, 4)
    if gone:
        shutil.rmtree(workdir / "checkpoints/nll/4")
    before = saved_steps(workdir, "nll")
    with pytest.raises(UserError, match="nll_continued, risk started from it: bring a copy") as e:
        started(workdir, {"nll_continued": begun, "risk": begun})
    assert ("is gone" if gone else "is damaged") in str(e.value)
    assert saved_steps(workdir, "nll") == before


def test_systems_start_where_those_before_them_did(workdir: Path) -> None:
    """Though another one was the best in the meantime."""
    assert started(workdir, {"nll_continued": 8}) == (8, "")


def test_checkpoints_of_another_work_directory_are_left_alone(workdir: Path) -> None:
    damage(workdir, 4)
    with pytest.raises(Damaged, match="4 is damaged .*move that folder away"):
        started(workdir, own=False)
    assert saved_steps(workdir, "nll") == [4, 8, 12]


def test_when_all_are_damaged_nothing_is_made_up(workdir: Path) -> None:
    for step in REWARDS:
        damage(workdir, step)
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        started(workdir)
    with pytest.raises(UserError, match="holds no checkpoint of stage 0"):
        started(workdir)
