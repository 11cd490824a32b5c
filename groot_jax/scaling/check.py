"""Steps of a config on a slice: compiled, weighed and timed by estimate; what fits when they don't.

Prints nothing: see `preflight.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import Any, NamedTuple, TypeAlias

import jax
from ml_collections import ConfigDict

from groot_jax.errors import UserError
from groot_jax.mesh.sizes import MESH_AXES
from groot_jax.model.config import T5Config
from groot_jax.model.param_tree import param_shapes
from groot_jax.scaling.chips import GIB, Slice, abstract_devices
from groot_jax.scaling.cost import cost_of
from groot_jax.scaling.hlo import Program
from groot_jax.scaling.programs import Programs, model_of
from groot_jax.scaling.roofline import estimate, profile
from groot_jax.scaling.workload import Sentences, Workload, make_workload
from groot_jax.training.setup import make_partitioning

_EXAMPLES = 16  # Sentences made up; larger batches repeat them, since shapes alone matter.
# Doubling ends here: a pod of v4 has 4096 chips, and 16x16x24 is the largest slice of v5p.
_MOST_CHIPS = 4096
_STATE_SHARE = 0.8  # Of a chip's memory, for a training state that leaves room to work in.
# Compilers at a time, each of which keeps about one core busy. Of models with more parameters than
# `_LARGE` one takes 3 to 5 GiB of host memory, 8 and more where their layers are no loop: they wait
# for one another, and are compiled with the least effort to make them fast, in half the time.
# (Base's update, compiled both ways: a fifth fewer temporaries and a quarter less estimated time
# with the least effort.)
_COMPILERS = 2
_LARGE = 2_000_000_000
_QUICK = {"exec_time_optimization_effort": -1.0}

_PROFILED = 20  # Places of the model that the report lists.

# What --json says of one step: whether it `fits`, the `reason` where not, and figures of one chip.
StepReport: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A config on a slice, with the sentences that it is to work on."""

    config: ConfigDict
    slice: Slice
    sentences: Sentences

    def parts(self) -> tuple[T5Config, Workload, list[jax.Device]]:
        """Model, sentences and devices. Raises UserError for what the config has wrong."""
        devices = abstract_devices(self.slice)
        model_config, vocab_size = model_of(self.config)
        workload = make_workload(self.config, vocab_size, self.sentences, _EXAMPLES)
        return model_config, workload, devices

    def programs(self) -> Programs:
        """Everything ready to be compiled. Raises UserError for a mesh that is none, too."""
        model_config, workload, devices = self.parts()
        partitioning = make_partitioning(self.config, model_config, devices)
        return Programs(self.config, model_config, partitioning, workload)

    def on(self, choice: Choice) -> Question:
        """The same with another mesh and batch size."""
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.mesh.data, config.mesh.fsdp, config.mesh.tensor = choice.mesh
            config.nll.batch_size = config.groot.batch_size = choice.batch_size
            config.groot.accumulate = 1
        return replace(self, config=config.lock())


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


def check_steps(question: Question, steps: Sequence[str]) -> dict[str, StepReport]:
    """What --json says of each step; those that do not fit have a `reason`.

    A mesh that does not divide the slice does not fit it. Raises UserError for what would be wrong
    on any.
    """
    model_config, workload, devices = question.parts()
    try:
        partitioning = make_partitioning(question.config, model_config, devices)
    except UserError as error:
        return {step: _refused(str(error)) for step in steps}
    programs = Programs(question.config, model_config, partitioning, workload)
    parameters = jax.tree.leaves(param_shapes(model_config))
    large = sum(math.prod(shape.shape) for shape in parameters) > _LARGE
    with ThreadPoolExecutor(1 if large else _COMPILERS) as pool:
        found = pool.map(lambda step: _check(programs, step, question.slice, large), steps)
        return dict(zip(steps, found, strict=True))


def _check(programs: Programs, step: str, tpu_slice: Slice, quick: bool) -> StepReport:
    hbm = tpu_slice.chip.hbm_bytes
    _, state = programs.state_bytes()
    resident = programs.resident_bytes(step)
    # Known at once, where the compiler would take minutes to say it.
    if state > hbm:
        return _refused(f"parameters and moments alone take {_gib(state)} a chip", state, state)
    try:
        lowered: Any = programs.lower(step)  # Declared to take no options that are numbers.
        compiled = lowered.compile(compiler_options=_QUICK if quick else None)
    except jax.errors.JaxRuntimeError as error:
        used = refusal(str(error))
        if used is None:
            raise
        return _refused(f"the compiler needs {_gib(used)} a chip", used, state)
    memory = compiled.memory_analysis()
    cost = cost_of(Program(compiled.as_text()), programs.trips(step))
    roof = estimate(cost, tpu_slice)
    sizes = {
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
    }
    # Outputs that take an argument's place, as the state of an update does: they count once.
    aliased = memory.alias_size_in_bytes
    needed = sum(sizes.values()) - aliased + resident
    rows, peak = programs.rows(step), roof.seconds * tpu_slice.chip.flops * tpu_slice.size
    result: StepReport = {
        "fits": needed <= hbm,
        **sizes,
        "aliased_bytes": aliased,
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
        "model_flop_utilisation": programs.needed_flops(step) / peak,
        "profile": [item._asdict() for item in profile(cost, tpu_slice.chip, _PROFILED)],
    }
    if not result["fits"]:
        result["reason"] = f"it takes {_gib(needed)} a chip"
    return result


def refusal(message: str) -> int | None:
    """Bytes that the TPU compiler says it would need, of its message that they are not there; None
    for another message. "Used 22.50G of 15.75G hbm" -> 22.5 * 2^30"""
    used = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", message)
    return int(float(used[1]) * 1024.0 ** ("KMGT".index(used[2]) + 1)) if used else None


def _refused(reason: str, needed: int | None = None, argument: int | None = None) -> StepReport:
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
    heads = model_of(config)[0].num_heads
    found = []
    # 16 chips -> (16, 1, 1), (8, 2, 1), ..., (1, 1, 16): powers of two, whose product is 16.
    for tensor in _powers(min(chips, heads)):
        for fsdp in _powers(chips // tensor):
            if chips % (tensor * fsdp) or heads % tensor:
                continue
            mesh = (chips // (tensor * fsdp), fsdp, tensor)
            ways = mesh[0] * fsdp
            sizes = {ways * n for n in _powers(max(1, 4 * config.groot.batch_size // ways))}
            found += [Choice(mesh, size) for size in sizes]

    def distance(choice: Choice) -> float:
        """Doublings and halvings, all together; an axis that is left to fill up (-1) has none."""
        steps = abs(math.log2(choice.batch_size / config.groot.batch_size))
        for axis, size in zip(MESH_AXES, choice.mesh, strict=True):
            if config.mesh[axis] > 0:
                steps += abs(math.log2(size / config.mesh[axis]))
        return steps

    state: dict[tuple[int, int, int], float] = {}
    for choice in sorted(found, key=distance):
        # Worked out when asked for, since whoever asks mostly stops at one of the first.
        if choice.mesh not in state:
            state[choice.mesh] = math.inf  # If the config forbids it, as mesh.sums=ordered may.
            with suppress(UserError):
                state[choice.mesh] = question.on(choice).programs().state_bytes()[1]
        if state[choice.mesh] <= _STATE_SHARE * question.slice.chip.hbm_bytes:
            yield choice


def nearest_that_fits(question: Question, steps: Sequence[str], tries: int) -> Choice | None:
    """The least change of mesh and batch with which `steps` fit; compiles `tries` of them."""

    def fits(choice: Choice) -> bool:
        return all(found["fits"] for found in check_steps(question.on(choice), steps).values())

    return next(filter(fits, islice(choices(question), tries)), None)


def larger_slice(question: Question) -> Slice | None:
    """The next slice of the chip, doubling the shortest side, whose chips hold the training state,
    split over all of them; nothing is compiled. None: there is none."""
    chip, grid = question.slice.chip, list(question.slice.grid)
    state = question.slice.size * least_state(question)
    while math.prod(grid) < _MOST_CHIPS:
        # The last of the shortest, as Google writes shapes: 2x2 -> 2x4 -> 4x4 and not 4x2.
        grid[max(i for i, side in enumerate(grid) if side == min(grid))] *= 2
        larger = Slice(chip, tuple(grid))
        there_is = not chip.shapes or larger.shape in chip.shapes
        if there_is and state / larger.size <= _STATE_SHARE * chip.hbm_bytes:
            return larger
    return None


def least_state(question: Question) -> int:
    """Bytes of parameters and moments on a chip where they are split over the whole slice."""
    chips = question.slice.size
    return question.on(Choice((1, chips, 1), chips)).programs().state_bytes()[1]


def search(question: Question, tries: int) -> list[tuple[Choice, StepReport]]:
    """The updates of so many meshes and batch sizes, most sentences a second first; those that do
    not fit come last."""
    found = [
        (choice, check_steps(question.on(choice), ("update",))["update"])
        for choice in spread(list(choices(question)), tries)
    ]

    def rate(item: tuple[Choice, StepReport]) -> float:
        return float(item[1]["sentences_per_second"]) if item[1]["fits"] else 0.0

    return sorted(found, key=rate, reverse=True)


def spread(items: Sequence[Choice], count: int) -> list[Choice]:
    """`count` of the choices: of each mesh in turn its largest batch first.

    Meshes A and B with batches 8 and 16 -> A 16, B 16, A 8, B 8.
    """
    by_mesh: dict[tuple[int, int, int], list[Choice]] = {}
    for item in items:
        by_mesh.setdefault(item.mesh, []).append(item)
    queues = [sorted(queue, key=lambda c: -c.batch_size) for queue in by_mesh.values()]
    rounds = zip_longest(*queues)  # A mesh that has no batch left fills its place with None.
    return list(islice((choice for round_ in rounds for choice in round_ if choice), count))


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [1 << i for i in range(max(most, 1).bit_length())]
