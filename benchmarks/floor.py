"""How fast this machine multiplies and reads, and how near generation and update come to that.

    python benchmarks/floor.py [--json] [--sizes=mini,small]

The first table has what the machine can do: products with weights that stay in the cache
(`resident_gflops`), products with weights read from memory (`streamed_gflops`), and memory itself
(`bandwidth_gb_s`). The second has a row for each part of a search and for an update:
  gflop, mib     operations that the answer needs, and bytes that have to be moved
  floor_ms       the time below which the machine cannot do it
  bound          what sets that time, products or memory
  ours_ms        our time
  floor_ratio    share of the best product rate that the needed operations reach in our time
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax

from benchmarks import generate, measure, update, workload
from benchmarks.work import Rates, Work, measure_rates, shares, total
from groot_jax.model.t5 import T5


def part_rows(size: str, dtype: str, rates: Rates, quick: bool, rounds: int) -> list[measure.Row]:
    """Encoder, cross keys and values, search and update of a size: floor and time of each."""
    shape = workload.QUICK if quick else workload.Shape()
    config, params = workload.make_model(size, dtype)
    case = generate.make_case("legal", shape, config)
    model, variables = T5(config), {"params": params}
    works = generate.needed(case, config, shape)
    pools = update.random_pool_set(shape)
    columns = workload.output_columns(pools.columns_C, config.vocab_size)
    key, batch = jax.random.key(0), jax.device_put(pools.batch)
    works["search"] = total(works.values())
    works["update"] = total(update.needed(config, pools.batch, len(pools.columns_C)).values())

    encode = jax.jit(lambda v, ids: model.apply(v, ids, method=model.encode))
    cross_kv = jax.jit(lambda v, encoded: model.apply(v, encoded, method=model.cross_kv))
    encoded = encode(variables, case.inputs.source_BxS)
    times = measure.alternate(
        {
            "encoder": partial(encode, variables, case.inputs.source_BxS),
            "cross_kv": partial(cross_kv, variables, encoded),
            "search": partial(jax.jit(case.search(config)), params, case.inputs),
        },
        rounds,
    )
    # Not in turns with those: a few GB of temporaries leave them no cache.
    compute = partial(jax.jit(update.our_loss_and_gradient(config)), params, batch, key, columns)
    times |= measure.alternate({"update": compute}, rounds)
    # What the search does besides; its two parts cannot be told apart from outside. On a machine
    # that is not quiet the difference may come out below 0.
    works["decoder and projection"] = total((works.pop("decoder"), works.pop("projection")))
    rest = times["search"] - times["encoder"] - times["cross_kv"]
    times["decoder and projection"] = max(rest, 1e-3)
    return [_part(size, part, works[part], times[part], rates, dtype) for part in PARTS]


PARTS = ("encoder", "cross_kv", "decoder and projection", "search", "update")


def _part(size: str, part: str, work: Work, ms: float, rates: Rates, dtype: str) -> measure.Row:
    by_memory = work.bytes / rates.bandwidth > work.flops / rates.flops
    return {
        "size": size,
        "part": part,
        "gflop": measure.rounded(1e-9 * work.flops),
        "mib": measure.rounded(work.bytes / 2**20),
        "floor_ms": measure.rounded(1e3 * work.seconds(rates)),
        "bound": "memory" if by_memory else "products",
        "ours_ms": measure.rounded(ms),
        "achieved_gflops": measure.rounded(1e-9 * work.flops / (1e-3 * ms)),
        **shares(work, ms, rates, dtype),
    }


def main() -> None:
    args = measure.parse(measure.arguments(__doc__))
    rates = {
        dtype: measure_rates(dtype, quick=args.quick, rounds=args.rounds)
        for dtype in ("float32", "bfloat16")
    }
    limits: list[measure.Row] = []
    for dtype, found in rates.items():
        peak = measure.peak_flops(dtype)
        limits.append(
            {
                "dtype": dtype,
                "resident_gflops": measure.rounded(1e-9 * found.resident),
                "streamed_gflops": measure.rounded(1e-9 * found.streamed),
                "bandwidth_gb_s": measure.rounded(1e-9 * found.bandwidth),
                "peak_gflops": measure.rounded(1e-9 * peak) if peak else None,
            }
        )
    measure.show(limits)
    rows: list[measure.Row] = []
    for size in args.sizes:
        rows += part_rows(size, args.dtype, rates[args.dtype], args.quick, args.rounds)
        jax.clear_caches()
    print()
    measure.show(rows)
    measure.finish(
        measure.device() | {"dtype": args.dtype, "rates": limits, "results": rows}, args.json
    )


if __name__ == "__main__":
    main()
