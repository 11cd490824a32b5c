"""W/task is what training wrote, to the bit, or it is not read."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from configs.default import get_config
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Sentence
from groot_jax.data.ladder import Ladder
from groot_jax.data.tokenizer import train_tokenizer
from groot_jax.errors import UserError
from groot_jax.model.config import from_scratch
from groot_jax.task import Task, load_task, save_task
from groot_jax.training.checksums import write_guarded

FLIPS = 200


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory of version 0.1: its task has no sums."""
    workdir = tmp_path_factory.mktemp("saved")
    sentences = [Sentence((word, "jeans"), ()) for word in ("red", "dark", "levi", "blue", "big")]
    format_ = make_format("aligned", train_tokenizer(sentences, ["x"], 50, max_features=9), ["x"])
    config = get_config()
    ladder = Ladder((32,), (16,), ((32, 16),))
    task = Task(config, format_, ladder, from_scratch(config.model, 384), {}, 100, ("nll", 4))
    save_task(task, workdir)
    (workdir / "task" / "checksums.json").unlink(missing_ok=True)
    return workdir


@pytest.fixture
def workdir(saved: Path, tmp_path: Path) -> Path:
    """With the sums of its files, in the form that training writes."""
    shutil.copytree(saved, tmp_path / "w")
    task = tmp_path / "w" / "task"
    sums = {
        str(path.relative_to(task)): [path.stat().st_size, google_crc32c.value(path.read_bytes())]
        for path in files_of(task)
    }
    write_guarded(task / "checksums.json", sums)
    return tmp_path / "w"


def files_of(task: Path) -> list[Path]:
    return sorted(p for p in task.rglob("*") if p.is_file() and p.name != "checksums.json")


def refusal(workdir: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_task(workdir, get_config())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_whole_is_read_with_sums_and_without(saved: Path, workdir: Path) -> None:
    for folder in (saved, workdir):
        task = load_task(folder, get_config())
        assert (task.start, task.max_words, task.ladder.rungs) == (("nll", 4), 100, ((32, 16),))
    # A sum that is lost itself says nothing of the others.
    (workdir / "task" / "checksums.json").write_text("{}")
    load_task(workdir, get_config())


@pytest.mark.chaos
@pytest.mark.always
def test_every_flipped_bit_is_noticed(workdir: Path, chaos: int) -> None:
    rng = random.Random(7)
    files = {path: path.read_bytes() for path in files_of(workdir / "task")}
    assert len(files) == 3
    for _ in range(max(chaos, FLIPS)):
        path = rng.choice([*files])
        damaged = bytearray(files[path])
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        said = refusal(workdir)
        assert f"{workdir / 'task'}" in said and "is not what training wrote" in said
        path.write_bytes(files[path])
    load_task(workdir, get_config())


def test_a_file_that_is_missing_or_may_not_be_read_is_told_so(workdir: Path, saved: Path) -> None:
    for folder in (workdir, saved):
        for path in files_of(folder / "task"):
            data = path.read_bytes()
            path.unlink()
            said = refusal(folder)
            assert "is missing" in said or (folder == saved and "spiece.model" in path.name)
            path.symlink_to(path)  # A loop: root, too, may not read it.
            said = refusal(folder)
            assert said.startswith(f"{path} cannot be read (") and "train again" not in said
            path.unlink()
            path.write_bytes(data)
    shutil.move(workdir / "task" / "tokenizer", workdir / "away")
    assert "is missing" in refusal(workdir)
    (workdir / "task" / "tokenizer").write_text("")
    said = refusal(workdir)
    assert f"{workdir / 'task' / 'tokenizer'}" in said and "be read (Not a directory)" in said


@pytest.mark.parametrize(
    "change",
    [
        {"types": "x"},
        {"types": [3]},
        {"format": "other"},
        {"ladder": [[32]]},
        {"ladder": [[32, "16"]]},
        {"ladder": [[1e999, 16]]},
        {"model": []},
        {"model": {"d_model": "512"}},
        {"model": {"no_such": 1}},
        {"digests": [["train", "x"]]},
        {"max_words": "9"},
        {"start": 3},
        {"start": ["nll"]},
        {"start": ["nll", "4"]},
    ],
)
def test_a_task_of_another_shape_is_named(
    saved: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(saved, tmp_path / "w")
    path = tmp_path / "w" / "task" / "task.json"
    facts = json.loads(path.read_text())
    if isinstance(change.get("model"), dict):
        change = {"model": facts["model"] | change["model"]}
    path.write_text(json.dumps(facts | change))
    assert f"{path} is not what training wrote (" in refusal(tmp_path / "w")
