"""Programs that are compiled before they are called, and by whom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax.training.ahead import Ahead, spread

SHARDING = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])


class Compiled:
    """The programs that are compiled while it watches, each with the thread that did it."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def __call__(self, event: str, duration_secs: float, **facts: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.found.append((str(facts.get("fun_name")), threading.current_thread().name))


@pytest.fixture
def compiled() -> Iterator[Compiled]:
    watch = Compiled()
    jax.monitoring.register_event_duration_secs_listener(watch)
    yield watch
    jax.monitoring.unregister_event_duration_listener(watch)


def placed(*shape: int) -> jax.Array:
    return jax.device_put(np.ones(shape, np.float32), SHARDING)


def doubling() -> Any:
    def double(x: jax.Array) -> jax.Array:
        return jnp.sin(x) * 2

    return jax.jit(double, donate_argnums=0, out_shardings=SHARDING)


def test_a_call_finds_the_program_that_the_thread_has_compiled(compiled: Compiled) -> None:
    double = doubling()
    given = placed(3)
    with Ahead() as ahead:
        ahead.compile(double, given)
        ahead.compile(double, placed(4))
        ahead.compile(double, placed(4))
        ahead._pool.submit(lambda: None).result()  # Both are done, or this would not be.
        assert [name for name, _ in compiled.found] == ["jit(double)"] * 2
        assert all(thread.startswith("compile") for _, thread in compiled.found)
        compiled.found.clear()
        double(double(given))
        double(placed(4))
        assert compiled.found == []
        double(placed(5))
        assert [name for name, _ in compiled.found] == ["jit(double)"]


def test_what_nobody_will_call_is_left_out(compiled: Compiled) -> None:
    kept, dropped = doubling(), doubling()
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(60)

    one, two = placed(6), placed(7)
    with Ahead() as ahead:
        ahead.run(wait)
        begun.wait(60)
        ahead.compile(dropped, one)
        ahead.compile(kept, two)
        ahead.drop([dropped])
        go_on.set()
        ahead._pool.submit(lambda: None).result()
        assert len(compiled.found) == 1
        # The end does not wait for what has not begun.
        begun.clear()
        go_on.clear()
        ahead.run(wait)
        begun.wait(60)
        ahead.compile(kept, placed(8))
        threading.Timer(0.1, go_on.set).start()
    assert len(compiled.found) == 1


def test_errors_are_left_to_the_call_and_processes_of_one_run_compile_in_order(
    compiled: Compiled,
) -> None:
    double = doubling()
    with Ahead() as ahead:
        ahead.run(lambda: 1 / 0)
        ahead.compile(jax.jit(lambda x: x.nothing), placed(2))
        ahead.compile(double, placed(9))
        ahead._pool.submit(lambda: None).result()
    assert len(compiled.found) == 1
    with Ahead(enabled=False) as ahead:
        ahead.compile(double, placed(10))
        ahead.run(lambda: 1 / 0)
    assert len(compiled.found) == 1


def test_steps_are_spread_over_what_is_left() -> None:
    assert [*spread(range(5, 5), 1.0)] == [*spread(range(24), 1 / 25)] == []
    assert [*spread(range(7, 107), 1 / 25)] == [7, 32, 57, 82]
    assert [*spread(range(10), 1.0)] == [*range(10)]
    assert len(spread(range(750), 1 / 25)) == 24 and spread(range(750), 1.0)[-1] > 700
