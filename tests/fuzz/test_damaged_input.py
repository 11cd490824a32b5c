"""Damaged files, by hypothesis: nothing but a UserError comes out of what reads them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groot_jax.config.workdir import load_dumped
from groot_jax.errors import UserError
from tests.fuzz.targets import SEEDS, TARGETS

# Numbers that a type lets through and that cannot be computed with, or counted to.
ODD = st.sampled_from([math.inf, -math.inf, math.nan, 1e308, 10**400, 2**63, -1, 0, True])
SCALARS = st.none() | ODD | st.integers() | st.floats() | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """A whole file with one thing wrong: some bytes of it, or a value of its JSON."""
    try:
        value: Any = json.loads(seed)
    except ValueError:
        value = None
    if isinstance(value, dict) and draw(st.booleans()):
        place: Any = value
        # Half of the time a step further in, where there is something.
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner and draw(st.booleans())):
                break
            place = inner
        if draw(st.booleans()):
            place[key] = draw(VALUES)
        else:
            del place[key]
        return json.dumps(value).encode()
    start = draw(st.integers(0, len(seed)))
    end = draw(st.integers(start, len(seed)))
    put = draw(
        st.binary(max_size=4) | st.sampled_from([b"\xff", b"\0", b"\n", b"\r\n", b"\t", seed])
    )
    return seed[:start] + put + seed[end:]


@pytest.mark.parametrize("name", TARGETS)
def test_only_a_user_error_comes_out_of_damaged_input(name: str) -> None:
    cases = st.one_of(*(damaged(seed) for seed in SEEDS[name]), st.binary(max_size=40))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases | VALUES.map(lambda value: json.dumps(value).encode()))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


@pytest.mark.parametrize(
    "damage",
    [
        {"a.b": 3},
        {"groot": 3},
        {"groot": {"pool": []}},
        {"evaluate": {"decide": 3}},
        {"loader": {"node_buckets": ["a"]}},
        {"seed": "x"},
        {"seed": True},
        {"groot": {"unknown": [{}]}},
        {"unknown": [[]]},
    ],
)
def test_a_config_of_other_types_than_training_wrote_is_named(
    damage: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(damage))
    with pytest.raises(UserError, match=r"config\.json is not (what|the JSON that) training wrote"):
        load_dumped(path)


@pytest.mark.parametrize("name", TARGETS)
def test_whole_files_and_deep_ones_raise_nothing_else_either(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)
    TARGETS[name](b'{"words":' + b"[" * 100_000)  # Deeper than Python's stack.
