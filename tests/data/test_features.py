"""Features of words: what they say, which are kept, and that they survive a save."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from groot_jax.data.features import (
    MOST_FEATURES,
    common_features,
    feature_ids,
    shape,
    word_features,
)
from groot_jax.data.labeling import Sentence
from groot_jax.data.tokenizer import load_tokenizer, train_tokenizer


def test_a_word_is_known_by_itself_its_ends_and_its_shape():
    assert word_features("Nike") == ("=nike", "n-", "ni-", "nik-", "-e", "-ke", "-ike", "~Xxx")
    assert word_features("7") == ("=7", "~d")


def test_shapes_tell_letters_and_digits_and_cut_runs():
    assert shape("McDonald's") == "XxXxx'x"
    assert shape("2000mAh") == "ddxXx"
    assert shape("É") == "X"
    assert shape("") == ""


@given(st.text())
def test_a_word_has_few_features_and_itself_comes_first(word):
    features = word_features(word)
    assert features[0] == f"={word.lower()}"
    assert len(features) <= MOST_FEATURES
    assert len(set(features)) == len(features)


def test_features_seen_once_are_left_out_and_the_commonest_are_kept():
    words = ["red", "red", "red", "reed", "blue"]
    every = common_features(words, 100)
    assert "=red" in every and "-d" in every and "~xx" in every
    assert "=blue" not in every and "=reed" not in every
    assert common_features(words, 2) == ["~xx", "-d"]


def test_an_unknown_word_has_the_unknown_id_and_the_features_that_are_known():
    ids = {"=red": 10, "r-": 11, "~xx": 12}
    assert feature_ids("red", ids, 2) == (10, 11, 12)
    assert feature_ids("rose", ids, 2) == (2, 11, 12)


def test_features_survive_a_save(tmp_path):
    sentence = Sentence(("Café", "Café", "de", "de"), ())
    tokenizer = train_tokenizer([sentence], ["place"], 40, max_features=30)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for word in ("Café", "cafe", "zone"):
        assert loaded.features(word) == tokenizer.features(word)
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.tag("place") == tokenizer.tag("place")
