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
def test_a_wheel_of_the_sdist_trains_in_an_empty_folder(tmp_path: Path) -> None:
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    for name in ("groot_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    env = dict(os.environ, PYTHONPATH=str(site), JAX_PLATFORMS="cpu")

    def run(*argv: str | Path, cwd: Path = empty) -> str:
        done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    run(sys.executable, "-c", build, cwd=source)
    shutil.rmtree(source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    sdist = next(tmp_path.glob("*.tar.gz"))
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}", sdist)
    wheel = next(tmp_path.glob("*.whl"))
    run(*pip, "install", "--no-deps", "--no-index", f"--target={site}", wheel)
    code = "import groot_jax; print(groot_jax.__file__)"
    assert run(sys.executable, "-c", code).strip() == str(site / "groot_jax" / "__init__.py")
    # One size of batch, and few sentences to search, of 1,500 of test those of three words: what
    # training learns is no matter here.
    words = ("text.max_words=3", "data.policy=skip", "data.train_limit=600")
    few = (*words, "nll.epochs=1", "groot.epochs=1", "systems=groot")
    small = ("model.preset=pico", "loader.rungs=1", "generate.k=3")
    short = ("evaluate.dev_limit=32", "evaluate.bootstrap=100", "evaluate.decide=map")
    programs = f"compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}"
    flags = [f"--config.{key}" for key in (*few, *small, *short, programs)]
    run(site / "bin" / "groot", "train", "--config=retail", "--workdir=run", *flags)
    assert (empty / "run" / "report" / "index.html").is_file()
    assert [path.name for path in empty.iterdir()] == ["run"]


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
