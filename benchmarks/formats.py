"""What a format costs: stage 0's update, the search and the contrastive update, the same sentences.

    python benchmarks/formats.py [--formats aligned,fused_sentinel,sentinel_tag] [--sizes nano,mini]

Sentences of 8 words and 12 pieces, as the built-in corpus has them, labeled alike in each format
and padded to what the format needs; batches, beams and pools are the config's. The programs are
those that training runs.

Columns: milliseconds of stage 0's update (`nll_ms`), of a beam search (`search_ms`) and of the
contrastive update (`update_ms`), medians of alternated runs. `..._ratio`: the time of the first
format over this one's, so above 1 is faster than the first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks import measure
from groot_jax.config import load
from groot_jax.contrast.losses import LossSettings
from groot_jax.contrast.update import Metrics, NllBatch, OutputColumns, PoolBatch, nll_batch
from groot_jax.generate.generator import Generator
from groot_jax.generate.grammar import make_grammar
from groot_jax.generate.inputs import search_input
from groot_jax.mesh import arrays
from groot_jax.mesh.keys import new_key
from groot_jax.model.t5 import init_params
from groot_jax.scaling.programs import model_of
from groot_jax.scaling.workload import Sentences, make_workload
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.setup import make_partitioning
from groot_jax.training.steps import Step, jit_groot_step, jit_nll_step, loss_settings

FORMATS = "aligned,fused_sentinel,sentinel_tag"
STEPS = ("nll", "search", "update")
_TINY = (
    *((f"{stage}.batch_size", "4") for stage in ("nll", "groot")),
    *(("generate.k", "3"), ("groot.pool.size", "4"), ("loader.node_buckets", "256")),
)
# 8 words of 1.5 pieces, and 12 types: the built-in corpus has 13.
_SENTENCES = Sentences(words=8, pieces=1.5, types=12)


def calls_of(config: ConfigDict) -> dict[str, measure.Call]:
    """Each step of training under a config, ready to be called again and again."""
    model_config, vocab_size = model_of(config)
    partitioning = make_partitioning(config, model_config)
    workload = make_workload(config, vocab_size, _SENTENCES, 32)
    grammar = make_grammar(workload.format, config.model.normalise, model_config.vocab_size)
    columns = arrays.put(
        OutputColumns(grammar.columns_C, grammar.column_of_V), partitioning.layout.everywhere
    )
    key = new_key(0)  # The generator that training uses.
    params = init_params(model_config, 0, partitioning.params)

    def update(
        stage: ConfigDict,
        make: Callable[..., Step],
        batch: NllBatch | PoolBatch,
        *losses: LossSettings,
    ) -> measure.Call:
        # Clipped as by default; the length of the schedule does not change what a step costs.
        optimizer = make_optimizer(config.optimizer, stage, 10.0, 1000)
        step = make(stage, optimizer, partitioning)
        # A step takes its state's memory, so that each call goes on from the last one's.
        state = [partitioning.new_state(jax.tree.map(jnp.copy, params), optimizer)]
        batch = arrays.put(batch, partitioning.layout.batch)

        def call() -> tuple[measure.Params, Metrics]:
            state[0], metrics = step(state[0], batch, key, columns, *losses)
            return state[0].params, metrics

        return call

    generator = Generator(
        model_config, workload.format, grammar, k=config.generate.k, layout=partitioning.layout
    )
    inputs = arrays.put(
        search_input(workload.batch(config.groot.batch_size)), partitioning.layout.batch
    )
    start_token = model_config.decoder_start_token_id
    pools = workload.pool_batch(config.groot.batch_size, 1, config.groot.pool.size, start_token)
    return {
        "nll": update(config.nll, jit_nll_step, nll_batch(workload.batch(config.nll.batch_size))),
        "search": lambda: generator.search(params, inputs, None),
        "update": update(
            config.groot, jit_groot_step, pools, loss_settings(config.groot, ("margin",))
        ),
    }


def run_size(size: str, formats: list[str], rounds: int, quick: bool) -> list[measure.Row]:
    """One row a format; all formats' calls take turns. `quick`: with little to compute."""
    shape = list(_TINY) if quick else []
    # `aligned nll`, `aligned search`, ...: all in one round, so that formats are compared minute by
    # minute and not hour by hour.
    calls: dict[str, measure.Call] = {}
    for name in formats:
        settings = [("text.format", name), ("model.preset", size), *shape]
        made = calls_of(load("configs/retail.py", settings))
        calls |= {f"{name} {step}": call for step, call in made.items()}
    times = measure.alternate(calls, rounds)
    rows = []
    for name in formats:
        row: measure.Row = {"size": size, "format": name}
        for step in STEPS:
            row[f"{step}_ms"] = measure.rounded(times[f"{name} {step}"])
            first = times[f"{formats[0]} {step}"]
            row[f"{step}_ratio"] = measure.rounded(first / times[f"{name} {step}"])
        rows.append(row)
    return rows


def main() -> None:
    parser = measure.arguments(__doc__, sizes="nano,mini")
    parser.add_argument("--formats", default=FORMATS, help=f"comma separated ({FORMATS})")
    args = measure.parse(parser)
    rows: list[measure.Row] = []
    for size in args.sizes:
        rows += run_size(size, args.formats.split(","), args.rounds, args.quick)
        jax.clear_caches()
    measure.show(rows)
    measure.finish(measure.device() | {"results": rows}, args.json)


if __name__ == "__main__":
    main()
