"""Files and folders that are written whole or not at all, however the writer ends."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from groot_jax.errors import UserError
from groot_jax.evaluation.records import read_jobs
from groot_jax.runtime.files import expanded, open_lines, whole_folder
from groot_jax.runtime.machine import note_job


class Killed(BaseException):
    """Stands for SIGKILL: no handler of files.py catches it."""


def write(folder: Path, text: str) -> None:
    with whole_folder(folder) as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "file").write_text(text)


def content(folder: Path) -> str:
    return (folder / "sub" / "file").read_text()


def fail_at(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> None:
    """Rename number `call`, from 0, raises."""
    calls = iter(range(100))
    rename = os.rename

    def renamed(source: Path, target: Path) -> None:
        if next(calls) == call:
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", renamed)


def test_a_folder_takes_the_place_of_another_and_nothing_is_left_beside_it(tmp_path):
    for text in ("first", "second"):
        write(tmp_path / "a" / "task", text)
        assert content(tmp_path / "a" / "task") == text
        assert os.listdir(tmp_path / "a") == ["task"]


def test_folders_that_a_user_set_aside_stay(tmp_path):
    for name in ("served.old", "served.tmp"):
        write(tmp_path / name, "kept")
    for text in ("first", "second"):
        write(tmp_path / "served", text)
    found = {path.name: content(path) for path in tmp_path.iterdir()}
    assert found == {"served": "second", "served.old": "kept", "served.tmp": "kept"}


@pytest.mark.parametrize("call", [0, 1])
def test_a_writer_killed_between_its_renames_loses_neither_folder(tmp_path, monkeypatch, call):
    folder = tmp_path / "task"
    write(folder, "first")
    with monkeypatch.context() as patch:
        fail_at(patch, call, Killed())
        with pytest.raises(Killed):
            write(folder, "second")
    found = {path.name: content(path) for path in tmp_path.iterdir()}
    assert found == {"task" if call == 0 else ".task.old": "first", ".task.tmp": "second"}
    # The next writer begins with the old one in its place.
    with pytest.raises(Killed), whole_folder(folder):
        raise Killed
    assert content(folder) == "first"
    write(folder, "third")
    assert content(folder) == "third" and os.listdir(tmp_path) == ["task"]


def test_a_disk_that_refuses_is_a_sentence_and_leaves_the_old_folder(tmp_path, monkeypatch):
    write(tmp_path / "task", "first")
    fail_at(monkeypatch, 0, OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(UserError, match=r"task could not be written \(Input/output error\)"):
        write(tmp_path / "task", "second")
    assert content(tmp_path / "task") == "first"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_files_and_folders_are_on_the_disk_before_they_are_named(tmp_path, monkeypatch):
    synced: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    def renamed(source: Path, target: Path) -> None:
        synced.append("named")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", renamed)
    write(tmp_path / "task", "first")
    draft = str(tmp_path / ".task.tmp")
    assert sorted(synced[:3]) == [draft, f"{draft}/sub", f"{draft}/sub/file"]
    assert synced[3:] == ["named", str(tmp_path)]


def test_a_home_folder_that_is_not_known_is_named():
    assert expanded("~/w", "--workdir") == Path.home() / "w"
    with pytest.raises(UserError, match="--workdir=~nobody_x/w: there is no user nobody_x"):
        expanded("~nobody_x/w", "--workdir")


@pytest.mark.parametrize(
    ("there", "whole"),
    [
        (None, b""),
        (b"", b""),
        (b"\n", b"\n"),
        (b"one\ntwo\n", b"one\ntwo\n"),
        (b"x", b"x\n"),
        (b"one\nt", b"one\nt\n"),
        # Cut off within a letter, and after one whose last byte is that of another line break.
        (b"one\n\xc3", b"one\n\xc3\n"),
        (b"one\n\xe4\xbc\x8a", b"one\n\xe4\xbc\x8a\n"),
        (b"one\r", b"one\r\n"),
    ],
)
def test_half_a_line_costs_itself_alone(tmp_path, there, whole):
    path = tmp_path / "lines"
    if there is not None:
        path.write_bytes(there)
    for _ in range(2):
        with open_lines(path) as file:
            file.write("é\n")
    assert path.read_bytes() == whole + "é\né\n".encode()


@pytest.mark.parametrize("left", [1, 40, -1])  # Bytes of the line: a few, or all but its break.
def test_a_job_that_was_killed_while_it_noted_itself_hides_no_other(tmp_path, left):
    note_job(tmp_path, "train", [])
    path = tmp_path / "jobs.jsonl"
    line = path.read_bytes()
    path.write_bytes(line + line[:left])
    for job in ("evaluate", "predict"):
        note_job(tmp_path, job, [])
    jobs = [one["job"] for one in read_jobs(tmp_path)]
    assert jobs == ["train", *["train"] * (left < 0), "evaluate", "predict"]
