"""The table of docs/scaling.md: preflight for models and slices of growing size.

    python benchmarks/scaling.py [--only=base] [--records=benchmarks/scaling.jsonl] [--show]

Compiles what the file of records lacks, one case at a time, some minutes each; --show compiles
nothing. Prints the table in Markdown, a row for each step of training (nll: stage 0, generate: the
search, update: stage 1). Columns, all by preflight's estimate: memory of a chip in GiB, what
collectives move on a chip in MiB, the least time of the step, what bounds it, sentences a second of
the whole slice at that time, and model FLOP utilisation (MFU). docs/scaling.md says how each is
estimated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
Record: TypeAlias = dict[str, Any]  # a line of the file, or preflight's report in it


class Case(NamedTuple):
    """A config on a slice with a batch of both stages; `mesh` is data, fsdp, tensor; no `steps`:
    all of them."""

    model: str
    topology: str
    mesh: tuple[int, int, int]
    batch: int
    steps: str = ""

    def flags(self) -> list[str]:
        data, fsdp, tensor = self.mesh
        return [
            f"--config=configs/t5_{self.model}.py",
            f"--topology={self.topology}",
            "--words=16",
            f"--config.mesh.data={data}",
            f"--config.mesh.fsdp={fsdp}",
            f"--config.mesh.tensor={tensor}",
            f"--config.nll.batch_size={self.batch}",
            f"--config.groot.batch_size={self.batch}",
            *([f"--steps={self.steps}"] if self.steps else []),
        ]


CASES = (
    # Weak scaling: 16 sentences a chip. If chips exchanged nothing, all would take the same time.
    Case("base", "v5e:2x2", (-1, 1, 1), 64),
    Case("base", "v5e:2x2", (-1, 1, 1), 128, "update"),
    *(
        Case("base", topology, (-1, 1, 1), 16 * chips, "update")
        for topology, chips in (
            ("v5e:4x4", 16),
            ("v5e:8x8", 64),
            ("v5e:16x16", 256),
            ("v5p:2x2x1", 4),
            ("v5p:4x4x4", 64),
            ("v6e:2x2", 4),
            ("v6e:16x16", 256),
        )
    ),
    Case("xl", "v5e:4x4", (-1, 4, 4), 64),
    Case("xl", "v5e:4x4", (-1, 16, 1), 256, "update"),
    Case("xl", "v5e:16x16", (-1, 4, 4), 1024),
    Case("xl", "v5p:4x4x4", (-1, 4, 4), 256),
    Case("xl", "v5p:4x4x4", (-1, 16, 1), 256),
    Case("xl", "v5p:4x4x4", (-1, 4, 4), 2048, "update"),
    Case("xl", "v5p:4x4x4", (-1, 4, 1), 2048, "update"),
    Case("xl", "v5p:4x4x4", (-1, 16, 1), 2048, "update"),
    Case("xl", "v6e:8x8", (-1, 4, 4), 256),
    Case("xxl", "v5p:4x4x4", (-1, 4, 8), 64),
    Case("xxl", "v5p:8x8x8", (-1, 4, 8), 512),
    Case("xxl", "v5e:16x16", (-1, 4, 8), 256),
    Case("xxl", "v6e:16x16", (-1, 4, 8), 256),
)


def measure(case: Case) -> Record:
    """Preflight's report. Ends the command with preflight's words where there is none."""
    done = subprocess.run(
        [sys.executable, "-m", "groot_jax.preflight", *case.flags(), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # The report is the last line that is an object. Status 1 is no error: the case does not fit.
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit(f"{' '.join(case.flags())}: {done.stderr}")


def table(records: Sequence[Record]) -> str:
    """One row a case and step."""
    lines = [
        "| model, slice, mesh | step, batch | GiB a chip | collectives, MiB | least ms | bound by "
        "| sentences/s | MFU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        case, report = record["case"], record["report"]
        name = f"{case['model']}, {case['topology']}, {'x'.join(map(str, case['mesh']))}"
        for step, found in report["steps"].items():
            if not found["fits"]:
                reason = found["reason"]
                lines.append(f"| {name} | {step}, {case['batch']} | does not fit: {reason} |")
                continue
            moved = sum(kind["bytes"] for kind in found["collectives"].values())
            cells = (
                name,
                f"{step}, {found['batch_size']}",
                f"{found['needed_bytes'] / 2**30:.1f}",
                f"{moved / 2**20:,.0f}",
                f"{1e3 * found['estimated_seconds']:,.1f}",
                found["bound_by"],
                f"{found['sentences_per_second']:,.0f}",
                f"{found['model_flop_utilisation']:.1%}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose command holds this text")
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks" / "scaling.jsonl")
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    text = args.records.read_text(encoding="utf-8") if args.records.exists() else ""
    records = {tuple(r["flags"]): r for r in map(json.loads, text.splitlines())}
    for case in CASES:
        flags = case.flags()
        if args.show or tuple(flags) in records or args.only not in " ".join(flags):
            continue
        record = {"flags": flags, "case": case._asdict(), "report": measure(case)}
        records[tuple(flags)] = record
        # At once: what is compiled stays, should a later case fail.
        with args.records.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    found = [records[tuple(case.flags())] for case in CASES if tuple(case.flags()) in records]
    print(table(found))


if __name__ == "__main__":
    main()
