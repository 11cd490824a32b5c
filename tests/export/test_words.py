"""What labeling.py knows of words and of the grammar, against what training knows."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groot_jax.data.format import TAG
from groot_jax.data.labeling import make_labeling
from groot_jax.data.tokenizer import Tokenizer, load_tokenizer
from groot_jax.data.vocabularies import SentencePieceVocabulary, TokenizersVocabulary
from groot_jax.errors import UserError
from groot_jax.export.loaders.words import Grammar, State, Words, encoder
from groot_jax.export.programs import program_lengths
from groot_jax.export.words import _reading, facts_of, write_facts, write_tokenizer
from tests.export.conftest import SENTENCES, MakeTrained

FORMATS = ("sentinel_tag", "fused_sentinel", "tag_only", "aligned", "input_tag")


@pytest.fixture(scope="module")
def readers(make_trained: MakeTrained, tmp_path_factory) -> dict[str, Words]:
    """The reading half of labeling.py, for each text format."""
    found = {}
    for name in FORMATS:
        trained, folder = make_trained(name), tmp_path_factory.mktemp(name)
        write_tokenizer(trained.task.format.tokenizer, folder)
        write_facts(folder, facts_of(trained, folder), "stablehlo")
        found[name] = Words(folder)
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_sentences_become_the_same_ids(make_trained: MakeTrained, readers, name: str) -> None:
    format_ = make_trained(name).task.format
    for words in SENTENCES:
        ours, theirs = format_.source(words), readers[name]._sentence(words)
        assert tuple(theirs.source) == ours.ids
        assert tuple(map(tuple, theirs.fused)) == ours.fused
        assert tuple(theirs.template) == format_.template(words)
        assert theirs.longest == format_.max_target_length(words)


def test_a_limit_of_words_that_follows_the_data(make_trained: MakeTrained, tmp_path: Path) -> None:
    trained = make_trained("sentinel_tag", text__max_words="0", loader__target_buckets="24,400")
    write_tokenizer(trained.task.format.tokenizer, tmp_path)
    assert facts_of(trained, tmp_path)["max_words"] == trained.task.max_words == 100
    assert trained.task.format.words_in(program_lengths(trained.task)[-1]) >= 100


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=12))
@example("\x85")
@example(" a\x85")
def test_any_word_becomes_the_same_pieces(make_trained: MakeTrained, readers, word: str) -> None:
    tokenizer = make_trained("sentinel_tag").task.format.tokenizer
    assert tuple(readers["sentinel_tag"]._pieces(word)) == tokenizer.word(word)


@pytest.mark.parametrize("name", FORMATS)
def test_outputs_are_read_back(make_trained: MakeTrained, readers, name: str) -> None:
    """Every labeling that the format writes is allowed id by id, and read as its tags."""
    format_, words = make_trained(name).task.format, SENTENCES[3]
    spans = [(0, 1, "color"), (1, 2, "size"), (1, 3, "brand_name"), (3, 4, "color")]
    grammar, template = readers[name].grammar, format_.template(words)
    for count in range(3):
        for chosen in itertools.combinations(spans, count):
            if {(1, 2, "size"), (1, 3, "brand_name")} <= set(chosen):
                continue
            labeling = make_labeling(chosen, len(words))
            ids = format_.target(labeling, words)
            state = State()
            for id_ in ids:
                assert id_ in grammar.allowed(template, state)
                following = grammar.after(template, state, id_)
                assert following is not None
                state = following
            tags = grammar.read(template, ids)
            assert tags is not None
            assert [tag for tag in tags if tag not in "OI"] == [s.type for s in labeling]
            assert grammar.read(template, ids[:-1]) is None


def test_the_grammar_allows_exactly_what_can_be_finished() -> None:
    """Labels that begin with, and consist of, each other's pieces, against all outputs."""
    tags = {"O": (5,), "I": (6,), "a": (7,), "ab": (7, 8), "aba": (7, 8, 7), "c": (8,)}
    template = (1, TAG, 2, TAG, 3)
    outputs = set()
    for first, second in itertools.product(tags, repeat=2):
        if first != "I" and not (first == "O" and second == "I"):
            outputs.add((1, *tags[first], 2, *tags[second], 3))
    grammar = Grammar({"tags": tags})
    prefixes = {ids[:i] for ids in outputs for i in range(len(ids) + 1)}
    for prefix in prefixes:
        state: State | None = State()
        for id_ in prefix:
            assert state is not None
            state = grammar.after(template, state, id_)
        assert state is not None
        wanted = {ids[len(prefix)] for ids in outputs if ids[: len(prefix)] == prefix != ids}
        assert set(grammar.allowed(template, state)) == wanted
        for id_ in {1, 2, 3, 5, 6, 7, 8} - wanted:
            assert grammar.after(template, state, id_) is None
    assert all(grammar.read(template, ids) is not None for ids in outputs)


class Bytes:
    """ByT5's vocabulary, in as few lines as it has."""

    size, pad_id, eos_id, unk_id = 259, 0, 1, 2
    sentinels = tuple(range(258, 158, -1))

    def encode(self, text: str) -> list[int]:
        return [byte + 3 for byte in f" {text}".encode()]

    def decode(self, ids: list[int]) -> str:
        return bytes(id_ - 3 for id_ in ids if 3 <= id_ < 259).decode(errors="replace")

    def save(self, folder: Path) -> None:
        pass


def test_bytes_need_no_file(tmp_path: Path) -> None:
    reading = _reading(Tokenizer(Bytes()), {}, tmp_path)
    assert reading == {"pieces": "bytes", "prefix": " "}
    assert encoder(tmp_path, reading)("é") == [35, 198, 172]


def vocabulary(own_sentinels: bool) -> SentencePieceVocabulary:
    """A SentencePiece model whose special pieces have names of their own, with sentinels among its
    pieces, as mT5's, or on top of it, as T5's."""
    model = io.BytesIO()
    names = [f"<extra_id_{i}>" for i in reversed(range(10))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["add kent james to the [END] </s> <extra_id_3> soundtrack"]),
        model_writer=model,
        vocab_size=70,
        hard_vocab_limit=False,
        user_defined_symbols=names if own_sentinels else [],
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="[PAD]",
        eos_piece="[END]",
        unk_piece="[UNK]",
        minloglevel=2,
    )
    return SentencePieceVocabulary(model.getvalue(), 10)


@pytest.mark.parametrize("own_sentinels", [False, True], ids=["T5", "mT5"])
def test_words_that_read_like_special_pieces_are_words(tmp_path: Path, own_sentinels: bool) -> None:
    """By spiece.model, and then by the tokenizer.json that was made of it, alone."""
    special = ("[END]", "[PAD]x", "a[UNK]", "</s>", "<extra_id_3>", "a<extra_id_3>b", "\u2581[END]")
    words = ("kent", "soundtrack", "james", "日", *special)
    first = Tokenizer(vocabulary(own_sentinels))
    for folder in (tmp_path / "of spiece.model", tmp_path / "of tokenizer.json"):
        folder.mkdir()
        tokenizer = first
        if folder.name == "of tokenizer.json":
            alone = tmp_path / "alone"
            alone.mkdir()
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (alone / name).write_bytes((tmp_path / "of spiece.model" / name).read_bytes())
            tokenizer = load_tokenizer(alone)
            assert isinstance(tokenizer._pieces, TokenizersVocabulary)
            assert tokenizer.sentinels == first.sentinels
        write_tokenizer(tokenizer, folder)
        facts = {"pad": 0, "eos": 1, "unknown": 2, "sentinels": list(tokenizer.sentinels)}
        facts |= _reading(tokenizer, facts, folder) | {"tags": {}, "features": {}}
        facts["lowercase"] = False
        (folder / "labeling.json").write_text(json.dumps(facts))
        reader = Words(folder)
        for word in words:
            assert tuple(reader._pieces(word)) == tokenizer.word(word) == first.word(word), word
            assert not {0, 1, *first.sentinels} & {*first.word(word)}


def test_a_word_that_was_added_behind_the_sentinels_keeps_its_id(tmp_path: Path) -> None:
    """As `add_tokens` of transformers adds it to the tokenizer of an export."""
    first = Tokenizer(vocabulary(own_sentinels=False))
    write_tokenizer(first, tmp_path / "out")
    path = tmp_path / "out" / "tokenizer.json"
    fast = tokenizers.Tokenizer.from_file(str(path))
    assert fast.add_tokens(["kent"]) == 1
    fast.save(str(path))
    (tmp_path / "out" / "spiece.model").unlink()
    (tmp_path / "out" / "groot_tokenizer.json").unlink()
    tokenizer = load_tokenizer(tmp_path / "out")
    facts = {"pad": 0, "eos": 1, "unknown": 2, "sentinels": list(tokenizer.sentinels)}
    facts |= _reading(tokenizer, facts, tmp_path / "out")
    for word, ids in (("kent", (first.vocab_size,)), ("james", first.word("james"))):
        assert tokenizer.word(word) == tuple(encoder(tmp_path / "out", facts)(word)) == ids


def test_a_tokenizer_that_reads_otherwise_is_refused(
    make_trained: MakeTrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_trained("sentinel_tag")
    tokenizer = trained.task.format.tokenizer
    write_tokenizer(tokenizer, tmp_path)
    encode = SentencePieceVocabulary.encode
    monkeypatch.setattr(SentencePieceVocabulary, "encode", lambda s, text: encode(s, text)[::-1])
    with pytest.raises(UserError, match=r"tokenizer.json gives the word"):
        facts_of(trained, tmp_path)
