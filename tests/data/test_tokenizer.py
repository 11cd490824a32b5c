"""Facts about both kinds of tokenizer; transformers is the reference for T5's own vocabulary."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from functools import lru_cache

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_jax.data.labeling import Sentence
from groot_jax.data.tokenizer import (
    LITERALS,
    Tokenizer,
    load_tokenizer,
    tag_labels,
    train_tokenizer,
)
from groot_jax.errors import UserError
from groot_jax.export.unigram import fast_tokenizer as fast_of

TYPES = ("artist", "object_type", "fromloc.city_name")
SENTENCES = [
    Sentence(("add", "kent", "james", "to", "the", "disney", "soundtrack"), ()),
    Sentence(("play", "the", "Ωmega", "song", "by", "kent", "on", "tv"), ()),
]
LIKE_SPECIALS = (
    "</s>",
    "<pad>",
    "<unk>",
    "<s>",
    "<extra_id_0>",
    "<extra_id_3>",
    "\u2581<extra_id_1>",
)
ODD_WORDS = (
    *LIKE_SPECIALS,
    "",
    " ",
    "\t",
    "\n \t",
    "🙂",
    "\ufffd" * 6,
    "\u200b",
    "\0",
    "\ud800",
    "[O]",
)


@lru_cache(1)
def trained() -> Tokenizer:
    return train_tokenizer(SENTENCES, TYPES, 60)


@lru_cache(1)
def byt5(folder) -> Tokenizer:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(str(folder / "byt5"))
    return load_tokenizer(folder / "byt5")


def mt5_like_model() -> bytes:
    """A SentencePiece model that holds its sentinels as pieces, as mT5's does."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["add kent james to the disney soundtrack <extra_id_3>"]),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        user_defined_symbols=[f"<extra_id_{i}>" for i in reversed(range(10))],
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def fast_tokenizer(folder):
    """A tokenizer of transformers with no SentencePiece file, saved in a folder."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", -99.0), ("</s>", -99.0), ("<unk>", -99.0)]
    pieces += [(letter, -3.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyzOI<>_/0123"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[f"<extra_id_{i}>" for i in range(10)],
    )
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(params=["trained", "byt5", "fast", "mt5_like", "t5"])
def tokenizer(request, tmp_path) -> Tokenizer:
    if request.param == "trained":
        return trained()
    if request.param == "byt5":
        return byt5(tmp_path)
    if request.param == "fast":
        return load_tokenizer(fast_tokenizer(tmp_path))
    if request.param == "mt5_like":
        (tmp_path / "own.model").write_bytes(mt5_like_model())
        return load_tokenizer(tmp_path / "own.model")
    return load_tokenizer(request.getfixturevalue("data_dir") / "t5_vocab" / "spiece.model")


def special_ids(tokenizer) -> set[int]:
    return {tokenizer.pad_id, tokenizer.eos_id, *tokenizer.sentinels}


def test_odd_words_have_ids_and_are_never_read_as_special_ones(tokenizer):
    special = special_ids(tokenizer)
    for word in ODD_WORDS:
        ids = tokenizer.word(word)
        assert ids, repr(word)
        assert special.isdisjoint(ids), (word, ids)
        assert all(0 <= id_ < tokenizer.vocab_size for id_ in ids)


def test_sentinels_are_distinct_and_decode_to_their_names(tokenizer):
    assert len(special_ids(tokenizer)) == len(tokenizer.sentinels) + 2 >= 12
    ids = [
        tokenizer.sentinels[3],
        *tokenizer.text("kent"),
        tokenizer.sentinels[0],
        tokenizer.eos_id,
    ]
    assert tokenizer.decode(ids) == "<extra_id_3> kent <extra_id_0>"


def test_a_saved_tokenizer_loads_as_it_was_with_its_whole_pieces(tokenizer, tmp_path):
    extended = tokenizer.with_whole_pieces(["O", "object type"])
    extended.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.vocab_size == extended.vocab_size
    assert loaded.sentinels == extended.sentinels
    for word in (*ODD_WORDS, "add", "Kent", "the"):
        assert loaded.word(word) == extended.word(word)
    for label in ("O", "object type", "kent"):
        assert loaded.tag(label) == extended.tag(label)


def test_whole_pieces_are_appended_and_leave_the_rest_alone(tokenizer):
    new = ("one label", "another one")
    extended = tokenizer.with_whole_pieces(new)
    assert extended.vocab_size == tokenizer.vocab_size + 2
    assert [extended.tag(label) for label in new] == [
        (tokenizer.vocab_size,),
        (tokenizer.vocab_size + 1,),
    ]
    assert extended.with_whole_pieces(new).vocab_size == extended.vocab_size
    assert extended.word("add") == tokenizer.word("add")
    assert extended.decode(extended.tag("one label")) == "one label"


def test_a_trained_tokenizer_has_t5s_layout_and_whole_tags():
    tokenizer = trained()
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    sentinels = tokenizer.sentinels
    assert sentinels == tuple(range(sentinels[0], sentinels[0] - 100, -1))
    pieces = {id_ for s in SENTENCES for word in s.words for id_ in tokenizer.word(word)}
    assert max(pieces) < sentinels[-1]
    labels = ("O", "I", "artist", "object type", "fromloc city name", *LITERALS)
    tags = [tokenizer.tag(label) for label in labels]
    assert sorted(tags) == [(id_,) for id_ in range(sentinels[0] + 1, tokenizer.vocab_size)]
    # A word that reads like a tag is a word.
    assert tokenizer.tag("artist") != tokenizer.word("artist")


def test_a_letter_seen_once_is_kept():
    assert trained().unk_id not in trained().word("Ω")
    assert trained().unk_id in trained().word("ж")


def test_training_twice_gives_the_same_tokenizer_and_says_nothing(tmp_path, capfd):
    for name in ("a", "b"):
        train_tokenizer(SENTENCES, TYPES, 60).save(tmp_path / name)
    for file in ("spiece.model", "groot_tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert capfd.readouterr() == ("", "")


def test_word_pieces_stay_below_the_vocabulary_size_asked_for():
    letters = [chr(97 + i) + chr(97 + j) + "e" for i in range(20) for j in range(20)]
    sentences = [Sentence(tuple(letters), ())] * 3
    sizes = [train_tokenizer(sentences, (), size).sentinels[99] for size in (40, 100)]
    assert sizes[0] <= 40 < sizes[1] <= 100


few_letters = st.text("abcxyz01é日本文\t 🙂", max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(few_letters | st.text(max_size=8), max_size=6), st.sampled_from([1, 3, 8, 50, 2000])
)
def test_tiny_corpora_train_or_are_refused_with_a_sentence(words, vocab_size):
    try:
        tokenizer = train_tokenizer([Sentence(tuple(words), ())], ("x",), vocab_size)
    except UserError:
        # Letters and digits are never all thrown away.
        assert not any(word.isascii() and word.isalnum() for word in words)
        return
    special = special_ids(tokenizer)
    for word in words:
        ids = tokenizer.word(word)
        assert ids
        assert special.isdisjoint(ids)
        assert max(ids) < tokenizer.vocab_size


def test_lower_casing_is_for_words_alone_and_is_saved(tmp_path):
    plain = train_tokenizer(SENTENCES, TYPES, 60)
    lower = train_tokenizer(SENTENCES, TYPES, 60, lowercase=True)
    assert lower.word("KENT") == lower.word("kent")
    assert plain.word("KENT") != plain.word("kent")
    lower.save(tmp_path)
    assert load_tokenizer(tmp_path).word("KENT") == lower.word("kent")
    assert lower.tag("O") != lower.tag("I")


def test_t5s_vocabulary_is_that_of_transformers(data_dir, tmp_path):
    from transformers import T5Tokenizer

    model = data_dir / "t5_vocab" / "spiece.model"
    (tmp_path / "theirs").mkdir()
    shutil.copy(model, tmp_path / "theirs")
    reference = T5Tokenizer.from_pretrained(str(tmp_path / "theirs"), legacy=False)
    reference.save_pretrained(str(tmp_path / "saved"))
    for tokenizer in (load_tokenizer(model), load_tokenizer(str(tmp_path / "saved"))):
        assert tokenizer.vocab_size == len(reference) == 32100
        assert len(tokenizer.sentinels) == 100
        for i in (0, 1, 99):
            assert tokenizer.sentinels[i] == 32099 - i
            assert tokenizer.sentinels[i] == reference.convert_tokens_to_ids(f"<extra_id_{i}>")
        for word in ("Add", "soundtrack", "don't", "3.5", "país", "日本", "AT&T"):
            ids = tokenizer.word(word)
            assert list(ids) == reference.encode(word, add_special_tokens=False)
            if word not in ("país", "日本"):
                assert tokenizer.decode(ids) == word


def test_a_folder_says_how_many_sentinels_lie_on_its_model(tmp_path):
    trained().save(tmp_path)
    (tmp_path / "groot_tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 7}))
    assert len(load_tokenizer(tmp_path).sentinels) == 7


def test_sentinels_that_are_pieces_of_the_model_are_used(tmp_path):
    (tmp_path / "spiece.model").write_bytes(mt5_like_model())
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer.sentinels) == 10
    processor = sentencepiece.SentencePieceProcessor(model_proto=mt5_like_model())
    assert tokenizer.sentinels[3] == processor.piece_to_id("<extra_id_3>")
    assert tokenizer.vocab_size == len(processor)
    # The bare model does read the word as the sentinel; ours must not.
    assert tokenizer.sentinels[3] in processor.encode("<extra_id_3>")


def test_byt5_spells_words_as_bytes(tmp_path):
    tokenizer = byt5(tmp_path)
    assert tokenizer.word("né") == tuple(byte + 3 for byte in " né".encode())
    assert tokenizer.word("</s>") == tuple(byte + 3 for byte in b" </s>")
    assert tokenizer.sentinels[0] == 259


def test_a_word_like_a_special_token_is_spelled_by_a_fast_tokenizer(tmp_path):
    tokenizer = load_tokenizer(fast_tokenizer(tmp_path))
    assert tokenizer.decode(tokenizer.word("</s>")) == "</s>"


@pytest.mark.parametrize(
    "name", ["{tmp}/none", "{tmp}/garbage.model", "{tmp}/empty", "no such:name"]
)
def test_what_is_no_tokenizer_is_refused_by_name(name, tmp_path):
    (tmp_path / "garbage.model").write_bytes(b"garbage")
    (tmp_path / "empty").mkdir()
    name = name.format(tmp=tmp_path)
    with pytest.raises(UserError, match="no T5 tokenizer at") as error:
        load_tokenizer(name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_two_tokenizers_in_one_folder_are_refused(tmp_path):
    trained().save(tmp_path)
    (tmp_path / "spiece.model").write_bytes(mt5_like_model())
    with pytest.raises(UserError, match="do not belong together"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"sentinels": [59]}', "not JSON"])
def test_settings_that_nobody_wrote_are_no_tokenizer(tmp_path, text):
    trained().save(tmp_path)
    (tmp_path / "groot_tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="no T5 tokenizer at"):
        load_tokenizer(tmp_path)


def test_types_read_as_plain_words():
    assert tag_labels(["object_type", "fromloc.city_name", "creative-work", "B2"]) == {
        "O": "O",
        "I": "I",
        "object_type": "object type",
        "fromloc.city_name": "fromloc city name",
        "creative-work": "creative work",
        "B2": "B2",
    }


def test_types_that_would_read_alike_keep_their_raw_names():
    assert tag_labels(["a_b", "a.b", "c_d", "+", "I."]) == {
        "O": "O",
        "I": "I",
        "a_b": "a_b",
        "a.b": "a.b",
        "c_d": "c d",
        "+": "+",
        "I.": "I.",
    }


@pytest.mark.parametrize("types", [["O"], ["x", "I"], ["[]"], ["a_b", "a;b"], [""], [" - "]])
def test_types_that_cannot_be_written_are_refused_by_name(types):
    with pytest.raises(UserError) as error:
        tag_labels(types)
    assert any(repr(type_) in str(error.value) for type_ in types)


@given(st.lists(st.text(max_size=6)))
def test_labels_are_one_to_one_or_refused(types):
    try:
        labels = tag_labels(types)
    except UserError:
        return
    assert set(labels) == {"O", "I", *types}
    assert len(set(labels.values())) == len(labels)


def test_the_text_room_imports_neither_jax_nor_a_framework():
    code = (
        "import sys, groot_jax.data.formats, groot_jax.generate.grammar; "
        "print([m for m in ('jax', 'torch', 'tensorflow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def changed(folder, change):
    """The tokenizer.json of a folder, changed in place."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def scheme(name):
    def change(content):
        for part in ("pre_tokenizer", "decoder"):
            content[part]["prepend_scheme"] = name

    return change


def behind_a_splitter(content):
    """As transformers 5 writes T5's: words are split at spaces first, which are gone then."""
    scheme("never")(content)
    parts = [{"type": "WhitespaceSplit"}, content["pre_tokenizer"]]
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}


def cut_and_filled(content):
    content["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }


@pytest.mark.parametrize(
    "change",
    [scheme("never"), scheme("first"), behind_a_splitter, cut_and_filled],
    ids=["never", "first", "splitter", "cut and filled"],
)
def test_every_word_is_encoded_as_one_after_a_space(tmp_path, change):
    plain = load_tokenizer(fast_tokenizer(tmp_path / "plain"))
    other = load_tokenizer(changed(fast_tokenizer(tmp_path / "other"), change))
    for word in ("shoes", "a", "red_2", "</s>"):
        assert other.word(word) == plain.word(word), word
    assert other.decode(other.word("shoes")) == "shoes"
    # What is saved is the file as it came.
    other.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert saved == json.loads((tmp_path / "other" / "tokenizer.json").read_text())


def test_a_tokenizer_file_that_transformers_wrote_for_t5_gives_t5s_pieces(data_dir, tmp_path):
    """4.57 writes spiece.model beside it, 5 does not: the file alone has to do."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "bare").mkdir()
    shutil.copy(data_dir / "t5_vocab" / "spiece.model", tmp_path / "bare")
    transformers.T5TokenizerFast.from_pretrained(tmp_path / "bare").save_pretrained(tmp_path / "5")
    (tmp_path / "5" / "spiece.model").unlink(missing_ok=True)
    ours, theirs = load_tokenizer(tmp_path / "5"), load_tokenizer(tmp_path / "bare")
    assert (ours.vocab_size, ours.sentinels) == (theirs.vocab_size, theirs.sentinels)
    # Words that read like special pieces are letters to both.
    special = ("</s>", "<extra_id_3>", "a<pad>b", "<unk>", "</s></s>", "\u2581</s>")
    for word in ("Add", "soundtrack", "don't", "3.5", "país", "AT&T", "x", *special):
        assert ours.word(word) == theirs.word(word), word
        assert ours.eos_id not in ours.word(word)
        if ours.unk_id not in ours.word(word):  # Each writes that one in a way of its own.
            assert ours.decode(ours.word(word)) == theirs.decode(theirs.word(word))


@pytest.mark.parametrize("where", ["name", "config.json", "version 5", "sentinels"])
def test_byt5_needs_no_file(tmp_path, where):
    if where == "name":
        tokenizer = load_tokenizer("byt5")
    else:
        file, settings = {
            "config.json": ("config.json", {"tokenizer_class": "ByT5Tokenizer"}),
            # What version 5 writes.
            "version 5": (
                "tokenizer_config.json",
                {
                    "tokenizer_class": "ByT5Tokenizer",
                    "extra_ids": 0,
                    "extra_special_tokens": [f"<extra_id_{i}>" for i in range(125)],
                },
            ),
            "sentinels": (
                "tokenizer_config.json",
                {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 40},
            ),
        }[where]
        (tmp_path / file).write_text(json.dumps(settings))
        tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.bytes
    assert tokenizer.vocab_size == (299 if where == "sentinels" else 384)
    assert tokenizer.word("né") == tuple(byte + 3 for byte in " né".encode())
    assert tokenizer.decode(tokenizer.word("né")) == "né"


def test_two_tokenizers_in_a_folder_that_differ_are_refused(tmp_path):
    trained().save(tmp_path / "a")
    (tmp_path / "a" / "groot_tokenizer.json").unlink()
    fast_tokenizer(tmp_path / "a")
    with pytest.raises(UserError, match=r"spiece\.model has .* remove the one"):
        load_tokenizer(tmp_path / "a")


def two_files(folder, change=lambda content: None):
    """A spiece.model and the tokenizer.json of the same pieces, changed; and ours of the former."""
    ours = trained()
    ours.save(folder)
    (folder / "groot_tokenizer.json").unlink()
    fast, settings = fast_of(folder / "spiece.model", ours.sentinels)
    fast.add_tokens(["levi"])
    content = json.loads(fast.to_str())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return ours


def test_words_that_were_added_to_the_pieces_are_read_from_tokenizer_json(tmp_path):
    ours = two_files(tmp_path)
    both = load_tokenizer(tmp_path)
    assert both.word("levi") == (ours.base_size,) == (both.vocab_size - 1,)
    assert both.word("soundtrack") == ours.word("soundtrack")
    assert both.sentinels == ours.sentinels
    # And again from the work directory.
    both.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").word("levi") == both.word("levi")


def swapped(content):
    vocabulary = content["model"]["vocab"]
    vocabulary[5], vocabulary[9] = vocabulary[9], vocabulary[5]


def fewer(content):
    del content["added_tokens"][3:]


@pytest.mark.parametrize("change", [swapped, fewer])
def test_two_files_of_other_pieces_are_refused(tmp_path, change):
    """Also where they have equally many."""
    two_files(tmp_path, change)
    with pytest.raises(UserError, match=r"not of the same pieces and sentinels: remove the one"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json", "bytes"])
def test_words_that_were_added_and_no_file_has_are_refused(tmp_path, where):
    """As transformers 4 saves `add_tokens(["levi"])`: spiece.model is as it was."""
    folder = tmp_path / "added"
    if where == "bytes":
        folder.mkdir()
    else:
        trained().save(folder)
        (folder / "groot_tokenizer.json").unlink()
    token: dict[str, object] = {"special": True, "normalized": False}
    decoder = {"7": token | {"content": "<sep>"}, "161": token | {"content": "<extra_id_0>"}}
    settings = {"additional_special_tokens": [{"content": "<sep>"}], "eos_token": "</s>"}
    if where == "bytes":
        settings["tokenizer_class"] = "ByT5Tokenizer"

    def write():
        config = (
            settings
            if where == "added_tokens.json"
            else settings | {"added_tokens_decoder": decoder}
        )
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        added = {entry["content"]: int(id_) for id_, entry in decoder.items()}
        if where != "tokenizer_config.json":
            (folder / "added_tokens.json").write_text(json.dumps(added))

    write()
    load_tokenizer(folder)  # Special pieces alone: no word becomes one of them.
    decoder["162"] = token | {"content": "levi", "special": False}
    write()
    with pytest.raises(UserError, match=r"the word 'levi' was added to its pieces; .*: ") as caught:
        load_tokenizer(folder)
    assert ("save_pretrained" in str(caught.value)) == (where != "bytes")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("tokenizer.json", "{", "tokenizer.json: Expecting property name"),
        ("tokenizer.json", "{}", "tokenizer.json: Model missing"),
        ("tokenizer.json", "", "tokenizer.json is empty"),
        (
            "tokenizer.json",
            "version https://git-lfs.github.com/spec/v1\n",
            "tokenizer.json stands .*",
        ),
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds no JSON object"),
        ("tokenizer_config.json", '{"eos_token": "<e>"}', "json: eos_token is '<e>', which it"),
        (
            "tokenizer_config.json",
            '{"pad_token": "</s>"}',
            "the id of '</s>' is 1, but has to be 0",
        ),
        ("tokenizer_config.json", '{"unk_token": {"id": 2}}', "tokens is {'id': 2}, and no text"),
    ],
)
def test_what_is_wrong_with_a_tokenizers_file_is_said_with_its_name(tmp_path, file, text, words):
    fast_tokenizer(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_code_in_a_tokenizers_folder_is_not_run(tmp_path):
    settings = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "own.py").write_text("import os; os._exit(7)\n")
    with pytest.raises(UserError, match=r"holds no spiece\.model and no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_no_tokenizer_brings_in_transformers(tmp_path):
    fast_tokenizer(tmp_path)
    code = (
        "import sys; from groot_jax.data.tokenizer import load_tokenizer\n"
        f"print(load_tokenizer({str(tmp_path)!r}).decode(load_tokenizer('byt5').word('kent')[:0]),"
        " 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
