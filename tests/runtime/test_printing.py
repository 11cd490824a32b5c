"""What a job prints where nobody reads it, or can."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from typing import TextIO, cast

import pytest

from groot_jax.errors import Terminated, UserError
from groot_jax.runtime.printing import Unhurried, open_console, reader_gone


class Pipe:
    """Standard output is a pipe; what has come through it."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        self.stream = os.fdopen(writing, "w", encoding="utf-8")

    def read(self, *ends: bytes) -> bytes:
        found = b""
        while not found.endswith(ends):
            found += os.read(self.reading, 2**16)
        return found

    def read_all(self) -> bytes:
        """Until nothing has come for a while."""
        found = b""
        while select.select([self.reading], [], [], 0.3)[0]:
            found += os.read(self.reading, 2**16)
        return found


def piped(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """In the test itself: between a fixture and its test pytest puts its own in this place."""
    pipe = Pipe()
    monkeypatch.setattr(sys, "stdout", pipe.stream)
    monkeypatch.setattr(sys, "__stdout__", pipe.stream)
    return pipe


def test_all_that_is_printed_is_read_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = piped(monkeypatch)
    print("before")
    with open_console(True) as console:
        for n in range(200):
            console.print(f"line {n} é")
    lines = pipe.read("199 é\n".encode()).decode().splitlines()
    assert lines == ["before", *(f"line {n} é" for n in range(200))]


@pytest.mark.parametrize("blocking", [True, False])
def test_whoever_prints_waits_for_no_reader_and_what_is_left_out_is_told(
    monkeypatch: pytest.MonkeyPatch, blocking: bool
) -> None:
    pipe = piped(monkeypatch)
    os.set_blocking(pipe.stream.fileno(), blocking)
    with open_console(True) as console:
        for _ in range(1000):  # 1 MB, and a pipe takes 64 KiB.
            console.file.write("x" * 999 + "\n")
        assert not reader_gone(console)
        kept = pipe.read_all()
        console.file.write("on again\n")
        kept += pipe.read(b"on again\n")
    assert 0 < kept.count(b"x\n") < 1000 and set(kept.split(b"\n")[0]) == {ord("x")}
    told = map(int, re.findall(rb"\n\.\.\. (\d+) times something was left out", kept))
    assert sum(told) == 1000 - kept.count(b"x\n")


@pytest.mark.parametrize("how", ["no reader", "full disk"])
def test_a_reader_that_has_gone_is_noticed_and_raises_at_the_end(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pipe = piped(monkeypatch)
    if how == "no reader":
        os.close(pipe.reading)
    else:
        full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "__stdout__", full)
    with (
        pytest.raises(UserError, match="output could not be written"),
        open_console(True) as console,
    ):
        console.print("to nobody")
        until = time.monotonic() + 10
        while not reader_gone(console):
            assert time.monotonic() < until
            time.sleep(0.01)
        console.print("no word more")
    with pytest.raises(Terminated), open_console(True) as console:  # What ends a job says more.
        console.print("to nobody")
        raise Terminated


def test_a_job_that_fails_waits_a_moment_for_its_reader_and_one_that_is_quiet_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    piped(monkeypatch)
    monkeypatch.setattr("groot_jax.runtime.printing._PARTING", 0.1)
    since = time.monotonic()
    with pytest.raises(Terminated), open_console(True) as console:
        console.file.write("x" * 100_000)
        raise Terminated
    assert time.monotonic() - since < 2.0
    with open_console(False) as console:
        console.print("x")
    assert not reader_gone(console)


def test_what_stands_in_the_place_of_standard_output_is_written_as_it_is(capsys) -> None:
    with open_console(True) as console:
        console.print("in a notebook")
    assert capsys.readouterr().out == "in a notebook\n"


def test_a_stream_is_as_its_terminal_is() -> None:
    main, side = os.openpty()
    with os.fdopen(side, "w") as stream:
        unhurried = Unhurried(cast(TextIO, stream))
        assert unhurried.isatty() and unhurried.fileno() == side
        assert unhurried.write("a\n") == 2
        assert os.read(main, 10) == b"a\r\n"
    os.close(main)


STUCK = """
import os, sys
from groot_jax.errors import UserError, exit_on_user_error
os.set_blocking(2, False)
try:
    while True:
        os.write(2, b"x")
except BlockingIOError:
    os.set_blocking(2, True)
def main():
    kinds = {"error": UserError, "bug": ValueError, "signal": KeyboardInterrupt}
    raise kinds[sys.argv[1]]("a word")
exit_on_user_error(main)
"""


@pytest.mark.parametrize(("kind", "status"), [("error", 1), ("bug", 1), ("signal", 130)])
def test_last_words_that_nobody_reads_hold_no_job(kind: str, status: int) -> None:
    reading, writing = os.pipe()
    since = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", STUCK, kind], stderr=writing, timeout=60, check=False
    )
    assert done.returncode == status and time.monotonic() - since < 30
    os.close(reading)
    os.close(writing)


def test_a_library_that_is_cancelled_is_a_bug_with_its_traceback() -> None:
    code = "import asyncio\nfrom groot_jax.errors import exit_on_user_error\n"
    code += (
        "def main():\n    raise asyncio.CancelledError('by a library')\nexit_on_user_error(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and done.stderr.endswith("CancelledError: by a library\n")
