"""What the tests of the launchers share: what stand-ins were called with, and how they answer."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from groot_jax.errors import exit_on_user_error

STAND_IN = Path(__file__).with_name("stand_in.py")


@dataclass
class World:
    """What the stand-ins know and what they were called with."""

    folder: Path
    capfd: pytest.CaptureFixture[str]

    def answer(
        self,
        *words: str,
        status: int = 0,
        out: str = "",
        err: str = "",
        state: str | None = None,
        times: int = 1,
    ) -> None:
        """Calls with these words in their arguments are answered so, `times` times."""
        path = self.folder / "rules.json"
        rules = json.loads(path.read_text())
        rule = {"words": words, "status": status, "out": out, "err": err}
        path.write_text(json.dumps([*rules, rule | {"state": state, "times": times}]))

    def calls(self) -> list[list[str]]:
        return [call["argv"] for call in self.records()]

    def records(self) -> list[dict[str, Any]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        """What gcloud was asked for, such as create; of ssh, what the worker was to do."""
        return [verb_of(call) for call in self.calls() if call[0] == "gcloud"]

    @property
    def state(self) -> str:
        return (self.folder / "state").read_text()

    @state.setter
    def state(self, value: str) -> None:
        (self.folder / "state").write_text(value)

    def add_worker(self) -> Path:
        """A worker's home folder, in which ssh then runs, with a Python that installs nothing."""
        number = len(list((self.folder / "homes").iterdir()))
        home = self.folder / "homes" / str(number)
        python = home / "groot" / "venv" / "bin" / "python"
        script(python, f'[ "$2" = pip ] || exec {shlex.quote(sys.executable)} "$@"')
        script(home / "bin" / "hostname", f"echo t1v-n-1234-w-{number}")
        return home

    def output(self, run: Callable[[], object]) -> str:
        """What it prints on standard output."""
        self.capfd.readouterr()
        run()
        return self.capfd.readouterr().out

    def error(self, run: Callable[[], object]) -> str:
        """The one sentence that it ends with."""
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            exit_on_user_error(run)
        assert ended.value.code == 1
        *before, last = self.capfd.readouterr().err.splitlines()
        assert "Traceback" not in "".join(before)
        assert last.startswith("error: ")
        return last


def verb_of(call: list[str]) -> str:
    verb = call[call.index("tpus") + 2]
    if verb != "ssh":
        return verb
    [command] = [arg.removeprefix("--command=") for arg in call if arg.startswith("--command=")]
    _, found, action = command.rpartition("worker.sh ")
    return action.split()[0] if found else command


def script(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{line}\n")
    path.chmod(0o755)
