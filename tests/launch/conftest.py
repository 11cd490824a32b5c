"""Stand-ins for the programs that launchers call, on PATH."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from tests.launch.support import STAND_IN, World, script


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> World:
    folder = tmp_path / "world"
    (folder / "homes").mkdir(parents=True)
    (folder / "rules.json").write_text("[]")
    (folder / "state").write_text("")
    for name in ("gcloud", "git", "kubectl", "sbatch"):
        words = (sys.executable, "-S", str(STAND_IN), str(folder), name)
        script(folder / "bin" / name, f'exec {shlex.join(words)} "$@"')
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return World(folder, capfd)
