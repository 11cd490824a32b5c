"""The jobs on several processes: the same answers, each sentence once, and an end when one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groot_jax.training.checkpoints import saved_steps
from tests.jobs.full_disk import TOTALS
from tests.jobs.support import TIMEOUT, Ended, Jobs, launch, state_of, wait_for

pytestmark = pytest.mark.slow
# One system, and few updates: what differs between meshes shows at once.
FLAGS = (
    "--config.distributed.timeout=8",
    "--config.systems=groot",
    "--config.nll.epochs=2",
    "--config.groot.epochs=1",
    "--config.evaluate.decide=map",
    # Each process draws the mentions of all sentences, and makes those of its own rows.
    "--config.data.augment=0.5",
    # Every second update of stage 1 is of unlabeled sentences, with the beams of its start.
    "--config.groot.unlabeled=0.5",
    "--config.groot.expected=0.25",
    "--config.groot.pool.consensus=2",
)
FIRST = 4  # The first evaluation of stage 0.


def start(
    jobs: Jobs, job: str, workdir: Path, processes: int, devices: int, *flags: str
) -> subprocess.Popen[str]:
    if "--config.groot.unlabeled=0.5" in flags:
        flags = (*flags, f"--config.data.unlabeled={jobs.corpus / 'unlabeled.txt'}")
    return launch(processes, devices, f"groot_jax.{job}", jobs.argv(job, workdir, *flags))


def call(
    jobs: Jobs, job: str, workdir: Path, processes: int, devices: int, *flags: str, text: str = ""
) -> Ended:
    with start(jobs, job, workdir, processes, devices, *flags) as process:
        out, err = process.communicate(text, timeout=TIMEOUT)
    return Ended(process.returncode, out, err)


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON value but those that a clock or chance gives."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("seconds", "interval", "share_not_above"):
                yield from numbers(item, f"{path}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from numbers(item, f"{path}/{index}")
    elif isinstance(value, (int, float)):
        yield path, value


def assert_same_results(a: Path, b: Path, tolerance: float = 1e-3) -> None:
    left, right = (dict(numbers(json.loads((w / "results.json").read_text()))) for w in (a, b))
    assert left.keys() == right.keys() and len(left) > 100
    assert {key: value for key, value in left.items() if abs(value - right[key]) > tolerance} == {}


def pid_of(workdir: Path, index: int) -> int | None:
    """The job's process `index` on this work directory."""
    for folder in Path("/proc").iterdir():
        try:
            if not folder.name.isdigit() or b"groot_jax" not in (folder / "cmdline").read_bytes():
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # It has just ended, or is somebody else's.
        if (
            f"--workdir={workdir}".encode() in words
            and f"JAX_PROCESS_ID={index}".encode() in variables
        ):
            return int(folder.name)
    return None


@pytest.fixture(scope="module")
def on_four(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by one process with four devices, without an interruption."""
    workdir = tmp_path_factory.mktemp("one_by_four") / "w"
    ended = call(jobs, "train", workdir, 1, 4, *FLAGS)
    assert ended.status == 0, ended.err
    return workdir


@pytest.fixture(scope="module")
def killed_and_resumed(
    jobs: Jobs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Ended, Ended]:
    """Trained by two processes with two devices each; process 1 is killed in the midst of it. Of
    the run that goes on the first save of each last state fails in process 1."""
    workdir = tmp_path_factory.mktemp("two_by_two") / "w"
    with start(jobs, "train", workdir, 2, 2, *FLAGS) as process:
        wait_for(lambda: FIRST in saved_steps(workdir, "nll"), process)
        victim = pid_of(workdir, 1)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    killed = Ended(process.returncode, out, err)
    unlabeled = f"--config.data.unlabeled={jobs.corpus / 'unlabeled.txt'}"
    flags = (*FLAGS, unlabeled, "--config.checkpoint.retry_minutes=2")
    argv = jobs.argv("train", workdir, *flags)
    with launch(2, 2, "tests.jobs.full_disk", argv) as process:
        out, err = process.communicate(timeout=TIMEOUT)
    return workdir, killed, Ended(process.returncode, out, err)


def test_a_killed_process_ends_the_others_by_name_and_the_run_resumes(killed_and_resumed):
    workdir, killed, resumed = killed_and_resumed
    assert killed.status == 137
    assert "process 1 was killed by SIGKILL" in killed.err
    said = [line for line in killed.err.splitlines() if line.startswith("[0] error:")]
    assert len(said) == 1 and "process 1 of 2 (" in said[0], killed.err
    assert "run the same command again" in said[0]
    assert resumed.status == 0, resumed.err
    assert "nll: continues from step" in resumed.out
    # One process speaks for all.
    assert all(line.startswith("[0]") for line in resumed.out.splitlines() if "dev:" in line)
    assert {s: saved_steps(workdir, s)[-1] for s in TOTALS} == TOTALS


def test_a_save_that_fails_in_one_process_is_tried_again_by_all(killed_and_resumed):
    """The next test says that it changes no bit."""
    _, _, resumed = killed_and_resumed
    failed = [line for line in resumed.out.splitlines() if "it is tried again" in line]
    assert {line.partition(":")[0] for line in failed} == {"[0] nll", "[0] groot"}, resumed.out
    assert all("File too large" in line for line in failed)


def test_two_processes_train_what_one_with_as_many_devices_does(on_four, killed_and_resumed):
    """To the last bit: training amplifies what differs, so that a long run would end elsewhere."""
    workdir, *_ = killed_and_resumed
    assert_same_results(workdir, on_four, tolerance=0.0)
    for system in TOTALS:
        left, right = state_of(workdir, system), state_of(on_four, system)
        assert left.keys() == right.keys()
        for key, value in left.items():
            np.testing.assert_array_equal(value, right[key], err_msg=key)


@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (1, 8), (2, 1)])
def test_a_checkpoint_is_evaluated_on_other_meshes(
    jobs, killed_and_resumed, tmp_path, processes, devices
):
    """Of 24 sentences and batches of 16, the last one is uneven; 1 x 1 runs the job without any
    other process or device."""
    workdir = tmp_path / "w"
    shutil.copytree(killed_and_resumed[0], workdir)
    shutil.rmtree(workdir / "eval")
    (workdir / "results.json").unlink()
    if (processes, devices) == (1, 1):
        jobs.run("evaluate", workdir)
    else:
        ended = call(jobs, "evaluate", workdir, processes, devices)
        assert ended.status == 0, ended.err
    assert_same_results(workdir, killed_and_resumed[0])


def test_processes_label_together_what_one_labels(jobs, killed_and_resumed, tmp_path, capsys):
    workdir, *_ = killed_and_resumed
    text = "find red levi jeans\n\nshow me big apple shirt\ni want orange orange running shoes\n"
    # What consensus adds is scored by all processes together.
    flags = ("-k=3", "--decide=consensus", "--reward=precision")
    (tmp_path / "queries.txt").write_text(text)
    capsys.readouterr()
    jobs.run("predict", workdir, *flags, str(tmp_path / "queries.txt"))
    alone = capsys.readouterr().out
    together = call(jobs, "predict", workdir, 2, 2, *flags, text=text)
    assert together.status == 0, together.err
    lines = [
        json.loads(line.removeprefix("[0] ")) for line in together.out.splitlines() if "{" in line
    ]
    expected = [json.loads(line) for line in alone.splitlines()]
    assert [line["words"] for line in lines] == [line["words"] for line in expected]
    assert [len(line["labelings"]) for line in lines] == [3, 0, 3, 3]
    for line, other in zip(lines, expected, strict=True):
        left, right = dict(numbers(line)), dict(numbers(other))
        assert left.keys() == right.keys()
        assert all(abs(left[key] - right[key]) < 1e-3 for key in left)


def test_an_error_in_one_process_loses_nothing(
    jobs: Jobs, killed_and_resumed: tuple[Path, Ended, Ended], tmp_path: Path
) -> None:
    """Both save the step that both have done, though no save was due there."""
    stage_0 = killed_and_resumed[0]
    unlabeled = f"--config.data.unlabeled={jobs.corpus / 'unlabeled.txt'}"
    flags = (unlabeled, f"--config.nll.checkpoint={stage_0}", "--config.groot.eval_every=1")
    argv = jobs.argv("train", tmp_path / "w", *FLAGS, *flags)
    with launch(2, 2, "tests.jobs.failing", argv) as process:
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1 and "error: the reward failed" in err, err
    assert "process 1 of 2" in err
    assert saved_steps(tmp_path / "w", "groot") == [2]
