"""Tag schemes: strict reading, exact round trips, parity with seqeval, detection."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from groot_jax.config import checks
from groot_jax.data import schemes
from groot_jax.data.labeling import Labeling, make_labeling
from groot_jax.data.schemes import (
    Scheme,
    TagError,
    Tagged,
    detect_scheme,
    labeling_of_tags,
    scheme_setting,
)
from groot_jax.errors import UserError

# The letters of an inside, an end and a single word.
ENDS = {"bioes": "IES", "bilou": "ILU", "bmes": "MES"}
TYPES = ("brand", "color", "creative-work", "B")


def tags_of_labeling(labeling: Labeling, num_words: int, scheme: str) -> list[str]:
    """Inverse of `labeling_of_tags`: the one tag sequence that `scheme` gives a labeling."""
    tags = ["O"] * num_words
    if scheme in ("ioe1", "ioe2"):
        mirrored = make_labeling([(num_words - e, num_words - s, t) for s, e, t in labeling], 10**9)
        tags = tags_of_labeling(mirrored, num_words, "iob1" if scheme == "ioe1" else "bio")
        return [tag.replace("B-", "E-", 1) for tag in reversed(tags)]
    end_before, type_before = 0, ""
    for start, end, type_ in labeling:
        touches = start == end_before and type_ == type_before
        tags[start] = ("B-" if scheme != "iob1" or touches else "I-") + type_
        for i in range(start + 1, end):
            tags[i] = "I-" + type_
        if scheme in ENDS:
            inside, last, single = (*ENDS[scheme],)
            tags[start + 1 : end] = [f"{inside}-{type_}"] * (end - start - 1)
            tags[end - 1] = f"{last if end - start > 1 else single}-{type_}"
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


WRITTEN = ("bio", "iob1", *ENDS, "ioe1", "ioe2")


@pytest.mark.parametrize("scheme", WRITTEN)
@given(case=labelings())
def test_tags_of_a_labeling_read_back_as_that_labeling(scheme, case):
    labeling, num_words = case
    assert (
        labeling_of_tags(tags_of_labeling(labeling, num_words, scheme), Scheme(scheme)) == labeling
    )


@given(case=labelings())
def test_bio_reads_as_seqeval_reads_it(case):
    labeling, num_words = case
    tags = tags_of_labeling(labeling, num_words, "bio")
    theirs = {(type_, start, end + 1) for type_, start, end in get_entities(tags)}
    assert {
        (type_, start, end) for start, end, type_ in labeling_of_tags(tags, Scheme("bio"))
    } == theirs


def test_iob1_needs_b_only_between_spans_of_one_type_that_touch():
    spans = make_labeling([(0, 2, "x"), (2, 3, "x"), (3, 4, "y")], 4)
    assert tags_of_labeling(spans, 4, "iob1") == ["I-x", "I-x", "B-x", "I-y"]
    assert labeling_of_tags(["I-x", "I-x", "B-x", "I-y"], Scheme("iob1")) == spans


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
        ("bilou", ["O", "B-x", "O"], 1, "L- or U-"),
        ("bilou", ["O", "E-x"], 1, "data.scheme=bioes"),
        ("bmes", ["B-x", "M-x", "O"], 1, "E- or S-"),
        ("ioe2", ["I-x", "E-x", "I-x"], 2, "E- on its last word"),
        ("io", ["x", "B-x"], 1, "scheme io has none"),
        ("bio", ["O", "I-x"], 1, "--config.data.scheme=iob1"),
        ("bio", ["O", "B"], 1, "names no type"),
    ],
)
def test_a_tag_that_the_scheme_does_not_allow_is_named_with_its_position(
    scheme, tags, position, words
):
    with pytest.raises(TagError) as raised:
        labeling_of_tags(tags, Scheme(scheme))
    assert raised.value.position == position
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["B-x", "I-x", "O"], "bio"),
        (["I-x", "I-x", "B-x", "I-y"], "iob1"),
        (["B-x", "E-x", "S-y"], "bioes"),
        (["S-y", "O"], "bioes"),
        (["B-x", "L-x", "U-y"], "bilou"),
        (["B-x", "M-x", "E-x"], "bmes"),
        (["W-x", "O"], "bmes"),
        (["I-x", "E-x", "I-x", "O"], "ioe1"),
        (["E-x", "I-x", "E-x", "O"], "ioe2"),
        (["NAME", "O"], "io"),
        (["E-MAIL"] + ["NAME", "O"] * 30, "io"),
        (["O", "O"], "bio"),
    ],
)
def test_a_scheme_is_told_by_the_tags_that_only_it_has(tags, scheme):
    assert detect_scheme([tagged(*tags)]).name == scheme


@given(case=labelings(), scheme=st.sampled_from(WRITTEN))
def test_whatever_scheme_is_detected_reads_the_file_right(case, scheme):
    labeling, num_words = case
    tags = tags_of_labeling(labeling, num_words, scheme)
    found = detect_scheme([tagged(*tags)])
    assert labeling_of_tags(tags, found) == labeling


def test_one_stray_tag_among_many_is_a_mistake_and_not_a_scheme():
    assert detect_scheme([tagged(*["B-x", "O"] * 40), tagged("O", "I-x")]).name == "bio"
    assert detect_scheme([tagged(*["I-x", "O"] * 40), tagged("O", "B-x")]).name == "iob1"
    for stray in ("S-x", "E-x"):
        assert detect_scheme([tagged(*["B-x", "I-x", "O"] * 40), tagged("O", stray)]).name == "bio"
        assert detect_scheme([tagged(*["I-x", "O"] * 40), tagged("O", stray)]).name == "iob1"
    assert detect_scheme([tagged(*["B-x", "E-x", "O"] * 40), tagged("B-x", "O")]).name == "bioes"


def test_a_mixture_of_schemes_asks_for_the_config_key_and_names_a_line_of_each():
    with pytest.raises(UserError, match=r"f\.txt:9 .*f\.txt:3 .*data\.scheme"):
        detect_scheme([tagged("B-x", "O", line=3), tagged("I-x", "O", line=9)])
    with pytest.raises(UserError, match=r"f\.txt:9 .*f\.txt:3 .*data\.scheme"):
        detect_scheme([tagged("B-x", "O", line=3), tagged("O", "S-x", line=8)])


def test_tags_without_a_prefix_are_spans_of_neighbours_with_one_type():
    tags = ["O", "NAME", "NAME", "CITY", "O", "NAME"]
    found = labeling_of_tags(tags, detect_scheme([tagged(*tags)]))
    assert found == make_labeling([(1, 3, "NAME"), (3, 4, "CITY"), (5, 6, "NAME")], 6)
    assert labeling_of_tags(["E-MAIL", "O"], Scheme("io")) == make_labeling([(0, 1, "E-MAIL")], 2)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "B", "I", "B", "O"], "bio"),
        (["O", "I", "I", "B", "O"], "iob1"),
        (["O", "B", "E", "S", "O"], "bioes"),
        (["O", "B", "L", "U", "O"], "bilou"),
    ],
)
def test_tags_without_a_type_are_spans_of_one_type(tags, scheme):
    found = detect_scheme([tagged(*tags)])
    assert found == Scheme(scheme, bare=True)
    assert labeling_of_tags(tags, found) == make_labeling([(1, 3, "span"), (3, 4, "span")], 5)
    with pytest.raises(TagError, match="none of B, I, O"):
        labeling_of_tags(["B-x"], found)


def test_tags_of_every_word_are_no_spans_unless_it_is_said():
    with pytest.raises(UserError, match=r"f\.txt:1: .*'NNP'.*tag_column.*data\.scheme=io"):
        detect_scheme([tagged("NNP", "VBZ", "NNP")])
    assert labeling_of_tags(["NNP"], Scheme("io")) == make_labeling([(0, 1, "NNP")], 1)


def test_a_mixture_of_forms_of_tags_is_named():
    with pytest.raises(UserError, match=r"f\.txt:1: B-x .*f\.txt:2: NAME .*data\.scheme"):
        detect_scheme([tagged("B-x", "NAME", "O")])


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("B\u2013PER", "U+2013 EN DASH"),
        ("B\u2011PER", "U+2011 NON-BREAKING HYPHEN"),
        ("\u0412-PER", "U+0412 CYRILLIC CAPITAL LETTER VE"),
        ("\u041e", "U+041E CYRILLIC CAPITAL LETTER O"),
        ("\uff2f", "U+FF2F FULLWIDTH LATIN CAPITAL LETTER O"),
        ("B-P\u0415R", "U+0415 CYRILLIC CAPITAL LETTER IE"),
        ("I-L\u039fC", "U+039F GREEK CAPITAL LETTER OMICRON"),
        ("B-PER\u200b", "U+200B ZERO WIDTH SPACE"),
        ("B-PER\ufeff", "U+FEFF"),
        ("B_PER", "'B-PER'"),
        ("b-per", "'B-per'"),
        ("0", "capital letter O"),
    ],
)
def test_characters_that_look_like_others_are_named(tag, says):
    with pytest.raises(TagError, match=re.escape(says)):
        labeling_of_tags(["O", tag], Scheme("bio"))


def test_types_of_another_script_are_types():
    tags = ["B-\u041b\u0418\u0426\u041e", "B-\u4eba\u540d", "B-TNF\u03b1"]
    assert len(labeling_of_tags(tags, Scheme("bio"))) == 3


def test_schemes_have_other_names_in_any_case_and_may_be_those_of_one_split():
    for name, scheme in (("IOB2", "bio"), ("IOB", "iob1"), ("iobes", "bioes"), ("BILUO", "bilou")):
        assert scheme_setting(name, "dev") == scheme
    assert scheme_setting("train=IOB2, dev=iob1", "dev") == "iob1"
    assert scheme_setting("train=IOB2, dev=iob1", "train") == "bio"
    assert scheme_setting("train=IOB2, dev=iob1", "test") == "auto"
    assert {"auto", *schemes.SCHEMES, *schemes.ALIASES} == {*checks._SCHEMES}
