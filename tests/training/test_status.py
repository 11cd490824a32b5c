"""The lock of a work directory, and what a reader learns from it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from groot_jax.errors import UserError
from groot_jax.training.status import WorkdirLock, training_ended, write_status

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from pathlib import Path
from groot_jax.training.status import WorkdirLock
with WorkdirLock(Path(sys.argv[1])) as lock:
    lock.take()
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(workdir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workdir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_holder_is_refused_with_the_first_until_that_is_gone(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process, WorkdirLock(tmp_path) as lock:
        for _ in range(2):
            with pytest.raises(UserError) as caught:
                lock.take()
            said = str(caught.value)
            assert str(tmp_path) in said and f"pid {process.pid} on" in said and "\n" not in said
        process.kill()
        process.wait()
        lock.take()
        lock.take()


def test_whether_training_ended_is_known_by_the_lock_not_by_the_process_id(tmp_path: Path) -> None:
    # As a killed run leaves it, with a process id that is in use again.
    write_status(tmp_path, "training")
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["pid"] == os.getpid()
    begun = status["begun"][:-1] + ("1" if status["begun"][-1] != "1" else "2")
    (tmp_path / "status.json").write_text(json.dumps(status | {"begun": begun}))
    assert training_ended(tmp_path)
    with held_elsewhere(tmp_path):
        assert not training_ended(tmp_path)
        (tmp_path / "status.json").unlink()
        assert not training_ended(tmp_path)
    # Killed before it could write its first status.
    assert training_ended(tmp_path)


def test_a_lock_whose_file_was_removed_still_keeps_others_out(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        for _ in range(2):  # The first attempt leaves a file that nobody holds.
            (tmp_path / "train.lock").unlink(missing_ok=True)
            said = f"another process .pid {process.pid} on"
            with pytest.raises(UserError, match=said), WorkdirLock(tmp_path) as lock:
                lock.take()
            assert not training_ended(tmp_path)
        with pytest.raises(UserError), WorkdirLock(tmp_path) as lock:
            lock.take()
        process.kill()
        process.wait()
        assert training_ended(tmp_path)
        with WorkdirLock(tmp_path) as lock:
            lock.take()


@pytest.mark.parametrize("then", ["nothing", "another"])
@pytest.mark.parametrize("fails", [True, False])
def test_nothing_is_written_into_a_folder_that_was_not_there(
    tmp_path: Path, then: str, fails: bool
) -> None:
    workdir = tmp_path / "w"
    workdir.mkdir()
    with pytest.raises(UserError) if fails else nullcontext(), WorkdirLock(workdir) as lock:
        lock.take()
        lock.began()
        workdir.rename(tmp_path / "moved")
        if then == "another":
            workdir.mkdir()
        if fails:
            raise UserError("the checkpoint was not written")
    assert not workdir.exists() or not [*workdir.iterdir()]


def test_nothing_is_known_of_a_training_on_another_host(tmp_path: Path) -> None:
    status = {"state": "training", "pid": 1, "host": socket.gethostname() + "-2"}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert not training_ended(tmp_path)
    (tmp_path / "status.json").write_text(json.dumps(status | {"state": "stopped"}))
    assert training_ended(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"state": "training"}', "\udcff"),
        *(
            f'{{"state": "training", "host": "h", "pid": {pid}}}'
            for pid in ("1e999", "-1", "0", "true", "null", str(10**20))
        ),
    ],
)
def test_a_damaged_status_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=r"status\.json is not what training wrote") as caught:
        training_ended(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["status.json", "train.lock"])
def test_a_status_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    write_status(tmp_path, "training")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(name)
    with pytest.raises(UserError, match=rf"{name} cannot be read \("):
        training_ended(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} cannot be read \("):
        training_ended(tmp_path)


def state(workdir: Path) -> str:
    return json.loads((workdir / "status.json").read_text())["state"]


def test_the_status_is_there_with_the_lock_and_says_how_it_ended(tmp_path: Path) -> None:
    """A watch that sees config.json, written later, finds it, on a bucket without locks as well."""
    with WorkdirLock(tmp_path) as lock:
        lock.take()
        assert state(tmp_path) == "training"
    assert state(tmp_path) == "finished"
    # A command line that is refused says nothing of the training that ended here.
    with pytest.raises(UserError), WorkdirLock(tmp_path) as lock:
        lock.take()
        raise UserError("a setting differs")
    assert state(tmp_path) == "finished"
    with pytest.raises(UserError), WorkdirLock(tmp_path) as lock:
        lock.take()
        lock.began()
        raise UserError("the disk is full")
    assert state(tmp_path) == "stopped"


def test_a_lock_that_was_never_taken_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), WorkdirLock(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_a_process_of_this_host_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with WorkdirLock(tmp_path) as lock:
        lock.take()
        assert not training_ended(tmp_path)
        status = json.loads((tmp_path / "status.json").read_text())
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            process.wait()
        (tmp_path / "status.json").write_text(json.dumps(status | {"pid": process.pid}))
        assert training_ended(tmp_path)
