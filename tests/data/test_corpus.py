"""Corpora from files: counts of published sets, forms of files, splits, and bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs.default import get_config
from groot_jax.data.corpus import Corpus, load_corpus
from groot_jax.data.labeling import Span
from groot_jax.data.readers.reading import require_path
from groot_jax.errors import UserError

JEANS = "black B-color\nlevi B-brand\njeans B-product\n"


def settings(folder: Path, **changes: object) -> ConfigDict:
    data = get_config().data
    data.dir = str(folder)
    data.update(changes)
    return data


def load(
    folder: Path,
    text: str | bytes | None = None,
    max_words: int = 100,
    split_text: str = "spaces",
    **changes: Any,
) -> Corpus:
    """Loads `text` as train, with no dev or test unless named in `changes`."""
    if text is not None:
        changes.setdefault("train", "train.txt")
        raw = text if isinstance(text, bytes) else text.encode("utf-8")
        (folder / str(changes["train"])).write_bytes(raw)
    changes.setdefault("dev_fraction", 0.0)
    return load_corpus(settings(folder, **changes), max_words, split_text)


def error_of(folder: Path, text: str | bytes | None = None, **changes: Any) -> str:
    with pytest.raises(UserError) as raised:
        load(folder, text, **changes)
    message = str(raised.value)
    assert "\n" not in message
    return message


def skipped(corpus: Corpus) -> dict[str, int]:
    """What the notes say was dropped."""
    found = (re.match(r"(\w+): sentences skipped: (\d+)", note) for note in corpus.notes)
    return {match[1]: int(match[2]) for match in found if match}


def words(corpus: Corpus) -> list[str]:
    return [" ".join(sentence.words) for sentence in corpus.train]


# Published sets


def test_snips_has_the_published_counts(data_dir):
    corpus = load(data_dir, train="snips/train", dev="snips/valid", test="snips/test")
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (13084, 700, 700)
    assert len(corpus.types) == 39
    assert any("\ufffd" * 6 in sentence.words for sentence in corpus.train)


def test_atis_has_the_published_counts_and_four_types_that_only_its_test_split_has(data_dir):
    paths: dict[str, Any] = {"train": "atis/train", "dev": "atis/valid", "test": "atis/test"}
    corpus = load(data_dir, **paths, unknown_types="keep")
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (4478, 500, 893)
    assert len(corpus.types) == 79
    unseen = {span.type for item in corpus.test for span in item.labeling} - set(corpus.types)
    assert unseen == {"booking_class", "compartment", "flight", "stoploc.airport_code"}
    message = error_of(data_dir, **paths)
    assert "atis/test/seq.in:" in message
    assert "data.unknown_types=keep" in message


def test_mit_restaurant_has_the_published_counts_with_dev_carved_from_train(data_dir):
    corpus = load(
        data_dir,
        train="mit_restaurant/restauranttrain.bio",
        test="mit_restaurant/restauranttest.bio",
        dev_fraction=0.1,
    )
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (6894, 766, 1521)
    assert len(corpus.types) == 8
    assert corpus.notes == ("dev: 766 sentences carved from train with seed 0",)


def test_wnut17_has_the_published_counts(data_dir):
    corpus = load(
        data_dir,
        train="wnut17/wnut17train.conll",
        dev="wnut17/emerging.dev.conll",
        test="wnut17/emerging.test.annotated",
        max_words=105,
    )
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (3394, 1009, 1287)
    assert len(corpus.types) == 6
    assert any("watched\u200bwas" in sentence.words for sentence in corpus.dev)
    # Four sentences of test are longer than the 100 sentinels of T5.
    assert sorted(len(sentence.words) for sentence in corpus.test)[-4:] == [104, 104, 105, 105]


# Forms of column files


@pytest.mark.parametrize("separator", ["\t", " ", "   "])
@pytest.mark.parametrize("order", ["word_first", "tag_first"])
def test_order_and_separator_of_columns_are_detected(tmp_path, separator, order):
    rows = [("new", "B-brand"), ("era", "I-brand"), ("cap", "O")]
    lines = [separator.join(row if order == "word_first" else row[::-1]) for row in rows]
    (sentence,) = load(tmp_path, "\n".join(lines)).train
    assert sentence.words == ("new", "era", "cap")
    assert sentence.labeling == (Span(0, 2, "brand"),)


def test_conll_files_give_their_first_and_last_column(tmp_path):
    text = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP I-ORG\nrejects VBZ B-VP O\n\n-DOCSTART- -X- -X- O\n"
    corpus = load(tmp_path, text)
    assert words(corpus) == ["EU rejects"]
    assert corpus.train[0].labeling == (Span(0, 1, "ORG"),)


def test_a_word_may_hold_spaces_where_tabs_separate(tmp_path):
    corpus = load(tmp_path, "new york\tB-city\npizza\tO\n")
    assert corpus.train[0].words == ("new york", "pizza")


def test_unicode_spaces_and_line_breaks_belong_to_their_word(tmp_path):
    word = "a\u00a0b\u2028c\u0085d\u200be"
    assert load(tmp_path, f"{word} B-x\n").train[0].words == (word,)


def test_blank_lines_may_hold_tabs_and_lines_may_end_in_crlf_and_a_bom_may_lead(tmp_path):
    text = b"\xef\xbb\xbfa\tB-x\r\n\t\r\n\r\nb\tO \r\n \nc\tO"
    assert words(load(tmp_path, text)) == ["a", "b", "c"]


def test_comment_lines_are_skipped_when_their_mark_is_configured(tmp_path):
    text = "# id 1\na B-x\n# more\nb I-x\n"
    corpus = load(tmp_path, text, comment="#")
    assert corpus.train[0].labeling == (Span(0, 2, "x"),)
    assert "train.txt:1" in error_of(tmp_path, text.replace("id 1", "id 1 2"))


def test_sources_name_the_first_line_of_their_sentence(tmp_path):
    corpus = load(tmp_path, f"{JEANS}\n{JEANS}")
    assert [item.source.rpartition(":")[2] for item in corpus.train] == ["1", "5"]


def test_a_configured_scheme_overrules_detection(tmp_path):
    assert load(tmp_path, "a I-x\nb I-x\n", scheme="iob1").types == ("x",)
    assert "train.txt:1: stray 'I-x'" in error_of(tmp_path, "a I-x\nb I-x\n", scheme="bio")


# seq.in + seq.out and JSON lines


def write_pair(folder: Path, seq_in: str, seq_out: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "seq.in").write_text(seq_in, encoding="utf-8")
    (folder / "seq.out").write_text(seq_out, encoding="utf-8")


def test_a_pair_of_seq_files_is_read_by_folder_or_by_the_path_of_seq_in(tmp_path):
    write_pair(tmp_path / "train", "play  abba \nstop\n\n", "O B-artist\nO \n")
    for path in ("train", "train/seq.in"):
        assert words(load(tmp_path, train=path)) == ["play abba", "stop"]


def test_seq_files_that_do_not_pair_are_named_with_their_lines(tmp_path):
    write_pair(tmp_path / "a", "play abba\nstop now\n", "O B-artist\nO\n")
    assert "seq.in:2: 2 words, but seq.out:2 has 1 tags" in error_of(tmp_path, train="a")
    assert skipped(load(tmp_path, train="a", policy="skip")) == {"train": 1}
    write_pair(tmp_path / "b", "play abba\nstop\n", "O B-artist\n")
    assert "has 2 lines" in error_of(tmp_path, train="b", policy="skip")
    (tmp_path / "b" / "seq.out").unlink()
    assert "there is no file" in error_of(tmp_path, train="b")


def test_json_lines_with_spans_and_with_tags_give_the_same_labelings(tmp_path):
    spans = {"words": ["a", "b c", "\t"], "spans": [[2, 3, "y"], [0, 2, "x"]], "id": 7}
    tags = {"words": ["a", "b c", "\t"], "tags": ["B-x", "I-x", "B-y"]}
    corpus = load(tmp_path, f"{json.dumps(spans)}\n\n{json.dumps(tags)}\n", train="t.jsonl")
    first, second = corpus.train
    assert first.words == second.words == ("a", "b c", "\t")
    assert first.labeling == second.labeling == (Span(0, 2, "x"), Span(2, 3, "y"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"words": ["a", "b"], "spans": [[0, 2, "x"], [1, 2, "y"]]}', "overlap"),
        ('{"words": ["a"], "spans": [[0, 2, "x"]]}', "leaves the sentence of 1 words"),
        ('{"words": ["a"], "spans": [[0, 0, "x"]]}', "is empty"),
        ('{"words": ["a"], "spans": [[0, 1, "I"]]}', "cannot be called 'I'"),
        ('{"words": ["a"], "spans": [[0, true, "x"]]}', "whole numbers"),
        ('{"word": ["a"], "spans": []}', "its keys are word, spans"),
        ('{"words": ["a"], "spans": [], "tags": ["O"]}', "its keys are words, spans, tags"),
        ('{"words": [], "spans": []}', "one or more strings"),
        ('{"words": ["a", ""], "spans": []}', "none of them empty"),
        ('{"words": ["a"], "tags": ["O", "O"]}', "a list of 1 strings"),
        ('{"words": ["\\ud800"], "spans": []}', "lone surrogate"),
        ('["a"]', "not an object"),
        ('{"words": ["a"', "not JSON"),
        ("[" * 100_000, "mend the line"),
    ],
)
def test_a_bad_json_line_is_named_or_skipped(tmp_path, line, says):
    text = '{"words": ["a"], "spans": [[0, 1, "x"]]}\n' + line + "\n"
    message = error_of(tmp_path, text, train="t.jsonl")
    assert "t.jsonl:2: " in message
    assert says in message
    assert skipped(load(tmp_path, text, train="t.jsonl", policy="skip")) == {"train": 1}


# Bad lines of column files


@pytest.mark.parametrize(
    ("bad", "line", "says"),
    [
        ("one two three\nfour O\n", 5, "2 columns"),
        ("four O\nword\n", 6, "2 columns"),
        (b"caf\xe9 O\n", 5, "UTF-8"),
        ("a O\nb I-color\n", 6, "stray 'I-color'"),
        ("a colour\n", 5, "'colour'"),
        ("a B-I\n", 5, "cannot be called 'I'"),
        ("a O\n" * 101, 5, "101 words is over the limit of 100"),
    ],
)
def test_a_bad_sentence_ends_the_job_at_its_line_or_is_skipped_and_counted(
    tmp_path, bad, line, says
):
    raw = bad if isinstance(bad, bytes) else bad.encode()
    text = JEANS.encode() + b"\n" + raw + b"\n" + f"{JEANS}\n".encode() * 30
    message = error_of(tmp_path, text, scheme="bio")
    assert f"train.txt:{line}: " in message
    assert says in message
    corpus = load(tmp_path, text, scheme="bio", policy="skip")
    assert len(corpus.train) == 31
    assert skipped(corpus) == {"train": 1}
    assert any(f"train.txt:{line}: " in note for note in corpus.notes)


def test_a_sentence_with_two_bad_lines_is_skipped_once_and_named_by_its_first(tmp_path):
    text = f"{JEANS}\nx\ny\n\n{JEANS}"
    assert "train.txt:5: " in error_of(tmp_path, text)
    assert skipped(load(tmp_path, text, policy="skip")) == {"train": 1}


def test_a_type_that_train_lacks_is_an_error_or_is_kept(tmp_path):
    (tmp_path / "dev.txt").write_text(f"{JEANS}\nred B-colour\n")
    message = error_of(tmp_path, JEANS, dev="dev.txt")
    assert "dev.txt:5: the type 'colour'" in message
    kept = load(tmp_path, JEANS, dev="dev.txt", unknown_types="keep")
    assert kept.dev[1].labeling == (Span(0, 1, "colour"),)
    assert kept.types == ("brand", "color", "product")
    assert skipped(load(tmp_path, JEANS, dev="dev.txt", policy="skip")) == {"dev": 1}


@pytest.mark.parametrize("text", ["", "\n\n \t\n", "\ufeff"])
def test_a_file_without_sentences_is_an_error(tmp_path, text):
    assert "holds no sentence" in error_of(tmp_path, text)


def test_an_empty_dev_file_is_an_error_under_both_policies(tmp_path):
    (tmp_path / "dev.txt").write_text("")
    for policy in ("error", "skip"):
        assert "data.dev: " in error_of(tmp_path, JEANS, dev="dev.txt", policy=policy)


def test_a_file_whose_every_sentence_is_bad_is_an_error_even_when_skipping(tmp_path):
    message = error_of(tmp_path, "a B-x\nb I-y\n", policy="skip", scheme="bio")
    assert "train.txt:2" in message


def test_training_data_without_a_span_is_an_error(tmp_path):
    assert "no labeled span" in error_of(tmp_path, "a O\nb O\n")


def test_columns_that_cannot_be_told_apart_ask_for_the_config_key(tmp_path):
    assert "data.tag_column=1 or" in error_of(tmp_path, "O B-x\nO O\n")
    assert "data.tag_column" in error_of(tmp_path, "this is\nno corpus\n")


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "binary"])
def test_a_file_that_is_not_utf8_text_is_named_with_its_line(tmp_path, coding):
    text = f"{JEANS}\n" * 10
    raw = bytes(range(1, 256)) * 9 if coding == "binary" else text.encode(coding)
    line = 2 if coding == "binary" else 1  # Byte 10 is a line feed.
    for policy in ("error", "skip"):
        message = error_of(tmp_path, raw, policy=policy)
        if coding == "utf-16":  # With its mark.
            assert "train.txt is UTF-16, not UTF-8; convert it: iconv" in message
        else:
            assert f"train.txt:{line}: not UTF-8 text" in message


def test_a_missing_file_names_the_nearest_that_exists(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "train.conll").write_text(JEANS)
    message = error_of(tmp_path, train="sets/trian.conll")
    assert "data.train: there is no file or folder" in message
    assert f"nearest names in {tmp_path / 'sets'} are train.conll" in message
    message = error_of(tmp_path, train="stes/deeper/train.conll")
    assert f"{tmp_path / 'stes'} is not there" in message and "are sets" in message
    for i in range(7):
        (tmp_path / f"{i}").write_text("")
    assert "has 0, 1, 2, 3, 4, ...: check" in error_of(tmp_path, train="xyz.conll")


def test_a_missing_relative_path_says_where_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no file my/train.txt, seen from {tmp_path}: my is not"):
        require_path(Path("my/train.txt"), "config.data.train")


def test_a_folder_that_holds_no_pair_names_the_files_in_it(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "train.conll").write_text(JEANS)
    assert "train.conll" in error_of(tmp_path, train="sets")


def test_an_empty_path_of_train_names_the_key(tmp_path):
    assert "data.train" in error_of(tmp_path)


# Splits


def numbered(count: int) -> str:
    return "\n".join(f"w{i} B-x\n" for i in range(count))


def test_carved_splits_partition_train_and_depend_on_the_seed_alone(tmp_path):
    fractions: dict[str, Any] = {"dev_fraction": 0.1, "test_fraction": 0.2}
    corpus = load(tmp_path, numbered(100), **fractions)
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (72, 8, 20)
    everything = [s.words[0] for s in (*corpus.train, *corpus.dev, *corpus.test)]
    assert sorted(everything) == sorted(f"w{i}" for i in range(100))
    assert load(tmp_path, numbered(100), **fractions) == corpus
    assert load(tmp_path, numbered(100), **fractions, split_seed=1).dev != corpus.dev


def test_types_of_carved_sentences_stay_known(tmp_path):
    text = numbered(30) + "\nrare B-y\n"
    assert load(tmp_path, text, dev_fraction=0.9).types == ("x", "y")


def test_train_limit_draws_its_sentences_with_the_split_seed(tmp_path):
    text = numbered(100)
    corpus = load(tmp_path, text, train_limit=30)
    drawn = [int(word[1:]) for word in words(corpus)]
    assert len(drawn) == 30 and drawn == sorted(drawn) and max(drawn) > 60
    assert load(tmp_path, text, train_limit=30) == corpus
    assert load(tmp_path, text, train_limit=30, split_seed=1).train != corpus.train
    assert any("30 of 100 sentences, drawn with seed 0" in note for note in corpus.notes)


def test_relative_paths_start_at_the_environment_s_folder_when_no_dir_is_set(tmp_path, monkeypatch):
    monkeypatch.setenv("GROOT_DATA_DIR", str(tmp_path))
    (tmp_path / "train.txt").write_text(JEANS)
    data = settings(tmp_path, dir="", train="train.txt", dev_fraction=0.0)
    assert len(load_corpus(data).train) == 1


def test_a_path_that_exists_below_the_cwd_alone_is_named_with_the_folder_it_misses(
    tmp_path, monkeypatch
):
    (tmp_path / "mine.txt").write_text(JEANS)
    (tmp_path / "sets").mkdir()
    monkeypatch.chdir(tmp_path)
    both = f"no {tmp_path}/sets/mine.txt, only {tmp_path}/mine.txt"
    message = error_of(tmp_path / "sets", train="mine.txt")
    assert both in message and "config.data.dir" in message
    monkeypatch.setenv("GROOT_DATA_DIR", str(tmp_path / "sets"))
    message = error_of(tmp_path, train="mine.txt", dir="")
    assert both in message and "GROOT_DATA_DIR" in message
