"""What tests ask of a compiled program's text beyond what preflight does."""

from __future__ import annotations

from collections.abc import Iterator

from groot_jax.scaling.cost import COLLECTIVES
from groot_jax.scaling.hlo import Instruction, Program


def collectives_in_loops(program: Program) -> Iterator[tuple[str, Instruction]]:
    """(condition or body of a loop, collective in it) for every loop of the program."""
    for instructions in program.computations.values():
        for loop in instructions:
            for role in ("condition", "body") if loop.opcode == "while" else ():
                for name in loop.called(role):
                    for inner in _reachable(program, name):
                        if inner.opcode.removesuffix("-start") in COLLECTIVES:
                            yield role, inner


def _reachable(program: Program, name: str) -> Iterator[Instruction]:
    for instruction in program.computations.get(name, ()):
        yield instruction
        for inner in instruction.called("calls", "condition", "body", "branch_computations"):
            yield from _reachable(program, inner)
