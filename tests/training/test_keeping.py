"""When a system is saved, and what follows when a save fails."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from groot_jax.contrast.update import TrainState
from groot_jax.errors import RunAgain, Terminated, UserError, Wish, signals_at_once, signals_wished
from groot_jax.runtime.hosts import Hosts
from groot_jax.training import keeping
from groot_jax.training.evaluations import Meta
from groot_jax.training.faults import Elsewhere
from groot_jax.training.keeping import Keeper

STATE = cast(TrainState, None)  # The stand-in of a disk asks for no room.


class Disk:
    """Stands in for checkpoints: refuses so many saves before they begin, and fails so many, each
    when it is on its way."""

    def __init__(self, failures: int, refusals: int = 0) -> None:
        self.failures, self.refusals, self.writing = failures, refusals, False
        self.landed: list[int] = []
        self.tried: list[int] = []
        self.abandoned = 0

    def begin(self, step: int) -> Callable[[], None]:
        def begin() -> None:
            self.tried.append(step)
            self.writing = True

        return begin

    def poll(self) -> None:
        if not self.writing:
            return
        self.writing = False
        if self.failures:
            self.failures -= 1
            raise UserError("the disk is full")
        self.landed.append(self.tried[-1])

    wait = poll

    def abandon(self) -> None:
        self.abandoned += 1

    def ready(self, state: TrainState) -> None:
        if self.refusals:
            self.refusals -= 1
            raise UserError("the disk is full")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keeping, "time", clock)
    return clock


def keeper(
    disk: Disk, wish: Wish | None = None, hosts: Hosts | None = None, **changes: float
) -> Keeper:
    settings = {"every_steps": 0, "every_minutes": 0.0, "retry_minutes": 5.0} | changes
    quiet = Console(quiet=True)
    return Keeper(
        *(cast(Any, disk), "nll", ConfigDict(settings), hosts or Hosts(), quiet, wish or Wish())
    )


def train(keeper: Keeper, disk: Disk, clock: Clock, steps: int) -> None:
    """Updates of 10 s each."""
    for step in range(1, steps + 1):
        clock.now += 10.0
        if keeper.due(step):
            keeper.save(step, STATE, disk.begin(step))


def test_saves_by_steps_and_by_time(clock: Clock):
    disk = Disk(0)
    train(keeper(disk, every_steps=4), disk, clock, 12)
    assert disk.tried == [4, 8, 12]
    disk = Disk(0)
    train(keeper(disk, every_minutes=0.5), disk, clock, 10)
    assert disk.tried == [3, 6, 9]


def test_a_save_that_fails_is_tried_again_with_growing_pauses(clock: Clock):
    disk = Disk(3)
    train(keeper(disk, every_steps=100, every_minutes=0.5), disk, clock, 20)
    # Noticed at the next step, tried again 5, 10 and 20 s later, with the state at hand then.
    assert disk.tried[:4] == [3, 5, 7, 10] and disk.landed[0] == 10


def test_a_save_that_fails_for_too_long_ends_training(clock: Clock):
    disk = Disk(99)
    with pytest.raises(UserError, match="the disk is full"):
        train(keeper(disk, every_steps=1, retry_minutes=2.0), disk, clock, 100)
    assert 1100 < clock.now < 1200


class SlowDisk(Disk):
    """Saves take longer than an update: the next one waits for them."""

    def __init__(self, failing: set[int]) -> None:
        super().__init__(0)
        self._failing = failing

    def poll(self) -> None:
        pass

    def wait(self) -> None:
        self.failures = int(bool(self.tried) and self.tried[-1] in self._failing)
        super().poll()

    def ready(self, state: TrainState) -> None:
        self.wait()


def test_minutes_count_from_the_last_save_that_landed(clock: Clock):
    disk = SlowDisk({2, 40})
    train(keeper(disk, every_steps=1), disk, clock, 60)
    assert {1, 4, 39, 42, 59} <= {*disk.landed}


def test_metas_that_fail_for_too_long_end_training_though_arrays_land(clock: Clock):
    disk = Disk(0)

    def begin() -> None:
        disk.begin(0)()
        raise UserError("meta.json could not be written")

    one = keeper(disk, every_steps=1, retry_minutes=2.0)
    with pytest.raises(UserError, match=r"meta\.json"):
        for step in range(1, 100):
            clock.now += 10.0
            if one.due(step):
                one.save(step, STATE, begin)
    assert 1100 < clock.now < 1200 and disk.landed


class Two(Hosts):
    """The first of two processes, whose other one says what `said` holds, turn by turn; in a pause,
    in which they look for signals, that it has none, unless `said` holds an answer to that."""

    def __init__(self, said: list[Any]) -> None:
        super().__init__(0, ("a", "b"))
        self._said = said

    def merge(self, value: Any, join: Callable[[list[Any]], Any]) -> Any:
        if isinstance(value[1], bool) and not isinstance(self._said[0][1], bool):
            return join([value, [0, False]])
        return join([value, self._said.pop(0)])


# What a process says of a save: its signal, and [why it failed, whether only since others did].
WELL = [0, ["", False]]
FULL = [0, ["no space there", False]]
ELSEWHERE = [0, ["could not go on", True]]


@pytest.mark.parametrize("turn", ["before it begins", "as it begins", "on its way"])
def test_all_processes_try_again_where_a_save_fails_in_one(clock: Clock, turn: str):
    said = {
        "before it begins": [FULL, WELL],
        "as it begins": [WELL, FULL, WELL],
        "on its way": [WELL, WELL, FULL],
    }
    disk = Disk(0)
    keeper(disk, hosts=Two([*said[turn], WELL, WELL, WELL])).landed(8, STATE, disk.begin(8))
    assert disk.landed[-1] == 8 and clock.now == pytest.approx(1005.0) and disk.abandoned == 1
    assert disk.tried == ([8] if turn == "before it begins" else [8, 8])
    disk = Disk(0)
    with pytest.raises(UserError, match="no space there") as caught:
        keeper(disk, hosts=Two([*said[turn]] * 99)).landed(8, STATE, disk.begin(8))
    assert not isinstance(caught.value, RunAgain) and 1300 <= clock.now <= 1310


def test_what_fails_here_is_tried_again_by_all(clock: Clock):
    disk = Disk(0, refusals=1)
    keeper(disk, hosts=Two([WELL] * 5)).landed(8, STATE, disk.begin(8))
    assert disk.landed == [8] and clock.now == pytest.approx(1005.0)
    disk = Disk(1)
    keeper(disk, hosts=Two([WELL, WELL, ELSEWHERE, WELL, WELL, WELL])).landed(
        8, STATE, disk.begin(8)
    )
    assert disk.landed == [8] and clock.now == pytest.approx(1010.0)


def test_the_process_in_which_a_save_failed_says_why(clock: Clock):
    def elsewhere() -> None:
        raise Elsewhere("could not go on")

    disk = Disk(0)
    disk.poll = elsewhere  # type: ignore[method-assign]
    hosts = Two([[*WELL, False, 1], FULL])
    with pytest.raises(UserError, match="no space there"):
        keeper(disk, hosts=hosts, retry_minutes=0.0).due(1)
    hosts = Two([[*WELL, False, 1], ELSEWHERE])
    with pytest.raises(UserError, match="could not go on"):
        keeper(disk, hosts=hosts, retry_minutes=0.0).due(1)


def test_a_signal_of_any_process_ends_the_tries_of_all(clock: Clock):
    disk = Disk(0)
    one = keeper(disk, hosts=Two([FULL, WELL, [signal.SIGTERM, FULL[1]], WELL]))
    with pytest.raises(Terminated):
        one.landed(8, STATE, disk.begin(8))
    assert clock.now == pytest.approx(1005.0) and one.signal == signal.SIGTERM


def test_a_save_in_which_the_others_wait_is_not_tried_again(clock: Clock):
    def begin() -> None:
        raise RunAgain("the disk is full")

    with pytest.raises(RunAgain, match="the disk is full"):
        keeper(Disk(0), hosts=Two([WELL])).save(8, STATE, begin)


def test_the_last_save_is_waited_for(clock: Clock):
    disk = Disk(2)
    keeper(disk).landed(8, STATE, disk.begin(8))
    assert disk.landed == [8] and disk.tried == [8, 8, 8]


def test_a_signal_saves_and_is_not_kept_waiting_by_a_disk_that_fails(clock: Clock):
    wish, disk = Wish(), Disk(1)
    one = keeper(disk, wish)
    assert not one.due(1)
    wish.number = signal.SIGTERM
    assert one.due(2)
    with pytest.raises(Terminated):
        one.landed(2, STATE, disk.begin(2))
    assert clock.now == 1000.0


def test_an_output_that_nobody_reads_saves_and_ends_as_a_signal_does(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    disk, wish, gone = Disk(0), Wish(), [False]
    monkeypatch.setattr(keeping, "reader_gone", lambda console: gone[0])
    one = keeper(disk, wish)
    assert not one.due(1)
    gone[0] = True
    assert one.due(2) and one.signal
    one.landed(2, STATE, disk.begin(2))
    with pytest.raises(UserError, match="standard output could not be written"):
        one.leave()
    # A terminal that hangs up takes no more either, and its signal says more.
    another = keeper(disk, wish)
    wish.number = signal.SIGHUP
    assert another.due(3)
    with pytest.raises(Terminated):
        another.leave()


def test_a_save_that_failed_is_tried_with_the_state_at_hand_when_a_signal_comes(clock: Clock):
    wish, disk = Wish(), Disk(1)
    one = keeper(disk, wish)
    one.save(1, STATE, disk.begin(1))
    wish.number = signal.SIGHUP
    assert one.due(2)  # That of step 1 has failed meanwhile.
    one.save(2, STATE, disk.begin(2))
    one.landed(2, STATE, disk.begin(2))
    assert disk.landed == [2]


@pytest.mark.parametrize("failures", [1, 9])
def test_a_signal_ends_the_pause_between_two_tries_and_has_the_last_one(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, failures: int
):
    wish, disk = Wish(), Disk(failures)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 1001.0:
            wish.number = signal.SIGTERM

    monkeypatch.setattr(clock, "sleep", sleep)
    one = keeper(disk, wish)
    if failures == 1:
        one.landed(8, STATE, disk.begin(8))
        assert disk.landed == [8]
    else:
        with pytest.raises(Terminated):
            one.landed(8, STATE, disk.begin(8))
        assert disk.tried == [8, 8]
    assert 1001.0 < clock.now < 1001.5


@pytest.mark.parametrize("failures", [1, 9])
def test_so_it_does_while_the_last_meta_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, failures: int
):
    wish, disk, left = Wish(), Disk(0), [failures]

    def record(step: int, meta: Meta) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise UserError("the disk is full")

    def sleep(seconds: float) -> None:
        clock.now += seconds
        wish.number = signal.SIGINT

    monkeypatch.setattr(disk, "record", record, raising=False)
    monkeypatch.setattr(clock, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt) if failures > 2 else nullcontext():
        keeper(disk, wish).record(8, Meta(finished=True))
    assert clock.now < 1001.0 and left[0] == (-1 if failures == 1 else failures - 2)


def test_the_pause_of_all_ends_when_a_signal_comes_to_another_process(clock: Clock):
    disk = Disk(0)
    # Its folder fails once; then it is asked for signals, twice without.
    said = [FULL, WELL, [0, False], [0, False], [signal.SIGTERM, False], WELL, WELL, WELL]
    keeper(disk, hosts=Two(said)).landed(8, STATE, disk.begin(8))
    assert disk.landed == [8] and 1000.3 < clock.now < 1000.5


def test_a_signal_that_nobody_asked_for_raises_at_the_end_or_where_nothing_is_lost(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), signals_wished() as wish:
        wish.number = signal.SIGINT
    with pytest.raises(Terminated), signals_wished() as wish:
        wish.number = signal.SIGHUP
        with signals_at_once():
            pytest.fail("it goes on")
