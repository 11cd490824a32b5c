"""Trains and scores the grid sets x rewards x seeds, and writes its tables and plots.

    python benchmarks/study.py --workdir=runs/study                     # trains, scores dev
    python benchmarks/study.py --workdir=runs/study --list              # what there is, and is not
    python benchmarks/study.py --workdir=runs/study --split=test --page=docs

The same command goes on where it was stopped, however that was: what is finished is never done
again, and what was under way continues from its last checkpoint. --sets, --rewards, --seeds and
--systems cut the grid, and may grow later in the same work directory. Needs
`pip install -e '.[peers]' -c constraints.txt` for the CRF, and GROOT_DATA_DIR for all sets but
retail.

Everything is chosen on dev, and no training reads test. --split=test scores test with what is
trained, once: what is scored is not scored again. It is refused while a cell of the grid is
missing, unless --partial says so; then the page names what is missing. WORKDIR/test_read.jsonl
keeps when test was read and for which cells.

The page goes to WORKDIR/results.md. With --page=FOLDER it goes into FOLDER/results.md, between the
lines `<!-- study begins -->` and `<!-- study ends -->` where that file is there. Its tables: each
set under each reward at a glance; what is promised of GROOT as it is shipped, and where that holds;
in how many sets and rewards a system is above, level with or below NLL continued; calibration; and
what it took. Beside it lie a plot and study_SPLIT.md with all figures of each set and reward, where
`+threshold`, `+mbr` and `+consensus` are decision rules (docs/decisions.md). Each cell leaves
WORKDIR/cells/NAME.json with its versions, its config's place, and its wall and CPU seconds over all
tries, and WORKDIR/logs/NAME.log. --quick=8 divides all updates by 8 and keeps to a folder of its
own. What the command does not know, such as `--config.groot.tau=0.2`, is handed to every training:
give it a --workdir of its own.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peer import require
from benchmarks.study_cell import run_cell, versions
from benchmarks.study_grid import (
    REWARDS,
    ROOT,
    SEEDS,
    SETS,
    SPLITS,
    SYSTEMS,
    Cell,
    Study,
    check_names,
)
from benchmarks.study_page import Page, make_page
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.runtime.files import expanded, write_text, writing

BEGIN, END = "<!-- study begins -->", "<!-- study ends -->"
_POLL = 0.2  # Seconds after which running cells are asked whether they have ended.


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    words = list(sys.argv[1:] if argv is None else argv)
    args, study = parse(words)
    if args.cell:
        run_cell(study, next(cell for cell in everything(study) if cell.name == args.cell))
        return
    if args.list:
        print(listing(study, args.split))
        return
    if "crf" in study.systems:
        require("crf", "pycrfsuite")  # Now, rather than after hours.
    with alone(study):
        study.check()
        cells = wanted(study, args.split, args.partial)
        if args.split == "test":
            note_test(study, cells, args.partial)
        failed = run(study, cells, args.jobs, words)
        command = " ".join(["python benchmarks/study.py", *words])
        path = write_page(make_page(study, args.split, command, versions()), args.page, study)
        print(f"page: {path}", flush=True)
    if failed:
        raise UserError(
            f"{len(failed)} cells failed ({', '.join(cell.name for cell in failed[:3])}"
            f"{', ...' if len(failed) > 3 else ''}): their logs are in {study.root / 'logs'}; mend "
            "the cause, and the same command does them again"
        )


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, Study]:
    """The flags, and the grid that they ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(text: str) -> tuple[str, ...]:
        return tuple(filter(None, (part.strip() for part in text.split(","))))

    parser.add_argument("--workdir", type=Path, default=Path("runs/study"), metavar="FOLDER")
    parser.add_argument("--sets", type=names, default=SETS, metavar="A,B", help=", ".join(SETS))
    parser.add_argument("--rewards", type=names, default=REWARDS, metavar="A,B")
    parser.add_argument("--seeds", type=names, default=SEEDS, metavar="0,1")
    parser.add_argument(
        "--systems", type=names, default=SYSTEMS, metavar="A,B", help=", ".join(SYSTEMS)
    )
    parser.add_argument("--split", choices=SPLITS, default="dev", help="scored on (dev)")
    parser.add_argument("--partial", action="store_true", help="test of an unfinished grid")
    parser.add_argument("--jobs", type=int, default=1, help="cells side by side (1)")
    parser.add_argument("--quick", type=int, default=1, metavar="N", help="updates divided by N")
    parser.add_argument("--page", type=Path, metavar="FOLDER", help="where results.md is written")
    parser.add_argument("--list", action="store_true", help="print the cells, and do nothing")
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # What a process of its own is to do.
    args, common = parser.parse_known_args(words)
    if unknown := [word for word in common if not word.startswith("--config.") or "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for flag, value in (("--jobs", args.jobs), ("--quick", args.quick)):
        if value < 1:
            raise UserError(f"{flag}={value} has to be 1 or more")
    try:
        seeds = tuple(int(seed) for seed in args.seeds)
    except ValueError:
        raise UserError(f"--seeds={','.join(args.seeds)}: seeds are whole numbers") from None
    for flag, listed in (("--sets", args.sets), ("--rewards", args.rewards), ("--seeds", seeds)):
        if not listed or len({*listed}) < len(listed):
            raise UserError(f"{flag} has to name one or more, each once")
    check_names(args.sets, args.rewards, args.systems)
    workdir = expanded(args.workdir, "--workdir").absolute()
    study = Study(workdir, args.sets, args.rewards, seeds, args.systems, args.quick, tuple(common))
    return args, study


# ---- The cells --------------------------------------------------------------------------------


def everything(study: Study) -> list[Cell]:
    return [*study.trainings(), *study.scorings("dev"), *study.scorings("test")]


def listing(study: Study, split: str) -> str:
    """Every cell up to a split with its state, and the minutes that it took or will take."""
    cells = [*study.trainings(), *study.scorings("dev")]
    cells += [*study.scorings("test")] if split == "test" else []
    factor = study.calibration(cells)
    lines, left = [], 0.0
    for cell in cells:
        state, expected = study.state(cell), study.minutes(cell) * factor
        spent = study.record(cell).get("wall_seconds", 0.0) / 60
        if state == "finished":
            about = f"{spent:6.1f} min"
        else:
            about = f"{expected:6.1f} min expected"
            left += max(expected - spent, 0.0)
        lines.append(f"{cell.name:44} {state:12} {about}")
    done = sum(study.finished(cell) for cell in cells)
    lines.append(f"{done} of {len(cells)} cells are finished; about {left:.0f} minutes are left.")
    return "\n".join(lines)


def wanted(study: Study, split: str, partial: bool) -> list[Cell]:
    """What is to be done, in order. Raises UserError where test is asked for too early."""
    if split == "dev":
        # Each training with its scorings: where time ends, what is trained has its figures.
        scorings = list(study.scorings("dev"))
        return [
            cell
            for training in study.trainings()
            for cell in (training, *(c for c in scorings if study.needs(c) == [training]))
        ]
    before = [*study.trainings(), *study.scorings("dev")]
    missing = [cell for cell in before if not study.finished(cell)]
    if missing and not partial:
        raise UserError(
            f"--split=test: {len(missing)} of {len(before)} cells of the grid are missing "
            f"({', '.join(cell.name for cell in missing[:3])}{', ...' if len(missing) > 3 else ''})"
            "; run the same command without --split=test first, or add --partial"
        )
    return [
        cell
        for cell in study.scorings("test")
        if all(study.finished(needed) for needed in study.needs(cell))
    ]


def note_test(study: Study, cells: Sequence[Cell], partial: bool) -> None:
    """A line of WORKDIR/test_read.jsonl for what is about to be read for the first time."""
    new = [cell.name for cell in cells if not study.finished(cell)]
    if not new:
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"time": now, "partial": partial, "cells": new, "versions": versions()}
    path = study.root / "test_read.jsonl"
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@contextmanager
def alone(study: Study) -> Iterator[None]:
    """One study at a time works in a directory."""
    path = study.root / "study.lock"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--workdir={study.workdir}: another study works there; wait for its end"
            ) from None
        yield


# ---- Running ----------------------------------------------------------------------------------


def run(study: Study, cells: Sequence[Cell], jobs: int, words: Sequence[str]) -> list[Cell]:
    """Does what is not finished, `jobs` cells side by side, each when what it needs is done; those
    that failed, whose dependents are left out."""
    waiting = [cell for cell in cells if not study.finished(cell)]
    failed: list[Cell] = []
    running: dict[Cell, subprocess.Popen[bytes]] = {}
    count = len(waiting)
    try:
        while waiting or running:
            for cell in [c for c in waiting if any(n in failed for n in study.needs(c))]:
                waiting.remove(cell)
                failed.append(cell)
            ready = [c for c in waiting if all(study.finished(n) for n in study.needs(c))]
            for cell in ready[: jobs - len(running)]:
                waiting.remove(cell)
                print(f"{cell.name}: begins", flush=True)
                running[cell] = start(study, cell, jobs, words)
            for cell, process in [*running.items()]:
                if process.poll() is None:
                    continue
                del running[cell]
                done = count - len(waiting) - len(running)
                if process.returncode == 0 and study.finished(cell):
                    minutes = study.record(cell)["wall_seconds"] / 60
                    print(f"{cell.name}: {minutes:.1f} min ({done} of {count})", flush=True)
                else:
                    failed.append(cell)
                    print(f"{cell.name}: failed: {last_line(study, cell)}", flush=True)
            if running:
                time.sleep(_POLL)
    finally:
        for process in running.values():  # Ctrl-C, say: what they have is on disk.
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


def log_path(study: Study, cell: Cell) -> Path:
    return study.root / "logs" / f"{cell.name}.log"


def last_line(study: Study, cell: Cell) -> str:
    lines = log_path(study, cell).read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "without a word"


def start(study: Study, cell: Cell, jobs: int, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """The process of a cell: this command with the cell's name."""
    environment = dict(os.environ)
    paths = filter(None, (str(ROOT), environment.get("PYTHONPATH")))
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    if jobs > 1:  # Cells that share cores keep to about one each, unless the user has said.
        flags = environment.get("XLA_FLAGS", "")
        if "multi_thread_eigen" not in flags:
            environment["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        environment.setdefault("OMP_NUM_THREADS", "1")
    path = log_path(study, cell)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), *words, f"--cell={cell.name}"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


# ---- The page ---------------------------------------------------------------------------------


def write_page(page: Page, folder: Path | None, study: Study) -> Path:
    """Writes results.md and what lies beside it. Raises UserError where a file that is there has no
    place for the page."""
    path = (folder or study.root) / "results.md"
    text = f"{BEGIN}\n\n{page.text}\n{END}\n"
    if folder is not None and path.exists():
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN + "\n")
        _, end, after = rest.partition(END + "\n")
        if not (begin and end):
            raise UserError(
                f"--page={folder}: {path} has no lines {BEGIN} and {END}, between which the page "
                "is written; add them, or name another folder"
            )
        text = before + text + after
    for name, content in page.files.items():
        write_text(path.with_name(name), content)
    write_text(path, text)
    return path


if __name__ == "__main__":
    exit_on_user_error(main, "; run the same command again to continue")
