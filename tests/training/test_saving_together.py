"""Saves of several processes that fail in one of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax.evaluation.records import read_metrics
from groot_jax.training.checkpoints import Checkpoints, saved_steps
from groot_jax.training.checksums import damage
from tests.runtime.test_hosts import ends, error_line, start
from tests.training.saving_together import ALWAYS, SIZE, TOTAL

pytestmark = pytest.mark.slow
Ended: TypeAlias = list[tuple[int, str, str]]  # of each process: status, output, errors
WORK = """
def work(hosts):
    from pathlib import Path
    from tests.training.saving_together import run
    run(hosts, Path({workdir!r}), {faults!r}, **{settings!r})
"""
FULL = "the disk is full (no space left on device)"


def train(
    workdir: Path, *faults: tuple[str, int, int, int], processes: int = 2, **settings: float
) -> Ended:
    """`settings`: of `saving_together.run`."""
    work = WORK.format(workdir=str(workdir), faults=faults, settings=settings)
    return ends(start(work, processes))


def outcome(workdir: Path) -> tuple[list[dict[str, object]], np.ndarray]:
    """All metrics but times, and the parameters of the last checkpoint, which is whole."""
    clocks = ("seconds", "sentences_per_second")
    lines = [{k: v for k, v in i.items() if k not in clocks} for i in read_metrics(workdir)]
    shapes = {"w": jax.ShapeDtypeStruct((SIZE,), jnp.float32)}
    assert damage(workdir / "checkpoints" / "groot" / str(TOTAL), 0, 1) == ""
    with Checkpoints(workdir, "groot", read_only=True) as checkpoints:
        assert checkpoints.latest() == TOTAL
        return lines, np.asarray(checkpoints.restore_params_to_host(TOTAL, shapes)["w"])


def retries(ended: Ended) -> list[str]:
    return [line for line in ended[0][1].splitlines() if "it is tried again" in line]


def drafts(workdir: Path) -> Sequence[Path]:
    return [*(workdir / "checkpoints" / "groot").glob("*tmp*")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    for status, _, err in train(workdir):
        assert status == 0, err
    return workdir


def assert_same(workdir: Path, other: Path) -> None:
    (lines, w), (other_lines, other_w) = outcome(workdir), outcome(other)
    assert lines == other_lines and len(lines) > 4
    np.testing.assert_array_equal(w, other_w)


@pytest.mark.parametrize(
    "faults",
    [
        [("file_size", 1, 1, 2), ("commit", 0, 4, 1), ("metas", 0, 6, 1), ("removal", 0, 7, 1)],
        [
            ("draft", 0, 2, 1),
            ("file_size", 0, 5, 1),
            ("file_size", 1, TOTAL, 1),
            ("removal", 0, TOTAL, 1),
        ],
    ],
    ids=["one after the other", "and the last"],
)
def test_a_save_that_fails_in_one_process_is_tried_again_by_all(
    tmp_path: Path, undisturbed: Path, faults: list[tuple[str, int, int, int]]
) -> None:
    ended = train(tmp_path, *faults)
    for status, _, err in ended:
        assert status == 0, err
    said = retries(ended)
    assert len(said) == sum(times for *_, times in faults), said
    for kind, process, *_ in faults:
        word = f"ocdbt.process_{process}" if kind == "file_size" else "o space left on device"
        assert any(word in line for line in said), (word, said)
    assert_same(tmp_path, undisturbed)
    assert not drafts(tmp_path)


@pytest.mark.parametrize("process", [0, 1])
def test_after_retry_minutes_all_end_with_the_sentence_of_that_process(
    tmp_path: Path, undisturbed: Path, process: int
) -> None:
    ended = train(tmp_path, ("file_size", process, 5, ALWAYS), retry_minutes=0.02)
    assert [status for status, *_ in ended] == [1, 1], ended
    for _, _, err in ended:
        line = error_line(err)
        assert f"ocdbt.process_{process}/" in line and "File too large" in line, line
    assert retries(ended)
    # Nothing that is half-written is taken for a checkpoint: the same command goes on.
    assert saved_steps(tmp_path, "groot")[-1] == 4 and drafts(tmp_path)
    if process == 0:
        return
    for status, _, err in train(tmp_path):
        assert status == 0, err
    assert_same(tmp_path, undisturbed)
    assert not drafts(tmp_path)


def test_a_process_that_dies_in_a_save_is_told_as_dead(tmp_path: Path) -> None:
    begun = time.monotonic()
    (status, _, err), (killed, *_) = train(tmp_path, ("death", 1, 1, 1))
    assert (status, killed) == (75, -9)
    assert "process 1 of 2 (" in error_line(err) and "no sign of life" in err
    assert time.monotonic() - begun < 60 and saved_steps(tmp_path, "groot") == []
