"""What a compiled program does in all, counted in its text: products, memory traffic, collectives.

XLA's own `cost_analysis` counts the body of a loop once. Here a loop counts as often as it turns:
as its condition says, or as the caller says. Everything is per device, as the text is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

_REDUCING = ("all-reduce", "reduce-scatter")
_MOVING = ("all-gather", "all-to-all", "ragged-all-to-all")
COLLECTIVES = (*_REDUCING, *_MOVING, "collective-permute", "collective-broadcast")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
# They name or regroup what is there.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
_FREE |= {"partition-id", "replica-id", "opt-barrier", "domain", "add-dependency"}
_SLICES = {"dynamic-slice", "gather", "slice"}


class Shape(NamedTuple):
    """One array of an instruction's type."""

    dtype: str
    dims: tuple[int, ...]
    layout: str  # minor to major, tiles and memory space, as in the text; may be empty

    @property
    def bytes(self) -> int:
        """As it lies: with what tiles add."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype, int(digits[0]) if digits else 8)
        return -(-math.prod(self._padded()) * bits // 8)

    @property
    def in_hbm(self) -> bool:
        """False for on-chip memories, which have a space S(1) and up on a TPU."""
        space = re.search(r"S\((\d+)\)", self.layout)
        return space is None or space[1] == "0"

    def _padded(self) -> list[int]:
        order, _, tiles = self.layout.partition(":")
        minor_first = [int(i) for i in order.split(",") if i.isdigit()]
        if len(minor_first) != len(self.dims):
            return list(self.dims)
        dims = [self.dims[i] for i in reversed(minor_first)]
        tile = re.match(r"T\(([\d,]+)\)", tiles)
        sizes = [int(t) for t in tile[1].split(",")] if tile else []
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
        """Computations that the attributes `names` refer to."""
        found = []
        for name in names:
            for single, several in re.findall(
                rf"\b{name}=(?:%([\w.\-]+)|\{{([^}}]*)\}})", self.attributes
            ):
                found += [single] if single else re.findall(r"%([\w.\-]+)", several)
        return found


_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
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
    head = _NAME.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
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


@dataclass
class Cost:
    """Totals of a program on one device."""

    flops: float = 0.0  # of matrix products; a multiply and an add are two
    hbm_bytes: float = 0.0  # read and written
    # Kind -> (times, bytes): of the larger of operand and result, each on one device.
    collectives: dict[str, tuple[float, float]] = field(default_factory=dict)
    # (flops, hbm_bytes, times) of each instruction that has any; seconds are the caller's affair.
    parts: list[tuple[float, float, float]] = field(default_factory=list)
    # (kind, bytes, devices in a group, times, hidden behind other work)
    transfers: list[tuple[str, float, int, float, bool]] = field(default_factory=list)


class Program:
    """A compiled program's text, taken apart."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        self._of: dict[str, Instruction] = {}
        current: list[Instruction] | None = None
        for line in text.splitlines():
            if not line.startswith(" "):
                head = _HEAD.match(line)
                if head:
                    current = self.computations.setdefault(head[2], [])
                    self.entry = head[2] if head[1] else self.entry
                continue
            instruction = _instruction(line) if current is not None else None
            if instruction is not None and current is not None:
                current.append(instruction)
                self._of[instruction.name] = instruction
        self.devices = int((re.search(r"num_partitions=(\d+)", text) or ("", 1))[1])

    def loops(self) -> list[Instruction]:
        """The entry's loops whose turns are not known, in their order."""
        entry = self.computations[self.entry]
        return [i for i in entry if i.opcode == "while" and not self._turns(i)]

    def cost(self, trips: Sequence[int] = ()) -> Cost:
        """Totals of a run. `trips`: of `loops()`, in their order; 1 where it has no item."""
        unknown = dict(zip((loop.name for loop in self.loops()), trips, strict=False))
        cost = Cost()
        self._add(self.entry, 1.0, cost, unknown)
        return cost

    def collectives_in_loops(self) -> Iterator[tuple[str, Instruction]]:
        """(condition or body of a loop, collective in it) for every loop of the program."""
        for instructions in self.computations.values():
            for loop in instructions:
                if loop.opcode == "while":
                    for role in ("condition", "body"):
                        for name in loop.called(role):
                            for inner in self._reachable(name):
                                if _kind(inner):
                                    yield role, inner

    def _turns(self, loop: Instruction) -> int:
        """How often a loop turns, of those that JAX makes of `scan` and `fori_loop`; 0: unknown.

        Their condition compares a counter, which starts at 0, with a constant.
        """
        known = re.search(r'known_trip_count"?:?=?\{"?n"?[:=]"?(\d+)', loop.attributes)
        if known:
            return int(known[1])
        for name in loop.called("condition"):
            *_, last = self.computations.get(name, ()) or (None,)
            if last is not None and last.opcode == "compare" and "direction=LT" in last.attributes:
                counter, bound = (self._of.get(operand) for operand in last.operands)
                if counter and bound and counter.opcode == "get-tuple-element":
                    return max(bound.number, 0) if bound.opcode == "constant" else 0
        return 0

    def _reachable(self, name: str) -> Iterator[Instruction]:
        for instruction in self.computations.get(name, ()):
            yield instruction
            for inner in instruction.called("calls", "condition", "body", "branch_computations"):
                yield from self._reachable(inner)

    def _add(
        self,
        name: str,
        times: float,
        cost: Cost,
        trips: Mapping[str, int],
        fused: bool = False,
        hidden: bool = False,
        seen: set[str] | None = None,
    ) -> float:
        """Adds a computation `times` over; returns its product FLOPs once, for a fusion's part.

        `seen`: channels of collectives that are under way in the computation around the fusion.
        """
        inside = 0.0
        seen = set() if seen is None else seen
        for i in self.computations.get(name, ()):
            if i.opcode == "while":
                turns = times * (self._turns(i) or trips.get(i.name, 1))
                for part in i.called("condition", "body"):
                    self._add(part, turns, cost, trips)
                continue
            if i.opcode in ("call", "conditional", "async-start"):
                branches = ("to_apply", "calls", "branch_computations")
                for part in i.called(*branches, "true_computation", "false_computation"):
                    self._add(part, times, cost, trips, hidden=i.opcode == "async-start")
                continue
            flops = 0.0
            if i.opcode == "fusion":
                for part in i.called("calls"):
                    flops += self._add(part, times, cost, trips, True, hidden, seen)
            elif i.opcode in ("convolution", "dot"):
                flops = self._product(i)
                cost.flops += times * flops
            elif kind := _kind(i):
                # Drawn out over several fusions that compute meanwhile, each of which names it.
                drawn_out = fused and "async_collective_fusion_config" in i.attributes
                channel = re.search(r"channel_id=(\d+)", i.attributes)
                if drawn_out and channel:
                    if channel[1] in seen:
                        continue
                    seen.add(channel[1])
                # How a TPU's program writes it.
                if fused and name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"
                self._add_collective(i, kind, times, cost, hidden or drawn_out)
            inside += flops
            if fused:
                continue
            moved = self._moved(i)
            cost.hbm_bytes += times * moved
            if flops or moved:
                cost.parts.append((flops, moved, times))
        return inside

    def _add_collective(
        self, i: Instruction, kind: str, times: float, cost: Cost, hidden: bool
    ) -> None:
        operands = sum(shape.bytes for shape in self._operand_shapes(i))
        results = sum(shape.bytes for shape in i.shapes)
        if i.opcode.endswith("-start") and kind != "all-reduce":
            results -= operands  # The result holds the operand, too.
        size = max(operands, results)
        group = _group(i, self.devices)
        if group == 1:
            return
        count, total = cost.collectives.get(kind, (0.0, 0.0))
        cost.collectives[kind] = (count + times, total + times * size)
        hidden = hidden or i.opcode.endswith("-start")
        cost.transfers.append((kind, size, group, times, hidden))

    def _operand_shapes(self, i: Instruction) -> list[Shape]:
        return [shape for name in i.operands if name in self._of for shape in self._of[name].shapes]

    def _product(self, i: Instruction) -> float:
        """FLOPs of a convolution, which is what a TPU's products are, or of a dot."""
        left, right = (self._of[name].shapes[0] for name in i.operands[:2])
        (out,) = i.shapes[:1]
        if i.opcode == "dot":
            contracting = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
            axes = [int(d) for d in contracting[1].split(",") if d] if contracting else []
            return 2.0 * math.prod(out.dims) * math.prod(left.dims[d] for d in axes)
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
        if labels is None:
            raise ValueError(f"a convolution without dim_labels: {i.name}")
        lhs, rhs, result = labels[1], labels[2], labels[3]
        spatial = [c for c in result if c.isdigit()]
        window = dict(re.findall(r"(\w+)=([\dx_\-]+)", _braces(i.attributes, "window=")))

        def of(key: str, default: str) -> list[str]:
            return window[key].split("x") if key in window else [default] * len(spatial)

        positions = 1
        for at, label in enumerate(sorted(spatial)):
            low = int(of("pad", "0_0")[at].split("_")[0])
            out_i = np.arange(out.dims[result.index(label)])[:, None]
            kernel = np.arange(int(of("size", "1")[at]))[None]
            stride, base = int(of("stride", "1")[at]), int(of("lhs_dilate", "1")[at])
            place = out_i * stride - low + kernel * int(of("rhs_dilate", "1")[at])
            size = left.dims[lhs.index(label)]
            positions *= int(((place % base == 0) & (place >= 0) & (place // base < size)).sum())
        features = right.dims[rhs.index("i")] * right.dims[rhs.index("o")]
        groups = re.search(r"batch_group_count=(\d+)", i.attributes)
        batch = left.dims[lhs.index("b")] // (int(groups[1]) if groups else 1)
        return 2.0 * features * batch * positions

    # ---- Memory traffic -----------------------------------------------------------------------

    def _moved(self, i: Instruction) -> float:
        """HBM bytes that an instruction reads and writes, what stays on the chip left out."""
        if i.opcode in _FREE or i.opcode.endswith(("-done", "-update")):
            return 0.0
        if i.opcode == "custom-call" and "AllocateBuffer" in i.attributes:
            return 0.0
        read = [self._of[name].shapes for name in i.operands if name in self._of]
        if i.opcode == "fusion":
            return self._fusion_moved(i)
        if i.opcode in _SLICES:
            return 2.0 * _hbm(i.shapes)
        if i.opcode in ("slice-start", "dynamic-slice-start"):
            return float(i.shapes[1].bytes + _hbm(i.shapes[1:2]))  # (operand, slice, ...)
        if i.opcode == "dynamic-update-slice":
            return 2.0 * _hbm(read[1]) if i.shapes[0].in_hbm else 0.0
        results = i.shapes[:1] if i.opcode.endswith("-start") else i.shapes
        return float(sum(_hbm(shapes) for shapes in read) + _hbm(results))

    def _fusion_moved(self, i: Instruction) -> float:
        (name,) = i.called("calls")[:1]
        body = self.computations.get(name, [])
        users: dict[str, list[Instruction]] = {}
        for inner in body:
            for operand in inner.operands:
                users.setdefault(operand, []).append(inner)
        total = 0.0
        parameters = [p for p in body if p.opcode == "parameter"]
        updates = [p for p in body if p.opcode == "dynamic-update-slice"]
        for parameter in parameters:
            if not all(shape.in_hbm for shape in self._outer(i, parameter)):
                continue
            uses = users.get(parameter.name, [])
            if uses and all(u.opcode in _SLICES and u.operands[0] == parameter.name for u in uses):
                total += sum(u.shapes[0].bytes for u in uses)
            elif any(
                u.opcode == "dynamic-update-slice" and u.operands[0] == parameter.name for u in uses
            ):
                continue  # Written in place.
            else:
                total += sum(shape.bytes for shape in parameter.shapes)
        for shape in i.shapes:
            if not shape.in_hbm:
                continue
            inplace = [u for u in updates if u.shapes[0].dims == shape.dims]
            if inplace:
                written = self._of.get(inplace[0].operands[1])
                total += 2.0 * written.shapes[0].bytes if written else 0.0
            else:
                total += shape.bytes
        return total

    def _outer(self, i: Instruction, parameter: Instruction) -> tuple[Shape, ...]:
        """The operand of the fusion that a parameter stands for: it has the memory space."""
        operand = self._of.get(i.operands[parameter.number])
        return parameter.shapes if operand is None else operand.shapes


def _hbm(shapes: Sequence[Shape]) -> int:
    return sum(shape.bytes for shape in shapes if shape.in_hbm)


def _kind(i: Instruction) -> str:
    """The kind of collective that an instruction is or starts, or nothing."""
    if i.opcode in COLLECTIVES:
        return i.opcode
    kind = i.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES and kind != i.opcode else ""


def _braces(text: str, start: str) -> str:
    at = text.find(start)
    return "" if at < 0 else text[at : text.find("}", at)]


def _group(i: Instruction, devices: int) -> int:
    """Devices that exchange data with one another."""
    if "source_target_pairs=" in i.attributes:
        return 2
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", i.attributes)
    if named:
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'(\w+)'", named[2]))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", i.attributes)
    if iota:
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", i.attributes)
    return len(listed[1].split(",")) if listed else devices
