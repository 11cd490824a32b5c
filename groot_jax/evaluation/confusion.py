"""What a system takes spans for: which types it confuses, and which bounds it misses. Counts only.

A span of gold and one of rank 1 belong together where both bounds agree; of the others, those that
share most words, the leftmost first. What is left over was missed, or was made up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from groot_jax.data.labeling import Labeling, Sentence, Span
from groot_jax.evaluation.metrics import Beam, Summary

# How the bounds of a predicted span lie to those of its gold span.
BOUNDS = ("same", "shorter", "longer", "shifted")


def pairs_of(gold: Labeling, found: Labeling) -> Iterator[tuple[Span | None, Span | None]]:
    """Each span of both labelings once: (gold, predicted), None where it has no counterpart."""
    left, right = list(gold), list(found)
    # Spans of one labeling do not overlap: those of equal bounds are the only ones.
    for span in gold:
        same = [other for other in right if other[:2] == span[:2]]
        if same:
            left.remove(span)
            right.remove(same[0])
            yield span, same[0]
    shared = [
        (min(a.end, b.end) - max(a.start, b.start), a, b)
        for a in left
        for b in right
        if min(a.end, b.end) > max(a.start, b.start)
    ]
    for _, a, b in sorted(shared, key=lambda item: (-item[0], item[1], item[2])):
        if a in left and b in right:
            left.remove(a)
            right.remove(b)
            yield a, b
    yield from ((span, None) for span in left)
    yield from ((None, span) for span in right)


def bounds_of(gold: Span, found: Span) -> str:
    """One of `BOUNDS`."""
    if gold[:2] == found[:2]:
        return "same"
    if gold.start <= found.start and found.end <= gold.end:
        return "shorter"
    if found.start <= gold.start and gold.end <= found.end:
        return "longer"
    return "shifted"


def confusion(sentences: Sequence[Sentence], beams: Sequence[Beam]) -> Summary:
    """Of rank 1, for JSON. An empty beam has found nothing.

    {"types": [...], the most frequent of gold first,
     "cells": [[gold type, predicted type, spans of the same bounds, spans of other bounds], ...],
      None for the type of what was missed or made up,
     "bounds": {type: {"same": 7, "shorter": 1, ...}, ...}}, of spans whose type is gold's
    """
    cells: Counter[tuple[str | None, str | None, bool]] = Counter()
    bounds: dict[str, Counter[str]] = {}
    golds: Counter[str] = Counter()
    for sentence, beam in zip(sentences, beams, strict=True):
        golds.update(span.type for span in sentence.labeling)
        for gold, found in pairs_of(sentence.labeling, beam[0].labeling if beam else ()):
            how = bounds_of(gold, found) if gold and found else ""
            place = (gold.type if gold else None, found.type if found else None)
            cells[(*place, how == "same")] += 1
            if gold and found and gold.type == found.type:
                bounds.setdefault(gold.type, Counter())[how] += 1
    others = sorted({found for _, found, _ in cells if found is not None} - {*golds})
    types = [*(type_ for type_, _ in golds.most_common()), *others]
    order: dict[str | None, int] = {type_: i for i, type_ in enumerate(types)}
    order[None] = len(types)
    places = sorted({place[:2] for place in cells}, key=lambda p: (order[p[0]], order[p[1]]))
    return {
        "types": types,
        "cells": [[*p, cells[(*p, True)], cells[(*p, False)]] for p in places],
        "bounds": {
            type_: {b: bounds[type_][b] for b in BOUNDS} for type_ in types if type_ in bounds
        },
    }
