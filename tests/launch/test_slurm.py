"""The batch script asks for what was wanted, and does it when a shell runs it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.slurm import submit
from tests.launch.support import World, script

ROOT = Path(__file__).resolve().parents[2]
JOB = ("--", "python", "-m", "groot_jax.train", "--config=configs/retail.py", "--workdir=w")


def batch(world: World, *argv: str) -> str:
    """The script that sbatch is given."""
    submit.main([*argv])
    call = world.records()[-1]
    assert call["argv"] == ["sbatch"]
    text: str = call["stdin"]
    return text


def flags(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    return [shlex.split(line.removeprefix("#SBATCH "))[0] for line in lines]


def test_one_task_on_every_node(world: World):
    text = batch(
        world,
        *("--name=groot", "--nodes=4", "--gpus-per-node=8", "--cpus-per-task=32"),
        *("--time=24:00:00", "--partition=gpu", "--account=me", "--sbatch-flag=--comment=a b"),
        *JOB,
    )
    assert text.startswith("#!/bin/bash\n")
    assert set(flags(text)) == {
        *("--job-name=groot", "--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8"),
        *("--cpus-per-task=32", "--time=24:00:00", "--partition=gpu", "--account=me"),
        *("--comment=a b", "--requeue", "--open-mode=append", "--output=groot-%j.log"),
        "--signal=B:USR1@120",
    }
    assert "export GROOT_DISTRIBUTED=auto\n" in text
    assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7\n" in text
    assert "export SRUN_CPUS_PER_TASK=32\n" in text
    assert f"srun --kill-on-bad-exit=1 {shlex.join(JOB[1:])} &\n" in text


def test_one_node_is_one_process(world: World):
    text = batch(world, "--name=groot", *JOB)
    assert "GROOT_DISTRIBUTED" not in text and "JAX_LOCAL_DEVICE_IDS" not in text


def test_sbatch_is_given_what_a_dry_run_prints(world: World):
    argv = ["--name=groot", "--nodes=2", *JOB]
    dry = world.output(lambda: submit.main(["--dry-run", *argv]))
    assert world.calls() == []
    assert dry == f"sbatch <<'END'\n{batch(world, *argv)}END\n"


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (JOB, "--name"),
        (("--name=groot",), "no command is given"),
        (("--name=a b", *JOB), "--name=a b"),
        (("--name=groot", "--nodes=0", *JOB), "at least 1"),
        (("--name=groot", "--sbatch-flag=x", *JOB), "is no flag of sbatch"),
        (("--name=groot", "--time=1\n#SBATCH --x", *JOB), "on one line"),
        (("--name=groot", "--gpus-per-node=8", *JOB, "--config.mesh.tensor=3"), "8 devices"),
        (("--name=groot", *JOB[:-1], "--workdir=gs://b/w"), "not to URLs"),
    ],
)
def test_a_mistake_is_one_sentence(world: World, argv: tuple[str, ...], part: str):
    assert part in world.error(lambda: submit.main([*argv]))
    assert world.calls() == []


def test_what_sbatch_complains_of_is_shown(world: World, tmp_path: Path):
    world.answer(status=1, err="sbatch: error: invalid partition specified: gpu\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "slurm" / "submit.py"), "--name=groot", *JOB],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: `sbatch` ended with exit status 1: sbatch: error: invalid partition specified: gpu"
    )


# ---- The script itself ------------------------------------------------------------------------


def started(world: World, tmp_path: Path, text: str, **env: str) -> subprocess.Popen[str]:
    """The batch script where srun runs its command here and scontrol notes what it is told."""
    script(world.folder / "bin" / "srun", 'shift; exec "$@"')
    script(world.folder / "bin" / "scontrol", f'echo "$@" >> {tmp_path / "scontrol"}')
    path = tmp_path / "job.sh"
    path.write_text(text)
    return subprocess.Popen(
        ["bash", str(path)],
        cwd=tmp_path,
        env=os.environ | {"SLURM_JOB_ID": "17"} | env,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_every_word_arrives_and_the_status_is_that_of_the_job(world: World, tmp_path: Path):
    words = ["a b", "$HOME", "`id`", "'\"", "--config.systems=('groot', \"nll\")", ""]
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['X']])); sys.exit(7)"
    text = batch(
        world,
        *("--name=groot", "--env=X=a 'b' $c", "--setup=cd / && true"),
        *("--", sys.executable, "-c", code, *words),
    )
    job = started(world, tmp_path, text)
    out, _ = job.communicate(timeout=30)
    assert json.loads(out) == [words, "a 'b' $c"]
    assert job.returncode == 7
    assert not (tmp_path / "scontrol").exists()


# Takes a while to end, as training does while a checkpoint is being written.
SLOW_TO_END = """
import os, signal, sys, time
def end(*_):
    time.sleep(0.3)
    print('ended', flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print(os.getpid(), flush=True)
# Short sleeps: a signal just before a long one would be handled after it.
for _ in range(600):
    time.sleep(0.1)
"""


def test_a_job_that_is_cancelled_does_not_queue_again(world: World, tmp_path: Path):
    """scancel ends the tasks and the script."""
    (tmp_path / "slow.py").write_text(SLOW_TO_END)
    text = batch(world, "--name=groot", "--", sys.executable, "slow.py")
    job = started(world, tmp_path, text)
    assert job.stdout is not None
    pid = int(job.stdout.readline())
    os.kill(pid, signal.SIGTERM)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=30)
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.parametrize(
    ("status", "again"),
    [(1, False), (75, True), *((128 + n, True) for n in (1, 2, 6, 7, 9, 11, 15))],
)
def test_a_job_that_lost_a_process_queues_again(
    world: World, tmp_path: Path, status: int, again: bool
):
    (tmp_path / "lost.py").write_text(f"import sys; sys.exit({status})")
    job = started(world, tmp_path, batch(world, "--name=groot", "--", sys.executable, "lost.py"))
    job.communicate(timeout=30)
    assert job.returncode == (0 if again else status)
    assert (tmp_path / "scontrol").exists() == again


@pytest.mark.parametrize(("count", "again"), [("", True), ("1", True), ("2", False)])
@pytest.mark.parametrize("preempted", [False, True])
def test_when_its_time_is_over_the_job_ends_and_queues_again(
    world: World, tmp_path: Path, count: str, again: bool, preempted: bool
):
    (tmp_path / "slow.py").write_text(SLOW_TO_END)
    text = batch(world, "--name=groot", "--max-restarts=2", "--", sys.executable, "slow.py")
    job = started(world, tmp_path, text, **({"SLURM_RESTART_COUNT": count} if count else {}))
    assert job.stdout is not None
    pid = int(job.stdout.readline())
    if preempted:
        os.kill(pid, signal.SIGTERM)
    else:
        job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=30)
    assert out == "ended\n"
    assert job.returncode == (0 if again else 143)
    path = tmp_path / "scontrol"
    assert (path.read_text() if path.exists() else "") == ("requeue 17\n" if again else "")
