"""How batches fit the devices, and which programs systems share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import pytest

from groot_jax.config import job_parser, load, parse_job
from groot_jax.errors import UserError
from groot_jax.mesh.layout import Layout, make_mesh
from groot_jax.mesh.rows import counted_rows, own_rows, padded_rows
from groot_jax.model.config import preset
from groot_jax.runtime.libtpu import enlarge_stacks
from groot_jax.training import groot, setup
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.steps import jit_groot_step

RETAIL = str(Path(__file__).parents[2] / "configs" / "retail.py")


@pytest.mark.parametrize(("size", "parts", "padded"), [(16, 1, 16), (18, 1, 20), (16, 8, 32)])
def test_a_batch_is_padded_to_what_devices_and_parts_divide(monkeypatch, size, parts, padded):
    monkeypatch.setattr(Layout, "ways", lambda layout, name: 4)
    layout = setup.make_partitioning(load(RETAIL, []), preset("nano", "v1_1", 256)).layout
    assert padded_rows(layout, size, parts) == padded
    assert own_rows(layout, size, parts).tolist() == [True] * padded


class Noted:
    """Settings that note which of them are read."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self.settings, name)


def test_systems_share_the_program_of_an_update_where_all_that_it_reads_is_alike():
    config = load(RETAIL, [])
    partitioning = setup.make_partitioning(config, preset("nano", "v1_1", 256))
    noted: Any = Noted(config.groot)
    transform = make_optimizer(config.optimizer, noted, noted.clip, 10)
    jit_groot_step(noted, transform, partitioning)
    assert {"learning_rate", "final_scale", "dropout"} <= noted.read
    other = {"optimizer": "muon", "schedule": "constant", "nll_average": "token", "accumulate": 7}

    def key_with(key: str, value: Any) -> tuple[object, ...]:
        changed = load(RETAIL, []).groot
        with changed.unlocked():
            changed.update_from_flattened_dict({key: value})
        return groot._update_key(changed)

    known = groot._update_key(config.groot)
    for key in (*noted.read, "epochs", "batch_size"):  # Those two are its number of updates.
        value = other.get(key, 3 if key == "batch_size" else 0.77)
        assert key_with(key, value) != known, key
    arguments = {"loss.risk": 5.0, "tau": 0.7, "nll_weight": 0.0, "pool.size": 3, "lag": 0}
    assert all(key_with(*change) == known for change in arguments.items())


def test_a_process_alone_counts_every_row():
    layout = Layout(make_mesh(), {"batch": "data"})
    assert counted_rows(layout, 18).tolist() == [True] * 18


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ("", "--fibers_default_thread_stack_size=1048576"),
        ("--xla_a=1", "--xla_a=1 --fibers_default_thread_stack_size=1048576"),
        ("--fibers_default_thread_stack_size=9", "--fibers_default_thread_stack_size=9"),
    ],
)
def test_the_tpu_compiler_has_a_larger_stack_unless_the_user_says(monkeypatch, given, then):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", given)
    enlarge_stacks()
    enlarge_stacks()
    assert os.environ["LIBTPU_INIT_ARGS"] == then


@pytest.fixture
def cache(monkeypatch):
    """JAX's setting, put back afterwards."""
    before = jax.config.values["jax_compilation_cache_dir"]
    seconds = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    yield lambda: jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


def test_a_user_without_a_home_folder_compiles_anew(cache, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", raises(KeyError))
    monkeypatch.chdir(tmp_path)
    before = cache()
    setup.keep_programs("~/.cache/groot_jax/xla")
    assert cache() == before and list(tmp_path.iterdir()) == []
    line = capsys.readouterr().err
    assert "not kept" in line and "nobody knows the home folder" in line and line.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_one_line(cache, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    before = cache()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        setup.keep_programs(str(folder))
        line = capsys.readouterr().err
        assert cache() == before and str(folder) in line and line.count("\n") == 1
    setup.keep_programs(str(tmp_path / "file"), warn=False)
    assert capsys.readouterr().err == ""


def test_programs_are_kept_where_the_config_says(cache, tmp_path, capsys):
    setup.keep_programs(str(tmp_path / "a" / "b"))
    assert cache() == str(tmp_path / "a" / "b") and (tmp_path / "a" / "b").is_dir()
    setup.keep_programs("gs://bucket/xla")  # Not a folder of this machine.
    assert cache() == "gs://bucket/xla"
    assert capsys.readouterr().err == ""


def test_a_work_directory_below_a_home_that_nobody_knows_is_refused(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", raises(KeyError))
    with pytest.raises(UserError, match="--workdir=~/w: nobody knows"):
        parse_job(job_parser("groot_jax.evaluate", ""), ["--workdir=~/w"])


def raises(error):
    def function(*_):
        raise error

    return function
