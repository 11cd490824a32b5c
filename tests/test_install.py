"""What `pip install .` leaves behind works without the checkout."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_is_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = setup["options"]["packages"].split()
    folders = [path.parent.relative_to(ROOT) for path in ROOT.glob("groot_jax/**/__init__.py")]
    assert sorted(named) == sorted(
        ["groot_jax.built_in.configs", *(".".join(folder.parts) for folder in folders)]
    )


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("pip") and find_spec("setuptools")), reason="needs pip")
def test_a_wheel_brings_the_built_in_configs(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("groot_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    env = dict(os.environ, PYTHONPATH=str(site), JAX_PLATFORMS="cpu")

    def python(*argv: str) -> str:
        done = subprocess.run(
            [sys.executable, *argv], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    pip = ("-m", "pip", "--disable-pip-version-check")
    python(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir=.", str(source))
    wheel = next(tmp_path.glob("*.whl"))
    python(*pip, "install", "--no-deps", "--no-index", f"--target={site}", str(wheel))
    shutil.rmtree(source)
    assert "--config.groot.tau=" in python("-m", "groot_jax.train", "--help")
    done = subprocess.run(
        [site / "bin" / "groot", "train", "--help"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--config.groot.tau=" in done.stdout
    code = (
        "import groot_jax; from groot_jax.config import load; "
        "print(groot_jax.__file__, load('configs/retail.py').data.reader)"
    )
    assert python("-c", code).split() == [str(site / "groot_jax" / "__init__.py"), "retail"]
    templates = [path.name for path in (site / "groot_jax").rglob("*.j2")]
    assert templates == [path.name for path in (ROOT / "groot_jax").rglob("*.j2")]


def groot(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from groot_jax.command import main; main()", *words],
        env=dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
    )


def test_the_command_runs_the_job_that_it_is_told_and_fails_as_it_does() -> None:
    done = groot("train", "--config=configs/none.py", "--workdir=/tmp/none")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --config: there is no file configs/none.py")
    assert groot("--help").stdout.startswith("usage: groot JOB")
    for words in ((), ("trian",)):
        done = groot(*words)
        assert done.returncode == 2 and "train, evaluate, predict" in done.stderr
