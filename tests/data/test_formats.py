"""Round trips and the lenient reading of ids, for every format."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groot_jax.data.format import TAG, Format
from groot_jax.data.formats import FORMATS, make_format
from groot_jax.data.labeling import Sentence, Span, labeling_of_word_tags, make_labeling
from groot_jax.data.tokenizer import Tokenizer, load_tokenizer, tag_labels, train_tokenizer
from groot_jax.errors import UserError

TYPES = ("artist", "object", "object_type", "object_part.type")
WORDS = ("Add", "Kent", "James", "to", "the", "Disney", "soundtrack")
GOLD = make_labeling([(1, 3, "artist"), (5, 6, "object_type"), (6, 7, "object")], 7)
NASTY = (
    "<extra_id_3>", "<extra_id_0> O <extra_id_1>", "</s>", "<pad>", "[O]", "[", "] [", "O", "I",
    "object type", "artist]", "; O", "O;", "<b>x</b>", "&amp;", "🙂", "\t", " ", "  ", "", "\n",
    "\u200b", "\ufffd", "país", "a b", "\\", "{}", "⁇", "\u2581",
)  # fmt: skip


@lru_cache
def trained() -> Tokenizer:
    return train_tokenizer([Sentence((*WORDS, *NASTY), ())], TYPES, 100)


class Words:
    """A base vocabulary of whole words, so that pieces read as what they stand for."""

    pad_id, eos_id, unk_id = 0, 1, 2
    sentinels = tuple(range(60, 80))
    size = 80
    _words = (*WORDS, "O", "I", "artist", "object", "type", "part")

    def encode(self, text: str) -> list[int]:
        return [3 + self._words.index(w) if w in self._words else 2 for w in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(self._words[id_ - 3] for id_ in ids)

    def save(self, folder) -> None: ...


class Bytes:
    """A base vocabulary of bytes, under which every tag has several pieces."""

    pad_id, eos_id, unk_id = 0, 1, 2
    sentinels = tuple(range(260, 300))
    size = 300

    def encode(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode()]

    def decode(self, ids: list[int]) -> str:
        return bytes(id_ - 3 for id_ in ids if 3 <= id_ < 259).decode(errors="replace")

    def save(self, folder) -> None: ...


@lru_cache
def formats(kind: str) -> dict[str, Format]:
    tokenizer = trained() if kind == "trained" else Tokenizer(Bytes())
    return {name: make_format(name, tokenizer, TYPES) for name in FORMATS}


@lru_cache
def t5_format(data_dir, name: str) -> Format:
    return make_format(name, load_tokenizer(data_dir / "t5_vocab" / "spiece.model"), TYPES)


every_format = pytest.mark.parametrize("name", list(FORMATS))
every_kind = pytest.mark.parametrize("kind", ["trained", "bytes"])
word = st.sampled_from(NASTY) | st.sampled_from(WORDS) | st.text(max_size=6)


@st.composite
def labeled(draw, min_words=1):
    words = tuple(draw(st.lists(word, min_size=min_words, max_size=9)))
    tags = [draw(st.sampled_from(("O", "I", "I", *TYPES))) for _ in words]
    return words, labeling_of_word_tags(tags)[0]


def squeeze(text: str) -> str:
    return " ".join(text.split())


@every_format
@every_kind
@given(example=labeled())
def test_every_labeling_survives_the_ids(kind, name, example):
    words, labeling = example
    format_ = formats(kind)[name]
    target = format_.target(labeling, words)
    assert target[-1] == format_.tokenizer.eos_id
    for ids in (target, target[:-1], [*target, 0, 0], [*target, 5, 7]):
        assert format_.read(ids, words) == (labeling, True)


@every_format
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(example=labeled())
def test_every_labeling_survives_t5s_vocabulary(data_dir, name, example):
    words, labeling = example
    format_ = t5_format(data_dir, name)
    assert format_.read(format_.target(labeling, words), words) == (labeling, True)
    assert len(format_.target(labeling, words)) <= format_.max_target_length(words)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "sentinel_tag",
            "<extra_id_0> O <extra_id_1> artist <extra_id_2> I <extra_id_3> O <extra_id_4> O "
            "<extra_id_5> object type <extra_id_6> object",
        ),
        ("tag_only", "O ; artist ; I ; O ; O ; object type ; object"),
        (
            "input_tag",
            "Add [ O ] Kent [ artist ] James [ I ] to [ O ] the [ O ] Disney [ object type ] "
            "soundtrack [ object ]",
        ),
    ],
)
def test_the_text_reads_as_documented(name, text):
    format_ = make_format(name, Tokenizer(Words(), ["[", "]", ";"]), TYPES)
    assert format_.tokenizer.decode(format_.target(GOLD, WORDS)) == text


def test_fused_sentinels_and_aligned_leave_the_tags_alone():
    for name in ("fused_sentinel", "aligned"):
        format_ = formats("trained")[name]
        text = format_.tokenizer.decode(format_.target(GOLD, WORDS))
        assert text == "O artist I O O object type object"


def ids_of(format_: Format, text: str) -> list[int]:
    """Sentinels, brackets, labels and words, set apart by spaces, as a trained vocabulary writes
    them; two spaces part what is not of one label."""
    tokenizer = format_.tokenizer
    ids: list[int] = []
    for part in re.split(r"  |(?<=>) | (?=<)", text):
        if found := re.fullmatch(r"<extra_id_([0-9]|[1-9][0-9])>", part):
            ids.append(tokenizer.sentinels[int(found[1])])
        else:
            ids.extend(tokenizer.tag(part))
    return ids


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("<extra_id_0> artist <extra_id_1> I", "artist I O"),
        ("<extra_id_2> object <extra_id_0> artist", "artist O object"),
        ("<extra_id_0> artist <extra_id_1> O <extra_id_2> O <extra_id_0> object", "artist O O"),
        ("<extra_id_0> nonsense <extra_id_1> O <extra_id_2> O <extra_id_0> object", "O O O"),
        ("<extra_id_0> I <extra_id_1> object type <extra_id_2> I", "O object_type I"),
        ("<extra_id_0> artist <extra_id_1> thing <extra_id_2> I", "artist O O"),
        ("<extra_id_0> <extra_id_1> object <extra_id_2> O", "O object O"),
        ("noise <extra_id_0> artist <extra_id_1> I <extra_id_2> O", "artist I O"),
        ("<extra_id_0> O <extra_id_1> O <extra_id_2> artist <extra_id_3> I", "O O artist"),
        ("<extra_id_0> Artist <extra_id_1> object_type <extra_id_2> artist  O", "O O O"),
        ("", "O O O"),
        ("O  artist  I", "O O O"),
    ],
)
def test_the_lenient_reading_repairs_and_tells(text, tags):
    expected, _ = labeling_of_word_tags(tags.split())
    format_ = formats("trained")["sentinel_tag"]
    assert format_.read(ids_of(format_, text), ["a", "b", "c"]) == (expected, False)


@pytest.mark.parametrize(
    ("text", "tags", "well_formed"),
    [
        ("Add  [  artist  ]  to  [  I  ]", "artist I", True),
        ("Add  [  artist  ]  the  [  I  ]", "artist O", False),
        ("the  [  artist  ]  to  [  object  ]", "O object", False),
        ("Add  [  artist  ]  the  to  [  I  ]", "artist I", False),
        ("Add  [  artist  ]  to  [  I  ]  the  [  O  ]", "artist I", False),
        ("Add  [  artist  ]  to  [  I", "artist I", False),
        ("to  [  object  ]  Add  [  artist  ]", "artist O", False),
    ],
)
def test_the_lenient_reading_of_input_tag_finds_the_words_that_are_there(text, tags, well_formed):
    expected, _ = labeling_of_word_tags(tags.split())
    format_ = formats("trained")["input_tag"]
    assert format_.read(ids_of(format_, text), ["Add", "to"]) == (expected, well_formed)


@every_format
@given(st.data())
def test_an_output_is_well_formed_exactly_if_it_is_the_target_of_what_it_says(name, data):
    format_ = formats("trained")[name]
    words, labeling = data.draw(labeled())
    own = [format_.tokenizer.sentinels[i] for i in (0, 1, 2, 3, 12)]
    own += [id_ for pieces in format_.tags.values() for id_ in pieces] + [2, 5]
    if data.draw(st.booleans()):
        ids = data.draw(st.lists(st.sampled_from(own), max_size=8))
    else:
        ids = mutated(data, format_, format_.target(labeling, words), own)
    read, well_formed = format_.read(ids, words)
    make_labeling(read, len(words))
    assert well_formed == (tuple(ids) == format_.target(read, words)[:-1])


def mutated(data, format_, target, extra):
    """A target with a few ids dropped, doubled, swapped in from elsewhere."""
    ids = list(target[:-1])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(ids)))
        drop = data.draw(st.integers(0, 2))
        ids[at : at + drop] = data.draw(st.lists(st.sampled_from(extra), max_size=2))
    return ids


def parsed(format_: Format, text: str, words) -> tuple[tuple[Span, ...], bool]:
    """The reference for `read`: a text of `sentinel_tag`, cut at its sentinels by a pattern."""
    tag_of = {label: tag for tag, label in tag_labels(format_.types).items()}
    before, *rest = re.split(r"<extra_id_(0|[1-9][0-9]{0,3})>", text)
    places = [int(place) for place in rest[::2]]
    tags = [tag_of.get(squeeze(label)) for label in rest[1::2]]
    first: dict[int, str | None] = {}
    for place, tag in zip(places, tags, strict=True):
        first.setdefault(place, tag)
    found = [first.get(i) or "O" for i in range(len(words))]
    labeling, no_orphan = labeling_of_word_tags(found)
    clean = not before.strip() and places == [*range(len(words))] and None not in tags
    return labeling, clean and no_orphan


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_reading_ids_of_sentinel_tag_equals_parsing_their_text(data):
    format_ = formats(data.draw(st.sampled_from(["trained", "bytes"])))["sentinel_tag"]
    words, labeling = data.draw(labeled())
    assert format_.columns_C is not None
    columns = [c for c in format_.columns_C.tolist() if c != format_.tokenizer.eos_id]
    extra = columns[:-8] if len(columns) > 150 else columns
    ids = mutated(data, format_, format_.target(labeling, words), extra)
    assert format_.read(ids, words) == parsed(format_, format_.tokenizer.decode(ids), words)


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_reading_ids_of_t5_equals_parsing_their_text(data_dir, data):
    format_ = t5_format(data_dir, "sentinel_tag")
    words, labeling = data.draw(labeled())
    extra = [
        *format_.tags["object_type"],
        *format_.tags["I"],
        32099,
        32098,
        32097,
        3,
        2,
        117,
        32110,
    ]
    ids = mutated(data, format_, format_.target(labeling, words), extra)
    assert format_.read(ids, words) == parsed(format_, format_.tokenizer.decode(ids), words)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_reading_fused_ids_equals_parsing_the_text_that_they_stand_for(data):
    format_ = formats(data.draw(st.sampled_from(["trained", "bytes"])))["fused_sentinel"]
    words, labeling = data.draw(labeled())
    extra = [5, 9, *(pieces[0] for pieces in format_.tags.values())]
    ids = mutated(data, format_, format_.target(labeling, words), extra)
    decode = format_.tokenizer.decode
    text = " ".join(
        f"<extra_id_{i}> {decode([id_]) if id_ > 9 else '?'}" for i, id_ in enumerate(ids)
    )
    assert format_.read(ids, words) == parsed(format_, text, words)


@given(st.data())
def test_reading_any_ids_gives_a_labeling(data):
    kind, name = (
        data.draw(st.sampled_from(["trained", "bytes"])),
        data.draw(st.sampled_from([*FORMATS])),
    )
    format_ = formats(kind)[name]
    size = format_.tokenizer.vocab_size
    ids = data.draw(st.lists(st.integers(0, size + 30), max_size=12))
    words, _ = data.draw(labeled())
    read, _ = format_.read(ids, words)
    assert make_labeling(read, len(words)) == read


def test_the_label_counts_in_whatever_pieces_it_comes():
    format_ = make_format("sentinel_tag", Tokenizer(Bytes(), ["artist"]), TYPES)
    spelled = [format_.tokenizer.sentinels[0], *format_.tokenizer.text("artist")]
    assert format_.read(spelled, ["x"]) == ((Span(0, 1, "artist"),), True)


def test_sources_hold_words_and_sentinels():
    tokenizer = trained()
    pieces = [tokenizer.word(word) for word in WORDS]
    flat = [id_ for p in pieces for id_ in p]
    plain = formats("trained")["sentinel_tag"].source(WORDS)
    expected = [id_ for i, p in enumerate(pieces) for id_ in (tokenizer.sentinels[i], *p)]
    assert plain.ids == (*expected, tokenizer.eos_id)
    assert plain.fused == ((),) * len(plain.ids)
    fused = formats("trained")["fused_sentinel"].source(WORDS)
    assert fused.ids == (*flat, tokenizer.eos_id)
    first = [((tokenizer.sentinels[i],), *[()] * (len(p) - 1)) for i, p in enumerate(pieces)]
    assert fused.fused == (*(ids for f in first for ids in f), ())
    for name in ("tag_only", "input_tag"):
        source = formats("trained")[name].source(WORDS)
        assert source == ((*flat, tokenizer.eos_id), ((),) * (len(flat) + 1))


def test_an_aligned_source_has_a_position_a_word_with_all_that_is_known_of_it():
    words = ("Levi", "levi", "jeans", "jeans")
    known = train_tokenizer([Sentence(words, ())], TYPES, 100, max_features=100)
    format_ = make_format("aligned", known, TYPES)
    source = format_.source(("Levi", "jeans", "Jeanius"))
    assert len(source.ids) == len(source.fused) == 4
    assert source.ids[-1] == known.eos_id and source.fused[-1] == ()
    levi, jeans, unseen = (set(known.features(w)) for w in ("Levi", "jeans", "Jeanius"))
    for i, bag in enumerate((levi, jeans, unseen)):
        assert {source.ids[i], *source.fused[i]} == bag
        assert len(source.fused[i]) <= format_.fused_width
    # A word that training did not have is known by its ends: j-, je-, jea-, jean- and -s.
    assert source.ids[2] == known.unk_id
    assert len(unseen & jeans) == 5
    assert format_.aligned(3) == (0, 1, 2, 3)
    assert format_.template(words) == (TAG,) * 4 + (known.eos_id,)


def test_an_aligned_source_is_made_of_pieces_where_a_tokenizer_has_no_features():
    source = formats("bytes")["aligned"].source(("ab", "a much longer word"))
    assert source.ids == (100, 100, Bytes.eos_id)
    assert source.fused[0] == (101,)
    assert len(source.fused[1]) == formats("bytes")["aligned"].fused_width


def test_fused_targets_go_with_the_steps():
    format_ = formats("trained")["fused_sentinel"]
    sentinels = [format_.tokenizer.sentinels[i] for i in range(7)]
    assert format_.fused_target(7) == (*sentinels, 0)
    assert len(format_.target(GOLD, WORDS)) == 8
    for name in ("sentinel_tag", "tag_only", "input_tag"):
        assert formats("trained")[name].fused_target(7) == ()


@every_format
@every_kind
@given(example=labeled())
def test_templates_and_columns_cover_every_target(kind, name, example):
    words, labeling = example
    format_ = formats(kind)[name]
    template, target = format_.template(words), format_.target(labeling, words)
    assert template.count(TAG) == len(words)
    assert template[-1] == target[-1] == format_.tokenizer.eos_id
    assert [t for t in template if t != TAG] == [
        t for t in target if t not in {p for pieces in format_.tags.values() for p in pieces}
    ] or name == "input_tag"
    if format_.columns_C is None:
        assert name == "input_tag"
    else:
        assert format_.columns_C.dtype == np.int32
        assert list(format_.columns_C) == sorted(set(format_.columns_C.tolist()))
        assert set(target) <= set(format_.columns_C.tolist())


@every_format
@every_kind
def test_the_longest_labeling_has_the_length_that_is_promised(kind, name):
    format_ = formats(kind)[name]
    lengths = [
        len(format_.target(make_labeling([(i, i + 1, type_) for i in range(7)], 7), WORDS))
        for type_ in TYPES
    ]
    assert format_.max_target_length(WORDS) == max(lengths)


def test_fused_tags_are_appended_to_a_vocabulary_that_lacks_them():
    before = Tokenizer(Bytes())
    format_ = make_format("fused_sentinel", before, TYPES)
    tags = sorted(pieces for pieces in format_.tags.values())
    assert tags == [(300 + i,) for i in range(len(TYPES) + 2)]
    assert format_.tokenizer.vocab_size == before.vocab_size + len(TYPES) + 2
    again = make_format("fused_sentinel", before, reversed(TYPES))
    assert again.tags == format_.tags


@every_format
def test_sentences_that_do_not_fit_are_refused(name):
    format_ = formats("trained")[name]
    for words in ([], ["w"] * 101):
        fits = bool(words) and name in ("tag_only", "aligned", "input_tag")
        for call in (
            format_.source,
            format_.template,
            lambda words: format_.target((), words),
            lambda words: format_.read([1], words),
        ):
            if fits:
                call(words)
                continue
            with pytest.raises(UserError):
                call(words)
    format_.target((), ["w"] * 100)


def test_a_type_that_the_format_does_not_know_is_refused():
    with pytest.raises(UserError, match="'brand'"):
        formats("trained")["sentinel_tag"].target((Span(0, 1, "brand"),), ["x"])


def test_an_unknown_format_is_refused_with_the_names_there_are():
    with pytest.raises(UserError, match="fused_sentinel"):
        make_format("sentinel", trained(), TYPES)


def test_labels_that_t5_cannot_write_or_tell_apart_are_refused(data_dir):
    t5 = load_tokenizer(data_dir / "t5_vocab" / "spiece.model")
    with pytest.raises(UserError, match="país"):
        make_format("sentinel_tag", t5, ["país"])
    with pytest.raises(UserError, match="same pieces"):
        make_format("sentinel_tag", t5, ["fix", "\ufb01x"])
    for types in (["país"], ["fix", "\ufb01x"]):
        make_format("fused_sentinel", t5, types)


def test_a_label_with_a_piece_of_the_frame_is_refused():
    class Overlapping(Bytes):
        def encode(self, text: str) -> list[int]:
            return [62 if id_ == ord("x") + 3 else id_ for id_ in super().encode(text)]

    with pytest.raises(UserError, match="'box'"):
        make_format("tag_only", Tokenizer(Overlapping()), ["box"])


@pytest.mark.parametrize("corpus", ["snips", "atis"])
def test_t5_can_write_the_types_of_real_corpora(data_dir, corpus):
    lines = (data_dir / corpus / "train" / "seq.out").read_text(encoding="utf-8").split()
    types = {tag[2:] for tag in lines if tag != "O"}
    for name in FORMATS:
        format_ = make_format(name, load_tokenizer(data_dir / "t5_vocab" / "spiece.model"), types)
        assert len(set(format_.tags.values())) == len(types) + 2
