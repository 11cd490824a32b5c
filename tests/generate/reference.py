"""A slow, plain beam search: lists and full forward passes, no cache, no grammar tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

Ids = tuple[int, ...]


def search(
    log_probs: Callable[[Ids], np.ndarray],
    outputs: Iterable[Ids] | None,
    columns: Sequence[int],
    *,
    k: int,
    cap: int,
    eos: int,
    penalty: float = 0.0,
) -> list[tuple[Ids, float]]:
    """The k best outputs with their scores, best first.

    Args:
      log_probs: of every column after a prefix.
      outputs: all legal ones; None: any column may follow, up to `cap` tokens.
      columns: their vocabulary ids.
    """
    every = None if outputs is None else set(outputs)

    def legal(prefix: Ids) -> list[int]:
        if every is None:
            return list(columns)
        n = len(prefix)
        return sorted({ids[n] for ids in every if len(ids) > n and ids[:n] == prefix})

    beams: list[tuple[Ids, float]] = [((), 0.0)]
    finished: list[tuple[float, Ids, float]] = []
    while beams:
        continuations = []
        for prefix, score in beams:
            while len(options := legal(prefix)) == 1 and options[0] != eos:
                score += log_probs(prefix)[columns.index(options[0])]
                prefix += (options[0],)
            logp = log_probs(prefix)
            continuations += [((*prefix, id_), score + logp[columns.index(id_)]) for id_ in options]
        best = sorted(continuations, key=lambda item: -item[1])[: 2 * k]
        for ids, score in best[:k]:
            if ids[-1] == eos:
                finished.append((score / len(ids) ** penalty, ids, score))
        finished = sorted(finished, key=lambda item: -item[0])[:k]
        beams = [item for item in best if item[0][-1] != eos and len(item[0]) < cap][:k]
        if beams and len(finished) == k and finished[-1][0] >= beams[0][1] / cap**penalty:
            break
    return [(ids, score) for _, ids, score in finished]
