"""The few sizes that batches are padded to: each size is a program to compile, padding is wasted.

May not know of sentences, formats or models; no JAX.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from groot_jax.errors import UserError

Size = tuple[int, int]  # Source positions and decoder steps: (S, T).


@dataclass(frozen=True)
class Ladder:
    """The sizes that batches are padded to, cheapest first; few, so that few programs are compiled.
    `source` and `target` are the lengths allowed."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    rungs: tuple[Size, ...] = ()

    def of(self, need: Size) -> Size:
        """The first rung that holds `need`; beyond all rungs, a size of its own.

        Raises UserError beyond the largest lengths allowed.
        """
        for rung in self.rungs:
            if holds(rung, need):
                return rung
        # A sentence that training did not have may be longer: no smaller than the top rung in
        # either length, so that few more sizes come up.
        top = self.rungs[-1] if self.rungs else (0, 0)
        return (
            _round_up("source", max(need[0], top[0]), self.source),
            _round_up("target", max(need[1], top[1]), self.target),
        )

    def rungs_of(self, need_Nx2: np.ndarray) -> np.ndarray:
        """rung_N: the first rung that holds each of these needs, -1 where none does."""
        # [R, 2] against [N, 1, 2] -> [N, R]; `argmax` of booleans is the first that is true.
        holds_NxR: np.ndarray = np.all(np.array(self.rungs) >= need_Nx2[:, None], axis=-1)
        return np.where(holds_NxR.any(1), holds_NxR.argmax(1), -1)


def holds(size: Size, other: Size) -> bool:
    """Whether what needs `other` fits into `size`, in both lengths."""
    return size[0] >= other[0] and size[1] >= other[1]


def _round_up(which: str, length: int, sizes: Sequence[int]) -> int:
    """The smallest of the ascending `sizes` that is at least `length`: 9 of (4, 8, 16) -> 16."""
    at = bisect.bisect_left(sizes, length)
    if at == len(sizes):
        raise UserError(
            f"a sentence needs {length} {which} tokens, over the largest bucket {sizes[-1]}; "
            f"add a larger one to config.loader.{which}_buckets"
        )
    return sizes[at]


# Pieces of T5 have some four letters; bytes of a word are as many more positions.
_LONGEST_IN_BYTES = 4096


def lengths_allowed(
    loader: ConfigDict, in_bytes: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The source and the target lengths that a size may have: those of `config.loader`.

    Where positions are bytes (ByT5) they go on beyond those, by a quarter each, up to 4,096: what
    holds 100 words in pieces ends at 256, and 100 words are some 600 bytes.
    """
    source, target = tuple(loader.source_buckets), tuple(loader.target_buckets)
    return (_continued(source), _continued(target)) if in_bytes else (source, target)


def _continued(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """(.., 192, 256) -> (.., 192, 256, 320, 448, 576, 768, ..): multiples of 64."""
    longer = list(sizes)
    while longer[-1] < _LONGEST_IN_BYTES:
        longer.append(min(-(-longer[-1] * 5 // 4 // 64) * 64, _LONGEST_IN_BYTES))
    return tuple(longer)


def fit_ladder(needs: Sequence[Size], loader: ConfigDict, in_bytes: bool = False) -> Ladder:
    """Rungs for examples of these needs: the one that holds everything, then greedily the one that
    saves the most padding, until at most a share `loader.padding` of all positions is padding, or
    there are `loader.rungs`. `in_bytes` as in `lengths_allowed`. Raises UserError for a need over
    the largest length allowed."""
    source, target = lengths_allowed(loader, in_bytes)
    if not needs:
        return Ladder(source, target)
    rounded_Ex2 = np.array(
        [(_round_up("source", s, source), _round_up("target", t, target)) for s, t in needs]
    )
    # Thousands of examples are few distinct needs: K of them, each with its count. A rung may be
    # any source length in use with any target length in use: R of them.
    need_Kx2, count_K = np.unique(rounded_Ex2, axis=0, return_counts=True)
    rung_Rx2 = np.stack(np.meshgrid(*(np.unique(column) for column in need_Kx2.T)), -1)
    rung_Rx2 = rung_Rx2.reshape(-1, 2)
    holds_RxK: np.ndarray = np.all(rung_Rx2[:, None] >= need_Kx2, axis=-1)
    # What an example costs is the positions that its rung pads it to, S + T.
    cost_R = rung_Rx2.sum(1)
    chosen = [int(cost_R.argmax())]
    cost_K = np.full(len(need_Kx2), cost_R[chosen[0]])
    used = np.array(needs).sum()
    # 6 examples of (4, 4) and 4 of (16, 8) on the rung (16, 8) alone: 240 positions, 144 of them
    # in use, .4 padding. With the rung (4, 4) as well the six cost 48, and there is none.
    while len(chosen) < loader.rungs and 1 - used / (cost_K * count_K).sum() > loader.padding:
        saved_RxK = np.where(holds_RxK, np.maximum(cost_K - cost_R[:, None], 0), 0)
        best = int((saved_RxK * count_K).sum(1).argmax())
        if best in chosen:  # Nothing saves any more: what padding is left comes of the rounding.
            break
        chosen.append(best)
        cost_K = np.where(holds_RxK[best], np.minimum(cost_K, cost_R[best]), cost_K)
    rungs = sorted((tuple(map(int, rung_Rx2[r])) for r in chosen), key=lambda r: (sum(r), r))
    return Ladder(source, target, tuple((s, t) for s, t in rungs))
