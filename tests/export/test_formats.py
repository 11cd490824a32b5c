"""Each kind of folder labels as we do: the same labelings, the same scores."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax.export import deserialize

from groot_jax.errors import UserError
from groot_jax.evaluation.decisions import Tuning
from groot_jax.evaluation.records import write_tuning
from groot_jax.export.__main__ import FORMATS, check_out, export
from groot_jax.export.card import model_card, notes
from groot_jax.export.programs import program_lengths
from groot_jax.labeler import Labeler
from groot_jax.model.pretrained import load_pretrained, save_pretrained
from tests.export.conftest import SENTENCES, K, MakeTrained
from tests.export.support import answers, assert_same, loader

# What a kind of folder may import besides Python's own library.
ALLOWED = {
    "transformers": {"transformers", "tokenizers"},
    "flax": {"transformers", "tokenizers"},
    "ctranslate2": {"ctranslate2", "numpy", "tokenizers"},
    "stablehlo": {"jax", "numpy", "tokenizers"},
}


@pytest.mark.parametrize("format_name", ["sentinel_tag", "tag_only", "input_tag"])
def test_ctranslate2(
    make_trained: MakeTrained, expected, exported, tmp_path: Path, format_name: str
) -> None:
    """Random parameters write what no grammar allows, so that the search step by step is used."""
    folder, trained = exported(format_name, "ctranslate2"), make_trained(format_name)
    assert_same(answers(folder, compute_type="float32"), expected(trained))
    if format_name == "sentinel_tag":
        # Eight bits: the same kind of answer, and about the same scores.
        export(trained, tmp_path / "out", "ctranslate2", "int8")
        for one, other in zip(answers(tmp_path / "out"), expected(trained), strict=True):
            assert one[0][1] == pytest.approx(other[0][1], rel=0.1)


def test_ctranslate2_with_labels_of_several_pieces(
    make_trained: MakeTrained, expected, tmp_path: Path
) -> None:
    """Beams are compared after equally many choices, as in our search: after equally many pieces,
    others would be dropped."""
    pytest.importorskip("ctranslate2")
    settings = {"text__tokenizer": "byt5", "loader__target_buckets": "80"}
    trained = make_trained("tag_only", **settings)
    assert len({len(pieces) for pieces in trained.task.format.tags.values()}) > 2
    export(trained, tmp_path / "out", "ctranslate2")
    found = answers(tmp_path / "out", compute_type="float32", exact=True)
    assert_same(found, expected(trained))


@pytest.mark.parametrize("format_name", ["aligned", "fused_sentinel", "tag_only"])
def test_stablehlo(make_trained: MakeTrained, expected, exported, format_name: str) -> None:
    folder = exported(format_name, "stablehlo")
    assert_same(answers(folder), expected(make_trained(format_name)))
    for path in (folder / "programs").iterdir():
        program = deserialize(bytearray(path.read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")


def test_order_and_probabilities_by_length_and_temperature(
    make_trained: MakeTrained, tmp_path: Path
) -> None:
    """Labels of several bytes, so that outputs differ in length, and a temperature of dev."""
    settings = {"text__tokenizer": "byt5", "loader__target_buckets": "80"}
    trained = make_trained("tag_only", generate__length_penalty="1", **settings)
    trained = dataclasses.replace(trained, workdir=tmp_path)
    write_tuning(tmp_path, trained.system, trained.step, "f1", Tuning(20.0, 0.5), 2)
    export(trained, tmp_path / "out", "stablehlo")
    found = loader(tmp_path / "out").Labeler(tmp_path / "out").label_all(SENTENCES, K)
    ours = Labeler(trained.task, trained.partitioning, trained.params, tuning=trained.tuning())
    for one, other in zip(found, ours.label_all(SENTENCES, K), strict=True):
        wanted = [(y.score, y.probability) for y in other.labelings]
        assert wanted != sorted(wanted, reverse=True)  # Not by the log probability alone.
        for labeling, (score, probability) in zip(one, wanted, strict=True):
            assert labeling["score"] == pytest.approx(score, abs=1e-3)
            assert labeling["probability"] == pytest.approx(probability, abs=1e-3)


def test_programs_reach_the_longest_sentence(make_trained: MakeTrained) -> None:
    task = make_trained("sentinel_tag", loader__target_buckets="8,12,16,20,40,60,80").task
    lengths = program_lengths(task)
    assert lengths[0] in {target for _, target in task.ladder.rungs}
    assert task.format.words_in(lengths[-1]) >= 8 > task.format.words_in(lengths[0])
    assert len(lengths) < 7


@pytest.mark.parametrize("kind", FORMATS)
def test_labeling_stands_alone(exported, kind: str) -> None:
    """It imports nothing of ours, and no library but that of its kind."""
    folder = exported("tag_only", kind)
    found = set()
    for node in ast.walk(ast.parse((folder / "labeling.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    assert found - set(sys.stdlib_module_names) == ALLOWED[kind]
    # Nothing of the writing is left, nor of the draft.
    assert {path.name for path in folder.parent.iterdir()} == {"out"}
    card = (folder / "README.md").read_text()
    assert "`brand_name`, `color`, `size`" in card and "2209.14694" in card
    assert "labeling.py -k 4\n" in card and "k=4)" in card  # No more than the search finds.


def test_what_predict_does_otherwise_is_told(make_trained: MakeTrained, tmp_path: Path) -> None:
    assert notes(make_trained("tag_only")) == []
    apart = tmp_path / "apart"
    apart.mkdir()
    counts = dict.fromkeys(("sentences", "words", "longest", "also_in_train"), 1)
    unwritable = {"words": 0, "examples": []}
    more = {"spans": {}, "punctuation_apart": True, "unwritable": unwritable, "read": None}
    facts = {"splits": {"train": {**counts, **more}}, "notes": []}
    (apart / "data_card.json").write_text(json.dumps(facts))
    (note,) = notes(dataclasses.replace(make_trained("tag_only"), workdir=apart))
    assert note.startswith("punctuation stood apart from words in training")
    trained = make_trained("tag_only", text__split="unicode", text__long_sentences="window")
    write_tuning(tmp_path, trained.system, trained.step, "f1", Tuning(1.0, 0.5, "consensus"), 2)
    trained = dataclasses.replace(trained, workdir=tmp_path)
    found, card = notes(trained), model_card(trained, "stablehlo")
    for note, words in zip(found, ("`consensus`", "split=unicode", "over 8 words"), strict=True):
        assert words in note and note in card


@pytest.mark.slow
def test_labeling_as_a_command(make_trained: MakeTrained, expected, exported) -> None:
    trained = make_trained("tag_only")
    done = subprocess.run(
        [sys.executable, "-I", exported("tag_only", "stablehlo") / "labeling.py", "-k2"],
        input="black levi jeans\n\n",
        capture_output=True,
        text=True,
        check=True,
    )
    first, empty = map(json.loads, done.stdout.splitlines())
    assert [y["score"] for y in first["labelings"]] == pytest.approx(
        [score for _, score in expected(trained)[0][:2]], abs=1e-4
    )
    assert empty == {"words": [], "labelings": []}


@pytest.mark.parametrize(
    ("text", "flags", "message", "answered"),
    [
        (b"red\n\na b c d e f g h i\n", (), r", line 3: .*9 words is over the limit of 8", [4, 0]),
        (b"red\n", ("-k5",), r", line 1: k=5: the programs find 4 labelings", []),
        (b"red\n", ("-k0",), r", line 1: k=0: ask for 1 labeling or more", []),
        (b"caf\xe9\n", (), r": 'utf-8' codec can't decode", []),
        (None, (), r": .*No such file", []),
    ],
    ids=["long", "wide", "none", "encoding", "missing"],
)
def test_what_the_command_cannot_label_is_one_sentence(
    exported, tmp_path: Path, monkeypatch, capsys, text, flags, message, answered
) -> None:
    """What stands before it has its answer: without -k all that the search finds, up to 5."""
    folder, file = exported("tag_only", "stablehlo"), tmp_path / "in.txt"
    if text is not None:
        file.write_bytes(text)
    monkeypatch.setattr(sys, "argv", ["labeling.py", str(file), *flags])
    module = loader(folder)
    with pytest.raises(SystemExit, match=rf"^labeling.py: {file}{message}") as caught:
        module.command_line(lambda: module.Labeler(folder))
    assert "\n" not in str(caught.value)
    lines = capsys.readouterr().out.splitlines()
    assert [len(json.loads(line)["labelings"]) for line in lines] == answered


def test_the_command_writes_in_any_encoding(exported, tmp_path: Path, monkeypatch) -> None:
    folder, out = exported("tag_only", "stablehlo"), io.BytesIO()
    (tmp_path / "in.txt").write_text("naïve 日本\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["labeling.py", str(tmp_path / "in.txt")])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    module = loader(folder)
    module.command_line(lambda: module.Labeler(folder))
    assert json.loads(out.getvalue())["words"] == ["naïve", "日本"]


def test_out_and_in_again_gives_the_same_bytes(make_trained: MakeTrained, tmp_path: Path) -> None:
    export(make_trained("sentinel_tag"), tmp_path / "out", "flax")
    config, params = load_pretrained(tmp_path / "out")
    save_pretrained(tmp_path / "again", config, params)
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    # Of the msgpack alone, too.
    for name in ("model.safetensors", "labeling.py"):
        (tmp_path / "out" / name).unlink()
    save_pretrained(tmp_path / "third", *load_pretrained(tmp_path / "out"))
    assert (tmp_path / "third" / "model.safetensors").read_bytes() == first


def test_large_models_are_written_in_shards(make_trained: MakeTrained, tmp_path: Path) -> None:
    trained = make_trained("sentinel_tag")
    save_pretrained(tmp_path, trained.task.model_config, trained.params, shard_bytes=30_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors" and len(files) > 2
    whole = tmp_path / "whole"
    save_pretrained(whole, *load_pretrained(tmp_path))
    save_pretrained(tmp_path / "other", trained.task.model_config, trained.params)
    pairs = [path / "model.safetensors" for path in (whole, tmp_path / "other")]
    assert pairs[0].read_bytes() == pairs[1].read_bytes()


@pytest.mark.parametrize("kind", FORMATS[:3])
@pytest.mark.parametrize("format_name", ["aligned", "fused_sentinel"])
def test_fused_formats_go_to_stablehlo_alone(
    make_trained: MakeTrained, tmp_path: Path, kind: str, format_name: str
) -> None:
    message = f"text.format={format_name}.*--format=stablehlo.*sentinel_tag"
    with pytest.raises(UserError, match=message):
        export(make_trained(format_name), tmp_path / "out", kind)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ctranslate2", r"one relative bias for all layers, and UMT5 one for each"),
        ("flax", r"transformers has no UMT5 in Flax"),
    ],
)
def test_who_has_no_bias_for_each_layer(
    make_trained: MakeTrained, tmp_path: Path, kind: str, message: str
) -> None:
    if kind == "ctranslate2":
        pytest.importorskip("ctranslate2")
    trained = make_trained("sentinel_tag")
    umt5 = dataclasses.replace(trained.task.model_config, bias_per_layer=True)
    trained = dataclasses.replace(
        trained, task=dataclasses.replace(trained.task, model_config=umt5)
    )
    with pytest.raises(UserError, match=message):
        export(trained, tmp_path / "out", kind)
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_the_old_export(
    make_trained: MakeTrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_trained("sentinel_tag")
    export(trained, tmp_path / "out", "transformers")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("groot_jax.export.__main__.write_facts", full)
    with pytest.raises(UserError, match=r"No space left.*another --out"):
        export(trained, tmp_path / "out", "transformers")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_where_an_export_may_not_go(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "notes").write_text("mine")
    (tmp_path / "empty").mkdir()
    for out, message in (
        (tmp_path / "w" / "notes", "is a file"),
        (tmp_path, "holds the work directory"),
        (tmp_path / "w", "holds the work directory"),
    ):
        with pytest.raises(UserError, match=message):
            check_out(out, tmp_path / "w")
    with pytest.raises(UserError, match=r"holds other files and no labeling.json"):
        check_out(tmp_path / "w", tmp_path / "elsewhere")
    check_out(tmp_path / "empty", tmp_path / "w")
    check_out(tmp_path / "new", tmp_path / "w")


def test_sentences_that_cannot_be_labeled(exported) -> None:
    folder = exported("tag_only", "stablehlo")
    labeler = loader(folder).Labeler(folder)
    with pytest.raises(ValueError, match=r"--config.generate.k=5"):
        labeler.label(["red"], k=5)
    with pytest.raises(ValueError, match=r"9 words is over the limit of 8"):
        labeler.label(["a"] * 9)
    for wrong in ([], ["a", ""], [1]):
        with pytest.raises(ValueError, match=r"list of strings, none empty"):
            labeler.label(wrong)
    with pytest.raises(ValueError, match=r"not a text: give 'red shoes'\.split\(\)"):
        labeler.label("red shoes")
    chances = [y["probability"] for y in labeler.label(SENTENCES[0], 4)]
    assert np.sum(chances) == pytest.approx(1) and chances == sorted(chances, reverse=True)
