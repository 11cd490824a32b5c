"""How a job ends: on signals, on errors, and while its main thread hears nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import hashlib, os, threading, time
from groot_jax import errors
from groot_jax.errors import RunAgain, UserError, exit_on_user_error, signals_wished

def main():
{work}

exit_on_user_error(main, "; go on")
"""
# Work that notes signals and is about to end by itself, but does not.
WISHED = """
    with signals_wished() as wish:
        print("here", flush=True)
        while not wish.number:
            time.sleep(0.01)
        print("saving", flush=True)
        time.sleep(60)
"""
# In C, where no handler of Python's runs and the lock of the interpreter is free.
IN_C = """
    print("here", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 1_000_000_000)
"""


def start(work: str, before: str = "") -> subprocess.Popen[str]:
    program = before + PROGRAM.format(work=textwrap.indent(textwrap.dedent(work), "    "))
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str], within: float = 20.0) -> tuple[int, str]:
    _, err = process.communicate(timeout=within)
    return process.returncode, err


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGHUP, "hung up"), (signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")],
)
def test_a_signal_ends_a_job_with_its_word_and_status(number: signal.Signals, word: str):
    process = start("print('here', flush=True); time.sleep(60)")
    assert line(process) == "here"
    process.send_signal(number)
    assert end(process) == (128 + number, f"{word}; go on\n")


TRANSLATED = """
    try:
        print("here", flush=True)
        time.sleep(60)
    except BaseException as error:
        raise {kind}("reading failed") from error
"""


@pytest.mark.parametrize("kind", ["Exception", "OSError", "UserError"])
@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_that_a_library_makes_another_error_of_is_a_signal(
    number: signal.Signals, word: str, kind: str
):
    process = start(TRANSLATED.format(kind=kind))
    assert line(process) == "here"
    process.send_signal(number)
    assert end(process) == (128 + number, f"{word}; go on\n")


def test_an_error_on_the_way_out_after_a_signal_is_told():
    process = start(
        """
        try:
            print("here", flush=True)
            time.sleep(60)
        finally:
            raise UserError("disk: cannot be written")
        """
    )
    assert line(process) == "here"
    process.send_signal(signal.SIGTERM)
    assert end(process) == (1, "error: disk: cannot be written\n")


def test_a_second_signal_leaves_at_once():
    process = start(WISHED)
    assert line(process) == "here"
    process.send_signal(signal.SIGTERM)
    assert line(process) == "saving"
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "interrupted, and left at once; go on\n")


def test_the_same_signal_from_two_senders_is_one_wish():
    process = start(WISHED)
    assert line(process) == "here"
    process.send_signal(signal.SIGTERM)
    assert line(process) == "saving"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, "terminated, and left at once; go on\n")


def test_a_second_signal_is_heard_while_the_main_thread_is_in_c():
    process = start(IN_C)
    assert line(process) == "here"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "interrupted, and left at once; go on\n")


def test_all_leave_in_time_whatever_they_are_in_the_midst_of():
    process = start("errors.LEAVE_WITHIN = 1.0\n" + textwrap.dedent(IN_C))
    assert line(process) == "here"
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, "terminated, and left at once; go on\n")


@pytest.mark.parametrize(("kind", "status"), [("UserError", 1), ("RunAgain", 75)])
def test_an_error_waits_for_no_thread(kind: str, status: int):
    process = start(f"threading.Thread(target=time.sleep, args=(60,)).start(); raise {kind}('no')")
    assert end(process) == (status, "error: no\n")


def test_what_an_error_leaves_undone_says_nothing_of_itself():
    """As of a save of many arrays, one of which fails: the others never begin."""
    work = """
    async def write():
        pass
    undone = [write(), write()]
    undone.pop()
    raise UserError("no")
    """
    assert end(start(work)) == (1, "error: no\n")


def test_a_job_that_is_to_survive_its_terminal_does():
    before = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start("print('here', flush=True); time.sleep(1)", before)
    assert line(process) == "here"
    process.send_signal(signal.SIGHUP)
    assert end(process) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_while_a_job_still_imports_is_one_word(number: signal.Signals):
    before = (
        "import time; from groot_jax.errors import prepare_job; prepare_job()\n"
        "print('here', flush=True); time.sleep(60)\n"
    )
    process = start("pass", before)
    assert line(process) == "here"
    process.send_signal(number)
    word = {signal.SIGHUP: "hung up", signal.SIGTERM: "terminated"}[number]
    assert end(process) == (128 + number, f"{word}\n")
