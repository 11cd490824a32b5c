"""What all tests share: a CPU unless told otherwise, and the folder of published data sets."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from groot_jax import errors

# Here, before any test imports JAX.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A job that fails ends its process at once; in this one it raises SystemExit.
errors.leave = sys.exit


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos", type=int, default=0, metavar="N", help="kills, signals and flipped bits"
    )


@pytest.fixture(scope="session")
def chaos(request: pytest.FixtureRequest) -> int:
    """How many faults are asked for; 0: the few of every run of the tests."""
    return int(request.config.getoption("--chaos"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that processes side by side end together. Tests that are
    marked `chaos` take hours: they run with `-m chaos` alone."""
    if "chaos" not in config.getoption("-m"):
        items[:] = [item for item in items if not item.get_closest_marker("chaos")]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with snips, atis, mit_restaurant and wnut17: $GROOT_DATA_DIR or ../shared/data."""
    named = os.environ.get("GROOT_DATA_DIR")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no published data sets at {folder}: set GROOT_DATA_DIR to their folder")
    return folder
