"""What a compiled program does in all: products, memory traffic, collectives, on each device.

XLA's own `cost_analysis` counts the body of a loop once. Here a loop counts as often as it turns:
as its condition says, or as the caller says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from groot_jax.scaling.hlo import Instruction, Program, Shape, first

COLLECTIVES = {
    *("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
}
# They name or regroup what is there.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "domain", "add-dependency"),
}
_SLICES = {"dynamic-slice", "gather", "slice"}
# Which go on while others run, until their `-done`.
_COPIES = {"copy-start", "slice-start", "dynamic-slice-start"}
# Attributes by which an instruction that runs others once names them.
_BRANCHES = ("to_apply", "calls", "branch_computations", "true_computation", "false_computation")


class Part(NamedTuple):
    """What one instruction does each time, and how often it does; seconds are the caller's affair.

    source: the operation of the model that it comes from, with the modules around it; where the
    compiler names none, the instruction's own name.
    until: of a copy that runs beside other instructions, as a TPU brings weights onto the chip
    ahead of their use: the place in `Cost.parts` of the first one that waits for it. 0: it runs
    alone.
    """

    flops: float
    hbm_bytes: float
    times: float
    opcode: str
    source: str
    until: int = 0


@dataclass
class Cost:
    """What a program does on one device."""

    # Of instructions that do anything, in the order of their start.
    parts: list[Part] = field(default_factory=list)
    # (kind, bytes, devices in a group, times, hidden behind other work); bytes: of the larger of
    # operand and result.
    transfers: list[tuple[str, float, int, float, bool]] = field(default_factory=list)

    @property
    def flops(self) -> float:
        """Of matrix products; a multiply and an add are two."""
        return sum(part.times * part.flops for part in self.parts)

    @property
    def hbm_bytes(self) -> float:
        """Bytes read and written off the chip."""
        return sum(part.times * part.hbm_bytes for part in self.parts)

    @property
    def collectives(self) -> dict[str, tuple[float, float]]:
        """Kind -> (times, bytes) in all."""
        totals: dict[str, tuple[float, float]] = {}
        for kind, size, _, times, _ in self.transfers:
            count, total = totals.get(kind, (0.0, 0.0))
            totals[kind] = (count + times, total + times * size)
        return totals


def cost_of(program: Program, trips: Sequence[int] = ()) -> Cost:
    """The cost of one run. `trips`: turns of `program.loops()`, in their order; 1 where it has no
    item."""
    return _Count(program, trips).cost


class _Count:
    """Walks a program from its entry and adds up the cost."""

    def __init__(self, program: Program, trips: Sequence[int]) -> None:
        self.cost = Cost()
        self._program = program
        self._trips = dict(zip((loop.name for loop in program.loops()), trips, strict=False))
        self._add(program.entry, 1.0)

    def _add(
        self,
        name: str,
        times: float,
        fused: bool = False,
        hidden: bool = False,
        seen: set[str] | None = None,
    ) -> float:
        """Adds a computation `times` over; returns its product FLOPs once, for a fusion's part.

        `fused`: what it computes on the way stays on the chip, so that its memory traffic is that
        of the fusion around it. `hidden`: its collectives run behind other work. `seen`: channels
        of collectives that are under way in the computation around the fusion.
        """
        inside = 0.0
        seen = set() if seen is None else seen
        started: dict[str, int] = {}  # copies under way: name of the instruction -> place in parts
        for i in self._program.computations.get(name, ()):
            if i.opcode == "while":
                # Loops within loops multiply: 3 turns of a body with a loop of 5 are 15.
                turns = times * (self._program.turns(i) or self._trips.get(i.name, 1))
                for part in i.called("condition", "body"):
                    self._add(part, turns)
                continue
            if i.opcode in ("call", "conditional", "async-start"):
                for part in i.called(*_BRANCHES):
                    self._add(part, times, hidden=i.opcode == "async-start")
                continue
            flops = 0.0
            if i.opcode == "fusion":
                for part in i.called("calls"):
                    flops += self._add(part, times, True, hidden, seen)
            elif i.opcode in ("convolution", "dot"):
                flops = self._product(i)
            elif (kind := i.opcode.removesuffix("-start")) in COLLECTIVES:
                # Drawn out over several fusions that compute meanwhile, each of which names it.
                drawn_out = fused and "async_collective_fusion_config" in i.attributes
                channel = first(r"channel_id=(\d+)", i.attributes)
                if drawn_out and channel:
                    if channel in seen:
                        continue
                    seen.add(channel)
                # How a TPU's program writes it: an all-reduce of which each chip keeps its slice.
                if fused and name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"
                self._add_collective(i, kind, times, hidden or drawn_out)
            inside += flops
            if not fused:
                parts = self.cost.parts
                at = started.pop(i.operands[0], None) if i.opcode.endswith("-done") else None
                if at is not None:
                    parts[at] = parts[at]._replace(until=len(parts))
                moved = self._moved(i)
                if flops or moved:
                    if i.opcode in _COPIES:
                        started[i.name] = len(parts)
                    source = first(r'op_name="([^"]*)"', i.attributes) or i.name
                    parts.append(Part(flops, moved, times, i.opcode, source))
        return inside

    def _add_collective(self, i: Instruction, kind: str, times: float, hidden: bool) -> None:
        group = _group(i, self._program.devices)
        if group == 1:
            return
        started = i.opcode.endswith("-start")
        operands = sum(shape.bytes for shapes in self._operands(i) for shape in shapes)
        results = sum(shape.bytes for shape in i.shapes)
        if started and kind != "all-reduce":
            results -= operands  # The result holds the operand, too.
        size = max(operands, results)
        self.cost.transfers.append((kind, size, group, times, hidden or started))

    def _operands(self, i: Instruction) -> list[tuple[Shape, ...]]:
        named = self._program.named
        return [named[name].shapes for name in i.operands if name in named]

    def _product(self, i: Instruction) -> float:
        """FLOPs of a convolution, which is what a TPU's products are, or of a dot."""
        left, right = (self._program.named[name].shapes[0] for name in i.operands[:2])
        out = i.shapes[0]
        if i.opcode == "dot":
            # [M, K] @ [K, N] -> 2 * M * N * K: each output sums K products.
            contracting = first(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes).split(",")
            summed = math.prod(left.dims[int(d)] for d in contracting if d)
            return 2.0 * math.prod(out.dims) * summed
        # 0bf_0io->0bf: of each operand, which dimension is batch, feature, input, output features,
        # and which spatial ones (digits) the window slides along.
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
        if labels is None:
            raise ValueError(f"a convolution without dim_labels: {i.name}")
        lhs, rhs, result = labels[1], labels[2], labels[3]
        spatial = [c for c in result if c.isdigit()]
        written = first(r"window=\{([^}]*)\}", i.attributes)
        window = {key: text.split("x") for key, text in re.findall(r"(\w+)=([\dx_\-]+)", written)}

        def of(key: str, default: str, at: int) -> int:
            # pad=3_3 is low_high; what high adds shows in the size of the output.
            return int(window.get(key, [default] * len(spatial))[at].split("_")[0])

        positions = 1
        for at, label in enumerate(sorted(spatial)):
            # Where output o and kernel tap k meet the input: o * stride - low + k * rhs_dilate. It
            # counts where that lies inside, and on no hole that lhs_dilate makes between inputs.
            # A product of 4 pairs of matrices is written as size=4 stride=3 lhs_dilate=4: output o
            # meets input i where 3 * o + k = 4 * i, for k = o = i alone; 4 positions, not 4 * 4.
            out_i = np.arange(out.dims[result.index(label)])[:, None]
            kernel = np.arange(of("size", "1", at))[None]
            base = of("lhs_dilate", "1", at)
            place = out_i * of("stride", "1", at) - of("pad", "0_0", at)
            place = place + kernel * of("rhs_dilate", "1", at)
            size = left.dims[lhs.index(label)]
            positions *= int(((place % base == 0) & (place >= 0) & (place // base < size)).sum())
        features = right.dims[rhs.index("i")] * right.dims[rhs.index("o")]
        groups = int(first(r"batch_group_count=(\d+)", i.attributes) or 1)
        return 2.0 * features * (left.dims[lhs.index("b")] // groups) * positions

    # ---- Memory traffic -----------------------------------------------------------------------

    def _moved(self, i: Instruction) -> float:
        """HBM bytes that an instruction reads and writes, what stays on the chip left out."""
        # What has been started is counted there, and not once more where it is waited for.
        if i.opcode in _FREE or i.opcode.endswith(("-done", "-update")):
            return 0.0
        if i.opcode == "custom-call" and "AllocateBuffer" in i.attributes:
            return 0.0
        if i.opcode == "fusion":
            return self._fusion_moved(i)
        # A slice reads of its operand what it takes, however large the operand is.
        if i.opcode in _SLICES:
            return 2.0 * _hbm(i.shapes)
        if i.opcode in ("slice-start", "dynamic-slice-start"):
            return float(i.shapes[1].bytes + _hbm(i.shapes[1:2]))  # (operand, slice, ...)
        read = self._operands(i)
        if i.opcode == "dynamic-update-slice":  # In place: it reads and writes the update.
            return 2.0 * _hbm(read[1]) if i.shapes[0].in_hbm else 0.0
        results = i.shapes[:1] if i.opcode.endswith("-start") else i.shapes
        return float(sum(_hbm(shapes) for shapes in read) + _hbm(results))

    def _fusion_moved(self, i: Instruction) -> float:
        """What a fusion reads of its operands and writes of its results: whole arrays, but where it
        takes or replaces a slice only that."""
        named = self._program.named
        body = self._program.computations.get(i.called("calls")[0], [])
        users: dict[str, list[Instruction]] = {}
        for inner in body:
            for operand in inner.operands:
                users.setdefault(operand, []).append(inner)
        total = 0.0
        for parameter in (p for p in body if p.opcode == "parameter"):
            # Parameter n stands for operand n, which alone has the memory space in its layout.
            operand_of = named.get(i.operands[parameter.number], parameter)
            if not all(shape.in_hbm for shape in operand_of.shapes):
                continue
            uses = users.get(parameter.name, [])
            first_of = {u.opcode for u in uses if u.operands[0] == parameter.name}
            if uses and all(u.opcode in _SLICES and u.operands[0] == parameter.name for u in uses):
                total += sum(u.shapes[0].bytes for u in uses)
            elif "dynamic-update-slice" not in first_of:  # Else it is written in place.
                total += sum(shape.bytes for shape in parameter.shapes)
        updates = [p for p in body if p.opcode == "dynamic-update-slice"]
        for shape in i.shapes:
            if not shape.in_hbm:
                continue
            inplace = [u for u in updates if u.shapes[0].dims == shape.dims]
            if inplace:
                written = named.get(inplace[0].operands[1])
                total += 2.0 * written.shapes[0].bytes if written else 0.0
            else:
                total += shape.bytes
        return total


def _hbm(shapes: Sequence[Shape]) -> int:
    return sum(shape.bytes for shape in shapes if shape.in_hbm)


def _group(i: Instruction, devices: int) -> int:
    """Devices that exchange data with one another, as one of the four ways to write it says."""
    # source_target_pairs={{0,1},{1,2}}: each sends to one.
    if "source_target_pairs=" in i.attributes:
        return 2
    # replica_groups=mesh['a'=2,'b'=4] {'b'}: over the axis b, 4.
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", i.attributes)
    if named:
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'(\w+)'", named[2]))
    # replica_groups=[2,8]<=[16]: two groups of 8.
    iota = first(r"replica_groups=\[\d+,(\d+)\]", i.attributes)
    if iota:
        return int(iota)
    # replica_groups={{0,1},{2,3}}: groups of 2. None given: all devices.
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", i.attributes)
    return len(listed[1].split(",")) if listed else devices
