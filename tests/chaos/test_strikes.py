"""Kills and signals at random moments change no bit of what comes out.

python -m pytest -m chaos --chaos=500        # hours
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.strikes import Processes, unexpected
from tests.jobs.support import Jobs, job_environment, write_jsonl
from tests.jobs.support import sentence as draw_sentence

STRIKES = Path(__file__).with_name("strikes.py")
FLAGS = (
    "--config.systems=groot",
    "--config.nll.epochs=2",
    "--config.nll.eval_every=1.25",  # Steps 5 and 8 of 8.
    "--config.groot.epochs=2",
    "--config.groot.eval_every=1.25",
    "--config.groot.lag=2",
    "--config.evaluate.decide=map",
    "--config.distributed.timeout=8",
)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    import random

    corpus = tmp_path_factory.mktemp("corpus")
    for seed, (split, size) in enumerate({"train": 64, "dev": 24, "test": 24}.items()):
        rng = random.Random(seed)
        write_jsonl(corpus / f"{split}.jsonl", [draw_sentence(rng) for _ in range(size)])
    return Jobs(corpus, tmp_path_factory.getbasetemp().parent / "groot_jax-cache")


def strike(
    jobs: Jobs,
    folder: Path,
    strikes: int,
    processes: int,
    seed: int = 0,
    seconds: float = 0.0,
    flags: tuple[str, ...] = FLAGS,
) -> dict[str, Any]:
    argv = jobs.argv("train", folder / "w", *flags)[1:]
    done = subprocess.run(
        [sys.executable, STRIKES, folder, *map(str, (strikes, processes, seed, seconds)), *argv],
        env=job_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(done.stdout)
    assert summary["wrong"] == []
    assert summary["strikes"] == strikes or (seconds and 2 <= summary["strikes"] < strikes)
    assert summary["same"] == summary["trainings"] >= 1
    return summary


def ended(code: str) -> subprocess.Popen[bytes]:
    """A process that has ended by itself, and that nobody has asked for its status."""
    process = subprocess.Popen([sys.executable, "-c", f"import os, sys; {code}"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


@pytest.mark.parametrize(
    ("code", "status"),
    [("sys.exit(1)", 1), ("os.abort()", -6), ("os.kill(os.getpid(), 9)", -9), ("sys.exit(75)", 75)],
)
def test_a_training_that_ended_otherwise_than_well_before_its_strike_is_told(
    code: str, status: int
) -> None:
    both = [ended("pass"), ended(code)]
    run = Processes([one.pid for one in both])
    assert not run.send(1, signal.SIGTERM) and not run.send(0, signal.SIGTERM)
    statuses = run.wait(10.0)
    assert statuses == [0, status]
    assert unexpected(statuses, struck=False)
    # After a strike on the other one, whatever that can do to it is none of its own.
    assert unexpected(statuses, struck=True) == (status in (1, -6))
    assert not unexpected([0, 0], struck=False) and unexpected(None, struck=True)


def test_a_process_that_runs_is_struck_and_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run = Processes([process.pid])
    assert run.wait(0.05) is None
    assert run.send(0, signal.SIGKILL)
    assert run.wait(30.0) == [-9]
    assert not run.send(0, signal.SIGKILL)


@pytest.mark.slow
def test_a_few_strikes_change_no_bit(jobs: Jobs, tmp_path: Path) -> None:
    strike(jobs, tmp_path, 4, 1)


@pytest.mark.chaos
@pytest.mark.parametrize("processes", [1, 2])
def test_strikes_change_no_bit(jobs: Jobs, tmp_path: Path, processes: int, chaos: int) -> None:
    """Four of five on one process, since two take three times as long."""
    share = {1: 0.8, 2: 0.2}[processes]
    strike(jobs, tmp_path, round((chaos or 500) * share), processes, seed=processes)


@pytest.mark.chaos
def test_a_training_that_is_terminated_every_20_seconds_gets_to_its_end(
    jobs: Jobs, tmp_path: Path
) -> None:
    """A minute's worth of training, which evaluates at the end of each stage and saves at signals
    alone."""
    long = (
        *("--config.nll.epochs=800", "--config.nll.eval_every=800"),
        *("--config.groot.epochs=200", "--config.groot.eval_every=200"),
    )
    strike(jobs, tmp_path, 60, 1, seconds=20.0, flags=(*FLAGS, *long))
