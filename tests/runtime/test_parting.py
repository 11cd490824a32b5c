"""Processes that meet once more when one of them has failed."""

from __future__ import annotations

import pytest

from tests.runtime.test_hosts import ends, error_line, start

WORK = """
def work(hosts):
    from groot_jax.runtime.parting import meet, meet_after_failure, part
    try:
        for step in range(3):
            hosts.merge(step, sum)
            if hosts.index == {failing} and step == 1:
                raise UserError("the reward has failed")
            hosts.{call}
    except Exception as error:
        assert meet_after_failure(hosts, 7) == [7, 7]
        # All are at the same call again, and can save together.
        assert hosts.merge(hosts.index, lambda all: all) == [*range(hosts.count)]
        assert meet(hosts, "saved", None) is not None
        print("saved", flush=True)
        part(hosts, error)
        raise
"""


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("call", ["merge(0, sum)", "broadcast(1)"])
def test_all_meet_where_one_has_failed_and_that_one_says_why(failing: int, call: str) -> None:
    found = ends(start(WORK.format(failing=failing, call=call), 2))
    assert [(status, out) for status, out, _ in found] == [(1, "saved\n")] * 2, found
    assert error_line(found[failing][2]) == "error: the reward has failed"
    assert f"process {failing} of 2" in error_line(found[1 - failing][2])


def test_nobody_waits_for_ever_for_one_that_does_not_come() -> None:
    work = """
    def work(hosts):
        import time
        from groot_jax.runtime import parting
        parting._MEET_WITHIN = 1.0
        if hosts.index:
            time.sleep(60)
        assert parting.meet_after_failure(hosts, 0) is None
        raise UserError("the reward has failed")
    """
    found = ends(start(work, 2))
    assert [status for status, *_ in found] == [1, 1]
    assert "did not come within 1 s to save what was done" in found[0][2]
    assert error_line(found[0][2]) == "error: the reward has failed"
