"""Losses that are no numbers, collapse, and what is said of them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from configs.default import get_config
from groot_jax.contrast.update import TrainState
from groot_jax.errors import UserError
from groot_jax.evaluation.records import METRICS_FILE
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.evaluations import Evaluation, Meta
from groot_jax.training.health import Health
from groot_jax.training.loop import Stage, Update, train
from groot_jax.training.monitor import Monitor
from groot_jax.training.steps import _unless_nonfinite

FINE = {"loss": (3.0, 2.0), "grad_norm": (1.0, 1.0), "gold_score": (-8.0, 2.0)}
INDICES = np.array([4, 7, -1])


def health(**changes: object) -> Health:
    settings = {"nonfinite": "stop", "max_skipped": 2, "max_gold_drop": 5.0} | changes
    return Health("groot", ConfigDict(settings), lambda index: f"train.txt:{index + 1}")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["loss", "grad_norm"])
def test_a_loss_or_gradient_that_is_no_number_is_named_with_its_sentences(key: str, value: float):
    watch = health()
    watch.check(1, Meta(), FINE, INDICES)
    with pytest.raises(UserError, match="groot: in update 2 the loss is") as caught:
        watch.check(2, Meta(), FINE | {key: (value, 1.0)}, INDICES)
    assert "train.txt:5, train.txt:8)" in str(caught.value) and watch.failed


def test_updates_are_skipped_until_there_are_too_many_in_a_row():
    watch = health(nonfinite="skip")
    bad = FINE | {"loss": (math.nan, 1.0)}
    for step, metrics in enumerate([bad, bad, FINE, bad, bad], 1):
        watch.check(step, Meta(), metrics, INDICES)
    with pytest.raises(UserError, match="2 updates before it, one after the other, were skipped"):
        watch.check(6, Meta(), bad, INDICES)


def test_gold_s_probability_is_that_of_updates_that_count():
    meta, watch = Meta(), health(nonfinite="skip")
    for total, loss in ((-8.0, 1.0), (-900.0, math.nan), (-4.0, 1.0)):
        metrics = FINE | {"loss": (loss, 1.0), "gold_score": (total, 2.0)}
        watch.check(1, meta, metrics, INDICES)
    assert (meta.gold, meta.gold_since) == (-4.0, [-12.0, 4.0])
    assert health().collapsed(meta, falling=False) == "" and meta.gold_since == []
    assert meta.gold == -4.0


def test_a_skipped_update_leaves_all_but_the_step():
    before = TrainState(jnp.int32(3), {"w": jnp.ones(2)}, (optax.EmptyState(), jnp.zeros(2)))
    after = TrainState(jnp.int32(4), {"w": jnp.full(2, 2.0)}, (optax.EmptyState(), jnp.ones(2)))
    one = jnp.float32(1.0)
    for loss, weight in ((one, 2.0), (one * jnp.nan, 1.0)):
        metrics = {"loss": (loss, one), "grad_norm": (one, one)}
        found = jax.jit(_unless_nonfinite)(before, after, metrics)
        assert int(found.step) == 4 and found.params["w"].tolist() == [weight] * 2
        assert found.opt_state[1].tolist() == [weight - 1.0] * 2


def test_a_state_with_a_parameter_that_is_no_number_is_not_saved():
    watch = health()
    watch.check_state(1, TrainState(jnp.int32(1), {"w": jnp.ones(3)}, ()))
    with pytest.raises(UserError, match="after update 2 not all parameters are finite"):
        watch.check_state(2, TrainState(jnp.int32(1), {"w": jnp.array([1.0, jnp.inf])}, ()))
    assert watch.failed


@pytest.mark.parametrize(
    ("gold", "updates", "limit", "falls"),
    [
        (-10.1, 20, 5.0, True),
        (-9.9, 20, 5.0, False),
        (-90.0, 19, 5.0, False),
        (-900.0, 20, 0.0, False),
    ],
)
def test_dev_is_asked_when_gold_has_lost_its_probability(gold, updates, limit, falls):
    watch = health(max_gold_drop=limit)
    meta = Meta([Evaluation(7, {})], gold=-5.0, gold_since=[gold * 4, 4.0])
    assert watch.falling(meta, 7 + updates) == falls


@pytest.mark.parametrize(
    ("key", "before", "last", "start", "ends"),
    [
        ("reward@1", [0.6, 0.8], 0.39, None, True),
        ("reward@1", [0.6, 0.8], 0.41, None, False),
        ("reward@1", [], 0.4, 0.9, True),
        ("reward@1", [], 0.0, None, False),  # Nothing is known that it could have lost.
        ("loss", [1.5, 1.2], 2.5, None, True),
        ("loss", [1.5, 1.2], 2.3, None, False),
        ("loss", [], 9.0, None, False),
    ],
)
def test_a_system_whose_gold_falls_ends_where_dev_says_so_too(key, before, last, start, ends):
    evaluations = [Evaluation(step, {key: value}) for step, value in enumerate([*before, last])]
    meta = Meta(evaluations, start=start, gold=-5.0, gold_since=[-112.0, 2.0])
    said = health().collapsed(meta, falling=True)
    assert bool(said) == ends and (meta.gold, meta.gold_since) == (-56.0, [])
    assert not ends or (f"{key} is {last:.3f}" in said and "from -5.0 to -56.0" in said)


class Stopped(Exception):
    pass


def falling_run(
    workdir: Path, rewards: dict[int, float], stop: int = 0, file: IO[str] | None = None
) -> list[tuple[int, float]]:
    """A system of 90 updates that is evaluated after each 60; from update 31 on gold falls by one
    nat an update. `rewards`: on dev, by step. Where it was evaluated, with the reward."""

    def updates(state: TrainState, start: int, _: object) -> Iterator[Update]:
        for step in range(start + 1, 91):
            metrics = {
                "loss": (jnp.ones(()), jnp.ones(())),
                "gold_score": (jnp.float32(-max(step - 30, 1)), jnp.ones(())),
            }
            state = TrainState(state.step + 1, {"w": state.params["w"] + 1}, state.opt_state)
            yield Update(state, metrics, {})

    seen: list[tuple[int, float]] = []

    def evaluate(params: dict[str, jax.Array]) -> dict[str, float]:
        step = int(params["w"][0])
        if step == stop:
            raise Stopped
        reward = next(reward for at, reward in rewards.items() if step <= at)
        seen.append((step, reward))
        return {"reward@1": reward, "mean_reward": reward}

    state = TrainState(jnp.int32(0), {"w": jnp.zeros(3)}, (optax.EmptyState(),))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    stage = Stage(
        "groot", 90, 60, lambda: state, shapes, updates, (), start=lambda: Meta(start=0.9)
    )
    console = Console(quiet=file is None, file=file, width=200)
    train(stage, workdir, get_config(), evaluate, console, Hosts())
    return seen


def test_a_collapse_ends_a_system_between_its_evaluations(tmp_path: Path):
    seen = falling_run(tmp_path, {99: 0.1})
    # The mean over all updates since the start falls by five nats some time after update 45.
    (step, _), *rest = seen
    assert 45 < step < 60 and not rest
    # A run that was stopped between the save and that evaluation makes up for it.
    with pytest.raises(Stopped):
        falling_run(tmp_path / "stopped", {99: 0.1}, stop=step)
    assert falling_run(tmp_path / "stopped", {99: 0.1}) == seen


@pytest.mark.parametrize(("reward", "best"), [(0.1, False), (0.88, False), (0.9, True)])
def test_an_evaluation_below_the_start_is_not_called_the_best(
    tmp_path: Path, reward: float, best: bool
):
    log = io.StringIO()
    falling_run(tmp_path, {99: reward}, file=log)
    lines = [line for line in log.getvalue().splitlines() if f"reward@1 {reward:.4f}" in line]
    assert lines and lines[0].endswith("(best)" if best else "(below its start)")
    assert ("is worse than what it started from (0.900)" in log.getvalue()) != best


def test_a_system_whose_gold_falls_alone_goes_on(tmp_path: Path):
    steps = [step for step, _ in falling_run(tmp_path, {99: 0.8})]
    assert len(steps) > 3 and 60 in steps and steps[-1] == 90


def test_a_system_below_its_start_says_so():
    looks = [Evaluation(4, {"reward@1": 0.2}), Evaluation(8, {"reward@1": 0.1})]
    line = Meta(looks, start=0.988).worse(0.005)
    assert "reward@1 0.200, at step 4) is worse than what it started from (0.988)" in line
    assert Meta(looks, start=0.204).worse(0.005) == "" and Meta(looks).worse(0.005) == ""
    assert Meta([Evaluation(2, {"loss": 1.0})]).worse(0.005) == ""


def test_metrics_are_json_and_damaged_lines_cost_themselves_alone(tmp_path: Path):
    path = tmp_path / METRICS_FILE
    whole = {"system": "nll", "step": 2, "split": "dev", "loss": 1.5}
    path.write_bytes(b'3\n\xff\n[]\n{"step": "x"}\n' + json.dumps(whole).encode() + b'\n{"sys')
    console = Console(quiet=True)
    with Monitor(
        tmp_path, "nll", start=2, evaluated=2, total=4, console=console, main=True
    ) as monitor:
        monitor.log(4, "dev", {"loss": math.nan})
    lines = path.read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        whole,
        {"system": "nll", "step": 4, "split": "dev", "loss": None},
    ]
