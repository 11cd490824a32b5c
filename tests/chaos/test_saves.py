"""Kills and signals at saves: the same end, whatever was half-written.

python -m pytest -m chaos tests/chaos/test_saves.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from groot_jax.training.checkpoints import saved_steps
from groot_jax.training.checksums import damage, unverified
from tests.training.test_saving_together import assert_same, drafts, train

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("processes", [1, 2])
def test_a_kill_in_the_midst_of_a_save_costs_that_save_alone(
    tmp_path: Path, processes: int
) -> None:
    struck, whole = tmp_path / "struck", tmp_path / "whole"
    ended = train(struck, ("death", processes - 1, 6, 1), processes=processes)
    assert ended[-1][0] == -9
    # With nothing half-written the kill would have come before the save, or after it.
    assert saved_steps(struck, "groot")[-1] == 5 and drafts(struck)
    for workdir in (struck, whole):  # Which do not save step 6 once more.
        for status, _, err in train(workdir, processes=processes, every_steps=0):
            assert status == 0, err
    assert_same(struck, whole)
    assert not drafts(struck)


@pytest.mark.parametrize("process", [0, 1])
def test_a_signal_to_one_of_two_processes_saves_one_step_of_both(
    tmp_path: Path, process: int
) -> None:
    """Between the evaluations of steps 4 and 8, before which alone it is saved otherwise."""
    struck, whole = tmp_path / "struck", tmp_path / "whole"
    ended = train(struck, ("termination", process, 5, 1), every_steps=0, pause=0.3)
    assert [status for status, *_ in ended] == [143, 143], ended
    latest = saved_steps(struck, "groot")[-1]
    folder = struck / "checkpoints" / "groot" / str(latest)
    assert 4 < latest < 8 and not damage(folder) and not drafts(struck)
    assert unverified(folder) in ("", "is not verified: it has no sums to compare with")
    for workdir in (struck, whole):
        for status, _, err in train(workdir, every_steps=0):
            assert status == 0, err
    assert_same(struck, whole)
