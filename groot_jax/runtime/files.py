"""Files of a job: paths as the user writes them, and writing whole or not at all. No JAX here."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from groot_jax.errors import UserError


def expanded(path: str | Path, what: str) -> Path:
    """`path` with its `~` written out. `what` names the key or flag in the UserError that is raised
    where this user has no home folder, as in a container that runs under a bare number."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{what}={path}: nobody knows the home folder of this user; write the path without ~, "
            "or set HOME"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: beside it first, then renamed over it.

    Raises UserError where the disk refuses.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # Before the name: after a power cut it may not be empty.
            os.replace(beside, path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong with a file of the work directory, as a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}): make room or choose another "
            "--workdir, then run the same command again; what was there before is unharmed"
        ) from error


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A draft to write into, which then takes the place of `folder`, whole or not at all.

    Raises UserError where the disk refuses.
    """
    draft = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    with writing(folder):
        draft.mkdir(parents=True)
        yield draft
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(draft, folder)
