"""Long sentences in overlapping windows: where they are cut. Joining their labelings is elsewhere.

Knows nothing of formats, tokens or models: it asks what fits.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

from groot_jax.data.labeling import Sentence, Span
from groot_jax.errors import UserError

Bounds = tuple[int, int]  # the words `start` to `end`, end exclusive


def window_bounds(
    count: int,
    most: int,
    overlap: int,
    fits: Callable[[int, int], bool],
    spans: Sequence[Span] = (),
) -> list[Bounds]:
    """Windows over `count` words, in order: each as long as `most` words and `fits(start, end)`
    allow, sharing `overlap` words with the one before, but at most half of that.

    No window begins or ends within one of `spans`, gold of a training sentence, and each span is in
    some window whole. A single word that does not fit is a window all the same. Raises UserError
    for a span that no window can hold.

    Of 250 words and windows of 100 with an overlap of 16: (0, 100) (84, 184) (168, 250).
    """
    bounds: list[Bounds] = []
    start = 0
    while count:
        end = min(count, start + most)
        if not fits(start, end):
            # The longest that fits: among 100 words found after 7 tries.
            lengths = range(1, end - start)
            at = bisect.bisect_left(lengths, True, key=lambda n: not fits(start, start + n))
            end = start + max(1, at)
        held = end - start
        across = next((span for span in spans if span.start < end < span.end), None)
        if across:
            end = across.start
        if end <= start:
            assert across is not None
            raise UserError(
                f"the span of words {across.start} to {across.end} ({across.type}) is longer than "
                f"a window of {held} words: drop it, or raise what limits windows, "
                "config.text.max_words or the buckets of config.loader"
            )
        if not bounds or end > bounds[-1][1]:  # Not where a span has it end before the last one.
            bounds.append((start, end))
        if end == count:
            break
        following = max(start + 1, end - min(overlap, (end - start) // 2))
        across = next((s for s in spans if s.start < following < s.end), None)
        if across:
            following = across.start if across.start > start else across.end
        start = following
    return bounds


def cut(sentence: Sentence, bounds: Sequence[Bounds]) -> list[Sentence]:
    """The windows of a labeled sentence as sentences of their own; each has the spans that lie
    within it whole."""
    return [
        Sentence(
            sentence.words[start:end],
            tuple(
                Span(span.start - start, span.end - start, span.type)
                for span in sentence.labeling
                if start <= span.start and span.end <= end
            ),
            sentence.source,
        )
        for start, end in bounds
    ]
