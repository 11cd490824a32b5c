"""The workers' part for real: what ssh would run there runs here, in a home folder for each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch import tpu_vm
from tests.launch.support import World, script

BASE = ("--name=groot", "--zone=z")
ONE = ("run", *BASE, "--topology=v5e:2x2", "--poll=0")
TWO = ("run", *BASE, "--topology=v5p:2x2x2", "--poll=0")
WORKER = "groot/source/launch/worker.sh"


@pytest.fixture
def homes(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    monkeypatch.setattr(tpu_vm, "ROOT", tmp_path)
    made = [world.add_worker(), world.add_worker()]
    yield made
    for home in made:
        on(home, "stop")


def on(home: Path, *words: str) -> str:
    """What `worker.sh` prints for these words."""
    if not (home / WORKER).exists():
        return ""
    env = os.environ | {"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", WORKER, *words], cwd=home, env=env, capture_output=True, text=True, timeout=60
    ).stdout


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_all_workers_run_the_job_to_its_end(homes: list[Path], world: World):
    code = "import os; print(os.environ['GROOT_DISTRIBUTED'], os.getcwd()); os.write(2, b'e\\n')"
    out = world.output(lambda: tpu_vm.main([*TWO, "--", "python", "-c", code])).splitlines()
    for number, home in enumerate(homes):
        assert f"[worker {number}] auto {home}/groot/source" in out
        assert f"[worker {number}] e" in out
        assert on(home, "status") == f"worker {number}: finished\n"
    assert world.verbs()[-1] == "follow"


def test_a_job_that_fails_on_one_worker_is_named(homes: list[Path], world: World):
    code = "import os, sys; sys.exit('homes/1/' in os.getcwd() and 3)"
    error = world.error(lambda: tpu_vm.main([*TWO, "--", "python", "-c", code]))
    assert error.endswith("the job failed on groot: worker 1 (exit status 3); its log is above")


def test_a_job_that_was_terminated_starts_again_and_finishes(homes: list[Path], world: World):
    """It ends with 143, as training does, when it is sent SIGTERM for the first time."""
    code = (
        "import os, signal, sys; "
        + "seen = os.path.exists('../seen'); open('../seen', 'w').close(); "
        + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
        + "seen or os.kill(os.getpid(), signal.SIGTERM)"
    )
    tpu_vm.main([*TWO, "--", "python", "-c", code])
    assert world.verbs().count("start") == 2


@pytest.mark.parametrize("lost", [75, 137])
def test_a_job_that_lost_a_process_starts_again_and_finishes(
    homes: list[Path], world: World, lost: int
):
    """One is killed for want of memory (137), and the others miss it (75)."""
    code = (
        "import os, sys; seen = os.path.exists('../seen'); open('../seen', 'w').close(); "
        + f"seen or sys.exit({lost} if 'homes/1/' in os.getcwd() else 75)"
    )
    tpu_vm.main([*TWO, "--", "python", "-c", code])
    assert world.verbs().count("start") == 2


def test_a_job_outlives_what_started_it_and_can_be_stopped(homes: list[Path], world: World):
    home = homes[0]
    tpu_vm.main(["up", *TWO[1:]])
    code = "import signal, time; open('ready', 'w').close(); time.sleep(60)"
    command = f'python -c "{code}"'
    on(home, "start", command)
    wait_for(home / "groot" / "source" / "ready")
    assert on(home, "status") == f"worker 0: running: {command}\n"
    tpu_vm.main(["stop", *BASE])
    assert on(home, "status") == "worker 0: interrupted\n"
    assert on(homes[1], "status") == "worker 1: idle\n"


def test_a_job_that_was_killed_or_whose_machine_started_anew_is_interrupted(
    homes: list[Path], world: World
):
    home = homes[0]
    tpu_vm.main(["up", *TWO[1:]])
    on(home, "start", "echo begun > ready; exec sleep 60")
    wait_for(home / "groot" / "source" / "ready")
    pid = home / "groot" / "run" / "pid"
    number, machine = pid.read_text().split()
    pid.write_text(f"{number} another-boot\n")
    assert on(home, "status") == "worker 0: interrupted\n"
    pid.write_text(f"{number} {machine}\n")
    os.killpg(int(number), signal.SIGKILL)
    end = time.monotonic() + 30
    while "running" in on(home, "status"):
        assert time.monotonic() < end
    assert on(home, "status") == "worker 0: interrupted\n"


def test_storage_is_mounted_once(homes: list[Path], world: World):
    log = world.folder / "mounts"
    for home in homes:
        script(home / "bin" / "mountpoint", "[ -e mounted ]")
        for name in ("sudo", "gcsfuse"):
            script(home / "bin" / name, f'echo {name} "$@" >> {log}')
        script(home / "bin" / "mount.nfs", "exit")
    flags = ("--mount=gs://bucket:/mnt/b", "--mount=h:/share:/mnt/s")
    tpu_vm.main(["up", *BASE, "--topology=v5p:2x2x2", *flags])
    lines = log.read_text().splitlines()
    assert lines.count("sudo mount -t nfs h:/share /mnt/s") == 2
    buckets = [line for line in lines if line.startswith("gcsfuse ")]
    assert len(buckets) == 2 and all(line.endswith(" bucket /mnt/b") for line in buckets)
    for home in homes:
        (home / "mounted").touch()
    log.write_text("")
    tpu_vm.main(["up", *BASE, "--topology=v5p:2x2x2", *flags])
    assert log.read_text() == ""


WORDS = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), max_size=12)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=st.lists(WORDS, max_size=5))
def test_every_word_of_the_command_arrives_as_it_was(
    words: list[str], homes: list[Path], tmp_path: Path
):
    """Through our own quoting, gcloud's --command, the ssh's shell and that of the job."""
    words = [*words, "--config.systems=('groot', \"nll\")", "$HOME `id` \\ '", "two  spaces"]
    out = tmp_path / "words"
    out.unlink(missing_ok=True)
    code = "import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))"
    env = "--env=SETTING=a 'b' $c"
    tpu_vm.main([*ONE, env, "--", "python", "-c", code, str(out), *words])
    assert json.loads(out.read_text()) == words
