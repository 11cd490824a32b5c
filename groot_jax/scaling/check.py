"""One step of a config on one slice: compiled, weighed and timed by estimate."""

from __future__ import annotations

import re
from typing import Any

import jax
from ml_collections import ConfigDict

from groot_jax.scaling.chips import GIB, Slice, abstract_devices
from groot_jax.scaling.hlo import Program
from groot_jax.scaling.programs import Programs, model_of
from groot_jax.scaling.roofline import estimate
from groot_jax.scaling.workload import Sentences, make_workload
from groot_jax.training.setup import place

_EXAMPLES = 16  # Sentences made up; larger batches repeat them.


def open_programs(config: ConfigDict, slice_: Slice, args: Any) -> Programs:
    """The programs of `config` on a slice, nothing compiled yet. Raises UserError."""
    devices = abstract_devices(slice_)
    model_config, vocab_size = model_of(config)
    sentences = Sentences(args.words, args.pieces, args.types)
    workload = make_workload(config, vocab_size, sentences, _EXAMPLES, (args.source, args.target))
    return Programs(config, model_config, place(config, model_config, devices), workload)


def check_step(programs: Programs, step: str, slice_: Slice) -> dict[str, Any]:
    """What --json says of a step, and whether it fits, with the reason where it does not."""
    hbm = slice_.chip.hbm_bytes
    params, state = programs.state_bytes()
    # The search runs while the moments of the optimizer lie beside it.
    resident = state - params if step == "generate" else 0
    if state > hbm:
        return _refused(f"the training state alone takes {state / GIB:.1f} GiB a chip", state)
    try:
        compiled = programs.lower(step).compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", str(error))
        if used is None:
            raise
        size = float(used[1]) * 1024 ** ("KMGT".index(used[2]) + 1)
        return _refused(
            f"the compiler needs {used[1]}{used[2]}iB of the {used[3]}{used[4]}iB that it has",
            int(size),
        )
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
    peak = roof.seconds * slice_.chip.flops * slice_.size
    result = {
        "fits": needed <= hbm,
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
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
        "seconds": {"flops": roof.flops_seconds, "hbm": roof.hbm_seconds, "ici": roof.ici_seconds},
        "batch_size": programs.rows(step),
        "sentences_per_second": programs.rows(step) / roof.seconds,
        "model_flop_utilisation": float(programs.needed_flops(step) / peak),
    }
    if not result["fits"]:
        result["reason"] = f"it takes {needed / GIB:.1f} GiB a chip"
    return result


def _refused(reason: str, needed: int) -> dict[str, Any]:
    return {"fits": False, "reason": reason, "needed_bytes": needed}
