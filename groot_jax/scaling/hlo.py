"""A compiled program's text, taken apart: computations, their instructions, and how loops turn.

The text is XLA's HLO (openxla.org/xla/operation_semantics), and is per device.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

# Other types have their width in their name, as bf16 and f8e4m3fn do, or are `pred`, a byte each.
_BITS = {"token": 0, "opaque": 0}


def first(pattern: str, text: str) -> str:
    """The first group of the pattern's first match, or nothing: channel_id=(\\d+) -> 7."""
    match = re.search(pattern, text)
    return match[1] if match else ""


class Shape(NamedTuple):
    """One array of an instruction's type."""

    dtype: str
    dims: tuple[int, ...]
    layout: str  # minor to major, tiles and memory space, as in the text; may be empty

    @property
    def bytes(self) -> int:
        """As it lies: with what tiles add."""
        bits = _BITS.get(self.dtype, int(first(r"(\d+)", self.dtype) or 8))
        return -(-math.prod(self._padded()) * bits // 8)

    @property
    def in_hbm(self) -> bool:
        """False for on-chip memories, which have a space S(1) and up on a TPU."""
        return first(r"S\((\d+)\)", self.layout) in ("", "0")

    def _padded(self) -> list[int]:
        """The dims in the order of memory, minor last, rounded up to the tile.

        f32[8,64] with layout 1,0:T(8,128) -> [8, 128]: a row of 64 takes a whole tile of 128.
        """
        order, _, tiles = self.layout.partition(":")
        minor_first = [int(i) for i in order.split(",") if i.isdigit()]
        if len(minor_first) != len(self.dims):
            return list(self.dims)
        dims = [self.dims[i] for i in reversed(minor_first)]
        # A layout may have tiles within tiles, T(8,128)(2,1): only the first adds to the size.
        sizes = [int(t) for t in first(r"^T\(([\d,]+)\)", tiles).split(",") if t]
        for back, size in enumerate(reversed(sizes), 1):
            if back <= len(dims):
                dims[-back] = -(-dims[-back] // size) * size
        return dims


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shapes: tuple[Shape, ...]  # of the result; several of a tuple
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    number: int = -1  # of a parameter; value of an integer constant

    def called(self, *names: str) -> list[str]:
        """Computations that the attributes `names` refer to, one or several in braces.

        body=%loop.3 -> [loop.3]; branch_computations={%a, %b} -> [a, b]
        """
        found = []
        for name in names:
            for single, several in re.findall(
                rf"\b{name}=(?:%([\w.\-]+)|\{{([^}}]*)\}})", self.attributes
            ):
                found += [single] if single else re.findall(r"%([\w.\-]+)", several)
        return found


# f32[16,128]{1,0:T(8,128)}: type, dimensions, layout.
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
# ENTRY %main (p: f32[8]) -> f32[8] {
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
#   ROOT %sum = ...
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        Shape(dtype, tuple(int(d) for d in re.findall(r"\d+", dims)), layout or "")
        for dtype, dims, layout in _SHAPE.findall(text)
    )


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    raise ValueError(f"no closing parenthesis: {text[:80]}")


def _instruction(line: str) -> Instruction | None:
    """`  %y = f32[8]{0} add(%a, %b), metadata={}` -> name y, shapes f32[8], opcode add, operands
    a and b, attributes `, metadata={}`; None for a line that is none."""
    head = _NAME.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    # The type of a tuple holds spaces: it ends with its parenthesis.
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    type_, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    operands = re.findall(r"%([\w.\-]+)", rest[opening:closing])
    opcode, inside = rest[:opening], rest[opening + 1 : closing]
    counts = opcode in ("parameter", "constant") and inside.isdecimal()
    number = int(inside) if counts else -1
    return Instruction(
        head[2], _shapes(type_), opcode, tuple(operands), rest[closing + 1 :], number
    )


class Program:
    """A compiled program, taken apart.

    computations: the instructions of each, by its name; entry: the name of the first to run;
    named: every instruction by its name; devices: how many run it.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        # Across computations, since names are given once in a whole program.
        self.named: dict[str, Instruction] = {}
        self.devices = int(first(r"num_partitions=(\d+)", text) or 1)
        current: list[Instruction] | None = None
        for line in text.splitlines():
            if not line.startswith(" "):
                head = _HEAD.match(line)
                if head:
                    current = self.computations.setdefault(head[2], [])
                    self.entry = head[2] if head[1] else self.entry
            elif current is not None and (instruction := _instruction(line)):
                current.append(instruction)
                self.named[instruction.name] = instruction

    def loops(self) -> list[Instruction]:
        """The entry's loops whose turns are not known, in their order."""
        entry = self.computations[self.entry]
        return [i for i in entry if i.opcode == "while" and not self.turns(i)]

    def turns(self, loop: Instruction) -> int:
        """How often a loop turns, of those that JAX makes of `scan` and `fori_loop`; 0: unknown.

        Their condition compares a counter, which starts at 0, with a constant.
        """
        # The compiler's own word where it has one: "known_trip_count":{"n":"5"}.
        known = first(r'known_trip_count"?:?=?\{"?n"?[:=]"?(\d+)', loop.attributes)
        if known:
            return int(known)
        for name in loop.called("condition"):
            # The last instruction is the condition's result: compare(%i, %three), direction=LT.
            *_, last = self.computations.get(name, ()) or (None,)
            if last is not None and last.opcode == "compare" and "direction=LT" in last.attributes:
                counter, bound = (self.named.get(operand) for operand in last.operands)
                if counter and bound and counter.opcode == "get-tuple-element":
                    return max(bound.number, 0) if bound.opcode == "constant" else 0
        return 0
