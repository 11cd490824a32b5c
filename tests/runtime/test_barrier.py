"""Threads of several processes that wait for each other, where one fails on its way."""

from __future__ import annotations

import time

import pytest

from tests.runtime.test_hosts import ends, start

WORK = """
def work(hosts):
    import threading
    from groot_jax.runtime.barrier import Barrier, OutOfStep

    # Beside the main threads, which talk meanwhile.
    said = []

    def save(barrier, fails):
        try:
            try:
                barrier(key="begin", timeout_ms=1)
                if fails:
                    raise OSError("the disk is full")
                barrier(key="written", timeout_ms=1)
                said.append("committed")
            finally:
                barrier(key="over", timeout_ms=1)
        except Exception as error:
            why = error
            while isinstance(why, OutOfStep) and why.__context__:
                why = why.__context__
            said.append(type(why).__name__)

    for turn, failing in enumerate([None, {failing}, None]):
        barrier = Barrier(hosts, f"save/{{turn}}")
        thread = threading.Thread(target=save, args=(barrier, hosts.index == failing))
        thread.start()
        for number in range(30):
            assert hosts.merge(number, sum) == 3 * number
        thread.join()
        assert barrier.failed == (failing is not None)
        if failing is not None:
            try:
                barrier(key="begin", timeout_ms=1)
            except OutOfStep:
                said.append("for good")
    print(*said, flush=True)
"""


@pytest.mark.parametrize("failing", [0, 2])
def test_where_one_fails_on_its_way_nobody_passes(failing: int) -> None:
    begun = time.monotonic()
    for index, (status, out, err) in enumerate(ends(start(WORK.format(failing=failing), 3))):
        assert status == 0, err
        why = "OSError" if index == failing else "OutOfStep"
        assert out == f"committed {why} for good committed\ndone\n"
    assert time.monotonic() - begun < 60
