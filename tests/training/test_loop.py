"""What the loop of all training decides by itself."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from groot_jax import errors
from groot_jax.config import default_config
from groot_jax.contrast.update import TrainState
from groot_jax.errors import Terminated, UserError
from groot_jax.evaluation.records import read_metrics, read_samples
from groot_jax.reward.pool import Origin, PoolEntry
from groot_jax.runtime.compiling import CompileClock
from groot_jax.runtime.hosts import Hosts
from groot_jax.training import loop, writers
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.groot import GrootStage, pool_figures
from groot_jax.training.loop import Stage, Update, updates_between
from groot_jax.training.monitor import Monitor, clock
from groot_jax.training.profiling import Profiler
from groot_jax.training.sums import Sums


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "updates"),
    [
        (0.5, 213, 107),
        (0.5, 750, 375),
        (2.0, 107, 214),
        (0.55, 100, 55),
        (0.07, 100, 7),
        (0.01, 7, 1),
    ],
)
def test_evaluations_are_so_many_epochs_apart(epochs: float, per_epoch: int, updates: int):
    assert updates_between(ConfigDict({"eval_every": epochs}), per_epoch) == updates


@pytest.mark.parametrize("per_epoch", range(1, 60))
def test_halves_and_quarters_of_an_epoch_have_no_evaluation_more(per_epoch: int):
    for share in (1, 2, 4):
        between = updates_between(ConfigDict({"eval_every": 1 / share}), per_epoch)
        assert -(-per_epoch // between) <= share


def test_sums_go_on_beyond_what_float32_counts():
    sums = Sums()
    metrics = {name: (jnp.float32(3.0), jnp.float32(1 << 24)) for name in ("loss", "gold_score")}
    one = {name: (jnp.float32(3.0), jnp.float32(1.0)) for name in ("loss", "gold_score")}
    sums.add(metrics, {})
    for _ in range(3):
        sums.add(one, {})
    assert sums.means()["loss"] == 12.0 / ((1 << 24) + 3)


def test_an_update_that_was_skipped_is_counted_and_leaves_the_means_as_they_are():
    def metrics(loss: float) -> dict[str, jax.Array]:
        pair = (jnp.float32(loss), jnp.float32(2.0))
        return cast(Any, {"loss": pair, "gold_score": (jnp.float32(-4.0), jnp.float32(2.0))})

    sums = Sums()
    assert sums.empty
    for loss in (3.0, float("nan"), 5.0):
        assert sums.add(cast(Any, metrics(loss)), {"reward@1": (1.0, 2)}) == 2
    means = {"loss": 2.0, "gold_score": -2.0, "reward@1": 0.5, "skipped_updates": 1.0}
    assert sums.means() == means
    # As a checkpoint keeps them: in JSON, which has no NaN.
    kept = json.loads(json.dumps(sums.to_json(Hosts()), allow_nan=False))
    assert Sums.from_json(kept, Hosts()).means() == means


def entry(reward: float, slot: int, *terms: float) -> PoolEntry:
    origin: Origin = "beam" if slot >= 0 else "correction"
    return PoolEntry((), reward, 0.0, origin, -1, slot, terms=terms)


def test_figures_of_pools_are_those_of_the_beam_and_of_each_term() -> None:
    pools = [
        (entry(0.9, -1, 1.0, 0.0), entry(0.8, 1, 0.5, 0.1), entry(0.2, 0, 0.3, 0.2)),
        # .1 + .2 and .3 are one reward: there is nothing to contrast.
        (entry(0.1 + 0.2, 0, 0.4, 0.6), entry(0.3, -1, 0.0, 1.0)),
    ]
    assert pool_figures(pools, ["f1", "exact"]) == {
        "reward@1": (0.2 + (0.1 + 0.2), 2),
        "beam_reward": (pytest.approx(1.3), 3),
        "pool_size": (5, 2),
        "uniform_pools": (1, 2),
        "reward@1/f1": (pytest.approx(0.7), 2),
        "beam_reward/f1": (pytest.approx(1.2), 3),
        "reward@1/exact": (pytest.approx(0.8), 2),
        "beam_reward/exact": (pytest.approx(0.9), 3),
    }
    assert pool_figures([]) == {}


@pytest.mark.parametrize("teacher", ["start", "policy"])
def test_unlabeled_sentences_are_labeled_by_the_teacher_without_noise(teacher: str) -> None:
    asked: list[tuple[Any, ...]] = []
    stage: Any = SimpleNamespace(
        settings=SimpleNamespace(teacher=teacher),
        _batches=SimpleNamespace(is_unlabeled=lambda step: step == 1),
        _run=SimpleNamespace(generator=lambda *given: asked.append(("plain", *given))),
        _generator=lambda *given: asked.append(("noisy", *given)),
        _start="start",
        _contrasts=True,
        _noisy=False,
    )
    stage._generates = partial(GrootStage._generates, stage)
    for step in (0, 1):
        GrootStage.generate(stage, cast(Any, "policy"), cast(Any, step), step)
    assert asked == [("noisy", "policy", 0, None), ("plain", teacher, 1)]


def test_samples_of_a_step_are_on_file_once_whatever_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"

    def train(start: int, steps: list[int], system: str = "groot") -> None:
        settings: dict[str, Any] = {"start": start, "evaluated": start, "total": 9, "main": True}
        settings["console"] = Console(quiet=True)
        with Monitor(tmp_path, system, **settings) as monitor:
            for step in steps:
                candidates = [{"spans": [], "reward": start / 10}]
                sample = {"index": 0, "words": ["é\u2028\x85"], "gold": []}
                monitor.log_samples(step, [sample | {"candidates": candidates}])

    train(0, [2, 4, 6])
    train(0, [9], "nll")
    path.write_text(path.read_text() + '{"system": "groot", "step": 8, "sen')
    train(4, [6, 8])  # Its last checkpoint was that of step 4.
    lines = read_samples(tmp_path)
    rewards = [one["sentences"][0]["candidates"][0]["reward"] for one in lines]
    assert [(one["system"], one["step"]) for one in lines] == [
        *[("groot", 2), ("groot", 4), ("nll", 9)],
        *[("groot", 6), ("groot", 8)],
    ]
    assert rewards == [0, 0, 0, 0.4, 0.4]


def monitor(workdir: Path) -> Monitor:
    return Monitor(workdir, "nll", start=0, total=9, console=Console(quiet=True), main=True)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_lines_go_on_where_somebody_has_removed_their_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    with monitor(tmp_path) as one:
        one.log(1, "train", {"loss": 1.0})
        (tmp_path / "metrics.jsonl").unlink()
        if how == "replaced":
            (tmp_path / "metrics.jsonl").write_text("")
        for step in (2, 3):
            one.log(step, "train", {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 3]
    assert capsys.readouterr().err.count("metrics.jsonl was removed or replaced") == 1


def test_a_copy_that_ends_in_half_a_line_hides_none_that_follow(tmp_path: Path) -> None:
    """As one that somebody brings back while training writes."""
    sentence = {"index": 0, "words": ["a"], "gold": [], "candidates": []}
    with monitor(tmp_path) as one:
        for name in ("metrics.jsonl", "samples.jsonl"):
            (tmp_path / name).unlink(missing_ok=True)
            (tmp_path / name).write_text('{"system": "nll", "st')
        one.log(2, "train", {"loss": 1.0})
        one.log_samples(2, [sentence])
    assert [line["step"] for line in read_metrics(tmp_path)] == [2]
    assert [line["step"] for line in read_samples(tmp_path)] == [2]


@pytest.mark.parametrize("then", ["nothing", "another"])
def test_no_file_comes_into_a_folder_that_was_not_there(tmp_path: Path, then: str) -> None:
    workdir = tmp_path / "w"
    workdir.mkdir()
    with monitor(workdir) as one:
        workdir.rename(tmp_path / "moved")
        if then == "another":  # As under a mount that has gone.
            workdir.mkdir()
        one.log(1, "train", {"loss": 1.0})
        with pytest.raises(UserError, match="its folder was moved or removed"):
            one.log_samples(1, [{"index": 0}])
    assert not workdir.exists() or not [*workdir.iterdir()]
    assert [line["step"] for line in read_metrics(tmp_path / "moved")] == [1]


def test_only_the_first_process_writes_samples_and_none_makes_no_file(tmp_path: Path) -> None:
    for main, samples in ((True, []), (False, [{"index": 0}])):
        with Monitor(
            *(tmp_path, "nll"),
            start=0,
            evaluated=0,
            total=1,
            console=Console(quiet=True),
            main=main,
        ) as monitor:
            monitor.log_samples(1, samples)
    assert not (tmp_path / "samples.jsonl").exists()


# ---- What is logged, shown and traced ---------------------------------------------------------


class Stopped(Exception):
    pass


@jax.jit
def _next_state(state: TrainState) -> TrainState:
    return TrainState(state.step + 1, {"w": state.params["w"] * 1.5 + 1}, ())


def count_stage(stop: int = 0, error: BaseException | type[BaseException] | None = None) -> Stage:
    """Update n has the loss n, and two sentences but the 3rd, which has one; each takes the arrays
    of the one before. Instead of update `stop`, an error."""

    def updates(state: TrainState, start: int, _: object) -> Iterator[Update]:
        for n in range(start + 1, 11):
            if n == stop:
                raise error or Stopped
            before, state = state, _next_state(state)
            for leaf in jax.tree.leaves(before):
                leaf.delete()
            sentences = 1.0 if n == 3 else 2.0
            metrics = {"loss": (n * sentences, sentences), "gold_score": (0.0, sentences)}
            figures = {"reward@1/f1": (n * sentences, sentences)}
            yield Update(state, cast(Any, metrics), figures)

    def start() -> TrainState:
        return TrainState(jnp.int32(0), {"w": jnp.zeros(2)}, ())

    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), start()
    )
    rates = tuple(n / 100 for n in range(1, 11))
    return Stage("groot", 10, 5, start, shapes, updates, (), per_epoch=4, rates=rates)


def train_counting(
    workdir: Path,
    stop: int = 0,
    error: BaseException | type[BaseException] | None = None,
    **settings: Any,
) -> None:
    config = default_config()
    config.update({"log_every": 2, "report_to": (), **settings})
    loop.train(
        count_stage(stop, error),
        workdir,
        config,
        lambda params: dict.fromkeys(("reward@1", "mean_reward"), float(params["w"][0])),
        Console(quiet=True),
        Hosts(),
    )


def state_of(workdir: Path) -> tuple[int, list[float]]:
    """The last step that was saved, and its parameters."""
    shapes = count_stage().shapes
    with Checkpoints(workdir, "groot", read_only=True) as checkpoints:
        step = checkpoints.latest()
        assert step is not None
        return step, checkpoints.restore_params_to_host(step, shapes.params)["w"].tolist()


def lines_of(workdir: Path) -> list[dict[str, Any]]:
    lines = read_metrics(workdir)
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def test_every_so_many_updates_and_each_evaluation_have_a_line_of_their_own_means(tmp_path):
    train_counting(tmp_path)
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert [line["step"] for line in lines] == [2, 4, 5, 6, 8, 10]
    # The 3rd update has one sentence of the 4th's two: (3 + 8) / 3.
    means = [1.5, 11 / 3, 5.0, 6.0, 7.5, 9.5]
    assert [line["loss"] for line in lines] == pytest.approx(means)
    assert [line["reward@1/f1"] for line in lines] == pytest.approx(means)
    assert [line["learning_rate"] for line in lines] == [0.02, 0.04, 0.05, 0.06, 0.08, 0.1]
    assert [line["epoch"] for line in lines] == [0.5, 1.0, 1.25, 1.5, 2.0, 2.5]
    assert all(0 < line["sentences_per_second"] < float("inf") for line in lines)


def test_a_run_that_was_killed_logs_what_one_that_was_not_does(tmp_path: Path) -> None:
    train_counting(tmp_path / "whole")
    with pytest.raises(Stopped):
        train_counting(tmp_path / "killed", stop=10)  # After the lines of 6 and 8.
    assert [line["step"] for line in read_metrics(tmp_path / "killed")][-2:] == [6, 8]
    train_counting(tmp_path / "killed")
    whole, killed = (
        [
            {k: v for k, v in line.items() if "second" not in k}
            for line in read_metrics(tmp_path / name)
            if line["split"] == "train"
        ]
        for name in ("whole", "killed")
    )
    assert whole == killed


@pytest.mark.parametrize(
    "error", [GeneratorExit(), SystemExit(0), asyncio.CancelledError(), KeyboardInterrupt()]
)
def test_whatever_is_raised_saves_the_state_at_hand_first(tmp_path: Path, error) -> None:
    kind = RuntimeError if isinstance(error, SystemExit) else type(error)
    with pytest.raises(kind):
        train_counting(tmp_path, stop=8, error=error)
    assert state_of(tmp_path)[0] == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("then", ["waits", "fails"])
def test_a_signal_in_a_long_wait_saves_the_state_at_hand_and_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, then: str
) -> None:
    """As for a reward that hangs, or that fails once the signal has come."""

    class Hangs(UserError):
        def __init__(self) -> None:
            assert errors._wish is not None
            errors._wish.number, errors._wish.since = number, time.monotonic()
            super().__init__("the service is away")
            while then == "waits":
                errors.raise_overdue()
                time.sleep(0.01)

    monkeypatch.setattr(errors, "_PATIENCE", 0.1)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Terminated):
        train_counting(tmp_path / "stopped", stop=8, error=Hangs)
    assert state_of(tmp_path / "stopped")[0] == 7
    train_counting(tmp_path / "stopped")
    train_counting(tmp_path / "whole")
    assert state_of(tmp_path / "stopped") == state_of(tmp_path / "whole")


@pytest.mark.parametrize("at", [2, 3, 5, 8])
@pytest.mark.parametrize("what", ["shown", "logged", "written elsewhere"])
def test_what_fails_while_an_update_is_counted_loses_neither_its_state_nor_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, what: str
) -> None:
    """The next update has begun by then, and has taken the arrays of the one that is counted."""

    def fails(self: object, step: int, *_: object) -> None:
        if step == at:
            raise Stopped
        if what != "written elsewhere":
            real(self, step, *_)

    settings: dict[str, Any] = {"log_every": 1 if at % 3 else 2}
    train_counting(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        if what == "written elsewhere":
            other = SimpleNamespace(write=partial(fails, None), close=lambda failed: None)
            patch.setattr(loop, "open_writers", lambda *_: [other])
        else:
            name = "advance" if what == "shown" else "log"
            real = getattr(Monitor, name)
            patch.setattr(Monitor, name, fails)
        if what == "shown" or at % settings["log_every"] == 0 or at == 5:
            with pytest.raises(Stopped):
                train_counting(tmp_path / "stopped", **settings)
            # Evaluations at 5 and 10 wait for their update, and so do their lines.
            assert state_of(tmp_path / "stopped")[0] == (5 if at == 5 else at + 1)
    train_counting(tmp_path / "stopped", **settings)
    assert lines_of(tmp_path / "stopped") == lines_of(tmp_path / "whole")
    assert state_of(tmp_path / "stopped") == state_of(tmp_path / "whole")


class Told:
    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def write(self, *line: Any) -> None:
        self.lines.append(line)

    def close(self, failed: bool) -> None:
        self.lines.append((failed,))


def test_other_writers_get_what_the_file_gets_and_hear_how_it_ended(tmp_path, monkeypatch):
    told = Told()
    monkeypatch.setattr(loop, "open_writers", lambda *_: [told])
    with pytest.raises(Stopped):
        train_counting(tmp_path, stop=7)
    names = ("system", "step", "split")
    lines = [
        (line["step"], line["split"], {k: v for k, v in line.items() if k not in names})
        for line in read_metrics(tmp_path)
    ]
    assert [line[:2] for line in lines] == [(2, "train"), (4, "train"), (5, "train"), (5, "dev")]
    assert told.lines == [*lines, (True,)]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Moves the clock of the monitor, and of compiling, forward."""
    time = SimpleNamespace(at=1000.0)
    monkeypatch.setattr("time.monotonic", lambda: time.at)

    def move(seconds: float) -> None:
        time.at += seconds

    yield move


COMPILE = "/jax/core/compile/backend_compile_duration"
TRACE = "/jax/core/compile/jaxpr_trace_duration"


def events(*names: str) -> None:
    """As JAX tells them: a name begins its event, a name with a minus ends it."""
    for name in names:
        if name.startswith("-"):
            jax.monitoring.record_event_time_span(name[1:], 0.0, 1.0, fun_name="f")
        else:
            jax.monitoring.record_scalar(name, 0.0, fun_name="f")


def test_compiling_counts_once_however_its_events_hold_one_another(now) -> None:
    begun: list[int] = []
    with CompileClock(lambda: begun.append(1)) as compiling:
        events(TRACE)
        now(1.0)
        events(TRACE)
        now(2.0)
        events(f"-{TRACE}")
        now(4.0)
        events(f"-{TRACE}", "/jax/other")
        now(8.0)
        assert compiling.seconds == 7.0
        events(COMPILE)
        now(16.0)
        events(f"-{COMPILE}")
        assert (compiling.seconds, len(begun)) == (23.0, 2)
    events(COMPILE, f"-{COMPILE}")
    assert len(begun) == 2


def test_compiling_is_seen_where_jax_compiles() -> None:
    begun: list[int] = []
    with CompileClock(lambda: begun.append(1)) as compiling:
        jax.jit(lambda x: jnp.sin(x) * 3.25)(np.ones(7)).block_until_ready()
    assert compiling.seconds > 0 and begun


def test_a_log_says_that_it_compiles_how_fast_it_is_without_and_how_long_it_takes(tmp_path, now):
    out = io.StringIO()
    console = Console(file=out, width=200)
    settings: dict[str, Any] = {"start": 0, "total": 10, "main": True, "eval_every": 4}
    with Monitor(tmp_path, "groot", console=console, **settings) as shown:
        events(COMPILE)
        now(100.0)
        events(f"-{COMPILE}")
        for step in (1, 2, 3, 4):
            now(10.0)
            shown.advance(step, 20, {"loss": step})
        assert shown.speed() == 2.0
        with shown.evaluating():
            events(TRACE)
            now(50.0)
            events(f"-{TRACE}")
            now(30.0)
        now(20.0)
        shown.advance(5, 20, {"loss": 5.0})
        assert shown.speed() == 1.0
    # 5 updates of 12 s each, and evaluations at 8 and 10 of 30 s.
    assert out.getvalue().splitlines() == [
        "groot 0/10 compiling ...",
        "groot 1/10 loss 1.000 2 sent/s 1:30 left",
        "groot 3/10 loss 3.000 2 sent/s 1:10 left",
        "groot 5/10 loss 5.000 2 sent/s 2:00 left",
    ]


def test_times_are_as_a_clock_shows_them() -> None:
    assert [clock(s) for s in (0.4, 65, 3599.7, 3725, 90061)] == [
        *("0:00", "1:05", "1:00:00", "1:02:05", "25:01:01")
    ]


def test_a_package_that_is_not_there_is_named_before_anything_is_read(monkeypatch) -> None:
    writers.check_writers(("tensorboard",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"report_to names wandb.*pip install 'groot-jax\[wandb\]'"):
        writers.check_writers(("tensorboard", "wandb"))


class StandIn:
    """wandb, as far as it is used; offline runs of the real one are in the test below."""

    Settings = SimpleNamespace

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def init(self, **given: Any) -> Any:
        self.calls.append(("init", given))
        names = ("define_metric", "log", "finish")
        return SimpleNamespace(
            **{n: lambda *a, n=n, **k: self.calls.append((n, (*a, k))) for n in names}
        )


def test_a_run_of_wandb_that_is_continued_is_the_same_one(tmp_path, monkeypatch) -> None:
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "shop")
    config = default_config()
    for system in ("groot", "groot", "nll"):
        one = writers.WeightsAndBiases(tmp_path / "w", system, config)
        one.write(4, "dev", {"reward@1": 0.5})
        one.close(failed=system == "nll")
    given = [about for name, about in wandb.calls if name == "init"]
    assert given[0]["id"] == given[1]["id"] != given[2]["id"]
    assert {(one["project"], one["group"], one["resume"]) for one in given} == {
        ("shop", "w", "allow")
    }
    assert given[0]["name"] == "w/groot" and given[0]["config"]["groot"]["tau"] == 0.3
    assert ("log", ({"update": 4, "dev/reward@1": 0.5}, {})) in wandb.calls
    assert [about[0]["exit_code"] for name, about in wandb.calls if name == "finish"] == [0, 0, 1]


def test_what_wandb_refuses_is_one_sentence(tmp_path, monkeypatch) -> None:
    def refuses(**_: Any) -> None:
        raise ValueError("No API key\nconfigured")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuses, Settings=dict))
    with pytest.raises(UserError, match=r"No API key configured.*WANDB_MODE=offline"):
        writers.WeightsAndBiases(tmp_path, "groot", default_config())


def records_of(content: bytes) -> Iterator[bytes]:
    """Of a log of LevelDB's format, behind 7 bytes of wandb's own: a checksum, a length and a kind
    before each part of a record, of which none crosses a block."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # Whole, or the last part.
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_keeps_an_offline_run_in_the_work_directory(tmp_path, monkeypatch) -> None:
    wandb = pytest.importorskip("wandb")
    proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    one = writers.WeightsAndBiases(tmp_path, "groot", default_config())
    for step, loss in ((4, 0.5), (8, 0.25), (8, 0.25)):  # The last as after a kill.
        one.write(step, "train", {"loss": loss})
    one.close(failed=False)
    wandb.teardown()  # Waits for the process that writes.
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found = []
    for data in records_of(path.read_bytes()):
        record = proto.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = {
                i.key or ".".join(i.nested_key): json.loads(i.value_json)
                for i in record.history.item
            }
            found.append((items["update"], items["train/loss"]))
    assert found == [(4, 0.5), (8, 0.25), (8, 0.25)]


def test_the_named_updates_are_traced_and_no_others(tmp_path, monkeypatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("on"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("off"))
    out = io.StringIO()

    def traced(steps: str, start: int, end: int, main: bool = True) -> list[str]:
        calls.clear()
        with Profiler(steps, tmp_path / "p", Console(file=out, width=200), main) as profiler:
            for step in range(start, end + 1):
                profiler.after(step, TrainState(jnp.int32(step), {}, ()))
                calls.append(str(step))
        return calls

    assert traced("2:4", 0, 6) == ["0", "1", "on", "2", "3", "off", "4", "5", "6"]
    assert traced("0:1", 0, 2) == ["on", "0", "off", "1", "2"]
    assert traced("2:9", 3, 5) == ["on", "3", "4", "5", "off"]  # Continued, and ended early.
    assert traced("2:4", 5, 6) == traced("", 5, 6) == ["5", "6"]
    assert traced("2:4", 1, 5, main=False) == ["1", "2", "3", "4", "5"]
    assert out.getvalue().count(f"xprof --logdir={tmp_path / 'p'}") == 3


def test_a_trace_is_a_file_that_xprof_reads(tmp_path: Path) -> None:
    train_counting(tmp_path, profile={"steps": "3:4"})
    (path,) = (tmp_path / "profile" / "groot" / "plugins" / "profile").glob("*/*.xplane.pb")
    planes = {plane.name for plane in jax.profiler.ProfileData.from_file(str(path)).planes}
    assert "/host:CPU" in planes
