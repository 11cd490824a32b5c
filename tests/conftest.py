"""What all tests share: a CPU unless told otherwise, one folder for what takes long to make, and
the folder of published data sets."""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from groot_jax import errors

# Here, before any test imports JAX.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What all processes of these tests share; processes that pytest or a test starts inherit its name.
if "GROOT_TESTS_SHARED" not in os.environ:
    os.environ["GROOT_TESTS_SHARED"] = tempfile.mkdtemp(prefix="groot_jax-tests-")
    _owner = os.getpid()

    @atexit.register
    def _remove_shared() -> None:
        if os.getpid() == _owner:  # Whoever was forked off ends here, too.
            shutil.rmtree(os.environ["GROOT_TESTS_SHARED"], ignore_errors=True)


SHARED = Path(os.environ["GROOT_TESTS_SHARED"])
# A program is compiled once for all of them, and anew for the next tests. What compiles in less
# than this costs more to keep.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(SHARED / "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# While JAX traces, Python looks for garbage every 700 objects among millions that stay.
gc.set_threshold(50_000)
# A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup does so with SIGHUP. A handler that does nothing keeps what nohup is for, and what a test
# starts has none of it; workers of xdist are children, too, and end with whoever started them.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN or "PYTEST_XDIST_WORKER" in os.environ:
    signal.signal(signal.SIGHUP, lambda *_: None)
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
    marked `chaos` take hours: they run with `-m chaos` alone, but for those marked `always`."""
    if "chaos" not in config.getoption("-m"):
        items[:] = [item for item in items if _every_time(item)]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _every_time(item: pytest.Item) -> bool:
    return not item.get_closest_marker("chaos") or item.get_closest_marker("always") is not None


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder for all processes that pytest runs side by side. The first one that asks for it lets
    `make` fill it; others wait. Nothing may write into it afterwards."""
    folder = SHARED / name
    with (SHARED / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = SHARED / f"{name}.draft"
            shutil.rmtree(draft, ignore_errors=True)  # Of one that failed.
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with snips, atis, mit_restaurant and wnut17: $GROOT_DATA_DIR or ../shared/data."""
    named = os.environ.get("GROOT_DATA_DIR")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no published data sets at {folder}: set GROOT_DATA_DIR to their folder")
    return folder
