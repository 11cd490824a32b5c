"""Partial corrections of a candidate labeling: the errors in it, mended a few at a time.

This room knows labelings only: no reward, no score, no ids. Which corrections are worth contrasting
is the reward's business.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from groot_jax.data.labeling import Labeling, Span

# With at most so many ways to mend a candidate, all are tried in random order; beyond, so many
# are drawn. Five groups of three options are 3^5 = 243 ways, so up to five groups are exhausted.
_DRAWS = 256


class ErrorGroup(NamedTuple):
    """A connected component, under word overlap, of wrong spans (in the candidate, not in gold)
    and missed spans (in gold, not in the candidate). Either may be empty, not both."""

    wrong: tuple[Span, ...]
    missed: tuple[Span, ...]


def error_groups(candidate: Labeling, gold: Labeling) -> list[ErrorGroup]:
    """The error groups in order of their words. A boundary or type error is one group with its gold
    span; a lone spurious or lone missed span is a group by itself.

    With gold `[0,2) A` and `[3,4) B`, the candidate `[0,1) A` has two: ([0,1) A against [0,2) A),
    and (nothing against [3,4) B).
    """
    in_candidate, in_gold = set(candidate), set(gold)
    groups: list[tuple[list[Span], list[Span]]] = []
    end = -1
    for span in sorted(in_candidate ^ in_gold):
        # Sorted by start, a span overlaps one of the current group iff it starts before their end.
        if span.start >= end:
            groups.append(([], []))
        groups[-1][0 if span in in_candidate else 1].append(span)
        # Not `span.end`: [0,9) holds [1,2) and [8,9) together, though these do not touch.
        end = max(end, span.end)
    return [ErrorGroup(tuple(wrong), tuple(missed)) for wrong, missed in groups]


def corrections(candidate: Labeling, gold: Labeling, rng: random.Random) -> Iterator[Labeling]:
    """Partial corrections of the candidate, all distinct, none the candidate or gold.

    Per error group, FIX takes its wrong spans out and puts its missed spans in; DROP only takes its
    wrong spans out, where it has both kinds. First every single-group FIX, then every FIX of all
    groups but one, every single DROP, and then random choices of nothing, FIX or DROP per group.

    Each is a valid segmentation: the spans shared with gold overlap neither wrong nor missed ones,
    as each labeling has no overlap within; a wrong and a missed span that overlap are in the same
    group, whose choices never keep both; so whatever is chosen per group, nothing overlaps.
    """
    groups = error_groups(candidate, gold)
    # Per group what stands there after: nothing done, FIX, DROP. All differ, so that two different
    # choices are two different labelings.
    options = [
        (group.wrong, group.missed, ())
        if group.wrong and group.missed
        # A lone missed span: nothing done is (), FIX is the span. A lone wrong one: FIX is DROP.
        else (group.wrong, group.missed)
        for group in groups
    ]
    shared = list(set(candidate).intersection(gold))
    count = len(groups)

    def apply(choice: tuple[int, ...]) -> Labeling:
        spans = shared.copy()
        for option, chosen in zip(options, choice, strict=True):
            spans += option[chosen]
        spans.sort()
        return tuple(spans)

    # A choice has one digit a group. All 0 is the candidate, all 1 gold: neither is a correction.
    done = {(0,) * count, (1,) * count}
    # Of three groups: 100, 010, 001 (one FIX), 011, 101, 110 (all but one), 200, 020, 002 (DROP).
    for rest, one in ((0, 1), (1, 0), (0, 2)):
        for i, option in enumerate(options):
            choice = (rest,) * i + (one,) + (rest,) * (count - i - 1)
            if one < len(option) and choice not in done:
                done.add(choice)
                yield apply(choice)
    sizes = [len(option) for option in options]
    total = math.prod(sizes)
    if total <= len(done):
        return
    # A choice is a number below `total` in mixed radix, so that all can be drawn without a list of
    # them: a hundred errors have up to 3^100 choices.
    codes = (
        rng.sample(range(total), total)
        if total <= _DRAWS
        else (rng.randrange(total) for _ in range(_DRAWS))
    )
    for code in codes:
        # With sizes [3, 2, 3], code 11 is the choice (2, 1, 1): 11 = 2 + 3 * (1 + 2 * 1).
        digits = []
        for size in sizes:
            code, digit = divmod(code, size)
            digits.append(digit)
        choice = tuple(digits)
        if choice not in done:
            done.add(choice)
            yield apply(choice)
