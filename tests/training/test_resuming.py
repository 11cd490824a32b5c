"""Damaged checkpoints: noticed, set aside, and training goes on from the one before."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from rich.console import Console

from groot_jax.contrast.update import TrainState
from groot_jax.errors import UserError
from groot_jax.generate.inputs import Beams
from groot_jax.runtime.checksums import read_guarded, write_guarded
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.checkpoints import Checkpoints, Damaged, saved_steps
from groot_jax.training.checksums import META_FILE, damage, unverified, write_checksums
from groot_jax.training.evaluations import Evaluation, Meta
from groot_jax.training.resuming import Resumed, resume

SHARDING = jax.sharding.NamedSharding(
    jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)), jax.sharding.PartitionSpec()
)


def state(step: int) -> TrainState:
    # Values without a pattern, which are stored as they are, as a model's are.
    draw = np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)
    return TrainState(jnp.int32(step), {"w": jnp.asarray(draw)}, (optax.EmptyState(),))


SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SHARDING), state(0))
FLIGHT = Beams(
    jnp.arange(24, dtype=jnp.int32).reshape(2, 3, 4), jnp.ones((2, 3)), jnp.ones((2, 3), bool)
)


def meta(step: int) -> Meta:
    looks = [Evaluation(n, {"reward@1": n / 100, "mean_reward": 0.5}) for n in range(5, step, 5)]
    return Meta(looks, sums={"metrics": {}, "figures": [{}], "skipped": 0})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints 10 and 15; the latter with beams on their way. Nothing may write into it."""
    workdir = tmp_path_factory.mktemp("saved")
    with Checkpoints(workdir, "groot") as checkpoints:
        checkpoints.save(10, state(10), meta(10))
        checkpoints.save(15, state(15), meta(15), [FLIGHT])
    return workdir


@pytest.fixture
def workdir(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def resumed(workdir: Path) -> Resumed | None:
    with Checkpoints(workdir, "groot") as checkpoints:
        arguments = (checkpoints, "groot", SHAPES, SHARDING, Hosts(), Console(quiet=True))
        return resume(*arguments, num_rows=len(FLIGHT.tokens_BxKxT))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def test_a_whole_one_is_taken_with_the_beams_that_were_on_their_way(workdir: Path) -> None:
    found = resumed(workdir)
    assert found is not None and found.step == 15 and found.state is not None
    np.testing.assert_array_equal(found.state.params["w"], state(15).params["w"])
    assert len(found.flight) == 1
    for one, other in zip(found.flight[0], FLIGHT, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.meta == Meta.from_json(meta(15).to_json() | {"flight": [[2, 3, 4]]})


@pytest.mark.parametrize("num_rows", [3, 4, 1])
def test_beams_that_other_devices_have_made_are_generated_anew(
    workdir: Path, num_rows: int
) -> None:
    """Two rows, which three devices cannot share, and four of which are not two."""
    said = io.StringIO()
    with Checkpoints(workdir, "groot") as checkpoints:
        found = resume(
            *(checkpoints, "groot", SHAPES, SHARDING, Hosts(), Console(file=said)),
            num_rows=num_rows,
        )
    assert found is not None and found.step == 15 and found.flight == []
    assert found.state is not None
    np.testing.assert_array_equal(found.state.params["w"], state(15).params["w"])
    assert "were made on other devices, and generation begins anew" in said.getvalue()


def only_state(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def damaged(folder: Path) -> None:
        for path in files(folder / "state"):
            change(path)

    return damaged


def largest(folder: Path) -> Path:
    return max(files(folder), key=lambda path: path.stat().st_size)


def without(pattern: str) -> Callable[[Path], object]:
    def damaged(folder: Path) -> None:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damaged


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": only_state(lambda path: os.truncate(path, path.stat().st_size // 2)),
    "zeroed": only_state(lambda path: path.write_bytes(b"\0" * path.stat().st_size)),
    "emptied": only_state(lambda path: os.truncate(path, 0)),
    "its arrays truncated": lambda f: os.truncate(largest(f), 100),
    "its arrays zeroed": lambda f: largest(f).write_bytes(b"\0" * largest(f).stat().st_size),
    "its arrays gone": lambda f: largest(f).unlink(),
    "no state": without("state"),
    "no manifest": without("state/manifest.ocdbt"),
    "an empty folder": without("*"),
    "no flight": without("flight"),
    "one bit": lambda f: flip(largest(f), random.Random(0)),
}


@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_is_set_aside_and_the_one_before_taken(
    workdir: Path, kind: str, summed: bool
) -> None:
    folder = workdir / "checkpoints" / "groot" / "15"
    if not summed:  # As version 0.1 left them: what Orbax notices.
        if kind in ("one bit", "its arrays zeroed"):
            pytest.skip("nothing but a sum tells")
        without("checksums.*")(folder)
    DAMAGES[kind](folder)
    found = resumed(workdir)
    assert found is not None and found.step == 10 and found.state is not None
    np.testing.assert_array_equal(found.state.params["w"], state(10).params["w"])
    assert saved_steps(workdir, "groot") == [10]
    assert (workdir / "checkpoints" / "groot" / "15.damaged").is_dir()
    # It goes on: the same step is saved once more, and once more damaged.
    with Checkpoints(workdir, "groot") as checkpoints:
        checkpoints.save(15, state(15), meta(15))
    assert saved_steps(workdir, "groot") == [10, 15]


LISTED = ["[]", "3", '"x"', '{"metrics": 3}', '{"item_handlers": [1]}', "null", "{}", "", "\x00"]


@pytest.mark.parametrize("content", LISTED)
def test_what_orbax_lists_a_checkpoint_by_keeps_nobody_from_the_others(
    workdir: Path, content: str
) -> None:
    folder = workdir / "checkpoints" / "groot" / "15"
    (folder / "_CHECKPOINT_METADATA").write_text(content)
    with (
        pytest.raises(Damaged, match=r"groot/15 is damaged .*_CHECKPOINT_METADATA"),
        Checkpoints(workdir, "groot", read_only=True) as checkpoints,
    ):
        checkpoints.restore_params_to_host(15, state(15).params)
    found = resumed(workdir)
    assert found is not None and found.step == 10
    assert saved_steps(workdir, "groot") == [10]
    # Without sums it is taken: nothing that is in there is wanted.
    without("checksums.*")(workdir / "checkpoints" / "groot" / "10")
    (workdir / "checkpoints" / "groot" / "10" / "_CHECKPOINT_METADATA").write_text(content)
    found = resumed(workdir)
    assert found is not None and found.step == 10


@pytest.mark.parametrize("content", ["{}", "[]", '{"looks": 3}', "", "\x00", "\xff"])
def test_a_lost_meta_is_had_from_its_second_copy(workdir: Path, content: str) -> None:
    folder = workdir / "checkpoints" / "groot"
    (folder / META_FILE).write_text(content, encoding="latin-1")
    found = resumed(workdir)
    assert found is not None and found.step == 15 and found.meta.evaluations[-1].step == 10
    # The other way round.
    write_guarded(folder / META_FILE, {"15": meta(15).to_json()})
    for path in files(folder / "15" / "meta"):
        path.write_text(content, encoding="latin-1")
    without("checksums.*")(folder / "15")
    found = resumed(workdir)
    assert found is not None and found.step == 15 and found.meta.evaluations[-1].step == 10


@pytest.mark.parametrize("content", ["{}", "[]", '{"looks": [{"step": 5}], "finished": 1}', "3"])
def test_without_any_meta_the_one_before_is_taken(workdir: Path, content: str) -> None:
    folder = workdir / "checkpoints" / "groot"
    (folder / META_FILE).unlink()
    for path in files(folder / "15" / "meta"):
        path.write_text(content, encoding="utf-8")
    without("checksums.*")(folder / "15")
    found = resumed(workdir)
    assert found is not None and found.step == 10


@pytest.mark.parametrize("finished", [False, True])
def test_a_checkpoint_that_a_kill_has_left_over_is_removed(workdir: Path, finished: bool) -> None:
    """A job that was killed when 15 had landed, before it came to remove the oldest."""
    folder = workdir / "checkpoints" / "groot"
    shutil.copytree(folder / "10", folder / "5")
    if finished:
        last = dataclasses.replace(meta(15), finished=True)
        write_guarded(folder / META_FILE, {"15": last.to_json()})
    with Checkpoints(workdir, "groot", read_only=True) as checkpoints:
        assert checkpoints.steps() == [5, 10, 15]  # A reader removes nothing.
    found = resumed(workdir)
    assert found is not None and found.step == 15 and found.meta.finished == finished
    assert saved_steps(workdir, "groot") == [10, 15]


def test_when_all_are_damaged_nothing_begins_anew_in_silence(workdir: Path) -> None:
    folder = workdir / "checkpoints" / "groot"
    for step in (10, 15):
        DAMAGES["truncated"](folder / str(step))
    with pytest.raises(UserError, match="every checkpoint is damaged") as caught:
        resumed(workdir)
    assert "15.damaged, 10.damaged" in str(caught.value)
    assert resumed(workdir) is None


def test_what_cannot_be_reached_is_not_set_aside(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("groot_jax.training.checkpoints.damage", unreachable)
    with pytest.raises(UserError, match="Stale file handle"):
        resumed(workdir)
    assert saved_steps(workdir, "groot") == [10, 15]


@pytest.mark.chaos
@pytest.mark.always
def test_every_flipped_bit_is_noticed(workdir: Path, chaos: int) -> None:
    """In whichever file of the checkpoint; that of its sums, too."""
    folder, rng = workdir / "checkpoints" / "groot" / "15", random.Random(1)
    assert damage(folder) == ""
    whole = {path: path.read_bytes() for path in files(folder)}
    for turn in range(max(chaos, 100)):
        # Half of the bits in the arrays, half in any file.
        path = largest(folder) if turn % 2 else rng.choice([p for p in whole if whole[p]])
        flip(path, rng)
        assert damage(folder), path
        path.write_bytes(whole[path])
    assert damage(folder) == ""


@pytest.mark.chaos
@pytest.mark.always
def test_a_flipped_bit_in_the_metas_is_noticed(workdir: Path, chaos: int) -> None:
    path, rng = workdir / "checkpoints" / "groot" / META_FILE, random.Random(2)
    whole = path.read_bytes()
    value = read_guarded(path)
    assert value is not None
    for _ in range(max(chaos, 200)):
        flip(path, rng)
        # A line break that becomes another white space says the same.
        assert read_guarded(path) in (None, value)
        path.write_bytes(whole)
    assert json.loads(whole)["value"] == value


def test_a_reader_chooses_again_when_training_has_removed_what_it_chose(workdir: Path) -> None:
    chosen = []

    def choose(checkpoints: Checkpoints) -> int:
        chosen.append(checkpoints.latest() or 0)
        if len(chosen) == 1:
            shutil.rmtree(checkpoints.folder / "15")
        return chosen[-1]

    with Checkpoints(workdir, "groot", read_only=True) as checkpoints:
        step, params = checkpoints.read_params(choose, SHAPES.params)
    assert chosen == [15, 10] and step == 10
    np.testing.assert_array_equal(params["w"], state(10).params["w"])


@pytest.mark.parametrize("first", ["_CHECKPOINT_METADATA", "checksums.0-1.json", "meta", "state"])
def test_a_reader_chooses_again_when_training_is_removing_what_it_chose(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    folder = workdir / "checkpoints" / "groot" / "15"
    chosen = []

    def choose(checkpoints: Checkpoints) -> int:
        chosen.append(checkpoints.latest() or 0)
        if len(chosen) == 1:
            without(first)(folder)
        return chosen[-1]

    def pause(_: float) -> None:
        """In which the removal comes on."""
        rest = [path for path in folder.rglob("*") if path.is_file()]
        rest[0].unlink() if rest else shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr("groot_jax.training.reading.time.sleep", pause)
    # As where meta.json has it no more: Orbax's own copy is read.
    write_guarded(folder.parent / META_FILE, {"10": meta(10).to_json()})
    with Checkpoints(workdir, "groot", read_only=True) as checkpoints:
        step, _ = checkpoints.read_params(choose, SHAPES.params)
    assert chosen[0] == 15 and step == (15 if first == "checksums.0-1.json" else 10)


def test_a_reader_refuses_a_damaged_one_by_its_file(workdir: Path) -> None:
    flip(largest(workdir / "checkpoints" / "groot" / "15"), random.Random(3))
    with (
        Checkpoints(workdir, "groot", read_only=True) as checkpoints,
        pytest.raises(Damaged, match="15 is damaged .*is not what was written"),
    ):
        checkpoints.restore_params(15, SHAPES.params)


@pytest.mark.parametrize("lost", ["0-2", "1-2"])
@pytest.mark.parametrize("kind", ["its arrays truncated", "no state", "no manifest"])
def test_sums_of_some_processes_alone_call_nothing_whole(
    workdir: Path, capsys: pytest.CaptureFixture[str], lost: str, kind: str
) -> None:
    """Two processes have written it, and one was killed before it had written its sums."""
    folder = workdir / "checkpoints" / "groot" / "15"
    without("checksums.*")(folder)
    for index in (0, 1):
        write_checksums(folder, index, 2)
    assert unverified(folder) == ""
    without(f"checksums.{lost}.json")(folder)
    assert unverified(folder) == f"is not verified: it lacks checksums.{lost}.json"
    with Checkpoints(workdir, "groot", read_only=True) as checkpoints:
        assert checkpoints.read_params(lambda _: 15, SHAPES.params)[0] == 15
    assert f"lacks checksums.{lost}.json" in capsys.readouterr().err
    DAMAGES[kind](folder)
    # Whether the sums that are left tell of it, or the restore fails.
    found = resumed(workdir)
    assert found is not None and found.step == 10


def test_what_fails_in_a_restore_is_told_by_its_cause(workdir: Path) -> None:
    folder = workdir / "checkpoints" / "groot" / "15"
    without("checksums.*")(folder)
    DAMAGES["its arrays truncated"](folder)
    with (
        Checkpoints(workdir, "groot", read_only=True) as checkpoints,
        pytest.raises(Damaged) as caught,
    ):
        checkpoints.restore_params(15, SHAPES.params)
    said = str(caught.value)
    assert "(ValueError: OUT_OF_RANGE: " in said and "bound method" not in said


@pytest.mark.parametrize("content", [None, "meta", "state"])
def test_the_best_is_found_behind_a_folder_that_says_nothing(
    workdir: Path, content: str | None
) -> None:
    """As one that somebody has made by hand, or of which the metas are lost."""
    folder = workdir / "checkpoints" / "groot"
    (folder / "99" / (content or "")).mkdir(parents=True)
    with Checkpoints(workdir, "groot", read_only=True) as checkpoints:
        assert checkpoints.latest() == 99 and checkpoints.best() == 10
        np.testing.assert_array_equal(
            checkpoints.restore_params(10, SHAPES.params)["w"], state(10).params["w"]
        )


@pytest.mark.parametrize("reload", [True, False])
def test_a_reader_looks_again_when_training_removes_what_it_has_listed(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, reload: bool
) -> None:
    failures: list[OSError] = [
        FileNotFoundError(errno.ENOENT, "No such file", "15/state"),
        NotADirectoryError("Path is not a directory: 15"),
    ]

    def listing(look: Callable[..., object]) -> Callable[..., object]:
        def looked(*args: object, **options: object) -> object:
            if failures:
                raise failures.pop()
            return look(*args, **options)

        return looked

    name = "reload" if reload else "__init__"
    if not reload:
        monkeypatch.setattr(
            ocp.CheckpointManager, name, listing(getattr(ocp.CheckpointManager, name))
        )
    with Checkpoints(workdir, "groot", read_only=True) as checkpoints:
        if reload:
            monkeypatch.setattr(checkpoints._manager, name, listing(checkpoints._manager.reload))
            checkpoints.reload()
        assert not failures and checkpoints.steps() == [10, 15]
        failures.extend([FileNotFoundError(errno.ENOENT, "No such file", "15/state")] * 9)
        if reload:
            with pytest.raises(UserError, match="groot cannot be read .*15/state"):
                checkpoints.reload()
    failures.clear()


@pytest.mark.parametrize("kind", ["a file", "Permission denied", "Input/output error"])
def test_reading_never_says_that_something_was_not_written(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = workdir / "checkpoints" / "groot"
    if kind == "a file":
        shutil.rmtree(folder)
        folder.write_text("")
        expected = f"{folder} is a file or lies in one"
    else:
        number = {"Permission denied": errno.EACCES, "Input/output error": errno.EIO}[kind]

        def refused(*_: object, **__: object) -> None:
            raise OSError(number, kind, str(folder))

        monkeypatch.setattr(ocp.CheckpointManager, "__init__", refused)
        expected = f"{folder} cannot be read .*{kind}"
    with (
        pytest.raises(UserError, match=expected) as caught,
        Checkpoints(workdir, "groot", read_only=kind != "a file") as checkpoints,
    ):
        checkpoints.save(20, state(20), meta(20))
    assert "written" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG])
def test_metas_and_folders_that_cannot_be_read_are_named(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refused)
        with pytest.raises(UserError, match=rf"\.json cannot be read \({os.strerror(number)}"):
            resumed(workdir)
    assert saved_steps(workdir, "groot") == [10, 15]
    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UserError, match=rf"groot cannot be read \({os.strerror(number)}"):
        saved_steps(workdir, "groot")


def test_metas_that_point_to_themselves_are_named(workdir: Path) -> None:
    path = workdir / "checkpoints" / "groot" / META_FILE
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(UserError, match=rf"{META_FILE} cannot be read \(Too many levels"):
        resumed(workdir)


def test_what_was_to_go_when_a_job_was_killed_goes_at_the_next_start(workdir: Path) -> None:
    folder = workdir / "checkpoints" / "groot"
    for step in (2, 5, 7):
        shutil.copytree(folder / "10", folder / str(step))
    assert resumed(workdir) is not None
    assert saved_steps(workdir, "groot") == [10, 15]
