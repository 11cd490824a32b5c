"""Commands are run, or printed so that a shell would run the same."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_jax.errors import UserError
from launch import commands
from launch.commands import CommandFailed, Parser, Runner, number

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def test_a_command_that_is_missing_is_one_sentence():
    for call in (
        lambda: Runner(False).run("no-such-gcloud"),
        lambda: Runner(False).read("no-such-gcloud", assumed=""),
    ):
        with pytest.raises(CommandFailed, match="there is no no-such-gcloud on PATH"):
            call()


def test_a_command_that_fails_is_shown_with_its_last_lines(capfd: pytest.CaptureFixture[str]):
    code = "import sys; [print('line', n, file=sys.stderr) for n in range(9)]; sys.exit(3)"
    with pytest.raises(CommandFailed) as caught:
        Runner(False).run(sys.executable, "-c", code)
    assert str(caught.value).endswith(
        "ended with exit status 3: " + " / ".join(f"line {n}" for n in range(4, 9))
    )
    assert "line 0\n" in capfd.readouterr().err
    with pytest.raises(CommandFailed, match="exit status 3: line 4 / line 5"):
        Runner(False).read(sys.executable, "-c", code, assumed="")
    assert Runner(False).status(sys.executable, "-c", code) == 3


def test_a_command_that_is_killed_says_so():
    with pytest.raises(CommandFailed, match="killed by signal 9"):
        Runner(False).run("bash", "-c", "kill -9 $$")


def test_a_dry_run_runs_nothing(capsys: pytest.CaptureFixture[str]):
    runner = Runner(True)
    runner.run("no-such-command", "a b", stdin="text\n")
    assert runner.read("no-such-command", "$x", assumed="READY") == "READY"
    assert runner.status("no-such-command") == 0
    runner.say("nothing has happened")
    runner.sleep(1000)
    out, err = capsys.readouterr()
    assert (
        out == "no-such-command 'a b' <<'END'\ntext\nEND\nno-such-command '$x'\nno-such-command\n"
    )
    assert err == ""


PRINT = "import json, sys; print(json.dumps([sys.argv[1:], sys.stdin.read()]))"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(WORDS, max_size=4),
    st.lists(st.sampled_from(["END", "END_", "a $b `c` 'd' \"e\"", " x"]), min_size=1, max_size=4),
)
def test_a_shell_reads_from_a_printed_command_what_it_would_get(words: list[str], lines: list[str]):
    stdin = "\n".join(lines)
    printed = commands._as_shell((sys.executable, "-S", "-c", PRINT, *words), stdin)
    done = subprocess.run(["bash", "-c", printed], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [words, stdin + "\n"]


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "nan", "inf"])
def test_numbers_are_checked(text: str):
    parser = Parser("launch/x.py", "")
    parser.add_argument("--count", type=number(0))
    with pytest.raises(UserError, match=r"launch/x.py: argument --count: .* at least 0"):
        parser.parse_args([f"--count={text}"])
