"""How sure a difference is: the paired bootstrap over sentences.

Pure numpy over per-sentence figures; it may not score anything itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np


class Difference(TypedDict):
    """Mean of a - b over the same sentences, with its 95 % percentile interval.

    `share_not_above` is the share of resamples in which a is not above b, a one-sided p-value's
    stand-in (Koehn 2004, paired bootstrap resampling).
    """

    difference: float
    interval: list[float]
    share_not_above: float
    resamples: int


def paired_bootstrap(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, resamples: int
) -> Difference:
    """Compares two systems by their figures [N] of the same N sentences.

    There has to be a sentence, and a resample.
    """
    difference_N = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    # N of N sentences are drawn with replacement, each with the figures of both systems: a sentence
    # that is hard for both leaves the difference alone. Systems drawn apart would differ by which
    # sentences each got, and the interval would be too wide.
    means = np.concatenate(
        [difference_N[drawn].mean(axis=1) for drawn in _resamples(len(difference_N), resamples)]
    )
    return {
        "difference": float(difference_N.mean()),
        "interval": _middle(means),
        "share_not_above": float((means <= 0).mean()),
        "resamples": resamples,
    }


def ratio_interval(parts: np.ndarray, wholes: np.ndarray, resamples: int) -> list[float]:
    """The 95 % percentile interval of sum(parts) / sum(wholes), both [N] over sentences.

    Precision, say: right spans over predicted ones, which is no mean over sentences. A resample
    without any predicted counts as 0. There has to be a sentence, and a resample.
    """
    ratios = [
        parts[drawn].sum(axis=1) / np.maximum(wholes[drawn].sum(axis=1), 1e-9)
        for drawn in _resamples(len(parts), resamples)
    ]
    return _middle(np.concatenate(ratios))


def _resamples(n: int, resamples: int) -> Iterator[np.ndarray]:
    """Indices of N of N sentences, drawn with replacement, [some, N] at a time."""
    # A fixed seed: the same figures have the same interval whenever a report is made.
    rng = np.random.default_rng(0)
    # In parts of 2**20 draws, 8 MiB: 1,000 resamples of a split of 100,000 would take 800 MB.
    part = max(1, 2**20 // n)
    for done in range(0, resamples, part):
        yield rng.integers(0, n, (min(part, resamples - done), n))


def _middle(values: np.ndarray) -> list[float]:
    """2.5 % of the resamples lie below, 2.5 % above."""
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]
