"""The files that launchers write for a scheduler, from templates beside them."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def templates_in(folder: Path) -> Environment:
    """Where templates of `folder` are looked up. A name that a template lacks raises."""
    return Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        # A line that holds nothing but a {% tag %} leaves no line in what is written.
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
