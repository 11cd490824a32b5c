"""Trains a tiny model again and again under kills and signals at random moments, and compares.

    python tests/chaos/strikes.py FOLDER STRIKES PROCESSES SEED SECONDS ARGUMENT_OF_TRAIN...

A training is struck, started again and struck again until it gets to its end; then the parameters,
the optimizer's state and the metrics have to be, to the bit, those of a training that nobody
disturbed, and its checkpoints whole. Then comes the next training, until there were so many
strikes. Prints one line of JSON. What it takes is imported once: each training is a fork.

SECONDS 0: as above. Above 0, a single training gets a SIGTERM so many seconds after each start and
saves nothing but then, until it gets to its end, which may take STRIKES at most.
"""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from groot_jax import train
from groot_jax.errors import exit_on_user_error, prepare_job
from groot_jax.training.checkpoints import saved_steps
from groot_jax.training.checksums import damage
from tests.jobs.support import state_of

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# What a process that was struck, or that lost another, may end with.
EXPECTED = {-9, 75, 129, 130, 143, 0}
LIMIT = 240.0  # Seconds from a strike to the end of all processes, after which one hangs.


def start(argv: list[str], log: Path, index: int, count: int, port: int) -> int:
    """A training in a process of its own; its number."""
    # A strike before `prepare_job` would be one on this script.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of its threads; it has none before it is used.
        pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return pid
    os.setsid()
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(number, 1)
    os.dup2(number, 2)
    if count > 1:
        os.environ |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
    # A shell starts what it puts in the background with SIGINT ignored, nohup all with SIGHUP.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    prepare_job()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    exit_on_user_error(lambda: train.main(argv), "; run the same command again to continue")
    os._exit(0)


class Processes:
    """Those of one training: who has ended, and how."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self._ended: dict[int, int] = {}

    def look(self) -> dict[int, int]:
        """The statuses of those that have ended, as -9 or 143, by process."""
        for pid in self.pids:
            if pid not in self._ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self._ended[pid] = os.waitstatus_to_exitcode(status)
        return self._ended

    def wait(self, seconds: float) -> list[int] | None:
        """The statuses of all; None where some still run after so many seconds."""
        end = time.monotonic() + seconds
        while len(self.look()) < len(self.pids):
            if time.monotonic() > end:
                return None
            time.sleep(0.01)
        return [self._ended[pid] for pid in self.pids]

    def send(self, victim: int, number: int) -> bool:
        """Whether a process was there to be sent a signal."""
        # One that has ended is still there, as nobody but `look` asks for its status.
        if self.pids[victim] in self.look():
            return False
        os.kill(self.pids[victim], number)
        return True


def unexpected(statuses: list[int] | None, struck: bool) -> bool:
    """Whether a training ended as none may: one that nobody has struck ends with 0 alone, and none
    hangs."""
    return statuses is None or not {*statuses} <= (EXPECTED if struck else {0})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def metrics(workdir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    clocks = ("seconds", "sentences_per_second")
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines]


def differences(whole: Path, struck: Path) -> list[str]:
    """In what a training that was struck differs from the one that nobody disturbed."""
    found = [] if metrics(whole) == metrics(struck) else ["metrics.jsonl"]
    for folder in sorted((whole / "checkpoints").iterdir()):
        left, right = state_of(whole, folder.name), state_of(struck, folder.name)
        found += [
            f"{folder.name}{key}" for key in left if left[key].tobytes() != right[key].tobytes()
        ]
        for step in saved_steps(struck, folder.name):
            if problem := damage(struck / "checkpoints" / folder.name / str(step)):
                found.append(f"{folder.name}/{step}: {problem}")
    return found


def compared(whole: Path, struck: Path) -> list[str]:
    """`differences`, found by a fork: it starts JAX, after which nothing can be forked any more."""
    answer = struck.with_name("differences.json")
    answer.unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        answer.write_text(json.dumps(differences(whole, struck)))
        os._exit(0)
    os.waitpid(pid, 0)
    return list(json.loads(answer.read_text()))


def main() -> None:
    folder, (strikes, count, seed) = Path(sys.argv[1]), map(int, sys.argv[2:5])
    steady, argv, rng = float(sys.argv[5]), sys.argv[6:], random.Random(seed)
    log = folder / "log"
    begun = time.monotonic()

    def begin(workdir: Path, *flags: str) -> Processes:
        port = free_port() if count > 1 else 0
        words = [f"--workdir={workdir}", *argv, *flags]
        return Processes([start(words, log, index, count, port) for index in range(count)])

    # Twice: the first compiles, and the time of the second is what strikes are drawn from.
    for name in ("first", "whole"):
        since = time.monotonic()
        assert begin(folder / name).wait(900) == [0] * count, log.read_text()[-3000:]
        duration = time.monotonic() - since
        print(f"{name}: {duration:.1f} s", file=sys.stderr, flush=True)
    trainings, same, ended, wrong = 0, 0, collections.Counter[str](), []
    struck, seconds = 0, [0.0]
    workdir = folder / "struck"
    while struck < strikes or workdir.exists():
        every = rng.choice(["every_steps=1", "every_steps=2", "every_minutes=0.002"])
        every = "every_minutes=0" if steady else every
        run, hit, number = begin(workdir, f"--config.checkpoint.{every}"), False, 0
        if struck < strikes:
            statuses = run.wait(steady or rng.uniform(0.0, 1.1) * duration)
            if statuses is None:
                number, victim = rng.choice(SIGNALS), rng.randrange(count)
                number = signal.SIGTERM if steady else number
                twice = not steady and rng.random() < 0.1 and number != signal.SIGKILL
                since = time.monotonic()
                hit = run.send(victim, number)
                if hit and twice:
                    time.sleep(0.05)
                    run.send(victim, signal.SIGINT)  # A second one, which leaves at once.
                statuses = run.wait(LIMIT)
        else:
            statuses = run.wait(LIMIT * 3)
        if hit:
            struck += 1
            seconds.append(time.monotonic() - since)
            print(f"strike {struck}: {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
            ended[f"{signal.Signals(number).name}: {statuses}"] += 1
        if unexpected(statuses, hit):
            wrong.append(f"after strike {struck}: {statuses}: {log.read_text()[-600:]}")
        if statuses is None:
            for pid in {*run.pids} - {*run.look()}:
                os.killpg(pid, signal.SIGKILL)
            break
        if statuses == [0] * count:
            trainings += 1
            if found := compared(folder / "whole", workdir):
                wrong.append(f"training {trainings}: {found[:5]}")
            else:
                same += 1
            shutil.rmtree(workdir)
            if steady:
                break
        elif not hit:  # It would end so again and again.
            break
    summary = {
        "strikes": struck,
        "processes": count,
        "trainings": trainings,
        "same": same,
        "slowest_end": round(max(seconds), 1),
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "ended": dict(sorted(ended.items())),
        "wrong": wrong,
    }
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
