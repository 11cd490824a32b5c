"""What all tests share: a CPU unless told otherwise, and the folder of published data sets."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Here, before any test imports JAX.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that processes side by side end together."""
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
