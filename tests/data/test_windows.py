"""Windows over long sentences: they cover all words and cut no gold span."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_jax.data.labeling import Sentence, make_labeling
from groot_jax.data.windows import cut, window_bounds
from groot_jax.errors import UserError


def test_windows_share_words():
    assert window_bounds(250, 100, 16, lambda *_: True) == [(0, 100), (84, 184), (168, 250)]
    assert window_bounds(100, 100, 16, lambda *_: True) == [(0, 100)]
    assert window_bounds(0, 100, 16, lambda *_: True) == []
    assert window_bounds(5, 2, 16, lambda *_: True) == [(0, 2), (1, 3), (2, 4), (3, 5)]
    assert window_bounds(5, 2, 0, lambda *_: True) == [(0, 2), (2, 4), (4, 5)]


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    most=st.integers(10, 30),
    overlap=st.integers(0, 20),
    weight=st.integers(1, 3),
    labeled=st.data(),
)
def test_every_word_and_every_span_is_in_some_window(lengths, most, overlap, weight, labeled):
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    spans = make_labeling(
        [
            (end - length, end, "x")
            for length, end in zip(lengths, ends, strict=True)
            if labeled.draw(st.booleans())
        ],
        ends[-1],
    )
    # Words weigh so much that fewer of them fit than `most`, but never fewer than a span has.
    bounds = window_bounds(
        ends[-1], most, overlap, lambda a, b: (b - a) * weight <= max(most, 9 * weight), spans
    )
    assert {i for start, end in bounds for i in range(start, end)} == {*range(ends[-1])}
    assert bounds == sorted(bounds) and all(end - start <= most for start, end in bounds)
    for span in spans:
        assert any(start <= span.start and span.end <= end for start, end in bounds)
        for edge in (edge for window in bounds for edge in window):
            assert not span.start < edge < span.end
    sentence = Sentence(tuple(map(str, range(ends[-1]))), spans)
    pieces = cut(sentence, bounds)
    found = {p.words[s.start : s.end] for p in pieces for s in p.labeling}
    assert found == {sentence.words[s.start : s.end] for s in spans}


def test_a_span_that_no_window_holds_is_named():
    with pytest.raises(UserError, match="words 2 to 14 .* longer than a window of 10 words"):
        window_bounds(20, 10, 2, lambda *_: True, make_labeling([(2, 14, "x")], 20))
    # What a window holds there, where its length in tokens is the limit and not its words.
    with pytest.raises(
        UserError, match=r"words 0 to 4 .* longer than a window of 3 words: .*loader"
    ):
        window_bounds(
            6, 100, 0, lambda start, end: end - start <= 3, make_labeling([(0, 4, "x")], 6)
        )


def test_a_word_that_does_not_fit_is_a_window_of_its_own():
    assert window_bounds(3, 10, 2, lambda *_: False) == [(0, 1), (1, 2), (2, 3)]
