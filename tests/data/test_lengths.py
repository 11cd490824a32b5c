"""Sentences over the limits of a format: refused with the number that is needed, or in windows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs.default import get_config
from groot_jax.data.batches import encode
from groot_jax.data.corpus import Corpus
from groot_jax.data.format import Format
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Sentence, make_labeling
from groot_jax.data.lengths import without_too_long
from groot_jax.data.tokenizer import train_tokenizer
from groot_jax.errors import UserError
from groot_jax.task import follow_data, num_sentinels


def sentence(count: int, source: str, *spans: tuple[int, int, str]) -> Sentence:
    return Sentence(tuple(f"w{i}" for i in range(count)), make_labeling(spans, count), source)


LONG = sentence(14, "a.txt:3", (0, 1, "x"), (5, 9, "x"), (13, 14, "x"))
CORPUS = Corpus(
    (sentence(4, "a.txt:1", (1, 2, "x")), LONG), (sentence(12, "b.txt:7"),), (), ("x",), ()
)


@pytest.fixture(scope="module")
def format_() -> Format:
    tokenizer = train_tokenizer(CORPUS.train, ("x",), 100, num_sentinels=8)
    return make_format("sentinel_tag", tokenizer, ("x",))


def settings(**text: Any) -> ConfigDict:
    config = get_config()
    config.text.update(text)
    return config


def test_a_sentence_of_more_words_than_sentinels_is_named_with_what_can_be_done(
    format_: Format,
) -> None:
    with pytest.raises(UserError) as raised:
        without_too_long(CORPUS, format_, settings(), 100)
    said = str(raised.value)
    for part in ("a.txt:3: ", "has 14 words", "at most 8", "the longest has 14"):
        assert part in said
    assert "text.long_sentences=window" in said and "text.format=tag_only" in said


def test_long_training_sentences_are_cut_and_those_of_dev_kept(format_: Format) -> None:
    config = settings(long_sentences="window", overlap=2)
    corpus = without_too_long(CORPUS, format_, config, 100)
    assert corpus.dev == CORPUS.dev and corpus.train[0] == CORPUS.train[0]
    pieces = corpus.train[1:]
    assert all(len(piece.words) <= 8 and piece.source == LONG.source for piece in pieces)
    found = {p.words[s.start : s.end] for p in pieces for s in p.labeling}
    assert found == {LONG.words[s.start : s.end] for s in LONG.labeling}
    assert {word for piece in pieces for word in piece.words} == {*LONG.words}
    assert corpus.notes == (f"train: 1 long sentences in {len(pieces)} windows",)


def test_long_unlabeled_sentences_are_cut_as_those_of_train_are(format_: Format) -> None:
    corpus = dataclasses.replace(CORPUS, unlabeled=(sentence(12, "u.txt:1"),))
    corpus = without_too_long(corpus, format_, settings(long_sentences="window", overlap=2), 100)
    pieces = corpus.unlabeled
    assert len(encode(pieces, format_, gold=False)) == len(pieces) == 2
    assert {word for piece in pieces for word in piece.words} == {f"w{i}" for i in range(12)}
    assert corpus.notes[-1] == "unlabeled: 1 long sentences in 2 windows"


def test_a_span_longer_than_a_window_gets_the_policy(format_: Format) -> None:
    corpus = Corpus((*CORPUS.train, sentence(12, "a.txt:9", (1, 11, "x"))), (), (), ("x",), ())
    config = settings(long_sentences="window")
    with pytest.raises(UserError, match=r"a\.txt:9: the span of words 1 to 11 \(x\)"):
        without_too_long(corpus, format_, config, 100)
    config.data.policy = "skip"
    kept = without_too_long(corpus, format_, config, 100)
    assert "sentences skipped whose spans are longer than a window: 1," in kept.notes[-1]


def test_the_limit_of_words_follows_the_data() -> None:
    long = Corpus(CORPUS.train, (), (sentence(124, "c.txt:1"),), ("x",), ())
    assert follow_data(settings(), long) == 124
    assert follow_data(settings(), CORPUS) == 100
    assert follow_data(settings(long_sentences="window"), long) == 100
    assert num_sentinels(settings(), 124) == 124 and num_sentinels(settings()) == 100
