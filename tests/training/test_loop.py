"""What the loop of all training decides by itself."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from groot_jax.contrast.update import TrainState
from groot_jax.training.loop import Update, _Sums, updates_between


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
