"""What a job checks before it touches data."""

from __future__ import annotations

from pathlib import Path

import pytest

from groot_jax.config import load
from groot_jax.errors import UserError
from groot_jax.model.config import preset
from groot_jax.training import setup

RETAIL = str(Path(__file__).parents[2] / "configs" / "retail.py")


def test_a_batch_that_devices_and_parts_do_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(setup, "batch_ways", lambda sharding: 4)
    model = preset("nano", "v1_1", 256)
    sizes = [("groot.batch_size", "16"), ("groot.accumulate", "4"), ("systems", "groot")]
    setup.place(load(RETAIL, sizes), model)
    with pytest.raises(UserError, match="system groot, which 4 .* accumulate=8 .* multiple of 32"):
        setup.place(load(RETAIL, [*sizes, ("groot.accumulate", "8")]), model)
