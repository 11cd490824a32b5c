"""TFDS: our builder gives what the column reader gives; prepared sets are read by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.default import get_config
from groot_jax.data.corpus import load_corpus
from groot_jax.data.labeling import Span
from groot_jax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")

TRAIN = "new B-brand\nera I-brand\ncaf\u00e9 O\n\nred B-color\ncap O\n"
DEV = "red B-color\nera B-brand\n"


class GrootTestSet(tfds.core.GeneratorBasedBuilder):  # type: ignore[name-defined]
    """A set as TFDS ships them: classes for tags, text for words, and one feature of no use."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = Path(__file__)

    def _info(self):
        tags = tfds.features.ClassLabel(names=["O", "B-x", "I-x"])
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "tokens": tfds.features.Sequence(tfds.features.Text()),
                    "ner": tfds.features.Sequence(tags),
                    "number": tfds.features.Scalar(dtype=np.int64),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"tokens": [f"w{i}", "\u00e9", "z"], "ner": ["B-x", "I-x", "O"], "number": i}


def settings(folder: Path, **changes: object):
    data = get_config().data
    data.dir = str(folder)
    data.tfds_dir = str(folder / "prepared")
    data.update({"reader": "tfds", "dev_fraction": 0.0, **changes})
    return data


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "train.txt").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "dev.txt").write_text(DEV, encoding="utf-8")
    return tmp_path


def test_our_builder_gives_the_corpus_that_the_column_reader_gives(files):
    paths = {"train": "train.txt", "dev": "dev.txt"}
    ours = load_corpus(settings(files, tfds_name="groot_columns", **paths))
    plain = load_corpus(settings(files, reader="columns", **paths))
    assert (ours.train, ours.dev, ours.types) == (plain.train, plain.dev, plain.types)
    assert ours.train[0].words == ("new", "era", "caf\u00e9")
    assert next((files / "prepared").rglob("*.array_record*"))


def test_a_changed_file_is_prepared_anew(files):
    data = settings(files, tfds_name="groot_columns", train="train.txt")
    assert len(load_corpus(data).train) == 2
    (files / "train.txt").write_text(TRAIN + "\nblue B-color\n", encoding="utf-8")
    assert len(load_corpus(data).train) == 3


def test_sentences_skipped_while_preparing_are_counted_in_every_later_run(files):
    (files / "train.txt").write_text(TRAIN + "\nx y z\n", encoding="utf-8")
    data = settings(files, tfds_name="groot_columns", train="train.txt", policy="skip")
    for _ in range(2):
        corpus = load_corpus(data)
        (note,) = (note for note in corpus.notes if "skipped" in note)
        assert note.startswith("train: sentences skipped: 1,") and "train.txt:8: " in note
    data.policy = "error"
    with pytest.raises(UserError, match=r"train\.txt:8: "):
        load_corpus(data)


def test_a_bad_tag_of_our_builder_s_set_names_file_and_line(files):
    (files / "train.txt").write_text(TRAIN + "\na I-brand\n", encoding="utf-8")
    data = settings(files, tfds_name="groot_columns", train="train.txt", scheme="bio")
    with pytest.raises(UserError, match=r"train\.txt:8: stray 'I-brand'"):
        load_corpus(data)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    builder = GrootTestSet(data_dir=tmp_path / "prepared", file_format="array_record")
    builder.download_and_prepare()
    return tmp_path


def test_a_prepared_set_is_read_by_name_with_class_numbers_as_tags(prepared):
    corpus = load_corpus(settings(prepared, tfds_name="groot_test_set", tags_feature="ner"))
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (4, 2, 0)
    assert corpus.train[3].words == ("w3", "\u00e9", "z")
    assert corpus.train[3].labeling == (Span(0, 2, "x"),)


def test_a_split_of_a_set_may_be_a_slice(prepared):
    data = settings(
        prepared,
        tfds_name="groot_test_set:1.0.0",
        tags_feature="ner",
        train="train[:50%]",
        test="train[3:]",
    )
    corpus = load_corpus(data)
    assert [sentence.words[0] for sentence in corpus.train] == ["w0", "w1"]
    assert [sentence.words[0] for sentence in corpus.test] == ["w3"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tfds_name": "groot_no_such_set"}, "knows no set 'groot_no_such_set'"),
        ({"tags_feature": "tags"}, "its features are "),
        ({"tags_feature": "number"}, "no sequence of texts or classes 'number'"),
        ({"tags_feature": "ner", "train": "nope"}, "'nope'"),
    ],
)
def test_a_set_split_or_feature_that_is_not_there_is_named(prepared, changes, says):
    data = settings(prepared, **{"tfds_name": "groot_test_set", **changes})
    with pytest.raises(UserError) as raised:
        load_corpus(data)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_reading_a_set_imports_neither_tensorflow_nor_torch_nor_jax(files):
    program = (
        "import sys; from tests.data.test_tfds import settings; from pathlib import Path;"
        "from groot_jax.data.corpus import load_corpus;"
        f"data = settings(Path({str(files)!r}), tfds_name='groot_columns', train='train.txt');"
        "load_corpus(data);"
        "print([m for m in ('tensorflow', 'torch', 'jax') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.stdout.strip().endswith("[]"), done.stderr
