"""Verify job: whether a work directory holds what training wrote. It reads all and changes nothing.

    python -m groot_jax.verify W        (or: groot verify W)

One line for each checkpoint: whole, damaged, or without sums, as those of version 0.1 are. Ends
with status 1 where something is damaged, and says what training would do then. Needs no device.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below.

import json
from pathlib import Path

from groot_jax import config as configs
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.runtime.files import expanded
from groot_jax.training.checksums import META_FILE, damage, read_guarded, verified


def main(argv: list[str] | None = None) -> None:
    """Runs the job. Raises UserError for what is no work directory, and where one is damaged."""
    parser = configs.JobParser(
        prog="python -m groot_jax.verify",
        description="Compare a work directory with the sums of its files.",
    )
    parser.add_argument(
        "workdir",
        type=lambda text: expanded(text, "WORKDIR"),
        metavar="WORKDIR",
        help="work directory of a training",
    )
    workdir = configs.parse_flags(parser, argv).workdir
    configs.load_dumped(workdir / configs.CONFIG_FILE)
    found = [*_checkpoints(workdir), *_lines(workdir)]
    for name, problem in found:
        print(f"{name}: {problem or 'whole'}")
    bad = [name for name, problem in found if problem and problem != _UNKNOWN]
    if bad:
        raise UserError(
            f"{workdir}: {len(bad)} of {len(found)} are damaged ({', '.join(bad[:5])}): training "
            "goes on from the newest checkpoint that is whole, and sets newer ones aside"
        )


_UNKNOWN = "has no sums to compare with"


def _checkpoints(workdir: Path) -> list[tuple[str, str]]:
    """(where, what is wrong with it) of each checkpoint, and of each system's metas."""
    found = []
    root = workdir / "checkpoints"
    for system in sorted(root.iterdir()) if root.is_dir() else []:
        steps = [p for p in system.iterdir() if p.name.isdecimal()] if system.is_dir() else []
        for folder in sorted(steps, key=lambda path: int(path.name)):
            try:
                problem = damage(folder) or ("" if verified(folder) else _UNKNOWN)
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
            found.append((str(folder.relative_to(workdir)), problem))
        meta = system / META_FILE
        if meta.exists():
            problem = "" if read_guarded(meta) is not None else "is not what was written"
            found.append((str(meta.relative_to(workdir)), problem))
    return found


def _lines(workdir: Path) -> list[tuple[str, str]]:
    """As `_checkpoints`, of files of JSON."""
    found = []
    for path in sorted([workdir / "task" / "task.json", workdir / "metrics.jsonl"]):
        if not path.exists():
            continue
        problem = ""
        try:
            text = path.read_text(encoding="utf-8")
            # What follows the last line break of metrics.jsonl is the line of a run that was killed
            # while it wrote, which the next one drops.
            for line in text.split("\n")[:-1] if path.suffix == ".jsonl" else [text]:
                if not isinstance(json.loads(line), dict):
                    raise ValueError("a line is no object")
        except (OSError, ValueError, RecursionError) as error:
            problem = f"cannot be read ({error})"
        found.append((str(path.relative_to(workdir)), problem))
    return found


if __name__ == "__main__":
    exit_on_user_error(main)
