"""What `verify` says of a work directory: whole, damaged, or not verified."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from groot_jax import verify
from groot_jax.config import CONFIG_FILE, load_dumped
from groot_jax.config.workdir import claim_workdir
from groot_jax.errors import UserError
from groot_jax.runtime.checksums import SUMS_FILE
from groot_jax.training.checkpoints import saved_steps
from groot_jax.training.checksums import META_FILE, write_checksums

META = f"checkpoints/groot/{META_FILE}"


@pytest.fixture
def workdir(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, to be damaged."""
    monkeypatch.setattr(verify, "_PAUSE", 0.01)
    shutil.copytree(trained, tmp_path / "w")
    return tmp_path / "w"


def said(workdir: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What it says of each name; what ends it under the name `error`."""
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    error = ""
    try:
        verify.main([str(workdir)])
    except UserError as ended:
        error = str(ended)
    # It changes nothing.
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split(": ", 1) for line in lines) | ({"error": error} if error else {})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 1
    path.write_bytes(content)


def damaged(workdir: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What is neither whole nor in doubt."""
    fine = ("whole", "is not verified")
    found = said(workdir, capsys)
    bad = {name: text for name, text in found.items() if not text.startswith(fine)}
    assert ("error" in bad) == bool(bad.keys() - {"error"})
    assert all(name in bad.get("error", "") for name in bad.keys() - {"error"})
    return {name: text for name, text in bad.items() if name != "error"}


def test_all_of_a_finished_run_is_whole(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(workdir, capsys)
    assert {*found.values()} == {"whole"}
    steps = [f"checkpoints/groot/{step}" for step in saved_steps(workdir, "groot")]
    files = ("metrics.jsonl", "samples.jsonl", "results.json", "eval", "status.json")
    assert {CONFIG_FILE, "task", META, *steps, *files} <= {*found}


def looped(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def digit(path: Path) -> None:
    changed = path.read_text().replace('"seed": 0', '"seed": 1')
    assert changed != path.read_text()
    path.write_text(changed)


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "one bit of a tokenizer file": ("task/tokenizer/spiece.model", flip, "task"),
    "a tokenizer file lost": ("task/tokenizer/spiece.model", Path.unlink, "task"),
    "no tokenizer": ("task/tokenizer", shutil.rmtree, "task"),
    "no task": ("task", shutil.rmtree, "task"),
    "another task": ("task/task.json", lambda path: path.write_text("{}"), "task"),
    "a digit of the config": (CONFIG_FILE, digit, CONFIG_FILE),
    "the config's sum": (SUMS_FILE, flip, CONFIG_FILE),
    "no metas": (META, Path.unlink, META),
    "metas that point to themselves": (META, looped, META),
    "a figure that is none": ("results.json", lambda path: path.write_text("[]"), "results.json"),
    "a half of the results": (
        "results.json",
        lambda path: path.write_text(path.read_text()[:99]),
        "results.json",
    ),
    "samples that are no text": (
        "samples.jsonl",
        lambda path: path.write_bytes(b"\xff\n" + path.read_bytes()),
        "samples.jsonl",
    ),
    # Lines of JSON, which the jobs leave out all the same.
    **{
        f"a line of {name} that says something else": (
            name,
            lambda path: path.write_bytes(b'{"system": 3}\n' + path.read_bytes()),
            name,
        )
        for name in ("metrics.jsonl", "samples.jsonl", "jobs.jsonl")
    },
    "a card of other data": (
        "data_card.json",
        lambda path: path.write_text('{"splits": {"dev": {}}, "notes": []}'),
        "data_card.json",
    ),
    "an evaluation": (
        "eval",
        lambda path: sorted(path.glob("*"))[0].write_text('{"split": []}'),
        "eval",
    ),
    "a status": ("status.json", lambda path: path.write_text("3"), "status.json"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_by_its_file(
    kind: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, damage, name = DAMAGES[kind]
    damage(workdir / place)
    assert [*damaged(workdir, capsys)] == [name]


def test_half_a_line_that_a_kill_has_left_is_no_damage(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("metrics.jsonl", "samples.jsonl", "jobs.jsonl"):
        with (workdir / name).open("a") as file:
            file.write('{"system": "groot", "st')
    assert damaged(workdir, capsys) == {}


def test_what_dev_chose_is_read_as_predict_does(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sorted((workdir / "decisions").glob("*.json"))[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": -1}))
    assert [*damaged(workdir, capsys)] == [f"decisions/{path.name}"]


def test_checkpoints_that_are_gone_are_missed(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(workdir / "checkpoints" / "groot")
    assert [*damaged(workdir, capsys)] == ["checkpoints/groot"]
    shutil.rmtree(workdir / "checkpoints")
    names = [f"checkpoints/{system}" for system in ("nll", "nll_continued", "groot")]
    assert [*damaged(workdir, capsys)] == names


def test_without_all_sums_nothing_is_called_whole(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of version 0.1, or of two processes of which one was killed before it had written them."""
    (workdir / SUMS_FILE).unlink()
    (workdir / "task" / SUMS_FILE).unlink()
    first, *_, last = (workdir / "checkpoints" / "nll").glob("[0-9]*")
    for folder in (first, last):
        for sums in folder.glob("checksums.*"):
            sums.unlink()
    write_checksums(last, 1, 3)
    names = [CONFIG_FILE, "task", *(str(path.relative_to(workdir)) for path in (first, last))]
    found = said(workdir, capsys)
    assert "error" not in found
    assert {name: found[name] for name in found if found[name] != "whole"} == {
        **dict.fromkeys(names, "is not verified: it has no sums to compare with"),
        names[-1]: "is not verified: it lacks checksums.0-3.json, checksums.2-3.json",
    }


def test_a_config_that_is_continued_with_other_free_settings_stays_whole(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (workdir / CONFIG_FILE).read_bytes()
    for every in (7, 8):
        config = load_dumped(workdir / CONFIG_FILE)
        with config.unlocked():
            config.log_every = every
        claim_workdir(workdir, config)
        assert damaged(workdir, capsys) == {}
        # Killed after the sum was written, and before the config was.
        after = (workdir / CONFIG_FILE).read_bytes()
        (workdir / CONFIG_FILE).write_bytes(before)
        assert damaged(workdir, capsys) == {}
        (workdir / CONFIG_FILE).write_bytes(after)
        before = after


def test_a_checkpoint_that_training_removes_meanwhile_is_no_damage(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = saved_steps(workdir, "groot")[-1]
    folder = workdir / "checkpoints" / "groot" / str(step)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    monkeypatch.setattr(verify, "_PAUSE", 0.05)

    def remove() -> None:
        for path in files[1:]:
            path.unlink()
            threading.Event().wait(0.02)
        shutil.rmtree(folder)

    files[0].unlink()
    removal = threading.Thread(target=remove)
    removal.start()
    verify.main([str(workdir)])
    removal.join()
    assert f"checkpoints/groot/{step}:" not in capsys.readouterr().out
