"""Mention replacement: what may change in a sentence, what it does to lengths, and that an epoch
remains one: each example once, in as many batches, the same whoever asks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from groot_jax.data.augment import Augmenter
from groot_jax.data.batches import Batch, TrainingBatches, encode
from groot_jax.data.format import Format
from groot_jax.data.formats import FORMATS
from groot_jax.data.labeling import Sentence, Span, make_labeling
from groot_jax.data.ladder import Ladder, fit_ladder
from tests.data.test_formats import formats, labeled

SOURCE, TARGET = tuple(range(4, 400, 4)), tuple(range(4, 400, 4))
CITIES = ("rome", "new york", "rio de janeiro", "la")

splits = st.lists(
    labeled().map(lambda pair: Sentence(pair[0], pair[1], "here:1")), min_size=1, max_size=12
)


def loader(rungs: int) -> ConfigDict:
    buckets = {"source_buckets": SOURCE, "target_buckets": TARGET}
    return ConfigDict({**buckets, "padding": 0.1, "rungs": rungs})


def make(
    sentences: list[Sentence],
    batch_size: int = 4,
    probability: float = 0.5,
    seed: int = 0,
    format_: Format | None = None,
    ladder: Ladder | None = None,
    own_B: np.ndarray | None = None,
) -> TrainingBatches:
    format_ = format_ or formats("bytes")["fused_sentinel"]
    examples = encode(sentences, format_)
    ladder = ladder or fit_ladder([e.need for e in examples], loader(4))
    augmenter = Augmenter(sentences, format_, probability)
    return TrainingBatches(examples, batch_size, ladder, seed, own_B=own_B, augmenter=augmenter)


def trips(count: int) -> list[Sentence]:
    """`fly to CITY` and such, of many lengths."""
    sentences = []
    for i in range(count):
        city = CITIES[i % 4].split()
        words = (*("please", "fly", "me", "to")[i % 3 :], *city, *("now",) * (i % 5))
        start = words.index("to") + 1
        sentences.append(Sentence(words, (Span(start, start + len(city), "artist"),), f"f:{i}"))
    return sentences


def assert_same(a: Batch, b: Batch) -> None:
    assert a.examples == b.examples
    for left, right in zip(a[1:], b[1:], strict=True):
        np.testing.assert_array_equal(left, right)


def sentences_of(batch: Batch) -> dict[int, Sentence]:
    return {e.index: e.sentence for e in batch.examples if e is not None}


def rest(sentence: Sentence) -> list[tuple[str, ...]]:
    """The words before, between and after the spans."""
    starts = [span.start for span in sentence.labeling] + [len(sentence.words)]
    ends = [0] + [span.end for span in sentence.labeling]
    return [sentence.words[end:start] for end, start in zip(ends, starts, strict=True)]


# ---- One sentence -----------------------------------------------------------------------------


@settings(deadline=None)
@given(splits, st.sampled_from([0.3, 1.0]), st.integers(0, 9))
def test_only_mentions_change_and_only_to_mentions_of_their_type(sentences, probability, seed):
    augmenter = Augmenter(sentences, formats("bytes")["tag_only"], probability)
    known = {(span.type, s.words[span.start : span.end]) for s in sentences for span in s.labeling}
    assert {(t, words) for t, listed in augmenter.mentions.items() for words in listed} == known
    mention_P = augmenter.draw(np.random.default_rng(seed))
    for i, sentence in enumerate(sentences):
        made = augmenter.sentence(i, mention_P)
        assert make_labeling(made.labeling, len(made.words)) == made.labeling
        assert [span.type for span in made.labeling] == [s.type for s in sentence.labeling]
        assert rest(made) == rest(sentence)
        assert made.source == sentence.source
        for new, old in zip(made.labeling, sentence.labeling, strict=True):
            mention = made.words[new.start : new.end]
            assert (new.type, mention) in known
            if probability == 1 and len(augmenter.mentions[new.type]) > 1:
                assert mention != sentence.words[old.start : old.end]


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("kind", ["trained", "bytes"])
@settings(deadline=None, max_examples=40)
@given(sentences=splits, seed=st.integers(0, 9))
def test_lengths_are_known_before_a_sentence_is_made(name, kind, sentences, seed):
    format_ = formats(kind)[name]
    augmenter = Augmenter(sentences, format_, 0.5)
    mention_P = augmenter.draw(np.random.default_rng(seed))
    for i, gained in enumerate(augmenter.growth(mention_P).tolist()):
        made = augmenter.sentence(i, mention_P)
        if len(made.words) <= format_.max_words:
            old, new = encode([sentences[i], made], format_)
            assert len(new.source) - len(old.source) == gained[0]
            assert new.cap - old.cap == gained[1]
            assert len(made.words) - len(sentences[i].words) == gained[2]


def test_mentions_are_listed_once_in_the_order_of_the_split():
    augmenter = Augmenter(trips(40), formats("bytes")["tag_only"], 0.5)
    assert augmenter.mentions == {"artist": tuple(tuple(city.split()) for city in CITIES)}


def test_each_other_mention_is_drawn_equally_often_and_a_span_as_often_as_asked():
    sentences = [s for s in trips(40) if "rome" not in s.words] * 40 + trips(1)  # One Rome.
    augmenter = Augmenter(sentences, formats("bytes")["tag_only"], 0.6)
    mention_P = augmenter.draw(np.random.default_rng(0))
    drawn: Counter[tuple[str, str]] = Counter()
    for i, (sentence, mention) in enumerate(zip(sentences, mention_P.tolist(), strict=True)):
        span = sentence.labeling[0]
        made = augmenter.sentence(i, mention_P)
        assert (
            augmenter.mentions["artist"][mention]
            == made.words[span.start :][: made.labeling[0].end - span.start]
        )
        drawn[" ".join(sentence.words[span.start : span.end]), made.words[span.start]] += 1
    for city in CITIES[1:]:  # Each 400 times: 240 swaps, 80 to each of the three others.
        counts = {new: n for (old, new), n in drawn.items() if old == city}
        own = counts.pop(city.split()[0])
        assert abs(own - 160) < 40
        assert len(counts) == 3 and all(abs(n - 80) < 35 for n in counts.values())


def test_a_split_without_spans_stays_as_it_is():
    sentences = [Sentence(("fly",), ()), Sentence(("to", "rome"), ())]
    batches = make(sentences, batch_size=2, probability=1.0)
    assert sentences_of(batches[5]) == dict(enumerate(sentences))


# ---- Epochs -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(splits, st.integers(1, 5), st.sampled_from([0.2, 1.0]), st.integers(0, 3))
def test_every_epoch_shows_each_example_once_in_as_many_batches(
    sentences, batch_size, probability, seed
):
    batches = make(sentences, batch_size, probability, seed)
    assert batches.per_epoch == -(-len(sentences) // batch_size)
    for epoch in range(4):
        start = epoch * batches.per_epoch
        shown = [batches[start + at] for at in range(batches.per_epoch)]
        indices = np.concatenate([batch.index_B for batch in shown])
        assert sorted(indices[indices >= 0].tolist()) == list(range(len(sentences)))
        for batch in shown:
            assert (batch.source_BxS.shape[1], batch.target_BxT.shape[1]) in batches._ladder.rungs
            for row, example in enumerate(batch.examples):
                assert (example is None) == (batch.index_B[row] < 0)
                if example is not None:
                    (again,) = encode([example.sentence], formats("bytes")["fused_sentinel"])
                    assert again.target == example.target and again.source == example.source
                    target = batch.target_BxT[row, : len(again.target)]
                    assert tuple(target.tolist()) == again.target


def test_an_epoch_has_mentions_of_its_own_and_the_same_order_as_without():
    sentences = trips(60)
    batches = make(sentences, 60, probability=1.0, ladder=Ladder(SOURCE, TARGET, ((80, 40),)))
    plain = TrainingBatches(
        batches._examples, 60, batches._ladder, 0
    )  # One size of batch, so that lengths change no order.
    for epoch in range(3):
        np.testing.assert_array_equal(batches[epoch].index_B, plain[epoch].index_B)
    first, second = sentences_of(batches[0]), sentences_of(batches[1])
    assert all(first[i].words != s.words for i, s in enumerate(sentences))
    assert 20 < sum(first[i] != second[i] for i in range(60)) < 60


def test_a_batch_depends_on_seed_and_step_alone():
    sentences = trips(50)
    a, b, other = make(sentences), make(sentences), make(sentences, seed=1)
    for step in (0, 40, 7, 13, 40):
        assert_same(a[step], b[step])
    assert any(sentences_of(a[step]) != sentences_of(other[step]) for step in range(5))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_continuing_in_the_middle_gives_the_same_batches(threads):
    sentences = trips(50)
    batches = make(sentences)
    stream = make(sentences).from_step(9, threads)
    for step in range(9, 9 + 3 * batches.per_epoch):
        assert_same(next(stream), batches[step])


def test_processes_fill_their_rows_of_the_same_batches():
    sentences = trips(50)
    whole = make(sentences)
    first = np.array([True, True, False, False])
    parts = [make(sentences, own_B=own_B) for own_B in (first, ~first)]
    for step in range(2 * whole.per_epoch):
        batch, (a, b) = whole[step], (part[step] for part in parts)
        assert a.examples[2:] == b.examples[:2] == [None, None]
        assert batch.examples == a.examples[:2] + b.examples[2:]
        for name in ("index_B", "source_BxS", "target_BxT", "template_BxL", "cap_B"):
            together = np.concatenate([getattr(a, name)[:2], getattr(b, name)[2:]])
            np.testing.assert_array_equal(together, getattr(batch, name))


def test_a_sentence_that_no_rung_holds_stays_as_it_is():
    sentences = trips(8)
    longest = max(e.need for e in encode(sentences, formats("bytes")["fused_sentinel"]))
    batches = make(sentences, 1, probability=1.0)
    assert batches._ladder.rungs[-1][0] - longest[0] < 4
    kept = swapped = 0
    for step in range(20 * batches.per_epoch):
        ((index, made),) = sentences_of(batches[step]).items()
        kept += made is sentences[index]
        swapped += made is not sentences[index]
    assert kept > 0 and swapped > 0


@pytest.mark.parametrize(("name", "most"), [("fused_sentinel", 40), ("tag_only", 45)])
def test_a_sentence_of_more_words_than_the_format_takes_stays_as_it_is(name, most):
    """The vocabulary has 40 sentinels, one a word; the ladder would hold more words."""
    city, new = ("la",), ("rio", "de", "la", "mar", "el", "mar")
    sentences = [
        Sentence((*("a",) * 39, *city), (Span(39, 40, "artist"),)),
        Sentence(new, (Span(0, 6, "artist"),)),
    ]
    ladder = Ladder(SOURCE, TARGET, ((1000, 1000),))
    batches = make(sentences, 2, 1.0, format_=formats("bytes")[name], ladder=ladder)
    made = sentences_of(batches[0])
    assert len(made[0].words) == most
    assert made[1].words == city


# ---- Without an augmenter ---------------------------------------------------------------------


def test_batches_without_an_augmenter_are_those_of_earlier_versions():
    """Written down before there was one: a run that began then continues with the same batches."""
    format_ = formats("bytes")["fused_sentinel"]
    examples = encode(trips(11), format_)
    ladder = fit_ladder([e.need for e in examples], loader(3))
    batches = TrainingBatches(examples, 3, ladder, 5)
    found = [
        (*batch.source_BxS.shape, batch.target_BxT.shape[1], batch.index_B.tolist())
        for batch in (batches[step] for step in range(2 * batches.per_epoch))
    ]
    assert found == [
        (3, 20, 8, [10, 7, 1]),
        (3, 20, 8, [0, 5, 8]),
        (3, 36, 12, [6, 9, -1]),
        (3, 36, 12, [2, 4, 3]),
        (3, 20, 8, [5, 8, 7]),
        (3, 20, 8, [0, 10, 1]),
        (3, 36, 12, [2, 4, 6]),
        (3, 36, 12, [9, 3, -1]),
    ]
