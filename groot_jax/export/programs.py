"""The whole labeling function as StableHLO, by `jax.export`: ids in, ranked ids and scores out.

One program for each length of output, for any number of sentences and any length of source, on
CPUs, CUDA GPUs and TPUs. A program holds no weights: they are its first argument.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from groot_jax.errors import UserError
from groot_jax.generate.beam_search import beam_search
from groot_jax.generate.grammar import plan_steps
from groot_jax.generate.inputs import SearchInput
from groot_jax.model.t5 import T5
from groot_jax.task import Task
from groot_jax.trained import Trained

PLATFORMS = ("cpu", "cuda", "tpu")
# A sentence that training did not have may be longer: further programs, each so much longer than
# the last, up to the longest sentence that the labeler takes. Their lengths are those of batches.
_GROWTH = 1.5


def write_stablehlo(trained: Trained, folder: Path) -> None:
    """programs/LENGTH.stablehlo and weights.npz. Raises UserError where flatbuffers is missing, in
    whose format `jax.export` writes."""
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise UserError(
            "--format=stablehlo: jax.export writes with the package flatbuffers, which is not "
            "installed; pip install 'groot_jax[stablehlo]'"
        ) from None
    # The names of a flat tree, for npz: "decoder/block/0/...".
    weights = {
        "/".join(path): np.asarray(x, np.float32)
        for path, x in flatten_dict(trained.params).items()
    }
    np.savez(folder / "weights.npz", allow_pickle=False, **weights)
    (folder / "programs").mkdir()
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    for length in program_lengths(trained.task):
        program = labeling_program(trained.task, length, shapes)
        (folder / "programs" / f"{length}.stablehlo").write_bytes(program.serialize())


def program_lengths(task: Task) -> list[int]:
    """Target lengths that get a program: those of training's batches, then fewer and fewer."""
    lengths = sorted({target for _, target in task.ladder.rungs})
    words = task.max_words
    longer = [length for length in task.ladder.target if not lengths or length > lengths[-1]]
    for length, following in pairwise([*longer, 0]):
        last = lengths[-1] if lengths else 0
        if task.format.words_in(last) >= words:
            break
        enough = task.format.words_in(length) >= words
        if enough or following == 0 or following > last * _GROWTH:
            lengths.append(length)
    return lengths


def labeling_program(task: Task, length: int, weights: Any) -> export.Exported:
    """The search for outputs of up to `length` ids, of (weights, arrays) -> (tokens [B, K, length],
    scores [B, K], -inf where there is no labeling). `weights`: shapes, by name.

    Arrays, int32: `source` [B, S], `template` [B, length], `cap` [B], and by the format
    `fused_source` [B, S, F], `fused_target` [B, length], `aligned` [B, length]: see `SearchInput`.
    """
    format_, settings, grammar = task.format, task.config.generate, task.grammar
    model, fused = T5(task.model_config), format_.fused_width
    plan = plan_steps(format_, grammar, length, use_grammar=True)

    def label(weights: Any, arrays: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        source_BxS = arrays["source"]
        rows, width = source_BxS.shape
        inputs = SearchInput(
            source_BxS,
            arrays.get("fused_source", jnp.zeros((rows, width, 0), jnp.int32)),
            arrays["template"],
            arrays.get("fused_target", jnp.zeros((rows, length), jnp.int32)),
            arrays.get("aligned"),
            arrays["cap"],
        )
        params = unflatten_dict({tuple(name.split("/")): x for name, x in weights.items()})
        beams = beam_search(
            model,
            params,
            grammar,
            plan,
            inputs,
            k=settings.k,
            length_penalty=settings.length_penalty,
        )
        return beams.tokens_BxKxT, jnp.where(beams.valid_BxK, beams.scores_BxK, -jnp.inf)

    rows, width = export.symbolic_shape("rows, width")
    shapes = {
        "source": (rows, width),
        "template": (rows, length),
        "cap": (rows,),
    }
    if fused:
        shapes["fused_source"] = (rows, width, fused)
    if any(format_.fused_target(1)):
        shapes["fused_target"] = (rows, length)
    if format_.aligned(1) is not None:
        shapes["aligned"] = (rows, length)
    arrays = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    return export.export(jax.jit(label), platforms=PLATFORMS)(weights, arrays)
