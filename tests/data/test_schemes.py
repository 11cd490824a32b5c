"""Tag schemes: strict reading, exact round trips, parity with seqeval, detection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from groot_jax.data.labeling import Labeling, make_labeling
from groot_jax.data.schemes import (
    TagError,
    Tagged,
    detect_scheme,
    labeling_of_tags,
)
from groot_jax.errors import UserError

SCHEMES = ("bio", "iob1", "bioes")
TYPES = ("brand", "color", "creative-work", "B")


def tags_of_labeling(labeling: Labeling, num_words: int, scheme: str) -> list[str]:
    """Inverse of `labeling_of_tags`: the one tag sequence that `scheme` gives a labeling."""
    tags = ["O"] * num_words
    end_before, type_before = 0, ""
    for start, end, type_ in labeling:
        touches = start == end_before and type_ == type_before
        tags[start] = ("B-" if scheme != "iob1" or touches else "I-") + type_
        for i in range(start + 1, end):
            tags[i] = "I-" + type_
        if scheme == "bioes":
            tags[end - 1] = ("E-" if end - start > 1 else "S-") + type_
        end_before, type_before = end, type_
    return tags


@st.composite
def labelings(draw):
    """A labeling and its number of words; spans of one type may touch."""
    lengths = draw(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(("", *TYPES)))))
    spans, at = [], 0
    for length, type_ in lengths:
        if type_:
            spans.append((at, at + length, type_))
        at += length
    return make_labeling(spans, at), at


def tagged(*tags: str, line: int = 1) -> Tagged:
    lines = range(line, line + len(tags))
    return Tagged(tuple("w" * len(tags)), tags, "f.txt", lines)


@pytest.mark.parametrize("scheme", SCHEMES)
@given(case=labelings())
def test_tags_of_a_labeling_read_back_as_that_labeling(scheme, case):
    labeling, num_words = case
    assert labeling_of_tags(tags_of_labeling(labeling, num_words, scheme), scheme) == labeling


@given(case=labelings())
def test_bio_reads_as_seqeval_reads_it(case):
    labeling, num_words = case
    tags = tags_of_labeling(labeling, num_words, "bio")
    theirs = {(type_, start, end + 1) for type_, start, end in get_entities(tags)}
    assert {(type_, start, end) for start, end, type_ in labeling_of_tags(tags, "bio")} == theirs


def test_iob1_needs_b_only_between_spans_of_one_type_that_touch():
    spans = make_labeling([(0, 2, "x"), (2, 3, "x"), (3, 4, "y")], 4)
    assert tags_of_labeling(spans, 4, "iob1") == ["I-x", "I-x", "B-x", "I-y"]
    assert labeling_of_tags(["I-x", "I-x", "B-x", "I-y"], "iob1") == spans


@pytest.mark.parametrize(
    ("scheme", "tags", "position", "words"),
    [
        ("bio", ["O", "I-x"], 1, "stray 'I-x'"),
        ("bio", ["B-x", "I-y"], 1, "stray 'I-y'"),
        ("bio", ["I-x"], 0, "start of the sentence"),
        ("bioes", ["S-x", "I-x"], 1, "stray 'I-x'"),
        ("bioes", ["B-x", "O"], 0, "E- or S-"),
        ("bioes", ["O", "B-x", "I-x"], 2, "E- or S-"),
        ("bioes", ["B-x", "S-x"], 0, "E- or S-"),
        ("bio", ["E-x"], 0, "data.scheme"),
        ("bio", ["O", "brand"], 1, "'brand'"),
        ("bio", ["B-"], 0, "empty"),
        ("bio", ["B-I"], 0, "cannot be called 'I'"),
        ("iob1", ["I-O"], 0, "cannot be called 'O'"),
    ],
)
def test_a_tag_that_the_scheme_does_not_allow_is_named_with_its_position(
    scheme, tags, position, words
):
    with pytest.raises(TagError) as raised:
        labeling_of_tags(tags, scheme)
    assert raised.value.position == position
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["B-x", "I-x", "O"], "bio"),
        (["I-x", "I-x", "B-x", "I-y"], "iob1"),
        (["B-x", "E-x", "S-y"], "bioes"),
        (["S-y", "O"], "bioes"),
        (["O", "O"], "bio"),
    ],
)
def test_a_scheme_is_told_by_the_tags_that_only_it_has(tags, scheme):
    assert detect_scheme([tagged(*tags)]) == scheme


@given(case=labelings(), scheme=st.sampled_from(SCHEMES))
def test_whatever_scheme_is_detected_reads_the_file_right(case, scheme):
    labeling, num_words = case
    tags = tags_of_labeling(labeling, num_words, scheme)
    found = detect_scheme([tagged(*tags)])
    assert labeling_of_tags(tags, found) == labeling


def test_one_stray_tag_among_many_is_a_mistake_and_not_a_scheme():
    assert detect_scheme([tagged(*["B-x", "O"] * 40), tagged("O", "I-x")]) == "bio"
    assert detect_scheme([tagged(*["I-x", "O"] * 40), tagged("O", "B-x")]) == "iob1"
    for stray in ("S-x", "E-x"):
        assert detect_scheme([tagged(*["B-x", "I-x", "O"] * 40), tagged("O", stray)]) == "bio"
        assert detect_scheme([tagged(*["I-x", "O"] * 40), tagged("O", stray)]) == "iob1"
    assert detect_scheme([tagged(*["B-x", "E-x", "O"] * 40), tagged("B-x", "O")]) == "bioes"


def test_a_mixture_of_schemes_asks_for_the_config_key_and_names_a_line_of_each():
    with pytest.raises(UserError, match=r"f\.txt:9 .*f\.txt:3 .*data\.scheme"):
        detect_scheme([tagged("B-x", "O", line=3), tagged("I-x", "O", line=9)])
    with pytest.raises(UserError, match=r"f\.txt:9 .*f\.txt:3 .*data\.scheme"):
        detect_scheme([tagged("B-x", "O", line=3), tagged("O", "S-x", line=8)])
