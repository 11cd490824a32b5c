"""Sentences without labels: what they may be read from, what is left out, what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.default import get_config
from groot_jax.data.corpus import Corpus
from groot_jax.data.labeling import Sentence, Span
from groot_jax.data.unlabeled import with_unlabeled
from groot_jax.errors import UserError
from groot_jax.task import check_corpus, digests_of

CORPUS = Corpus(
    train=(Sentence(("red", "jeans"), (Span(0, 1, "color"),)),),
    dev=(Sentence(("blue", "shirt"), (Span(0, 1, "color"),)),),
    test=(Sentence(("green", "hat"), ()),),
    types=("color",),
    notes=("a note",),
)
TEXT = "black  levi\tjeans\n\nred jeans\nnike shoes\nblue shirt\nnike shoes\ngreen hat\n"
COLUMNS = "black\tB-color\nlevi\tO\njeans\tO\n\nnike\tB-brand\nshoes\tO\n"
LINES = (
    {"words": ["black", "levi", "jeans"], "spans": [[0, 1, "color"]]},
    {"words": ["nike", "shoes"], "tags": ["B-unheard_of", "O"]},
)
WANTED = [("black", "levi", "jeans"), ("nike", "shoes")]


def read(
    *files: Path,
    policy: str = "error",
    max_words: int = 10,
    long_sentences: str = "refuse",
    **keys: str,
) -> Corpus:
    config = get_config()
    data, config.text.max_words = config.data, max_words
    config.text.long_sentences = long_sentences
    data.unlabeled = tuple(map(str, files))
    data.policy = policy
    data.update(keys)
    return with_unlabeled(CORPUS, config)


def write(folder: Path, text: str, name: str = "a.txt") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_known_sentences_and_copies_are_left_out_and_counted(tmp_path):
    path = write(tmp_path, TEXT)
    corpus = read(path)
    assert [s.words for s in corpus.unlabeled] == WANTED
    assert {s.labeling for s in corpus.unlabeled} == {()}
    assert corpus.unlabeled[1].source == f"{path}:4"
    assert corpus.notes == (
        "a note",
        f"unlabeled: 6 sentences of {path}, read as a sentence a line",
        "unlabeled: 4 left out, which occur twice, or in train, dev or test",
    )
    assert (corpus.train, corpus.dev, corpus.test) == (CORPUS.train, CORPUS.dev, CORPUS.test)


def test_labels_are_ignored_in_every_form_and_it_is_said(tmp_path):
    lines = write(tmp_path, "".join(json.dumps(line) + "\n" for line in LINES), "b.jsonl")
    pair = write(tmp_path, "black levi jeans\nnike shoes\n", "pair/seq.in").parent
    write(tmp_path, "B-color O O\nnot one tag a word\n", "pair/seq.out")
    forms = {
        write(tmp_path, COLUMNS, "a.bio"): "columns, their tags ignored",
        lines: "JSON lines, the labels of 2 ignored",
        pair: "a sentence a line, without seq.out",
    }
    for path, how in forms.items():
        corpus = read(path)
        assert [s.words for s in corpus.unlabeled] == WANTED, path
        assert {s.labeling for s in corpus.unlabeled} == {()}
        assert any(note.endswith(f"read as {how}") for note in corpus.notes), corpus.notes
    assert [s.words for s in read(*forms).unlabeled] == WANTED


def test_the_columns_may_come_in_the_other_order_and_have_comments(tmp_path):
    turned = "# a comment of words\nB-color\tblack\nO\tlevi\nO\tjeans\n\nO\tnike\nO\tshoes\n"
    path = write(tmp_path, turned)
    assert [s.words for s in read(path, comment="#").unlabeled] == WANTED


def test_text_that_ends_in_what_looks_like_a_tag_now_and_then_is_text(tmp_path):
    path = write(tmp_path, "posters of the B-52\nred wine\nblood group O\nblack levi jeans\n")
    assert len(read(path).unlabeled) == 4
    path = write(tmp_path, "I go\nI run\nI fly\n")  # Not the column `go run fly`.
    assert [s.words for s in read(path).unlabeled] == [("I", "go"), ("I", "run"), ("I", "fly")]


def test_a_word_a_line_is_refused(tmp_path):
    path = write(tmp_path, "black\nlevi\n\nnike\n")
    with pytest.raises(UserError, match=f"{path}: each line holds one word") as error:
        read(path)
    assert "a sentence a line" in str(error.value)
    assert len(read(write(tmp_path, "black\nlevi\nnike\n")).unlabeled) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a b\n" + "w " * 11 + "\n", "11 words is over the limit of 10"),
        ('{"words": ["a"]}\n{"spans": []}\n', 'no "words"'),
        ("a\tO\nb\tO\n\nc\tO\tO\n", "not 2 columns"),
        ("\n".join(["w\tO"] * 11) + "\n\nx\tO\n", "11 words is over the limit of 10"),
    ],
)
def test_a_bad_line_is_named_or_dropped_and_counted(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=f"^{path}:[0-9]+: .*{said}"):
        read(path)
    corpus = read(path, policy="skip")
    assert len(corpus.unlabeled) == 1
    assert any(note.startswith("unlabeled: sentences skipped: 1,") for note in corpus.notes)


@pytest.mark.parametrize("text", ["w " * 11 + "\n", "w\tO\n" * 11 + "\nx\tO\n"])
def test_a_sentence_over_the_limit_is_read_where_it_is_cut_into_windows(tmp_path, text):
    corpus = read(write(tmp_path, text), long_sentences="window")
    assert corpus.unlabeled[0].words == ("w",) * 11


def test_a_run_that_continues_is_refused_other_sentences(tmp_path):
    corpus = read(write(tmp_path, TEXT))
    task: Any = SimpleNamespace(
        digests=digests_of(corpus), format=SimpleNamespace(types=corpus.types)
    )
    check_corpus(task, corpus, tmp_path)
    check_corpus(task, CORPUS, tmp_path)  # As evaluation reads it.
    other = read(write(tmp_path, TEXT + "puma socks\n"))
    with pytest.raises(UserError, match="the unlabeled split does not hold"):
        check_corpus(task, other, tmp_path)


def test_files_that_give_nothing_are_named(tmp_path):
    path = write(tmp_path, "red jeans\nblue shirt\n")
    with pytest.raises(UserError, match=r"config\.data\.unlabeled: no sentence .* 2 left out"):
        read(path)
    with pytest.raises(UserError, match=r"config\.data\.unlabeled: there is no .*seq\.in"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"config\.data\.unlabeled: there is no file"):
        read(tmp_path / "b.txt")
