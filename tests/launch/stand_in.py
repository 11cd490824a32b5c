"""Stands in for gcloud, git, kubectl or sbatch: `stand_in.py FOLDER NAME ARGUMENT...`.

Appends its arguments (and what it was given to read) to FOLDER/calls.jsonl. The first rule of
FOLDER/rules.json whose words are all among the arguments says what it answers; each rule counts for
`times` calls. Without a rule gcloud keeps one TPU whose state is FOLDER/state, and runs what it is
told by ssh in FOLDER/homes/*, one for each worker.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    folder, name, argv = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    stdin = sys.stdin.read() if name == "sbatch" or "-" in argv else ""
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"argv": [name, *argv], "stdin": stdin}) + "\n")
    rules = json.loads((folder / "rules.json").read_text())
    for rule in rules:
        if rule["times"] and all(any(word in arg for arg in argv) for word in rule["words"]):
            rule["times"] -= 1
            (folder / "rules.json").write_text(json.dumps(rules))
            if rule["state"] is not None:
                (folder / "state").write_text(rule["state"])
            print(rule["out"], end="")
            print(rule["err"], end="", file=sys.stderr)
            return int(rule["status"])
    if name == "git":
        return git(argv)
    return gcloud(folder, argv) if name == "gcloud" else 0


def git(argv: list[str]) -> int:
    """An archive that holds the part of the workers."""
    if "archive" in argv:
        [output] = [arg for arg in argv if arg.startswith("--output=")]
        with tarfile.open(output.removeprefix("--output="), "w:gz") as archive:
            for path in ("launch/worker.sh", "constraints.txt"):
                archive.add(ROOT / path, path)
    return 0


def gcloud(folder: Path, argv: list[str]) -> int:
    argv = argv[argv.index("compute") :]  # without alpha or beta
    kind, verb = argv[2], argv[3]
    state = (folder / "state").read_text()
    homes = sorted((folder / "homes").iterdir())
    if verb in ("describe", "delete") and not state:
        print(f"ERROR: (gcloud.compute.tpus.{kind}.{verb}) NOT_FOUND: no such", file=sys.stderr)
        return 1
    if verb == "describe":
        queued = kind == "queued-resources" and state == "READY"
        print("ACTIVE" if queued else state)
    elif verb == "delete":
        (folder / "state").write_text("")
    elif verb == "create":
        (folder / "state").write_text("READY")
    elif verb == "scp":
        for home in homes:
            shutil.copy(argv[4], home / argv[5].partition(":")[2])
    elif verb == "ssh":
        [command] = [arg.removeprefix("--command=") for arg in argv if arg.startswith("--command=")]
        workers = [
            subprocess.Popen(
                ["bash", "-c", command],
                cwd=home,
                env=os.environ
                | {"HOME": str(home), "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
            )
            for home in homes
        ]
        # As gcloud does: the status of the first that fails.
        return next((status for status in [worker.wait() for worker in workers] if status), 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
