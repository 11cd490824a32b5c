"""Who may import whom, and what no job may bring in."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "groot_jax"
JAX = ("jax", "jaxlib", "flax", "optax", "orbax")
# room -> the other rooms, and files beside them, that its files may import, wherever in a file the
# import stands. Nobody may import a job, for no room lists one.
ROOMS: dict[str, set[str]] = {
    "config": {"errors", "runtime"},
    "runtime": {"errors"},
    "data": {"errors", "runtime"},
    "mesh": {"errors"},
    "model": {"errors", "mesh", "runtime"},
    "generate": {"errors", "data", "mesh", "model"},
    "reward": {"errors", "data"},
    "contrast": {"data", "mesh", "model", "reward"},
    "evaluation": {"errors", "data", "generate", "reward", "runtime", "task"},
    "training": {
        *("errors", "config", "data", "mesh", "model", "generate", "reward", "contrast"),
        *("evaluation", "runtime", "task"),
    },
    "export": {
        *("errors", "config", "data", "generate", "model", "evaluation", "runtime", "training"),
        *("task", "trained"),
    },
    "serving": {"errors", "data", "prediction"},
    "scaling": {
        *("errors", "config", "data", "mesh", "model", "generate", "reward", "contrast"),
        *("training", "runtime", "task", "warm_start"),
    },
}
# Of the room runtime, files.py is all that these may take: the rest brings in JAX.
WITHOUT_JAX = ("config", "data", "reward")
EVERYWHERE = ("torch", "tensorflow", "pickle", "dill")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            yield node.lineno, node.module or ""
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def offences(path: Path, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for line, module in imports(path)
        for name in forbidden
        if module == name or module.startswith(f"{name}.")
    ]


def test_every_room_has_its_rule() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {*ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files
        for line, module in imports(path)
        if module.startswith("groot_jax.") and module.split(".")[1] not in {room, *ROOMS[room]}
        # Of the package itself: its version.
        if module != "groot_jax.__version__"
    ]
    assert found == []


@pytest.mark.parametrize("room", WITHOUT_JAX)
def test_what_scoring_processes_and_launchers_read_is_free_of_jax(room: str) -> None:
    forbidden = (*JAX, *(f"groot_jax.runtime.{f}" for f in ("hosts", "joining", "allocator")))
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert [o for path in files for o in offences(path, forbidden)] == []


def test_nothing_imports_torch_tensorflow_or_pickle() -> None:
    assert [o for p in sorted(PACKAGE.rglob("*.py")) for o in offences(p, EVERYWHERE)] == []


def test_only_the_loader_of_batches_imports_grain() -> None:
    files = [p for p in (PACKAGE / "data").rglob("*.py") if p.name != "batches.py"]
    assert [o for p in files for o in offences(p, ("grain",))] == []


def test_files_and_functions_stay_short_enough_to_read_at_once() -> None:
    long = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            long.append(f"{path}: over 400 lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 80:
                long.append(f"{path}:{node.lineno}: {node.name} has over 80 lines")
    assert not long
    # Set-up, stage 0, stage 1 and close are read in one go.
    assert len((PACKAGE / "train.py").read_text(encoding="utf-8").splitlines()) <= 250


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ, JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = os.pathsep.join(str(path) for path in (*paths, ROOT))
    return subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def modules(folder: Path) -> list[str]:
    files = sorted(path.relative_to(ROOT).with_suffix("") for path in folder.rglob("*.py"))
    return [".".join(file.parts).removesuffix(".__init__") for file in files]


@pytest.mark.parametrize("folder", [PACKAGE / "reward", ROOT / "launch"], ids=lambda f: f.name)
def test_scoring_processes_and_launchers_start_without_jax(folder: Path) -> None:
    names = ["groot_jax", *modules(folder)]
    done = python(
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        "print([m for m in ('jax', 'flax', 'tensorflow', 'torch') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_predict_starts_without_what_only_training_needs() -> None:
    done = python(
        "import sys, groot_jax.predict\n"
        "print([m for m in ('flax', 'optax', 'grain', 'rich') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.slow
def test_no_module_brings_in_torch_or_tensorflow_where_they_are_installed(tmp_path: Path) -> None:
    """Stand-ins stop the process and say who imported them, so the test bites without them too."""
    for name, version in (("torch", "2.13.0"), ("tensorflow", "2.19.0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "import os, traceback; traceback.print_stack(); os._exit(7)\n"
        )
        metadata = tmp_path / f"{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module({name!r})\n" for name in modules(PACKAGE)
    )
    done = python(code + "print('imported all')", tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "imported all" in done.stdout
    # The stand-ins do stop a process that imports one.
    assert python("import torch", tmp_path).returncode == 7
