"""Steps of a config on a slice: compiled, weighed and timed by estimate; what fits when they don't.

Prints nothing: see `preflight.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from groot_jax.errors import UserError
from groot_jax.model.config import T5Config
from groot_jax.model.t5 import param_shapes
from groot_jax.scaling.chips import GIB, Slice, abstract_devices
from groot_jax.scaling.hlo import Program
from groot_jax.scaling.programs import Programs, model_of
from groot_jax.scaling.roofline import estimate
from groot_jax.scaling.workload import Sentences, Workload, make_workload
from groot_jax.training.setup import make_partitioning

_EXAMPLES = 16  # Sentences made up; larger batches repeat them.
_MOST_CHIPS = 1 << 14
_STATE_SHARE = 0.8  # Of a chip's memory, for a training state that leaves room to work in.
# Compilers at a time, each of which keeps about one core busy. Of models with more parameters than
# `_LARGE` one takes 3 to 5 GiB of host memory, 8 and more where their layers are no loop: they wait
# for one another, and are compiled with the least effort to make them fast, in half the time.
# (Base's update, compiled both ways: a fifth fewer temporaries and a quarter less estimated time
# with the least effort.)
_COMPILERS = 2
_LARGE = 2_000_000_000
_QUICK = {"exec_time_optimization_effort": -1.0}


@dataclass(frozen=True)
class Question:
    """A config on a slice, with the sentences that it is to work on; `size` is (S, T), None: the
    bucket of config.loader that holds them."""

    config: ConfigDict
    slice: Slice
    sentences: Sentences
    size: tuple[int | None, int | None] = (None, None)

    def parts(self) -> tuple[T5Config, Workload, list[Any]]:
        """Model, sentences and devices. Raises UserError for what the config has wrong."""
        devices = abstract_devices(self.slice)
        model_config, vocab_size = model_of(self.config)
        workload = make_workload(self.config, vocab_size, self.sentences, _EXAMPLES, self.size)
        return model_config, workload, devices

    def programs(self, parts: tuple[T5Config, Workload, list[Any]] | None = None) -> Programs:
        """Everything ready to be compiled. Raises UserError for a mesh or batch that is none."""
        model_config, workload, devices = parts or self.parts()
        partitioning = make_partitioning(self.config, model_config, devices)
        return Programs(self.config, model_config, partitioning, workload)

    def on(self, choice: Choice) -> Question:
        """The same with another mesh and batch size."""
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.mesh.data, config.mesh.fsdp, config.mesh.tensor = choice.mesh
            config.nll.batch_size = config.groot.batch_size = choice.batch_size
            config.groot.accumulate = 1
        return Question(config.lock(), self.slice, self.sentences, self.size)


class Choice(NamedTuple):
    """A mesh (data, fsdp, tensor) with a batch size of both stages."""

    mesh: tuple[int, int, int]
    batch_size: int

    def __str__(self) -> str:
        data, fsdp, tensor = self.mesh
        return (
            f"--config.mesh.data={data} --config.mesh.fsdp={fsdp} --config.mesh.tensor={tensor} "
            f"--config.nll.batch_size={self.batch_size} "
            f"--config.groot.batch_size={self.batch_size} --config.groot.accumulate=1"
        )


# ---- One step ---------------------------------------------------------------------------------


def check_steps(question: Question, steps: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What --json says of each step; those that do not fit have a `reason`.

    A mesh or batch that does not divide the slice does not fit it. Raises UserError for what would
    be wrong on any.
    """
    parts = question.parts()
    try:
        programs = question.programs(parts)
    except UserError as error:
        return {step: _refused(str(error), None, None) for step in steps}
    large = model_size(parts[0]) > _LARGE
    with ThreadPoolExecutor(1 if large else _COMPILERS) as pool:
        found = pool.map(lambda step: _check(programs, step, question.slice, large), steps)
        return dict(zip(steps, found, strict=True))


def _check(programs: Programs, step: str, slice_: Slice, quick: bool) -> dict[str, Any]:
    hbm = slice_.chip.hbm_bytes
    params, state = programs.state_bytes()
    # The search runs while the moments of the optimizer lie beside it.
    resident = state - params if step == "generate" else 0
    if state > hbm:
        return _refused(f"parameters and moments alone take {_gib(state)} a chip", state, state)
    try:
        lowered = programs.lower(step)
        compiled = lowered.compile(compiler_options=_QUICK if quick else None)
    except jax.errors.JaxRuntimeError as error:
        used = refusal(str(error))
        if used is None:
            raise
        return _refused(f"the compiler needs {_gib(used)} a chip", used, state)
    memory = compiled.memory_analysis()
    cost = Program(compiled.as_text()).cost(programs.trips(step))
    roof = estimate(cost, slice_)
    needed = (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.generated_code_size_in_bytes
        + resident
    )
    rows, peak = programs.rows(step), roof.seconds * slice_.chip.flops * slice_.size
    result: dict[str, Any] = {
        "fits": needed <= hbm,
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,  # Outputs that take an argument's place.
        "resident_bytes": resident,
        "needed_bytes": needed,
        "flops": cost.flops,
        "hbm_bytes": cost.hbm_bytes,
        "collectives": {
            kind: {"count": count, "bytes": size}
            for kind, (count, size) in sorted(cost.collectives.items())
        },
        "estimated_seconds": roof.seconds,
        "bound_by": roof.bound_by,
        "effort": "least" if quick else "full",  # That the compiler made to be fast.
        "seconds": {"flops": roof.flops_seconds, "hbm": roof.hbm_seconds, "ici": roof.ici_seconds},
        "batch_size": rows,
        "sentences_per_second": rows / roof.seconds,
        "model_flop_utilisation": float(programs.needed_flops(step) / peak),
    }
    if not result["fits"]:
        result["reason"] = f"it takes {_gib(needed)} a chip"
    return result


def refusal(message: str) -> int | None:
    """Bytes that the TPU compiler says it would need, of its message that they are not there."""
    used = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", message)
    return int(float(used[1]) * 1024.0 ** ("KMGT".index(used[2]) + 1)) if used else None


def model_size(config: T5Config) -> int:
    """Number of parameters."""
    return sum(math.prod(shape.shape) for shape in jax.tree.leaves(param_shapes(config)))


def _refused(reason: str, needed: int | None, argument: int | None) -> dict[str, Any]:
    unknown = ("temp_bytes", "output_bytes", "flops", "hbm_bytes", "estimated_seconds", "bound_by")
    return {
        "fits": False,
        "reason": reason,
        "argument_bytes": argument,
        "needed_bytes": needed,
        "collectives": {},
        **dict.fromkeys(unknown),
    }


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


# ---- What else could fit ----------------------------------------------------------------------


def choices(question: Question) -> Iterator[Choice]:
    """Meshes of the slice over which the training state leaves room, each with batch sizes from a
    sentence a device on; the least changed first."""
    config, chips = question.config, question.slice.size
    model_config, _ = model_of(config)
    found = []
    for tensor in _powers(min(chips, model_config.num_heads)):
        for fsdp in _powers(chips // tensor):
            if chips % (tensor * fsdp) or model_config.num_heads % tensor:
                continue
            mesh = (chips // (tensor * fsdp), fsdp, tensor)
            ways = mesh[0] * fsdp
            sizes = {ways * n for n in _powers(max(1, 4 * config.groot.batch_size // ways))}
            found += [Choice(mesh, size) for size in sizes]
    sizes_of = config.mesh

    def distance(choice: Choice) -> float:
        steps = abs(math.log2(choice.batch_size / config.groot.batch_size))
        for axis, size in zip(("data", "fsdp", "tensor"), choice.mesh, strict=True):
            if sizes_of[axis] > 0:
                steps += abs(math.log2(size / sizes_of[axis]))
        return steps

    state: dict[tuple[int, int, int], int] = {}
    for choice in sorted(found, key=distance):
        if choice.mesh not in state:
            state[choice.mesh] = question.on(choice).programs().state_bytes()[1]
        if state[choice.mesh] <= _STATE_SHARE * question.slice.chip.hbm_bytes:
            yield choice


def nearest_that_fits(question: Question, steps: Sequence[str], tries: int) -> Choice | None:
    """The least change of mesh and batch with which `steps` fit; compiles `tries` of them."""
    for _, choice in zip(range(tries), choices(question), strict=False):
        try:
            found = check_steps(question.on(choice), steps)
        except UserError:
            continue
        if all(result["fits"] for result in found.values()):
            return choice
    return None


def larger_slice(question: Question) -> Slice | None:
    """The next slice of the chip, doubling the shortest side, whose chips hold the training state,
    split over all of them; nothing is compiled."""
    grid = list(question.slice.grid)
    state = question.slice.size * least_state(question)
    while math.prod(grid) < _MOST_CHIPS:
        grid[grid.index(min(grid))] *= 2
        if state / math.prod(grid) <= _STATE_SHARE * question.slice.chip.hbm_bytes:
            return Slice(question.slice.chip, tuple(grid))
    return None


def least_state(question: Question) -> int:
    """Bytes of parameters and moments on a chip where they are split over the whole slice."""
    chips = question.slice.size
    return question.on(Choice((1, chips, 1), chips)).programs().state_bytes()[1]


def search(question: Question, tries: int) -> list[tuple[Choice, dict[str, Any]]]:
    """The updates of so many meshes and batch sizes, most sentences a second first; those that do
    not fit come last."""
    picked = spread(list(choices(question)), tries)
    found = []
    for choice in picked:
        try:
            found.append((choice, check_steps(question.on(choice), ("update",))["update"]))
        except UserError:
            continue

    def rate(item: tuple[Choice, dict[str, Any]]) -> float:
        return float(item[1]["sentences_per_second"]) if item[1]["fits"] else 0.0

    return sorted(found, key=rate, reverse=True)


def spread(items: Sequence[Choice], count: int) -> list[Choice]:
    """`count` of the choices: of each mesh in turn its largest batch first."""
    by_mesh: dict[tuple[int, int, int], list[Choice]] = {}
    for item in items:
        by_mesh.setdefault(item.mesh, []).append(item)
    queues = [sorted(queue, key=lambda c: c.batch_size) for queue in by_mesh.values()]
    picked: list[Choice] = []
    while len(picked) < count and any(queues):
        for queue in queues:
            if queue and len(picked) < count:
                picked.append(queue.pop())
    return picked


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [1 << i for i in range(max(most, 1).bit_length())]
