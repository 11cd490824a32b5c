"""The generated corpus: size, determinism, splits that share no text, and real ambiguity."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import pytest

from configs.default import get_config
from groot_jax.data.corpus import load_corpus
from groot_jax.data.labeling import make_labeling
from groot_jax.data.retail.queries import main, make_retail, unlabeled_retail


@pytest.fixture(scope="module")
def retail():
    return make_retail(0)


def test_the_reader_gives_12000_train_1500_dev_and_1500_test_sentences():
    data = get_config().data
    data.reader = "retail"
    corpus = load_corpus(data)
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (12000, 1500, 1500)
    assert {"brand", "product", "color", "size", "material", "audience"} <= set(corpus.types)
    assert {"price", "style"} <= set(corpus.types)


def test_a_seed_gives_the_same_corpus_everywhere(retail):
    """The digest was taken once; another platform or Python must give the same."""
    assert make_retail(0) == retail
    digest = hashlib.sha256(repr(retail["test"]).encode()).hexdigest()
    assert digest.startswith("0631da5b3d5ff6f9")
    assert make_retail(1)["test"] != retail["test"]


def test_unlabeled_queries_go_on_where_the_splits_end_and_none_is_of_dev_or_test(retail):
    queries = list(unlabeled_retail(0, 4000))
    assert len(queries) == 4000 and queries[:5] == list(unlabeled_retail(0, 5))
    assert make_retail(0) == retail
    texts = {split: {sentence.words for sentence in retail[split]} for split in retail}
    assert not texts["dev"] & set(queries) and not texts["test"] & set(queries)
    # No copy of train, and the same shops: names that train lacks, and dev and test have.
    assert len(set(queries) - texts["train"]) > 3500
    words = {split: {word for text in texts[split] for word in text} for split in texts}
    unseen = (words["dev"] & words["test"]) - words["train"]
    assert len(unseen & {word for query in queries for word in query}) > len(unseen) / 2


def test_the_command_prints_queries(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["retail", "--count=3", "--seed=1"])
    main()
    printed = capsys.readouterr().out.splitlines()
    assert [tuple(line.split(" ")) for line in printed] == list(unlabeled_retail(1, 3))


def test_no_text_occurs_twice_within_or_across_splits(retail):
    texts = [sentence.words for split in retail.values() for sentence in split]
    assert len(set(texts)) == len(texts)


def test_every_query_is_a_valid_labeling_of_3_to_14_clean_words(retail):
    for sentence in (item for split in retail.values() for item in split):
        assert 3 <= len(sentence.words) <= 14
        assert sentence.labeling == make_labeling(sentence.labeling, len(sentence.words))
        assert sentence.labeling
        for word in sentence.words:
            assert word
            assert not set(word) & set(" \t:{}")


def phrases(sentences):
    """phrase -> the types it carries."""
    found = defaultdict(set)
    for sentence in sentences:
        for start, end, type_ in sentence.labeling:
            found[" ".join(sentence.words[start:end])].add(type_)
    return found


def test_many_phrases_carry_several_types(retail):
    found = phrases(retail["train"])
    assert {"color", "material"} <= found["gold"]
    assert {"color", "flavor"} <= found["peach"]
    assert {"brand", "color"} <= found["pink"]
    assert sum(len(types) > 1 for types in found.values()) > 120


def test_the_same_compound_is_read_whole_and_in_parts(retail):
    whole = parts = 0
    for sentence in retail["train"]:
        for start, end, type_ in sentence.labeling:
            if type_ == "product":
                whole += sentence.words[start:end] == ("leather", "jacket")
                parts += sentence.words[start - 1 : end] == ("leather", "jacket")
    assert whole > 3
    assert parts > 3


def test_test_has_brands_products_and_words_that_train_lacks(retail):
    def of_type(split, type_):
        return {p for p, types in phrases(retail[split]).items() if type_ in types}

    # In dev and test alike: so no typos, but names that train is kept from.
    def kept_from_train(type_):
        return len((of_type("test", type_) & of_type("dev", type_)) - of_type("train", type_))

    assert kept_from_train("brand") > 20
    assert kept_from_train("product") > 5
    known = {word for sentence in retail["train"] for word in sentence.words}
    unseen = sum(any(w not in known for w in item.words) for item in retail["test"])
    assert 0.05 < unseen / len(retail["test"]) < 0.3


def test_brands_have_several_words_and_a_long_tail(retail):
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for sentence in retail["train"]:
        for start, end, type_ in sentence.labeling:
            if type_ == "brand":
                counts[sentence.words[start:end]] += 1
    assert len(counts) > 1000
    assert max(counts.values()) > 20 * sorted(counts.values())[len(counts) // 2]
    assert sum(len(brand) > 1 for brand in counts) > 400
