"""Processes that find each other, talk, and end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest

from groot_jax.errors import RUN_AGAIN, UserError
from groot_jax.runtime.hosts import Hosts, _answers, connect
from groot_jax.runtime.joining import Place, place_from_environment, roll_call

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120.0
# What each process runs; `work(hosts)` is the test's.
PROGRAM = """
    import sys, time
    from groot_jax.errors import UserError, exit_on_user_error
    from groot_jax.runtime.hosts import connect

    {work}

    def main():
        hosts = connect(30.0, 6.0)
        work(hosts)
        print("done", flush=True)
        hosts.close()

    exit_on_user_error(main)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def start(work: str, count: int) -> list[subprocess.Popen[str]]:
    port = free_port()
    program = textwrap.dedent(PROGRAM).format(work=textwrap.dedent(work))
    return [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(ROOT),
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def ends(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    found = []
    for process in processes:
        out, err = process.communicate(timeout=LIMIT)
        found.append((process.returncode, out, err))
    return found


def error_line(err: str) -> str:
    """The sentence that a process ends with. (JAX logs of its own when the coordinator is gone.)"""
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert err.splitlines()[-1] == line
    return line


def test_one_process_talks_to_itself():
    hosts = Hosts()
    assert hosts.main and hosts.count == 1
    assert hosts.collect({"a": 1}) == [{"a": 1}]
    assert hosts.broadcast([1]) == [1]
    assert hosts.merge(3, sum) == 3
    hosts.barrier()
    hosts.close()


def test_messages_reach_all_in_the_order_of_processes():
    work = """
    def work(hosts):
        for turn in range(20):
            assert hosts.merge(turn * hosts.index, sum) == 3 * turn
            assert hosts.broadcast([turn, "ü"] if hosts.main else None) == [turn, "ü"]
        import random
        noise = random.Random(hosts.index).randbytes(3_000_000).hex()  # Several parts.
        found = hosts.collect(noise)
        if hosts.main:
            assert found == [random.Random(i).randbytes(3_000_000).hex() for i in range(3)]
        else:
            assert found is None
        hosts.barrier()
    """
    for status, out, err in ends(start(work, 3)):
        assert (status, out) == (0, "done\n"), err


@pytest.mark.parametrize("failing", [0, 1])
def test_one_process_that_fails_ends_all_with_its_sentence(failing):
    work = f"""
    def work(hosts):
        if hosts.index == {failing}:
            raise UserError("data.txt:3: has no tag; mend the line")
        time.sleep(60)
    """
    found = ends(start(work, 2))
    assert [status for status, *_ in found] == [1, 1]
    assert error_line(found[failing][2]) == "error: data.txt:3: has no tag; mend the line"
    other = error_line(found[1 - failing][2])
    assert f"process {failing} of 2 (" in other and "data.txt:3: has no tag" in other


def test_a_bug_in_one_process_ends_all():
    work = """
    def work(hosts):
        if hosts.index == 1:
            1 / 0
        time.sleep(60)
    """
    (status0, _, err0), (status1, _, err1) = ends(start(work, 2))
    assert (status0, status1) == (1, 1)
    assert "ZeroDivisionError" in error_line(err0)
    assert err1.startswith("Traceback")


@pytest.mark.parametrize("failing", [0, 1])
def test_a_full_disk_is_one_sentence_in_all_processes(failing):
    work = f"""
    def work(hosts):
        if hosts.index == {failing}:
            import errno, os
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file")
        time.sleep(60)
    """
    found = ends(start(work, 2))
    assert [status for status, *_ in found] == [1, 1]
    said = "/some/file: No space left on device; make room and run the same command again"
    assert found[failing][2] == f"error: {said}\n"
    assert said in error_line(found[1 - failing][2])


def test_a_reader_that_goes_away_ends_all_without_a_traceback():
    work = """
    def work(hosts):
        if hosts.index == 0:
            raise BrokenPipeError
        time.sleep(60)
    """
    (status0, _, err0), (status1, _, err1) = ends(start(work, 2))
    assert (status0, err0, status1) == (1, "", 1)
    assert "BrokenPipeError" in error_line(err1)


def test_the_work_directory_of_a_run_that_another_process_ended_says_so(tmp_path):
    work = f"""
    from pathlib import Path
    from groot_jax.training.status import WorkdirLock

    def work(hosts):
        with WorkdirLock(Path({str(tmp_path)!r})) as lock:
            if hosts.main:
                lock.take()
            hosts.barrier()
            if not hosts.main:
                raise UserError("the reward's service is gone")
            time.sleep(60)
    """
    assert [status for status, *_ in ends(start(work, 2))] == [1, 1]
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "stopped"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_between_the_roll_and_the_start_ends_all_soon(victim):
    work = f"""
    import jax, os
    begin = jax.distributed.initialize

    def initialize(*args, **kwargs):
        if args[2] == {victim}:
            os._exit(9)
        begin(*args, **kwargs)

    jax.distributed.initialize = initialize
    work = print
    """
    begun = time.monotonic()
    found = ends(start(work, 2))
    assert time.monotonic() - begun < 60
    status, _, err = found[1 - victim]
    assert found[victim][0] == 9
    assert status == RUN_AGAIN, err
    assert "did not go on within 6 s" in error_line(err)


def test_what_is_no_loss_is_not_told_as_one():
    work = """
    import jax
    work = print

    def initialize(*args, **kwargs):
        raise RuntimeError("distributed.initialize should only be called once.")

    jax.distributed.initialize = initialize
    """
    for status, _, err in ends(start(work, 2)):
        assert status == 1 and "only be called once" in err and err.startswith("Traceback")


@pytest.mark.parametrize("kind", ["ValueError", "jax.errors.JaxRuntimeError"])
def test_what_fails_since_another_was_terminated_is_told_as_that(kind):
    """Gloo's error comes at once, and the other's reason a beat later; JAX raises it as either."""
    work = f"""
    def work(hosts):
        import jax, os, signal
        if hosts.index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        raise {kind}("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:16304")
    """
    (status, _, err), (terminated, *_) = ends(start(work, 2))
    assert (status, terminated) == (RUN_AGAIN, 143), err
    assert "process 1 of 2 (" in error_line(err) and "stopped: SIGTERM" in error_line(err)
    assert "Traceback" not in err


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_missed_by_name(victim):
    work = """
    def work(hosts):
        hosts.barrier()
        print("here", flush=True)
        time.sleep(60)
    """
    processes = start(work, 2)
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
    begun = time.monotonic()
    os.kill(processes[victim].pid, signal.SIGKILL)
    found = ends(processes)
    assert time.monotonic() - begun < 20
    assert found[victim][0] == -signal.SIGKILL
    status, _, err = found[1 - victim]
    assert status == RUN_AGAIN
    line = error_line(err)
    assert f"process {victim} of 2 (" in line and "run the same command again" in line
    assert "stack trace" not in err


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_xla_aborts_says_so_itself(victim):
    work = f"""
    def work(hosts):
        if hosts.index == {victim}:
            time.sleep(2)
            import os
            os.abort()
        time.sleep(60)
    """
    ended = ends(start(work, 2))
    status, _, err = ended[victim]
    assert status == 134
    assert f"process {victim} of 2" in error_line(err) and "was aborted" in error_line(err)
    assert ended[1 - victim][0] == RUN_AGAIN
    other = error_line(ended[1 - victim][2])
    missed = "has given no sign of life" if victim else "can no longer be reached"
    assert f"process {victim} of 2" in other and missed in other


def test_a_process_that_is_being_killed_may_answer_once_more(monkeypatch):
    """Its sockets are closed one by one, the one that takes connections perhaps last."""
    with socket.create_server(("localhost", 0)) as server:
        place = f"localhost:{server.getsockname()[1]}"
        assert _answers(place)
        monkeypatch.setattr(time, "sleep", lambda wait: server.close() if wait else None)
        assert not _answers(place)
        assert not _answers(place)


def test_those_who_do_not_arrive_are_named_to_those_who_do():
    port = free_port()
    said = {}

    def arrive(index: int) -> None:
        try:
            roll_call(Place(f"localhost:{port}", 4, index), timeout=1.5)
        except UserError as error:
            said[index] = str(error)

    threads = [threading.Thread(target=arrive, args=(index,)) for index in (0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said[0] == said[2]
    assert said[0].startswith("process 1, 3 of 4 did not arrive within 2 s")


def test_a_coordinator_that_does_not_arrive_is_named():
    place = Place(f"localhost:{free_port()}", 2, 1)
    with pytest.raises(UserError, match=rf"process 0 of 2, at {place.coordinator}, did not answer"):
        roll_call(place, timeout=0.5)


def test_two_processes_of_one_number_are_refused():
    port = free_port()
    said = []

    def arrive(index: int, count: int) -> None:
        try:
            roll_call(Place(f"localhost:{port}", count, index), timeout=10.0)
        except UserError as error:
            said.append(str(error))

    threads = [threading.Thread(target=arrive, args=place) for place in [(0, 3), (1, 2)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 2 and all("is process 1 of 2" in line for line in said)


GOOD = {
    "JAX_COORDINATOR_ADDRESS": "host:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


def test_the_environment_says_which_process_this_is():
    assert place_from_environment({}) is None
    assert place_from_environment(GOOD) == Place("host:1234", 4, 3)
    assert place_from_environment({**GOOD, "GROOT_DISTRIBUTED": "auto"}) == Place("host:1234", 4, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is not"),
        ({"JAX_PROCESS_ID": "4"}, "counted from 0"),
        ({"JAX_NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES=many"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "write host:port"),
        ({"JAX_COORDINATOR_ADDRESS": "host:70000"}, "write host:port"),
        ({"GROOT_DISTRIBUTED": "yes"}, "only 'auto' is known"),
    ],
)
def test_a_wrong_environment_is_a_sentence(changes, message):
    with pytest.raises(UserError, match=message):
        place_from_environment({**GOOD, **changes})


def test_auto_outside_of_a_cluster_is_a_sentence():
    with pytest.raises(UserError, match="no TPU pod, Slurm job or other cluster"):
        place_from_environment({"GROOT_DISTRIBUTED": "auto"})


SLURM = {
    "GROOT_DISTRIBUTED": "auto",
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "node[001-004]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("more", "devices"),
    [
        ({"JAX_LOCAL_DEVICE_IDS": "0,1,2,3"}, (0, 1, 2, 3)),
        ({"JAX_LOCAL_DEVICE_IDS": "2"}, (2,)),
        # One process a node has all devices of it; several have one each.
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,1(x3)"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, (0,)),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,3"}, (0,)),
        ({}, (0,)),
    ],
)
def test_a_process_of_slurm_has_the_devices_that_it_is_told(monkeypatch, more, devices):
    for name, value in (SLURM | more).items():
        monkeypatch.setenv(name, value)
    place = place_from_environment(os.environ)
    assert place is not None
    assert (place.count, place.index, place.devices) == (4, 2, devices)
    assert place.coordinator.startswith("node001:")


def test_devices_are_told_without_a_cluster_too():
    devices = {"JAX_LOCAL_DEVICE_IDS": "4, 5"}
    assert place_from_environment({**GOOD, **devices}) == Place("host:1234", 4, 3, (4, 5))
    with pytest.raises(UserError, match="JAX_LOCAL_DEVICE_IDS=all"):
        place_from_environment({**GOOD, "JAX_LOCAL_DEVICE_IDS": "all"})


def test_a_run_of_one_process_has_the_devices_that_it_is_told(monkeypatch):
    alone = SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "node001"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    names = ("jax_cuda_visible_devices", "jax_rocm_visible_devices")
    try:
        # A task that has its node to itself has all devices, unless it is told.
        for more, devices in (
            ({"SLURM_STEP_TASKS_PER_NODE": "1"}, "all"),
            ({"JAX_LOCAL_DEVICE_IDS": "1,3"}, "1,3"),
        ):
            for name, value in more.items():
                monkeypatch.setenv(name, value)
            assert connect(1.0, 1.0).count == 1
            assert [jax.config.read(name) for name in names] == [devices] * 2
    finally:
        for name in names:
            jax.config.update(name, "all")
