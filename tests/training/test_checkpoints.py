"""Checkpoints that are kept, read again and refused."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from orbax.checkpoint._src.serialization import serialization
from rich.console import Console

from groot_jax.config import default_config
from groot_jax.contrast.update import Params, TrainState
from groot_jax.errors import RunAgain, Terminated, UserError
from groot_jax.generate.inputs import Beams
from groot_jax.runtime.barrier import OutOfStep
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.checkpoints import (
    Checkpoints,
    Damaged,
    Evaluation,
    Meta,
    best_evaluation,
    by_loss,
    saved_steps,
)
from groot_jax.training.faults import Elsewhere
from groot_jax.training.loop import Stage, Update, train
from groot_jax.training.optimizer import evaluated_params, make_optimizer


def evaluation(step: int, first: float, mean: float = 0.0) -> Evaluation:
    return Evaluation(step, {"reward@1": first, "mean_reward": mean})


def state(value: float) -> TrainState:
    return TrainState(jnp.int32(1), {"w": jnp.full((3,), value)}, (optax.EmptyState(),))


def save(workdir: Path, evaluations: list[Evaluation], steps: list[int], **options) -> None:
    """Saves `steps` in one run; the evaluations of each are those up to it."""
    with Checkpoints(workdir, "groot", **options) as checkpoints:
        for step in steps:
            meta = Meta([one for one in evaluations if one.step <= step])
            checkpoints.save(step, state(step), meta)


NAN = float("nan")
EVALUATIONS = [
    evaluation(1, 0.5),
    evaluation(2, 0.9),
    evaluation(3, 0.6),
    evaluation(4, 0.7),
    evaluation(5, 0.8),
]


def test_the_best_and_the_latest_stay(tmp_path: Path) -> None:
    save(tmp_path, EVALUATIONS, [1, 2, 3, 4, 5])
    assert saved_steps(tmp_path, "groot") == [2, 4, 5]


def test_the_best_of_an_earlier_run_stays_when_a_later_one_is_worse(tmp_path: Path) -> None:
    save(tmp_path, EVALUATIONS, [1, 2, 3])
    save(tmp_path, EVALUATIONS, [4, 5])
    assert saved_steps(tmp_path, "groot") == [2, 4, 5]
    with Checkpoints(tmp_path, "groot", read_only=True) as checkpoints:
        assert (checkpoints.best(), checkpoints.latest()) == (2, 5)
        restored = checkpoints.restore_params(2, state(0.0).params)
    assert np.asarray(restored["w"]).tolist() == [2.0, 2.0, 2.0]


def test_more_of_the_latest_are_kept_when_asked_for(tmp_path: Path) -> None:
    save(tmp_path, EVALUATIONS, [1, 2, 3, 4, 5], keep=2)
    assert saved_steps(tmp_path, "groot") == [2, 4, 5]


def test_best_is_the_highest_mean_among_those_within_the_tie() -> None:
    evaluations = [
        evaluation(1, 0.80, 0.5),
        evaluation(2, 0.81, 0.4),
        evaluation(3, 0.70, 0.9),
        evaluation(4, 0.80, 0.5),
    ]
    assert best_evaluation(evaluations, 0.0) == evaluations[1]
    assert best_evaluation(evaluations, 0.01 + 1e-9) == evaluations[0]
    assert best_evaluation([], 0.0) is None


def test_best_by_loss_is_the_lowest_by_however_little() -> None:
    losses = (2.0, 1.5, 1.499, 1.6)
    evaluations = [Evaluation(step, {"loss": loss}) for step, loss in enumerate(losses, 1)]
    assert best_evaluation(evaluations, 0.005, by_loss) == evaluations[2]


def test_a_loss_that_is_no_number_is_the_worst() -> None:
    evaluations = [Evaluation(n, {"loss": loss}) for n, loss in enumerate((NAN, 2.0, NAN, 3.0), 1)]
    told = [best_evaluation(evaluations[:n], 0.005, by_loss) for n in range(1, 5)]
    assert [best.step for best in told if best] == [1, 2, 2, 2]


def test_checkpoints_name_their_evaluations_as_they_always_did() -> None:
    """Work directories of earlier versions are continued and scored."""
    meta = Meta([evaluation(2, 0.5, 0.25)], True, 7.5)
    stored = {
        "looks": [{"step": 2, "reward@1": 0.5, "mean_reward": 0.25}],
        "finished": True,
        "seconds": 7.5,
    }
    assert meta.to_json() == stored and Meta.from_json(stored) == meta


def test_the_lowest_loss_and_the_latest_stay(tmp_path: Path) -> None:
    evaluations = [
        Evaluation(step, {"loss": loss}) for step, loss in enumerate((2.0, 1.5, 1.7, 1.6), 1)
    ]
    save(tmp_path, evaluations, [1, 2, 3, 4], tie=0.005, merit=by_loss)
    assert saved_steps(tmp_path, "groot") == [2, 3, 4]
    with Checkpoints(tmp_path, "groot", merit=by_loss, read_only=True) as checkpoints:
        assert checkpoints.best() == 2


def test_the_best_that_is_told_is_always_one_that_is_held(tmp_path: Path) -> None:
    # 2 is within the tie of 1 and has the higher mean; 3 raises the top, so that 2 is no longer
    # within the tie, but 1, whose checkpoint is gone, would be.
    evaluations = [
        evaluation(1, 0.800, 0.5),
        evaluation(2, 0.797, 0.6),
        evaluation(3, 0.8025, 0.4),
        evaluation(4, 0.7, 0.9),
    ]
    told = [best_evaluation(evaluations[:n], 0.005) for n in range(1, 5)]
    assert [best.step for best in told if best] == [1, 2, 3, 3]
    for n in range(1, 5):
        save(tmp_path, evaluations, [n], tie=0.005)
        with Checkpoints(tmp_path, "groot", tie=0.005, read_only=True) as checkpoints:
            best = told[n - 1]
            assert best and checkpoints.best() == best.step
    assert saved_steps(tmp_path, "groot") == [3, 4]


def test_a_best_checkpoint_that_was_removed_leaves_the_best_of_the_others(tmp_path: Path) -> None:
    save(tmp_path, EVALUATIONS, [1, 2, 3, 4, 5], keep=2)
    shutil.rmtree(tmp_path / "checkpoints" / "groot" / "2")
    with Checkpoints(tmp_path, "groot", read_only=True) as checkpoints:
        assert checkpoints.best() == 5


def test_a_reader_leaves_a_save_under_way_and_an_absent_folder_alone(tmp_path: Path) -> None:
    save(tmp_path, EVALUATIONS, [1])
    under_way = tmp_path / "checkpoints" / "groot" / "2.orbax-checkpoint-tmp"
    under_way.mkdir()
    for system, latest in (("groot", 1), ("absent", None)):
        with Checkpoints(tmp_path, system, read_only=True) as checkpoints:
            assert checkpoints.latest() == latest
    assert under_way.exists() and not (tmp_path / "checkpoints" / "absent").exists()
    assert saved_steps(tmp_path, "groot") == [1]
    assert saved_steps(tmp_path, "absent") == []


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    save(tmp_path, EVALUATIONS, [1])
    folder = tmp_path / "checkpoints" / "groot" / "1"
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:7])
    with (
        Checkpoints(tmp_path, "groot", read_only=True) as checkpoints,
        pytest.raises(Damaged, match="is damaged .state/.* is not what was written") as caught,
    ):
        checkpoints.restore(1, state(0.0))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_signal_that_orbax_makes_another_error_of_damages_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, EVALUATIONS, [1])

    async def interrupted(**_: Any) -> None:
        raise Terminated(signal.SIGTERM)

    monkeypatch.setattr(serialization, "_read_shard", interrupted)
    with Checkpoints(tmp_path, "groot", read_only=True) as checkpoints:
        with pytest.raises(Exception, match="error while reading array"):  # As Orbax tells it.
            checkpoints._manager.restore(
                1, args=ocp.args.Composite(state=ocp.args.StandardRestore(state(0.0)))
            )
        with pytest.raises(Terminated) as caught:
            checkpoints.checked(1, lambda: checkpoints.restore(1, state(0.0)))
    assert caught.value.args == (signal.SIGTERM,)


def test_a_save_that_cannot_fit_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, EVALUATIONS, [1])
    with Checkpoints(tmp_path, "groot") as checkpoints:
        checkpoints.ready(state(2.0))
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(UserError, match="the disk is full .*MiB are needed and 0 are free"):
            checkpoints.ready(state(2.0))
    assert saved_steps(tmp_path, "groot") == [1]


def test_a_folder_that_has_lost_what_was_saved_there_is_not_filled_anew(tmp_path: Path) -> None:
    """As where a mount has gone: Orbax would make the folder that lay below it."""
    with Checkpoints(tmp_path, "groot") as checkpoints:
        checkpoints.save(2, state(2.0), Meta(EVALUATIONS[:2]))
        checkpoints.wait()
        checkpoints.ready(state(3.0))
        checkpoints.folder.rename(tmp_path / "away")
        checkpoints.folder.mkdir()
        with pytest.raises(UserError, match="what was saved there is gone"):
            checkpoints.ready(state(3.0))
        checkpoints.folder.rmdir()
        (tmp_path / "away").rename(checkpoints.folder)
        checkpoints.ready(state(3.0))


def test_of_several_processes_each_tries_whether_its_files_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(tmp_path, "groot", hosts=SecondOfTwo()) as checkpoints:
        before = sorted(checkpoints.folder.iterdir())
        checkpoints.ready(state(1.0))
        assert sorted(checkpoints.folder.iterdir()) == before
        # As where a disk's quota, or a link of it, is that of one machine.
        monkeypatch.setattr(Path, "open", lambda *_: os.open(tmp_path / "none" / "f", os.O_RDONLY))
        with pytest.raises(UserError, match="the checkpoint was not written .*none/f"):
            checkpoints.ready(state(1.0))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Failed to write 5 bytes: No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
    ids=["the system's", "the array library's", "quota"],
)
def test_a_disk_that_fills_up_while_saving_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save(tmp_path, EVALUATIONS, [1])

    def fail(*_: object, **__: object) -> None:
        raise error

    with (
        pytest.raises(UserError, match="the disk is full") as caught,
        Checkpoints(tmp_path, "groot") as checkpoints,
    ):
        monkeypatch.setattr(checkpoints._manager, "save", fail)
        checkpoints.save(2, state(2.0), Meta(EVALUATIONS[:2]))
    assert "\n" not in str(caught.value) and "run the same command again" in str(caught.value)
    assert saved_steps(tmp_path, "groot") == [1]


class SecondOfTwo(Hosts):
    """The second of two processes, of which the first says whether a checkpoint is there."""

    def __init__(self) -> None:
        super().__init__(1, ("a", "b"))
        self.there = True

    def broadcast(self, value: Any) -> Any:
        return self.there if isinstance(value, bool) else value


def test_a_save_that_one_of_several_cannot_begin_is_the_launchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for it in their main threads, where nobody can tell them. They do not where
    process 0 says that the checkpoint has landed, whatever this one sees of the disk."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    hosts = SecondOfTwo()
    with Checkpoints(tmp_path, "groot", hosts=hosts) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", fail)
        checkpoints.save(1, state(1.0), Meta(EVALUATIONS[:1]))
        hosts.there = False
        with pytest.raises(RunAgain, match="Input/output error"):
            checkpoints.save(2, state(2.0), Meta(EVALUATIONS[:2]))


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        # It waited for the folder of the draft, which process 0 could not make.
        (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out"), "DEADLINE"),
        (None, "another process"),
    ],
)
def test_a_save_that_has_failed_in_one_of_several_is_over_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: Exception | None, said: str
) -> None:
    """Orbax, whose last barrier has failed, says for ever that the save is in progress."""

    def over() -> None:
        try:
            if first is not None:
                raise first
        finally:
            raise OutOfStep("another process of the run could not go on with it")

    hosts = SecondOfTwo()
    with Checkpoints(tmp_path, "groot", hosts=hosts) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "is_saving_in_progress", lambda: True)
        checkpoints.save(1, state(1.0), Meta(EVALUATIONS[:1]))
        checkpoints.poll()
        assert checkpoints.writing and checkpoints._barrier is not None
        checkpoints._barrier.failed = True
        monkeypatch.setattr(checkpoints._manager, "wait_until_finished", over)
        with pytest.raises(UserError, match=said) as caught:
            checkpoints.poll()
        assert isinstance(caught.value, Elsewhere) == (not isinstance(first, OSError))
        assert not checkpoints.writing


def test_drafts_of_saves_that_did_not_land_are_removed_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = tmp_path / "checkpoints" / "groot" / "2.orbax-checkpoint-tmp"
    (draft / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    (kept := draft.parent / "2.damaged").mkdir()
    with Checkpoints(tmp_path, "groot") as checkpoints:
        with monkeypatch.context() as patch:
            # As where the folder may not be changed.
            patch.setattr(shutil, "rmtree", lambda path: os.rmdir(path / "none"))
            with pytest.raises(UserError, match="the checkpoint was not written"):
                checkpoints.ready(state(3.0))
        assert draft.exists()
        checkpoints.save(3, state(3.0), Meta(EVALUATIONS[:3]))
        assert not draft.exists() and kept.exists()


def test_metas_that_were_never_written_are_no_sign_of_a_mount_that_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UserError("meta.json could not be written")

    with Checkpoints(tmp_path, "groot") as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr("groot_jax.training.checkpoints.write_guarded", full)
            with pytest.raises(UserError, match="could not be written"):
                checkpoints.save(1, state(1.0), Meta(EVALUATIONS[:1]))
        checkpoints.wait()
        checkpoints.ready(state(2.0))
        checkpoints.save(2, state(2.0), Meta(EVALUATIONS[:2]))
    assert saved_steps(tmp_path, "groot") == [1, 2]


def test_an_interrupt_in_the_midst_of_a_save_lets_it_land(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path, "groot") as checkpoints:
        begin = checkpoints._manager.save

        def interrupted(*args: Any, **kwargs: Any) -> bool:
            signal.raise_signal(signal.SIGINT)
            return begin(*args, **kwargs)

        monkeypatch.setattr(checkpoints._manager, "save", interrupted)
        checkpoints.save(1, state(1.0), Meta(EVALUATIONS[:1]))
    assert saved_steps(tmp_path, "groot") == [1]


def test_whatever_keeps_a_save_from_landing_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, EVALUATIONS, [1])

    def fail() -> None:
        raise ValueError("OUT_OF_RANGE: Failed writing 5 bytes: File too large\nsource locations")

    with pytest.raises(UserError) as caught, Checkpoints(tmp_path, "groot") as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
    said = str(caught.value)
    assert str(tmp_path / "checkpoints" / "groot") in said and "\n" not in said
    assert "(ValueError: OUT_OF_RANGE: Failed writing 5 bytes: File too large)" in said
    assert "earlier checkpoints are whole" in said and "source locations" not in said


def averaging_run(updates: int, state: TrainState | None = None) -> TrainState:
    """So many updates of AdamW with an average, each with a gradient of its own."""
    optimizer = make_optimizer(
        ConfigDict({"weight_decay": 0.0, "b1": 0.9, "b2": 0.98, "ema": 0.9}),
        ConfigDict(
            {"optimizer": "adamw", "learning_rate": 0.1, "warmup": 0.0, "schedule": "constant"}
        ),
        1.0,
        10,
    )
    if state is None:
        params = {"w": jnp.arange(3.0), "deep": {"er": jnp.ones((2, 2))}}
        state = TrainState(jnp.int32(0), params, optimizer.init(params))

    @jax.jit  # Compiled as one, where each of its operations would be compiled by itself.
    def update(state: TrainState) -> TrainState:
        grads = jax.tree.map(lambda x: jnp.sin(x + state.step), state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)

    for _ in range(updates):
        state = update(state)
    return state


def shapes_of(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jnp.zeros(()).sharding), tree
    )


def test_what_is_read_of_a_checkpoint_with_an_average_is_the_average(tmp_path: Path) -> None:
    whole = averaging_run(4)
    with Checkpoints(tmp_path, "groot") as checkpoints:
        checkpoints.save(4, whole, Meta([evaluation(4, 0.5)]))
    with Checkpoints(tmp_path, "groot", read_only=True) as checkpoints:
        shapes = shapes_of(whole.params)
        read = checkpoints.restore_params(4, shapes)
        # As a run reads it that goes on from a labeler (`model.init`).
        on_host = checkpoints.restore_params_to_host(4, shapes)
    average = evaluated_params(whole)
    assert np.abs(average["w"] - whole.params["w"]).max() > 0.01
    jax.tree.map(np.testing.assert_array_equal, read, average)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(on_host))
    jax.tree.map(np.testing.assert_array_equal, on_host, average)


def test_a_run_with_an_average_is_measured_by_it(tmp_path: Path) -> None:
    one = jnp.ones(()), jnp.ones(())
    seen: list[Params] = []
    states: list[TrainState] = []

    def updates(state: TrainState, start: int, flight: Sequence[Beams]) -> Iterator[Update]:
        for _ in range(start, 3):
            state = averaging_run(1, state)
            states.append(state)
            yield Update(state, {"loss": one, "gold_score": one}, {})

    def evaluate(params: Params) -> dict[str, float]:
        seen.append(params)
        return {"reward@1": 0.5, "mean_reward": 0.5}

    start = averaging_run(0)
    stage = Stage("groot", 3, 1, lambda: start, shapes_of(start), updates, ())
    train(stage, tmp_path, default_config(), evaluate, Console(quiet=True), Hosts())
    jax.tree.map(np.testing.assert_array_equal, seen, [evaluated_params(state) for state in states])
    assert np.abs(seen[-1]["w"] - states[-1].params["w"]).max() > 0.01


def test_a_run_with_an_average_continues_with_the_same_bits(tmp_path: Path) -> None:
    half = averaging_run(3)
    with Checkpoints(tmp_path, "groot") as checkpoints:
        checkpoints.save(3, half, Meta([evaluation(3, 0.5)]))
    with Checkpoints(tmp_path, "groot") as checkpoints:
        continued = averaging_run(4, checkpoints.restore(3, shapes_of(half)))
    jax.tree.map(np.testing.assert_array_equal, continued, averaging_run(7))


def test_a_checkpoint_without_an_average_gives_its_parameters(tmp_path: Path) -> None:
    save(tmp_path, EVALUATIONS, [2])
    with Checkpoints(tmp_path, "groot", read_only=True) as checkpoints:
        read = checkpoints.restore_params(2, shapes_of(state(2).params))
    np.testing.assert_array_equal(read["w"], state(2).params["w"])
