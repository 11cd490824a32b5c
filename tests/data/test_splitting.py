"""Text to words and back: exact places, in any script."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_jax.data.incoming import sentence_of_line
from groot_jax.data.readers.reading import words_of
from groot_jax.data.splitting import (
    SPLITS,
    attached,
    spans_of_words,
    split_text,
    stands_apart,
    warn_of_attached,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann's in Bonn, e.g. U.S.A.", "Ann's|in|Bonn|,|e.g|.|U.S.A|."),
        ("3.14 1,000 well-known (R2-D2)...", "3.14|1,000|well|-|known|(|R2|-|D2|)|.|.|."),
        ("don\u2019t\u00a0stop\u3000now", "don\u2019t|stop|now"),
        ("東京タワーへ行く。", "東|京|タ|ワ|ー|へ|行|く|。"),
        ("トヨタ ﾄﾖﾀ", "ト|ヨ|タ|ﾄ|ﾖ|ﾀ"),
        ("한국어 문장", "한국어|문장"),
        ("मैं दिल्ली में", "मैं|दिल्ली|में"),
        ("👩\u200d👩\u200d👧 🇩🇪🇫🇷", "👩\u200d👩\u200d👧|🇩🇪|🇫🇷"),
        ("a\u200b \ufeff b", "a|b"),
        ("e\u0301a", "e\u0301a"),
        (" \t\u200b", ""),
    ],
)
def test_unicode_words_stand_apart_from_punctuation(text, words):
    assert "|".join(split_text(text, "unicode").words) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("O'Connor's e-mail: a.b@c.de", "O|'|Connor|'|s|e|-|mail|:|a|.|b|@|c|.|de"),
        ("3.14 1,000km snake_case", "3|.|14|1|,|000km|snake|_|case"),
        ("don\u2019t e\u0301te\u0301", "don|\u2019|t|e\u0301te\u0301"),
        ("東京 मैं 👩\u200d👩\u200d👧", "東|京|मैं|👩\u200d👩\u200d👧"),
    ],
)
def test_punctuation_stands_apart_within_words_too(text, words):
    assert "|".join(split_text(text, "punctuation").words) == words


def test_thai_is_parted_by_character_with_its_marks():
    assert split_text("ที่นี่", "unicode").words == ("ที่", "นี่")


LETTERS = st.text(
    st.sampled_from("aB1 \t.,-'ä\u0301\u200b\ufeff京トー🇩🇪👩\u200dท\u0e35\r\n\u00a0_")
)


@pytest.mark.parametrize("split", SPLITS)
@given(text=LETTERS)
def test_words_are_the_characters_at_their_offsets(split, text):
    words, offsets = split_text(text, split)
    end = 0
    for word, (first, last) in zip(words, offsets, strict=True):
        assert end <= first < last and text[first:last] == word
        # Nothing that shows is lost between words.
        assert not any(c.isalnum() or c in ".,-'_" for c in text[end:first])
        end = last
    assert not any(c.isalnum() for c in text[end:])


@given(text=LETTERS)
def test_spaces_part_text_as_columns_are_parted(text):
    assert list(split_text(text, "spaces").words) == words_of(text)


@given(text=LETTERS, data=st.data())
def test_spans_of_characters_come_back_from_the_spans_of_words(text, data):
    words, offsets = split_text(text, "unicode")
    if not words:
        return
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    place = (offsets[first][0], offsets[last][1])
    (span,) = spans_of_words([(*place, "x")], text, offsets)
    assert (span.start, span.end, span.type) == (first, last + 1, "x")


@pytest.mark.parametrize(
    ("text", "apart"),
    [
        ("In Rome , U.S. troops left . Why ? It rained .", True),
        ("In Rome, troops left. Why? It rained.", False),
        ("black levi jeans size 9", False),
        ("dr. oetker pizza , 3.5 kg", True),
        # One slip in ten marks and more is one; an emoticon is no word with a mark.
        ("a , b , c , d , e , f , g , h , i , j , k, l ;)", True),
        ("a , b, c", False),
    ],
)
def test_whether_punctuation_stands_apart_in_training(text, apart):
    assert stands_apart(Counter(text.split(" "))) is apart


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Prices rose 5%.", "5%."),
        ("In Rome, he said", "Rome,"),
        ("In the U.S. it rained", ""),
        ("In the U.S.", "U.S."),
        ("In Rome , he said .", ""),
        ("", ""),
    ],
)
def test_a_word_with_punctuation_attached_is_found(text, word):
    words = text.split()
    assert attached(words) == word
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for split, apart in (("spaces", True), ("unicode", True), ("spaces", False)):
            warn_of_attached(words, split, apart)
    assert [repr(word) in str(warning.message) for warning in caught] == [True] * bool(word)


def test_a_line_of_text_keeps_the_places_of_its_words():
    line = sentence_of_line("  red\tlevi's, ", "f:1", "unicode")
    assert line.words == ("red", "levi's", ",") and line.offsets == ((2, 5), (6, 12), (12, 13))
    item = sentence_of_line('{"text": "red\\r\\njeans"}', "f:1")
    assert item.words == ("red", "jeans") and item.offsets == ((0, 3), (5, 10))
    assert item.text == "red\r\njeans"
    assert sentence_of_line('{"words": ["a b"]}', "f:1") == (("a b",), None, None, {})
