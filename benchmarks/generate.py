"""Our beam search against CTranslate2 and transformers, on the same weights and sentences.

    python benchmarks/generate.py [--json] [--sizes=mini,small] [--dtype=bfloat16]

Four modes of ours. `full`: no grammar, softmax over the whole vocabulary, the very work that the
baselines do. `legal`: the same sentences labeled as Sentinel + Tag under the grammar (one token
more than the baselines decode: EOS). `fused`: the same sentences in fused_sentinel, `aligned` in
aligned (a position a word, two pieces in it). What comes out is checked before anything is timed:
`full` against the baselines that compute in float32, the others against a plain beam search on the
host and teacher forcing.

Times are medians of alternated runs in milliseconds a batch. Columns:
  ours_ms               a search of ours
  ct2_..._ms            CTranslate2 in that type, with all cores for one batch
  hf_..._ms             hf_flax: transformers' Flax inside one jit, hf_flax_call: as its
                        documentation calls it, hf_torch_...: torch in that type
  ..._ratio             their time over ours
  ..._spread            the rounds of that ratio: half of them lie within
  ct2_int8_first        share of sentences whose first output in int8 is that of float32
  outputs_equal         whether the check passed
  floor_ratio           time of the products that the answer needs, at the best rate that this
                        machine shows in plain products, over our time
  flop_utilisation      share of the chip's peak that those products reach
  compile_s, hf_..._s   seconds of tracing and compiling
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import baselines, measure, work, workload
from groot_jax.data.batches import Batch
from groot_jax.data.format import TAG, Format
from groot_jax.generate.beam_search import beam_search
from groot_jax.generate.grammar import make_grammar, plan_steps
from groot_jax.generate.inputs import Beams, SearchInput, search_input
from groot_jax.model.config import T5Config
from groot_jax.model.pretrained import save_pretrained
from groot_jax.model.t5 import T5

MODES = ("legal", "full", "fused", "aligned")
TOLERANCE = 1e-4  # Of scores, relative.
# hf_flax: its generate under one jit; hf_flax_call: called as it is.
BASELINES = (
    *("ct2_float32", "ct2_int8", "ct2_bfloat16"),
    *("hf_flax", "hf_flax_call", "hf_torch_float32", "hf_torch_bfloat16"),
)
GROUPS = ("ct2", "hf_flax", "hf_torch")
CT2_TOLERANCE = 1e-3  # Of CTranslate2's scores, relative: it sums in another order.
REFERENCE_SENTENCES = 2  # Searched again on the host, slowly.


Search: TypeAlias = Callable[[measure.Params, SearchInput], Beams]


class Case(NamedTuple):
    """One mode of our search on one workload."""

    format: Format
    batch: Batch
    inputs: SearchInput
    columns_C: np.ndarray
    search: Callable[[T5Config], Search]
    steps: int  # decoder steps, EOS included
    source: int  # source positions


def make_case(mode: str, shape: workload.Shape, config: T5Config) -> Case:
    """The sentences of `shape` as the mode sees them, and its search for a configuration."""
    name = {"fused": "fused_sentinel", "aligned": "aligned"}.get(mode, "sentinel_tag")
    format_ = workload.make_text_format(name)
    batch = workload.encode_batch(workload.make_sentences(shape), format_)
    full = mode == "full"
    # T5's 32,128 columns, or the 200 that the format can emit.
    grammar = make_grammar(format_, "full" if full else "legal", config.vocab_size)
    if full:
        inputs = workload.free_input(batch, shape.steps, config.eos_token_id)
    else:
        inputs = search_input(batch)
    steps = inputs.fused_target_BxT.shape[1]
    plan = plan_steps(format_, grammar, steps, use_grammar=not full)

    def search(config: T5Config) -> Search:
        def run(params: measure.Params, inputs: SearchInput) -> Beams:
            return beam_search(
                T5(config),
                params,
                grammar,
                plan,
                inputs,
                k=shape.k,
                # Without a grammar no output ends before its last step, as EOS is too unlikely.
                keep_unfinished=full,
            )

        return run

    return Case(
        format=format_,
        batch=batch,
        inputs=jax.device_put(inputs),
        columns_C=np.asarray(grammar.columns_C),
        search=search,
        steps=steps,
        source=inputs.source_BxS.shape[1],
    )


def needed(case: Case, config: T5Config, shape: workload.Shape) -> dict[str, work.Work]:
    """What the search of a case cannot do without."""
    return work.search_work(
        config,
        batch=shape.batch,
        source=case.source,
        k=shape.k,
        steps=case.steps,
        columns=len(case.columns_C),
    )


# ---- The slow, plain search -------------------------------------------------------------------


class Reference:
    """Log-probabilities by full forward passes over whole prefixes, and a beam search in Python.

    It shares the model with our search and nothing else: no cache, no forced tokens fed along, no
    backtrack of parents.
    """

    def __init__(self, config: T5Config, params: measure.Params, case: Case, k: int) -> None:
        self._params, self._case, self._k = params, case, k
        self._start = config.decoder_start_token_id
        columns_C = jnp.asarray(case.columns_C)

        def forward(params: measure.Params, *arrays: jax.Array) -> jax.Array:
            logits_KxTxV = T5(config).apply({"params": params}, *arrays)
            return jax.nn.log_softmax(logits_KxTxV[..., columns_C])

        self._forward = jax.jit(forward)
        self._column_of = {int(id_): column for column, id_ in enumerate(case.columns_C)}

    def log_probs(self, row: int, outputs: list[tuple[int, ...]]) -> np.ndarray:
        """log p [len(outputs), T, C] over the columns at each step of outputs of sentence `row`."""
        # Padded to K rows of T tokens, so that one program serves every step. The decoder is
        # causal: what stands after a prefix does not change what it predicts.
        k, T = self._k, self._case.steps
        inputs_KxT = np.zeros((k, T), np.int32)
        for i, ids in enumerate(outputs):
            prefix = [self._start, *ids][:T]
            inputs_KxT[i, : len(prefix)] = prefix
        batch = self._case.batch
        # One sentence for all beams: [1, ...] -> [K, ...].
        sources = (
            np.repeat(array[row : row + 1], k, axis=0)
            for array in (batch.source_BxS, batch.fused_source_BxSxF, batch.fused_target_BxT)
        )
        source_KxS, fused_source_KxSxF, fused_target_KxT = sources
        aligned_KxT = batch.aligned_BxT
        if aligned_KxT is not None:
            aligned_KxT = np.repeat(aligned_KxT[row : row + 1], k, axis=0)
        # [K, T, C]; rows beyond the outputs, and steps beyond their ends, are cut off or not read.
        logp = self._forward(
            self._params, source_KxS, inputs_KxT, fused_source_KxSxF, fused_target_KxT, aligned_KxT
        )
        return np.asarray(logp)[: len(outputs)]

    def scores(self, row: int, outputs: list[tuple[int, ...]]) -> np.ndarray:
        """s of complete outputs, by teacher forcing (the model reads the output itself): the sum of
        its tokens' log-probabilities, EOS included, [len(outputs)]."""
        logp = self.log_probs(row, outputs)
        return np.array(
            [
                sum(float(logp[i, t, self._column_of[id_]]) for t, id_ in enumerate(ids))
                for i, ids in enumerate(outputs)
            ]
        )

    def search(self, row: int) -> list[tuple[int, ...]]:
        """The k best outputs of a sentence, best first; tags are of one piece.

        All outputs follow the sentence's template, such as `<0> TAG <1> TAG EOS`, so that all have
        its length and none has to be compared with a shorter one.
        """
        example = self._case.batch.examples[row]
        assert example is not None
        template = example.template
        beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for t in range(len(template)):
            logp = self.log_probs(row, [ids for _, ids in beams])
            # Every beam by every token that may follow it; the k best of all go on.
            longer = [
                (score + float(logp[i, t, self._column_of[id_]]), (*ids, id_))
                for i, (score, ids) in enumerate(beams)
                for id_ in self._legal(template, ids)
            ]
            beams = sorted(longer, key=lambda beam: -beam[0])[: self._k]
        return [ids for _, ids in beams]

    def _legal(self, template: tuple[int, ...], ids: tuple[int, ...]) -> list[int]:
        """Ids that may follow: the literal, or every tag, `I` only where a span is open."""
        if template[len(ids)] != TAG:
            return [template[len(ids)]]
        tags = self._case.format.tags
        # What was put into the template's TAG slots so far; a span is open after anything but O.
        before = [id_ for id_, item in zip(ids, template, strict=False) if item == TAG]
        is_open = bool(before) and before[-1] != tags["O"][0]
        return [pieces[0] for tag, pieces in tags.items() if tag != "I" or is_open]


def agrees(beams: Beams, config: T5Config, params: measure.Params, case: Case, k: int) -> bool:
    """Whether beams equal the plain search, and their scores those of teacher forcing."""
    reference = Reference(config, params, case, k)
    tokens, scores, valid = (np.asarray(x) for x in beams)
    if not valid.all():
        return False
    for row in range(len(tokens)):
        # [K, T] padded with 0 -> tuples of K lengths.
        outputs = [tuple(id_ for id_ in ids.tolist() if id_) for ids in tokens[row]]
        if not np.allclose(scores[row], reference.scores(row, outputs), rtol=TOLERANCE, atol=0):
            return False
        if row < REFERENCE_SENTENCES and outputs != reference.search(row):
            return False
    return True


# ---- The comparison ---------------------------------------------------------------------------


def exact() -> AbstractContextManager[object]:
    """float32 products in float32, also on devices whose default is less: a TPU multiplies in
    bfloat16, a recent NVIDIA GPU in TF32, which has 10 bits of mantissa instead of 23."""
    cpu = jax.default_backend() == "cpu"
    return nullcontext() if cpu else jax.default_matmul_precision("highest")


def is_exact(config: T5Config) -> bool:
    """Whether a program of this configuration computes in float32 as it is."""
    return config.dtype == "float32" and jax.default_backend() == "cpu"


class Programs(NamedTuple):
    """Compiled searches by mode and `hf_flax`, ready to be called, and seconds to compile each."""

    calls: dict[str, measure.Call]
    seconds: dict[str, float]


def compile_all(
    config: T5Config,
    params: measure.Params,
    cases: dict[str, Case],
    source_BxS: np.ndarray,
    shape: workload.Shape,
    with_flax: bool,
) -> Programs:
    """Our modes and, where it is asked for, transformers' Flax."""
    programs = Programs({}, {})
    for mode, case in cases.items():
        program, seconds = measure.compiled(case.search(config), params, case.inputs)
        programs.calls[mode] = partial(program, params, case.inputs)
        programs.seconds[mode] = seconds
    if not with_flax:
        return programs
    model = baselines.flax_t5(config)
    theirs = baselines.flax_params(model, config, params)
    generate = baselines.flax_generate(model, k=shape.k, steps=shape.steps)
    source = jax.device_put(source_BxS)
    program, seconds = measure.compiled(generate, theirs, source)
    programs.calls["hf_flax"] = partial(program, theirs, source)
    # As its documentation calls it. Under one jit XLA lifts the cross-attention keys and values,
    # which it would make again in every step, out of the loop.
    programs.calls["hf_flax_call"] = partial(generate, theirs, source)
    programs.seconds["hf_flax"] = seconds
    return programs


def check(
    config: T5Config,
    params: measure.Params,
    cases: dict[str, Case],
    calls: dict[str, measure.Call],
    k: int,
) -> dict[str, bool | None]:
    """Whether the outputs of each mode are right; None where there is nothing to compare with. All
    calls that are read compute in float32."""
    equal: dict[str, bool | None] = {}
    for mode, case in cases.items():
        beams = calls[mode]()
        # Theirs know no grammar: what they can be compared with is the free search alone.
        if mode != "full":
            equal[mode] = agrees(beams, config, params, case, k)
            continue
        ours = np.asarray(beams.tokens_BxKxT)
        same = []
        if "hf_flax" in calls:
            same.append(np.array_equal(ours, np.asarray(calls["hf_flax"]()[0])))
        if "hf_torch_float32" in calls:
            same.append(np.array_equal(ours, calls["hf_torch_float32"]()))
        if "ct2_float32" in calls:
            tokens_BxKxT, scores_BxK = calls["ct2_float32"]()
            same.append(np.array_equal(ours, tokens_BxKxT))
            same.append(np.allclose(beams.scores_BxK, scores_BxK, rtol=CT2_TOLERANCE, atol=0))
        equal[mode] = all(same) if same else None
    return equal


def ct2_calls(
    config: T5Config, params: measure.Params, source_BxS: np.ndarray, shape: workload.Shape
) -> dict[str, measure.Call]:
    """CTranslate2's search in each type that it has here; none without it."""
    with tempfile.TemporaryDirectory() as folder:
        translators = baselines.ct2_translators(
            config, params, Path(folder), workload.UNKNOWN
        )  # It has read the file when it is made.
    return {
        f"ct2_{type_}": baselines.ct2_generate(translator, source_BxS, k=shape.k, steps=shape.steps)
        for type_, translator in translators.items()
    }


def torch_calls(
    config: T5Config, params: measure.Params, source_BxS: np.ndarray, shape: workload.Shape
) -> dict[str, measure.Call]:
    """transformers' torch generate in both types, with the weights saved and loaded; none without
    torch."""
    device = baselines.torch_device()
    if device is None:
        return {}
    calls = {}
    # By way of a checkpoint, which is how a user of torch would get these weights.
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(folder, config, params)
        for dtype in ("float32", "bfloat16"):
            model = baselines.torch_t5(Path(folder), dtype, device)
            calls[f"hf_torch_{dtype}"] = baselines.torch_generate(
                model, source_BxS, k=shape.k, steps=shape.steps
            )
    return calls


def run_size(
    size: str, args: Namespace, shape: workload.Shape, rates: work.Rates
) -> list[measure.Row]:
    """One row for each mode of a size."""
    config, params = workload.make_model(size, args.dtype)
    cases = {mode: make_case(mode, shape, config) for mode in args.modes}
    # Theirs read Sentinel + Tag, whatever the modes. Their 32 tokens a sentence are as many as a
    # sentinel and a tag for each of 16 words.
    source_BxS = make_case("legal", shape, config).batch.source_BxS
    others: dict[str, measure.Call] = {}
    if "ct2" in args.baselines:
        others |= ct2_calls(config, params, source_BxS, shape)
    if "hf_torch" in args.baselines:
        others |= torch_calls(config, params, source_BxS, shape)
    flax = "hf_flax" in args.baselines
    programs = compile_all(config, params, cases, source_BxS, shape, flax)
    with exact():
        plain = dataclasses.replace(config, dtype="float32")
        # A type of 8 bits of mantissa orders close candidates otherwise, in ours and in theirs; so
        # outputs are compared in float32, with programs that are not timed.
        checked = programs
        if not is_exact(config):
            checked = compile_all(plain, params, cases, source_BxS, shape, flax)
        equal = check(plain, params, cases, checked.calls | others, shape.k)
    first = same_first(others)
    times = measure.all_rounds(programs.calls | others, args.rounds)
    return [
        _row(size, mode, case, config, shape, rates, times, programs.seconds, equal[mode], first)
        for mode, case in cases.items()
    ]


def same_first(calls: dict[str, measure.Call]) -> float | None:
    """Share of sentences whose first output CTranslate2 keeps in int8; None where it lacks it."""
    if not {"ct2_float32", "ct2_int8"} <= calls.keys():
        return None
    exact_BxT, rounded_BxT = (calls[f"ct2_{type_}"]()[0][:, 0] for type_ in ("float32", "int8"))
    return float((exact_BxT == rounded_BxT).all(1).mean())


def _row(
    size: str,
    mode: str,
    case: Case,
    config: T5Config,
    shape: workload.Shape,
    rates: work.Rates,
    rounds: dict[str, list[float]],
    seconds: dict[str, float],
    equal: bool | None,
    first: float | None,
) -> measure.Row:
    need = work.total(needed(case, config, shape).values())
    times = measure.medians(rounds)
    ours = times[mode]
    row: measure.Row = {"size": size, "mode": mode, "ours_ms": measure.rounded(ours)}
    for name in BASELINES:
        row[f"{name}_ms"] = measure.rounded(times.get(name))
    for name in BASELINES:
        ratio = times[name] / ours if name in times else None
        row[f"{name}_ratio"] = measure.rounded(ratio, 3)
        both = (rounds[name], rounds[mode]) if name in rounds else None
        row[f"{name}_spread"] = measure.spread(*both) if both else None
    return row | {
        "ct2_int8_first": measure.rounded(first, 3),
        "outputs_equal": equal,
        **work.shares(need, ours, rates, config.dtype),
        "gflop": measure.rounded(1e-9 * need.flops),
        "compile_s": measure.rounded(seconds[mode], 3),
        "hf_flax_compile_s": measure.rounded(seconds.get("hf_flax"), 3),
        "dtype": config.dtype,
        "steps": case.steps,
        "source": case.source,
        "columns": len(case.columns_C),
    }


COLUMNS = (
    "size",
    "mode",
    "ours_ms",
    *(f"{name}_ms" for name in BASELINES),
    "ct2_float32_ratio",
    "ct2_float32_spread",
    "ct2_int8_ratio",
    "hf_flax_ratio",
    "hf_flax_call_ratio",
    "hf_torch_float32_ratio",
    "outputs_equal",
    "floor_ratio",
    "flop_utilisation",
    "compile_s",
    "hf_flax_compile_s",
)


def main() -> None:
    parser = measure.arguments(__doc__)
    parser.add_argument("--modes", default=",".join(MODES), help=", ".join(MODES))
    parser.add_argument("--baselines", default=",".join(GROUPS), help=", ".join(GROUPS))
    args = measure.parse(parser)
    args.baselines = tuple(name for name in GROUPS if name in args.baselines.split(","))
    args.modes = tuple(mode for mode in MODES if mode in args.modes.split(","))
    shape = workload.QUICK if args.quick else workload.Shape()
    rates = work.measure_rates(args.dtype, quick=args.quick, rounds=args.rounds)
    rows = []
    for size in args.sizes:
        rows += run_size(size, args, shape, rates)
        jax.clear_caches()
    measure.show(rows, COLUMNS)
    measure.finish(
        measure.device() | {"matmul_gflops": 1e-9 * rates.flops, "results": rows}, args.json
    )


if __name__ == "__main__":
    main()
