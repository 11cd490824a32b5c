"""How batches fit the devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from groot_jax.config import load
from groot_jax.libtpu import enlarge_stacks
from groot_jax.model.config import preset
from groot_jax.training import setup

RETAIL = str(Path(__file__).parents[2] / "configs" / "retail.py")


@pytest.mark.parametrize(("size", "parts", "rows"), [(16, 1, 16), (18, 1, 20), (16, 8, 32)])
def test_a_batch_is_padded_to_what_devices_and_parts_divide(monkeypatch, size, parts, rows):
    monkeypatch.setattr(setup, "batch_ways", lambda sharding: 4)
    placement = setup.place(load(RETAIL, []), preset("nano", "v1_1", 256))
    assert placement.rows(size, parts) == rows
    assert placement.own_rows(size, parts).tolist() == [True] * rows


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ("", "--fibers_default_thread_stack_size=1048576"),
        ("--xla_a=1", "--xla_a=1 --fibers_default_thread_stack_size=1048576"),
        ("--fibers_default_thread_stack_size=9", "--fibers_default_thread_stack_size=9"),
    ],
)
def test_the_tpu_compiler_has_a_larger_stack_unless_the_user_says(monkeypatch, given, then):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", given)
    enlarge_stacks()
    enlarge_stacks()
    assert os.environ["LIBTPU_INIT_ARGS"] == then
