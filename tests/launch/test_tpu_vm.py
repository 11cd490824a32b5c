"""A TPU VM from nothing to its end, against a gcloud that stands in for Google's."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch import tpu_vm
from tests.launch.support import World

ROOT = Path(__file__).resolve().parents[2]
BASE = ("--name=groot", "--zone=us-west4-a")
ONE = (*BASE, "--topology=v5e:2x2", "--poll=0")
POD = (*BASE, "--topology=v5e:4x4", "--poll=0", "--mount=10.0.0.2:/share:/mnt/share")
TRAIN = ("python", "-m", "groot_jax.train", "--config=configs/retail.py")
JOB = ("--", *TRAIN, "--workdir=/mnt/share/demo")
INSTALLED = ["scp", "install"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpu_vm, "ROOT", tmp_path)


def run(*argv: str) -> None:
    tpu_vm.main(["run", *argv])


def printed(world: World, *argv: str) -> list[list[str]]:
    """The commands of a dry run, as a shell takes them apart."""
    return [shlex.split(line) for line in world.output(lambda: tpu_vm.main([*argv])).splitlines()]


# ---- From nothing to the end ------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        (*ONE, "--", *TRAIN, "--workdir=runs/demo"),
        (*POD, "--spot", "--queued", "--delete-after", "--setup=echo 'a b' > x", *JOB),
        (*POD, "--project=p", "--track=alpha", "--network=n", "--internal-ips", *JOB),
        (*POD, "--env=NAME=a 'b'", *JOB, "--config.systems=('groot', \"nll_continued\")"),
    ],
)
def test_a_dry_run_prints_what_a_run_then_runs(world: World, flags: tuple[str, ...]):
    expected = printed(world, "run", "--dry-run", *flags)
    assert world.calls() == [] and world.state == ""
    run(*flags)
    # mkdir is not stood in for.
    assert world.calls() == [call for call in expected if call[0] != "mkdir"]
    assert [call[0] for call in expected if call[0] not in ("gcloud", "git")] == ["mkdir"]


@pytest.mark.parametrize("action", ["up", "logs", "status", "stop", "down"])
def test_a_dry_run_prints_what_the_other_actions_run(world: World, action: str):
    flags = (action, *POD) if action == "up" else (action, *BASE, "--queued")
    expected = printed(world, *flags, "--dry-run")
    assert world.calls() == []
    world.state = "" if action == "up" else "READY"
    tpu_vm.main([*flags])
    assert world.calls() == [call for call in expected if call[0] != "mkdir"]


def test_a_pod_runs_the_command_on_every_worker(world: World):
    run(*POD, "--spot", "--runtime-version=mine", *JOB)
    assert world.verbs() == [
        "describe",
        "create",
        "describe",
        *INSTALLED,
        "mount",
        "start",
        "follow",
    ]
    [create] = [call for call in world.calls() if "create" in call]
    words = "create groot --zone=us-west4-a --quiet --accelerator-type=v5litepod-16"
    assert create[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
    assert " ".join(create[4:]) == f"{words} --version=mine --spot"
    started = [call for call in world.calls() if "ssh" in call]
    assert all("--worker=all" in call for call in started)
    start = next(word for word in started[2] if word.startswith("--command="))
    *_, command = shlex.split(start.removeprefix("--command="))
    assert command == f"env GROOT_DISTRIBUTED=auto {shlex.join(JOB[1:])}"
    assert world.state == "READY"


def test_one_host_is_one_process(world: World):
    run(*ONE, "--env=A=b c", "--", *TRAIN, "--workdir=runs/demo")
    start = next(call for call in world.calls() if any(" start " in word for word in call))
    assert "GROOT_DISTRIBUTED" not in " ".join(start)
    assert "env '\"'\"'A=b c'\"'\"' python" in start[-1]


def test_a_queued_resource_is_waited_for(world: World):
    world.answer("queued-resources", "describe", err="NOT_FOUND\n", status=1)
    for state in ("WAITING_FOR_RESOURCES", "PROVISIONING"):
        world.answer("queued-resources", "describe", out=f"{state}\n", times=2)
    run(*POD, "--queued", "--create-flag=--valid-until-duration=6h", *JOB)
    verbs = world.verbs()
    assert verbs[:2] == ["describe", "create"] and verbs[2:8] == ["describe"] * 6
    [create] = [call for call in world.calls() if "create" in call]
    assert create[3] == "queued-resources"
    assert {"--node-id=groot", "--runtime-version=v2-alpha-tpuv5-lite"} <= set(create)
    assert create[-1] == "--valid-until-duration=6h"


def test_delete_after_deletes_it_however_the_job_ends(world: World):
    run(*POD, "--queued", "--delete-after", *JOB)
    assert world.calls()[-1][3:6] == ["queued-resources", "delete", "groot"]
    assert world.calls()[-1][-1] == "--force"
    assert world.state == ""
    world.answer("install", status=1, err="no space\n")
    assert "no space" in world.error(lambda: run(*POD, "--delete-after", *JOB))
    assert world.verbs()[-1] == "delete" and world.state == ""


def test_status_tells_of_the_workers_in_their_order(world: World):
    world.state = "READY"
    world.answer(" status", out="".join(f"worker {n}: idle\n" for n in (10, 2, 0)))
    out = world.output(lambda: tpu_vm.main(["status", *BASE]))
    assert out == "groot: READY\nworker 0: idle\nworker 2: idle\nworker 10: idle\n"


def test_down_of_nothing_is_no_mistake(world: World):
    tpu_vm.main(["down", *BASE])
    assert world.verbs() == ["delete"]


# ---- A slice that is there already ------------------------------------------------------------


def test_a_job_that_runs_already_is_followed(world: World):
    world.state = "READY"
    command = f"env GROOT_DISTRIBUTED=auto {shlex.join(JOB[1:])}"
    lines = "".join(f"worker {n}: running: {command}\n" for n in range(4))
    world.answer(" status", out=lines)
    run(*POD, *JOB)
    assert world.verbs() == ["describe", "status", "follow"]


def test_another_job_is_left_alone(world: World):
    world.state = "READY"
    world.answer(" status", out="worker 0: running: python other.py\n")
    error = world.error(lambda: run(*POD, "--max-restarts=3", "--delete-after", *JOB))
    assert "runs another command already (python other.py)" in error
    assert world.verbs() == ["describe", "status"]


def test_a_job_that_half_runs_is_started_again(world: World):
    world.state = "READY"
    command = f"env GROOT_DISTRIBUTED=auto {shlex.join(JOB[1:])}"
    world.answer(" status", out=f"worker 0: running: {command}\nworker 1: interrupted\n")
    run(*POD, *JOB)
    assert world.verbs() == ["describe", "status", *INSTALLED, "mount", "start", "follow"]


def test_a_preempted_slice_of_the_name_is_replaced(world: World):
    world.state = "PREEMPTED"
    run(*POD, *JOB)
    assert world.verbs()[:4] == ["describe", "delete", "create", "describe"]


def test_a_stopped_slice_is_the_users(world: World):
    world.state = "STOPPED"
    assert "groot is STOPPED" in world.error(lambda: run(*POD, "--delete-after", *JOB))
    assert world.verbs() == ["describe"]


# ---- What goes wrong --------------------------------------------------------------------------


def test_after_a_preemption_all_of_it_happens_again(world: World):
    world.answer(" follow ", status=255, err="connection closed\n", state="PREEMPTED")
    run(*POD, "--spot", *JOB)
    start = ["mount", "start", "follow"]
    assert world.verbs() == [
        *("describe", "create", "describe", *INSTALLED, *start),
        *("describe", "describe", "delete", "create", "describe", *INSTALLED, *start),
    ]
    starts = [call for call in world.calls() if any(" start " in word for word in call)]
    assert starts[0] == starts[1]


def test_a_queued_resource_that_is_suspended_is_queued_for_again(world: World):
    world.answer(" follow ", status=143, state="SUSPENDED")
    run(*POD, "--spot", "--queued", *JOB)
    deleted = [call for call in world.calls() if "delete" in call]
    assert len(deleted) == 1 and "--force" in deleted[0]
    assert world.verbs().count("create") == 2


def test_a_preemption_in_the_midst_of_an_installation_counts_too(world: World):
    world.answer("install", status=255, state="PREEMPTED")
    run(*POD, "--spot", *JOB)
    assert world.verbs().count("create") == 2 and world.verbs().count("follow") == 1


def test_restarts_are_bounded(world: World):
    world.answer(" follow ", status=255, state="PREEMPTED", times=9)
    error = world.error(lambda: run(*POD, "--spot", "--max-restarts=2", *JOB))
    assert "groot is PREEMPTED, and --max-restarts=2 are used up" in error
    assert world.verbs().count("create") == 3


def test_a_slice_that_goes_as_it_comes_is_bounded_too(world: World):
    world.answer("create", state="PREEMPTED", times=9)
    assert "right after its creation" in world.error(lambda: run(*POD, "--max-restarts=2", *JOB))
    assert world.verbs().count("create") == 3


def test_capacity_may_come_back_after_a_preemption(world: World):
    world.answer(" follow ", status=255, state="PREEMPTED")
    world.answer("create", state="READY")
    world.answer("create", status=1, err="no more capacity\n", times=2)
    run(*POD, "--spot", *JOB)
    assert world.verbs().count("create") == 4 and world.verbs()[-1] == "follow"


def test_without_quota_nothing_is_tried_again(world: World):
    world.answer("create", status=1, err="ERROR: RESOURCE_EXHAUSTED: Quota 'TPUS' exceeded\n")
    error = world.error(lambda: run(*POD, *JOB))
    assert "RESOURCE_EXHAUSTED: Quota 'TPUS' exceeded" in error
    assert world.verbs() == ["describe", "create"]


def test_a_queued_resource_that_failed_is_not_waited_for(world: World):
    world.answer("create", state="FAILED")
    assert "groot is FAILED" in world.error(lambda: run(*POD, "--queued", *JOB))


def test_a_job_that_fails_on_a_sound_slice_ends_the_launch(world: World):
    world.answer(" follow ", status=1)
    states = ["failed: exit status 1", "finished", "finished", "finished"]
    world.answer(" status", out="".join(f"worker {n}: {s}\n" for n, s in enumerate(states)))
    error = world.error(lambda: run(*POD, *JOB))
    assert "the job failed on groot: worker 0 (exit status 1)" in error
    assert world.verbs().count("create") == 1


def test_a_job_that_was_cut_off_on_a_sound_slice_starts_again_there(world: World):
    world.answer(" follow ", status=75)
    world.answer(" status", out="worker 0: interrupted\nworker 1: interrupted\n", times=2)
    run(*POD, *JOB)
    assert world.verbs().count("create") == 1 and world.verbs().count("start") == 2


def test_a_worker_that_failed_by_itself_ends_the_launch_though_others_were_interrupted(
    world: World,
):
    world.answer(" follow ", status=75)
    world.answer(" status", out="worker 0: interrupted\nworker 1: failed: exit status 1\n")
    error = world.error(lambda: run(*POD, *JOB))
    assert "the job failed on groot: worker 1 (exit status 1)" in error
    assert world.verbs().count("start") == 1


def test_workers_that_have_nothing_installed_start_again(world: World):
    """As after maintenance, when the machine came back with an empty disk."""
    world.answer(" follow ", status=255)
    world.answer(" status", out="", times=2)
    run(*POD, *JOB)
    assert world.verbs().count("create") == 1 and world.verbs().count("start") == 2


def test_a_lost_connection_is_taken_up_again(world: World):
    world.answer(" follow ", status=255)
    world.answer(" status", status=255, err="connection refused\n")
    world.answer(" follow ", status=255)
    world.answer(" status", out="worker 0: running: x\n")
    run(*POD, *JOB)
    assert world.verbs().count("start") == 1 and world.verbs().count("follow") == 3


def test_workers_that_never_answer_end_the_launch(world: World):
    world.answer(" follow ", status=255, times=99)
    world.answer(" status", status=255, err="connection refused\n", times=99)
    assert "connection refused" in world.error(lambda: run(*POD, *JOB))


def test_uncommitted_files_are_told_of(world: World):
    world.answer("--porcelain", out=" M groot_jax/train.py\n?? mine.py\n")
    world.capfd.readouterr()
    run(*POD, *JOB)
    assert "2 changed or new files stay here: commit them first" in world.capfd.readouterr().err


# ---- The user's mistakes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("run", *BASE), "--topology"),
        (("run", *BASE, "--topology=v5e:5x5", *JOB), "v5e comes as"),
        (("fly", *BASE), "invalid choice: 'fly'"),
        (("run", "--name=groot", *JOB), "--zone"),
        (("run", *POD, "--nmae=x", *JOB), "--nmae"),
        (("run", *POD), "no command is given"),
        (("run", *POD, "--poll=-1", *JOB), "at least 0"),
        (("run", *POD, "--", *TRAIN, "--workdir=runs/demo"), "the 4 hosts of v5e:4x4"),
        (("run", *POD, "--", *TRAIN, "--workdir=gs://b/runs"), "not to URLs"),
        (("run", *ONE, "--spot", "--", *TRAIN, "--workdir=r"), "the disk of a spot VM"),
        (("run", *ONE, "--delete-after", "--", *TRAIN, "--workdir=r"), "--delete-after deletes"),
        (("run", *POD, "--mount=claim:c:/mnt/c", *JOB), "launch/gke"),
        (("up", *POD, "--mount=x"), "--mount=x"),
        (("run", *POD, *JOB, "--config.mesh.tensor=3"), "does not fit 16 devices of v5e:4x4"),
        (("run", *POD, *JOB, "--config.groot.tua=3"), "groot.tua"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_rented(
    world: World, argv: tuple[str, ...], part: str
):
    assert part in world.error(lambda: tpu_vm.main([*argv]))
    assert world.calls() == []


def test_setup_may_mount_what_is_shared(world: World):
    run(*BASE, "--topology=v5e:4x4", "--workdir-is-shared", "--setup=mount", *JOB)
    assert world.verbs()[3:6] == ["scp", "mount", "install"]


def test_it_runs_as_a_script_from_anywhere(world: World, tmp_path: Path):
    world.answer("delete", status=1, err="PERMISSION_DENIED\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "tpu_vm.py"), "down", *BASE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: `gcloud compute tpus tpu-vm delete groot"
    )
    assert "Traceback" not in done.stderr
