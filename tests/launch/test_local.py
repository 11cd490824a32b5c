"""launch/local.py: several processes of one machine, their output, and how they end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "local.py"
PYTHON = [sys.executable, "-u", "-c"]


def launch(*args: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_a_dry_run_prints_each_command_with_its_environment():
    words = ["python", "-m", "groot_jax.train", "--config.data.train=my file.txt"]
    done = launch("--processes=3", "--devices=2", "--port=4321", "--dry-run", "--", *words)
    assert done.returncode == 0 and done.stderr == ""
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    for index, line in enumerate(lines):
        places = dict(word.split("=", 1) for word in line[: -len(words)])
        assert line[-len(words) :] == words
        assert places["JAX_COORDINATOR_ADDRESS"] == "localhost:4321"
        assert (places["JAX_PROCESS_ID"], places["JAX_NUM_PROCESSES"]) == (str(index), "3")
        assert "--xla_force_host_platform_device_count=2" in places["XLA_FLAGS"].split()
        assert int(places["NPROC"]) >= 12


def test_processes_see_each_other_and_their_devices():
    code = """
import jax
from groot_jax.runtime.hosts import connect
hosts = connect(30.0, 20.0)
print(hosts.index, jax.process_count(), jax.local_device_count(), jax.device_count())
hosts.close()
"""
    done = launch("--processes=2", "--devices=2", "--", *PYTHON, code, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[0] 0 2 2 4", "[1] 1 2 2 4"]


def test_one_that_fails_ends_the_others_and_gives_its_status():
    code = "import os, sys, time\nif os.environ['JAX_PROCESS_ID'] == '1': sys.exit('broken')\n"
    code += "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(5)"
    begun = time.monotonic()
    done = launch("--processes=2", "--", *PYTHON, code)
    assert time.monotonic() - begun < 30
    assert done.returncode == 1
    assert "[1] broken" in done.stderr
    assert "process 1 failed (1): ending the others" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_goes_to_all(number: signal.Signals):
    code = "import time\nprint('here')\ntime.sleep(60)"
    command = [sys.executable, str(SCRIPT), "--processes=2", "--", *PYTHON, code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] here\n", "[1] here\n"]
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "ending the others" not in err


def test_who_ignores_a_hangup_goes_on_ignoring_it():
    code = "import time\nprint('here')\ntime.sleep(1)"
    words = [sys.executable, str(SCRIPT), "--processes=1", "--", *PYTHON, code]
    with subprocess.Popen(["nohup", *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "[0] here\n"
        os.kill(process.pid, signal.SIGHUP)
    assert process.returncode == 0


def test_mistakes_are_sentences():
    assert "no-such-program cannot be run" in launch("--", "no-such-program").stderr
    assert "--processes=0: ask for 1 or more" in launch("--processes=0", "--", "true").stderr
    assert "command" in launch("--processes=2").stderr
