"""What `--help` says of the config: each key with its default and the comment that explains it, and
the built-in configs. Read from the source of configs/, where the comments stand. No JAX here."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from groot_jax.config.keys import Value, flatten, nearest
from groot_jax.config.loading import built_in_configs, default_config
from groot_jax.errors import UserError

_WIDTH = 88


@cache
def comments() -> dict[str, str]:
    """{"groot": "Stage 1: ...", "groot.tau": "Temperature: ...", ...}: of sections and of keys, in
    the order of configs/default.py, which some comments rely on."""
    source = built_in_configs()["default"].read_text(encoding="utf-8")
    lines = source.splitlines()
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        key = ast.unparse(node.targets[0]).removeprefix("config.")
        # A comment above the value, which one behind it may go on with.
        last = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :]
        _, _, behind = last.partition("#")
        found[key] = " ".join((*_above(lines, node.lineno - 1), behind.strip())).strip()
    return found


def _above(lines: list[str], index: int) -> Iterator[str]:
    """The comment that ends above a line, first line first."""
    first = index
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return (line.strip().lstrip("#").strip() for line in lines[first:index])


def explained(name: str) -> str:
    """What a key is, or all keys of a section; `groot.tau`, with or without `config.` before it.

    Raises UserError for what is neither.
    """
    key = name.removeprefix("--").removeprefix("config.").strip(".")
    known = _known()
    inside = {k: v for k, v in known.items() if k == key or k.startswith(f"{key}.")}
    if not inside:
        sections = {k.rpartition(".")[0] for k in known} - {""}
        raise UserError(
            f"--help={name}: there is no such key{nearest(key, {*known, *sections})}; --help lists "
            "all of them"
        )
    heading = ""
    if key not in known and comments().get(key):
        heading = textwrap.fill(comments()[key], _WIDTH) + "\n"
    return heading + "".join(_entry(k, v) for k, v in inside.items())


def all_keys() -> str:
    """Every key, for the end of `--help`."""
    shown = "".join(_entry(key, value) for key, value in _known().items())
    return (
        "\nThe keys of the config with their defaults (--help=groot.tau shows one, --help=groot "
        f"those of a section):\n{shown}"
    )


def _known() -> dict[str, Value]:
    """Keys and defaults in the order of configs/default.py; a config itself is in that of names."""
    places = {key: i for i, key in enumerate(comments())}
    flat = flatten(default_config())
    # What is assigned as a whole section, as variants are, comes last.
    return dict(sorted(flat.items(), key=lambda item: places.get(item[0], len(places))))


def _entry(key: str, value: Value) -> str:
    comment = textwrap.fill(
        comments().get(key, ""), _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"  --config.{key}={shown}\n" + (f"{comment}\n" if comment else "")


def all_configs() -> str:
    """The built-in configs, each with its first line."""
    lines = ["\nBuilt-in configs, for --config=NAME or --config=NAME:ARG:"]
    for name, path in built_in_configs().items():
        if name != "default":
            lines.append(f"  {name:15} {_first_line(path)}")
    return "\n".join(lines) + "\n"


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first, _, _ = " ".join(text.partition("\n\n")[0].split()).partition(". ")
    return first.rstrip(".") + "."
