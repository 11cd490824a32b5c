"""How sure a difference is: the paired bootstrap over sentences, mean and deviation over seeds.

Pure numpy over per-sentence figures and finished results; it may not score anything itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def paired_bootstrap(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean of a - b over the same sentences, with its 95 % percentile interval.

    `share_not_above` is the share of resamples in which a is not above b, a one-sided p-value's
    stand-in (Koehn 2004, paired bootstrap resampling). Raises ValueError on unequal lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"a bootstrap pairs sentences, but there are {len(a)} and {len(b)}")
    difference_N = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    n = len(difference_N)
    if n == 0 or resamples < 1:
        raise ValueError("a bootstrap needs at least one sentence and one resample")
    rng = np.random.default_rng(seed)
    # In parts of some 8 MiB, so that a large split does not take resamples * N numbers at once.
    part = max(1, 2**20 // n)
    means = np.concatenate(
        [
            difference_N[rng.integers(0, n, (min(part, resamples - done), n))].mean(axis=1)
            for done in range(0, resamples, part)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "difference": float(difference_N.mean()),
        "interval": [float(low), float(high)],
        "share_not_above": float((means <= 0).mean()),
        "resamples": resamples,
    }


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) of every number that all runs have, tree for tree.

    Takes metrics, or whole results, of the same systems under several seeds. A number becomes
    {"mean", "std", "n"}, std None for one run; lists are cut to the shortest; the rest is dropped.
    """
    if not runs:
        raise ValueError("a summary over seeds needs at least one run")
    summary: dict[str, Any] = _over_seeds(list(runs))
    return summary


def _over_seeds(values: list[Any]) -> Any:
    if all(isinstance(value, Mapping) for value in values):
        shared = [key for key in values[0] if all(key in value for value in values)]
        merged = {key: _over_seeds([value[key] for value in values]) for key in shared}
        return {key: value for key, value in merged.items() if value is not None}
    if all(isinstance(value, (list, tuple)) for value in values):
        return [_over_seeds(list(items)) for items in zip(*values, strict=False)]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return {"mean": float(np.mean(values)), "std": std, "n": len(values)}
    return None
