"""Text without labels: its forms, its bad lines, and a dev part of texts that train lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.default import get_config
from groot_jax.data.labeling import Sentence
from groot_jax.data.text import digest_of, held_out, load_text, without_too_long
from groot_jax.errors import UserError

GOOD = "red jeans\nblue  levi\tshirt\n\nred jeans\n"


def config_of(*files: Path, policy: str = "error", max_words: int = 100):
    config = get_config()
    config.pretrain.text = tuple(map(str, files))
    config.data.policy = policy
    config.text.max_words = max_words
    return config


def write(folder: Path, text: str | bytes, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_plain_text_and_json_lines_are_read_and_copies_kept(tmp_path):
    plain = write(tmp_path, GOOD)
    lines = [{"text": "green\nshirt"}, {"words": ["big apple", "bag"]}, {"text": " "}]
    mixed = write(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "b.jsonl")
    text = load_text(config_of(plain, mixed))
    found = sorted([*text.train, *text.dev], key=lambda sentence: sentence.source)
    # Of a text that is drawn for dev, dev has one copy.
    copies = 2 if any(s.words == ("red", "jeans") for s in text.train) else 1
    assert [s.words for s in found] == [
        *[("red", "jeans")] * (copies - 1),
        *([("red", "jeans")] if copies == 1 else []),
        ("blue", "levi", "shirt"),
        *([("red", "jeans")] if copies == 2 else []),
        ("green", "shirt"),
        ("big apple", "bag"),
    ]
    assert found[0].source == f"{plain}:1" and found[-1].source == f"{mixed}:2"
    assert len(text.dev) == 1


BAD = {
    b"caf\xe9": ("not UTF-8",),
    b"a\0b": ("not UTF-8 text",),
    b'{"text": 3}': ('no "words"', '"text"'),
    b'{"words": ["a", ""]}': ("empty string",),
    b'{"words": ["\\ud800"]}': ("surrogate",),
    b"{broken": ("is not JSON",),
    b"a b c d e f g": ("7 words", "limit of 6", "config.text.max_words"),
}


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_a_bad_line_is_named_or_dropped_and_counted(tmp_path, line):
    path = write(tmp_path, GOOD.encode() + line + b"\nmore words\n")
    with pytest.raises(UserError) as caught:
        load_text(config_of(path, max_words=6))
    for part in (f"{path}:5", "config.data.policy=skip", *BAD[line]):
        assert part in str(caught.value)
    text = load_text(config_of(path, policy="skip", max_words=6))
    assert {s.words for s in (*text.train, *text.dev)} == {
        ("red", "jeans"),
        ("blue", "levi", "shirt"),
        ("more", "words"),
    }
    assert "1 lines skipped" in text.notes[0] and f"{path}:5" in text.notes[0]


def test_files_that_give_nothing_are_named(tmp_path):
    for config, said in (
        (config_of(), "config.pretrain.text is empty"),
        (config_of(tmp_path / "no.txt"), "no.txt"),
        (config_of(tmp_path), "is a folder"),
        (config_of(write(tmp_path, "\n\n")), "a.txt is empty"),
        (config_of(write(tmp_path, "one line\none line\n", "b.txt")), "cannot be split"),
        (config_of(write(tmp_path, b"\xff\n", "c.txt"), policy="skip"), "no usable line"),
    ):
        with pytest.raises(UserError, match=said):
            load_text(config)


def test_the_dev_part_holds_texts_that_train_lacks_and_each_once():
    sentences = [Sentence((f"w{i % 40}",), (), f"f:{i}") for i in range(400)]
    train, dev = held_out(sentences, 0.25, 0, seed=0)
    assert len(dev) == 10 and len(train) == 300
    assert not {s.words for s in train} & {s.words for s in dev}
    assert [s.source for s in train] == sorted((s.source for s in train), key=lambda s: int(s[2:]))
    assert held_out(sentences, 0.25, 0, seed=0) == (train, dev)
    assert held_out(sentences, 0.25, 0, seed=1)[1] != dev
    assert len(held_out(sentences, 0.25, 4, seed=0)[1]) == 4
    assert len(held_out(sentences, 0.001, 0, seed=0)[1]) == 1


def test_too_long_sentences_get_the_policy_and_the_digest_sees_every_word(tmp_path):
    path = write(tmp_path, "".join(f"w{i} x\n" for i in range(20)) + "long\n")
    text = load_text(config_of(path))

    def check(sentence: Sentence) -> None:
        if "long" in sentence.words:
            raise UserError("too long")

    with pytest.raises(UserError, match=r":21: too long .*policy=skip"):
        without_too_long(text, check, "error")
    kept = without_too_long(text, check, "skip")
    assert len(kept.train) + len(kept.dev) == 20
    assert "1 too long lines skipped" in kept.notes[-1]
    assert digest_of(kept) != digest_of(text) == digest_of(load_text(config_of(path)))
