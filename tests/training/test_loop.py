"""What the loop of all training decides by itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from groot_jax.contrast.update import TrainState
from groot_jax.evaluation.records import read_samples
from groot_jax.reward.pool import Origin, PoolEntry
from groot_jax.training.groot import GrootStage, pool_figures
from groot_jax.training.loop import Update, _Sums, updates_between
from groot_jax.training.monitor import Monitor


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
    sums = _Sums()
    state = TrainState(jnp.int32(0), {}, ())
    metrics = {name: (jnp.float32(3.0), jnp.float32(1 << 24)) for name in ("loss", "gold_score")}
    one = {name: (jnp.float32(3.0), jnp.float32(1.0)) for name in ("loss", "gold_score")}
    sums.add(Update(state, metrics, {}))
    for _ in range(3):
        sums.add(Update(state, one, {}))
    assert sums.means()["loss"] == 12.0 / ((1 << 24) + 3)


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
        settings: dict[str, Any] = {"start": start, "logged": start, "total": 9, "main": True}
        settings["console"] = Console(quiet=True)
        with Monitor(tmp_path, system, **settings) as monitor:
            for step in steps:
                monitor.log_samples(
                    step, [{"index": 0, "words": ["é\u2028\x85"], "candidates": [start]}]
                )

    train(0, [2, 4, 6])
    train(0, [9], "nll")
    path.write_text(path.read_text() + '{"system": "groot", "step": 8, "sen')
    train(4, [6, 8])  # Its last checkpoint was that of step 4.
    lines = read_samples(tmp_path)
    found = [(one["system"], one["step"], one["sentences"][0]["candidates"]) for one in lines]
    assert found == [
        *[("groot", 2, [0]), ("groot", 4, [0]), ("nll", 9, [0])],
        *[("groot", 6, [4]), ("groot", 8, [4])],
    ]


def test_only_the_first_process_writes_samples_and_none_makes_no_file(tmp_path: Path) -> None:
    for main, samples in ((True, []), (False, [{"index": 0}])):
        with Monitor(
            *(tmp_path, "nll"),
            start=0,
            logged=0,
            total=1,
            console=Console(quiet=True),
            main=main,
        ) as monitor:
            monitor.log_samples(1, samples)
    assert not (tmp_path / "samples.jsonl").exists()
