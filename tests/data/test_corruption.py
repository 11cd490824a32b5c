"""Span corruption: what is masked, what stands for it, and batches that any process makes alike."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from groot_jax.data.corruption import Corruption, Position, corrupt, positions_of
from groot_jax.data.denoising import Denoising, DenoisingBatches
from groot_jax.data.labeling import Sentence
from groot_jax.data.ladder import fit_ladder
from groot_jax.data.tokenizer import Tokenizer, train_tokenizer

T5 = Corruption(0.15, 3.0)


class Numbers:
    """Of a tokenizer what `corrupt` asks for: sentinels in T5's order, above all pieces."""

    eos_id = 1
    sentinels = range(9999, 9000, -1)


NUMBERS: Any = Numbers()


@pytest.fixture(scope="module")
def sentences() -> list[Sentence]:
    rng = np.random.default_rng(0)
    words = ("red", "blue", "jeans", "levi", "shirt", "for", "men", "women", "orange", "running")
    return [
        Sentence(tuple(rng.choice(words, int(rng.integers(1, 13))).tolist()), (), f"text:{i + 1}")
        for i in range(50)
    ]


@pytest.fixture(scope="module")
def tokenizer(sentences: list[Sentence]) -> Tokenizer:
    return train_tokenizer(sentences, (), 60, max_features=500)


# ---- Which positions --------------------------------------------------------------------------


@st.composite
def draws(draw):
    length = draw(st.integers(1, 150))
    share = draw(st.sampled_from([0.01, 0.15, 0.5, 0.9]))
    corruption = Corruption(share, draw(st.sampled_from([1.0, 3.0, 10.0])))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    most = draw(st.sampled_from([1, 7, 100]))
    return length, corruption, most, corruption.draw(length, most, rng)


@settings(max_examples=150, deadline=None)
@given(draws())
def test_spans_are_in_order_apart_and_leave_something(drawn):
    length, corruption, most, spans = drawn
    assert 1 <= len(spans) <= most
    assert all(start < end for start, end in spans)
    assert spans[0][0] >= 0 and spans[-1][1] <= length
    assert all(left[1] < right[0] for left, right in pairwise(spans))
    masked = sum(end - start for start, end in spans)
    assert masked < length or length == 1
    assert abs(masked - corruption.share * length) < 1 or masked in (1, length - 1)


@settings(max_examples=150, deadline=None)
@given(draws(), st.integers(0, 1 << 30))
def test_source_and_target_restore_the_sentence_and_no_sizes_are_too_small(drawn, seed):
    length, corruption, most, spans = drawn
    rng = np.random.default_rng(seed)
    positions = [
        Position(2 + i, (5000 + i,), tuple(rng.integers(2, 5000, rng.integers(1, 5)).tolist()))
        for i in range(length)
    ]
    source, fused, target = corrupt(positions, spans, NUMBERS)
    assert (source[-1], target[-1]) == (1, 1) and len(source) == len(fused)
    # What each sentinel of the target stands for, in order.
    stands_for: list[list[int]] = []
    for id_ in target[:-1]:
        if id_ == 9999 - len(stands_for):
            stands_for.append([])
        else:
            stands_for[-1].append(id_)
    found: list[int] = []
    for id_, ids in zip(source[:-1], fused, strict=False):
        if id_ > 9000:
            assert ids == ()
            span = spans[9999 - id_]
            assert found == [p for position in positions[: span[0]] for p in position.pieces]
            found += stands_for[9999 - id_]
        else:
            assert ids == (5000 + id_ - 2,)
            found += positions[id_ - 2].pieces
    assert found == [piece for position in positions for piece in position.pieces]
    longest = corruption.longest(positions, most)
    assert len(source) <= longest[0] and len(target) <= longest[1]


@pytest.mark.parametrize("length", [7, 10, 40])
def test_fifteen_percent_are_masked_and_every_place_alike(length):
    rng = np.random.default_rng(1)
    times, spans = 3000, 0
    hits = np.zeros(length)
    for _ in range(times):
        for start, end in T5.draw(length, 100, rng):
            hits[start:end] += 1
            spans += 1
    rates = hits / times
    assert rates.mean() == pytest.approx(0.15, abs=0.006)
    # T5's own draw would mask the last word of every short sentence, and no other. (Only a span
    # that begins there covers the first word, so that ends are masked more seldom.)
    assert rates.min() > 0.04 and rates.max() < 0.21
    if length < 20:
        assert rates.min() > 0.09
    if length == 40:
        assert hits.sum() / spans == pytest.approx(3.0, abs=0.05)


def test_one_word_of_a_short_sentence_is_masked_and_a_single_word_too():
    rng = np.random.default_rng(2)
    assert Counter(len(T5.draw(3, 100, rng)) for _ in range(50)) == {1: 50}
    assert {e - s for _ in range(50) for s, e in T5.draw(3, 100, rng)} == {1}
    assert T5.draw(1, 100, rng) == [(0, 1)]


def test_the_example_of_t5():
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week", "."]
    ids = {word: 10 + i for i, word in enumerate(words)}
    positions = [Position(id_, (), (id_,)) for id_ in ids.values()]
    source, _, target = corrupt(positions, [(2, 4), (8, 9)], NUMBERS)
    names = {id_: word for word, id_ in ids.items()} | {9999: "<X>", 9998: "<Y>", 1: "EOS"}
    assert " ".join(map(names.__getitem__, source)) == (
        "Thank you <X> me to your party <Y> week . EOS"
    )
    assert " ".join(map(names.__getitem__, target)) == "<X> for inviting <Y> last EOS"


def test_positions_are_words_with_their_features_or_pieces(tokenizer):
    words = ("red", "jeansy")
    by_word = positions_of(words, tokenizer, True)
    assert [(p.id, *p.fused) for p in by_word] == [tokenizer.features(word) for word in words]
    assert [p.pieces for p in by_word] == [tokenizer.word(word) for word in words]
    by_piece = positions_of(words, tokenizer, False)
    pieces = [piece for word in words for piece in tokenizer.word(word)]
    assert by_piece == [Position(piece, (), (piece,)) for piece in pieces]


# ---- Batches ----------------------------------------------------------------------------------


def loader(source, target, rungs):
    buckets = {"source_buckets": source, "target_buckets": target}
    return ConfigDict({**buckets, "padding": 0.1, "rungs": rungs})


def batches_of(tokenizer, sentences, by_word=True, seed=3, own_B=None):
    denoising = Denoising(tokenizer, by_word, T5)
    examples = denoising.envelopes(sentences)
    ladder = fit_ladder([e.need for e in examples], loader((4, 8, 16, 64), (8, 16, 64), 3))
    return DenoisingBatches(denoising, examples, 8, ladder, seed, own_B)


def ids_of(row_N):
    """Without padding, of which a sentence may have more in another batch."""
    return row_N[row_N != 0].tolist()


def assert_same(a, b):
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True) if x is not None)


@pytest.mark.parametrize("by_word", [True, False])
def test_a_batch_is_a_pure_function_of_seed_and_step(tokenizer, sentences, by_word):
    one, other = (batches_of(tokenizer, sentences, by_word) for _ in range(2))
    count = one.per_epoch
    wanted = [one[step] for step in range(2 * count)]
    for step in (2 * count - 1, 0, count):
        assert_same(other[step], wanted[step])
    for batch, ahead in zip(wanted[5:8], other.from_step(5, threads=3), strict=False):
        assert_same(ahead, batch)
    # Each epoch has every sentence once, masked anew; a seed of its own masks otherwise.
    found = [
        {
            index: (ids_of(batch.source_BxS[row]), ids_of(batch.target_BxT[row]))
            for batch in part
            for row, index in enumerate(batch.index_B.tolist())
            if index >= 0
        }
        for part in (wanted[:count], wanted[count:])
    ]
    assert found[0].keys() == found[1].keys() == set(range(50))
    assert sum(found[0][i] != found[1][i] for i in range(50)) > 25
    masks = [Denoising(tokenizer, by_word, T5).corrupted(sentences[0], 4, 0, i) for i in range(9)]
    assert len(set(masks)) > 1


def test_processes_make_together_what_one_makes(tokenizer, sentences):
    whole = batches_of(tokenizer, sentences)[1]
    for own_B in (np.arange(8) < 4, np.arange(8) >= 4):
        part = batches_of(tokenizer, sentences, own_B=own_B)[1]
        for x, y in zip(part, whole, strict=True):
            if isinstance(x, np.ndarray) and x is not part.template_BxL:
                assert np.array_equal(x[own_B], y[own_B])
        assert not part.target_BxT[~own_B].any()


def test_rows_hold_features_and_ends(tokenizer, sentences):
    batches = batches_of(tokenizer, sentences)
    batch = batches[0]
    row = int(np.flatnonzero(batch.index_B >= 0)[0])
    sentence = sentences[int(batch.index_B[row])]
    source = batch.source_BxS[row]
    length = int((source != 0).sum())
    assert source[length - 1] == tokenizer.eos_id
    bags = {tokenizer.features(word) for word in sentence.words}
    for at in range(length - 1):
        bag = (int(source[at]), *(i for i in batch.fused_source_BxSxF[row, at].tolist() if i))
        assert bag in bags or bag[0] in {*tokenizer.sentinels[:9]}
    assert batch.aligned_BxT is None
    assert not batch.fused_target_BxT.any()


def test_the_dev_part_is_masked_alike_each_time(tokenizer, sentences):
    denoising = Denoising(tokenizer, True, T5)
    examples = denoising.envelopes(sentences)
    ladder = fit_ladder([e.need for e in examples], loader((16,), (64,), 1))
    own_B = np.ones(16, bool)
    first, again = (list(denoising.dev_batches(examples, 16, ladder, own_B)) for _ in range(2))
    assert len(first) == 4
    for a, b in zip(first, again, strict=True):
        assert_same(a, b)
    assert sorted(i for b in first for i in b.index_B.tolist() if i >= 0) == list(range(50))
