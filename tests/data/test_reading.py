"""Files as people have them: columns that do not say which is which, odd lines, JSON of annotation
tools. In the inputs `->` is a tab, `/` a new line and `//` a blank line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from groot_jax.data.card import read_lines_of
from groot_jax.data.corpus import Corpus
from tests.data.test_corpus import error_of, load, skipped, words


def text_of(short: str) -> str:
    lines = short.replace(" // ", " /  / ").replace("->", "\t").split(" / ")
    return "".join(line.strip(" ") + "\n" for line in lines)


def line_of(corpus: Corpus, split: str = "train") -> str:
    return next(line for line in read_lines_of(corpus) if line.startswith(f"{split}: "))


def spans(corpus: Corpus) -> list[list[tuple[str, str]]]:
    return [
        [(" ".join(s.words[span.start : span.end]), span.type) for span in s.labeling]
        for s in corpus.train
    ]


CONLL = (
    "-DOCSTART- -X- O O // EU NNP I-NP I-ORG / rejects VBZ I-VP O / German JJ I-NP I-MISC / "
    "call NN I-NP O // Peter NNP I-NP I-PER / Blackburn NNP I-NP I-PER // -DOCSTART- -X- O O // "
    "BRUSSELS NNP I-NP I-LOC / Rome NNP I-NP B-LOC"
)


# Which columns


def test_conll_2003_as_it_is_published_reads_without_settings(tmp_path):
    corpus = load(tmp_path, text_of(CONLL))
    assert spans(corpus) == [
        [("EU", "ORG"), ("German", "MISC")],
        [("Peter Blackburn", "PER")],
        [("BRUSSELS", "LOC"), ("Rome", "LOC")],
    ]
    assert line_of(corpus) == (
        "train: 3 sentences, 5 spans of 4 types (LOC 2, ORG 1, MISC 1, PER 1); words in column 1, "
        "tags in column 4 of 4, space, iob1"
    )


AMBIGUOUS = {
    "1->Bonn->B-LOC->O / 2->Troja->B-OTH->B-LOC": ("tag_column=3 or", "word_column=2"),
    "0->This->O / 1->Paris->B-LOC": ("counts words", "word_column=2"),
    "Lumia B-PRO O / Helsingin B-ORG B-LOC": ("tag_column=2 or", "tag_column=3"),
    "EU NNP B-ORG O / Tom NNP B-PER B-PER": ("tag_column=3 or", "tag_column=4"),
    "EU B-ORG NNP B-NP / wins O VBZ B-VP": ("tag_column=2 or", "tag_column=4"),
    # Of the same kinds.
    "17->in->O / 18->Rom->B-LOC // 1->nur->O": ("word_column=2",),
    "in IN B-PP B-PP / March NNP B-NP B-NP": ("tag_column=3 or", "tag_column=4"),
    "doc1 Rome LOC B-LOC / doc1 is V O / doc1 big A O / doc1 Oslo N B-LOC": ("word_column=2",),
    "B-LOC Rome rome / O is be / O old old": ("word_column=2 or",),
    "3.5->Rome->B-LOC / 3.7->is->O": ("holds numbers", "word_column=2"),
}


@pytest.mark.parametrize("short", AMBIGUOUS)
def test_columns_that_may_be_meant_or_not_are_asked_for(tmp_path, short):
    message = error_of(tmp_path, text_of(short))
    assert "train.txt: " in message
    assert all(part in message for part in AMBIGUOUS[short]), message


@pytest.mark.parametrize(
    ("short", "settings", "wanted"),
    [
        ("1->Bonn->B-LOC->O / 2->Troja->B-OTH->B-LOC", (2, 3), [("Bonn", "LOC"), ("Troja", "OTH")]),
        ("1->Bonn->B-LOC->O / 2->Troja->B-OTH->B-LOC", (2, -1), [("Troja", "LOC")]),
        ("0->This->O / 1->Paris->B-LOC", (2, 0), [("Paris", "LOC")]),
        ("Lumia B-PRO O / Helsingin B-ORG B-LOC", (0, 2), [("Lumia", "PRO"), ("Helsingin", "ORG")]),
        ("EU B-ORG NNP B-NP / wins O VBZ B-VP", (0, -3), [("EU", "ORG")]),
        ("B-LOC Rome rome / O is be / O old old", (-1, 0), [("rome", "LOC")]),
    ],
)
def test_columns_are_taken_by_number(tmp_path, short, settings, wanted):
    word, tag = settings
    corpus = load(tmp_path, text_of(short), word_column=word, tag_column=tag)
    assert spans(corpus) == [wanted]


def test_a_tag_column_in_the_middle_is_found(tmp_path):
    corpus = load(tmp_path, text_of("EU B-ORG NNP / wins O VBZ"))
    assert spans(corpus) == [[("EU", "ORG")]]
    assert "words in column 1, tags in column 2 of 3" in line_of(corpus)


def test_a_column_that_is_not_there_is_named(tmp_path):
    message = error_of(tmp_path, text_of("EU B-ORG / wins O"), tag_column=4)
    assert "config.data.tag_column is 4, but most lines have 2 columns" in message
    assert "both be in column 2" in error_of(
        tmp_path, text_of("EU B-ORG"), tag_column=2, word_column=-1
    )


# Schemes of files


@pytest.mark.parametrize(
    ("short", "wanted", "scheme"),
    [
        ("Hi O / John NAME / Doe NAME / here O", [("John Doe", "NAME")], "io"),
        ("a B-x / b L-x / c U-y / d O", [("a b", "x"), ("c", "y")], "bilou"),
        ("a B-x / b M-x / c E-x / d S-y / e O", [("a b c", "x"), ("d", "y")], "bmes"),
        ("a B / b I / c O / d B", [("a b", "span"), ("d", "span")], "bio without types"),
        ("a I-x / b E-x / c I-x / d O", [("a b", "x"), ("c", "x")], "ioe1"),
        ("a I-x / b E-x / c E-x / d O", [("a b", "x"), ("c", "x")], "ioe2"),
        ("a I-x / b I-y / c O / d I-x", [("a", "x"), ("b", "y"), ("d", "x")], "iob1"),
    ],
)
def test_schemes_of_files_are_told(tmp_path, short, wanted, scheme):
    corpus = load(tmp_path, text_of(short))
    assert spans(corpus) == [wanted]
    assert line_of(corpus).endswith(f", {scheme}")


def test_each_split_may_have_its_own_scheme(tmp_path):
    dev = "a I-x / b I-x / c B-x // d I-x / e O"
    (tmp_path / "dev.txt").write_text(text_of(dev))
    bio = text_of("a B-x / b I-x // c B-x / d O")
    corpus = load(tmp_path, bio, dev="dev.txt")
    assert [len(sentence.labeling) for sentence in corpus.dev] == [2, 1]
    assert line_of(corpus).endswith("bio") and line_of(corpus, "dev").endswith("iob1")
    assert "stray 'I-x'" in error_of(tmp_path, bio, dev="dev.txt", scheme="bio")
    settled = load(tmp_path, bio, dev="dev.txt", scheme="train=IOB2,dev=IOB1")
    assert settled.dev == corpus.dev
    # One mistake in a dev file of train's scheme is a mistake.
    many = "a B-x / b I-x // " * 30 + "c O / d I-x"
    (tmp_path / "dev.txt").write_text(text_of(many))
    assert "dev.txt:92: stray 'I-x'" in error_of(tmp_path, bio, dev="dev.txt")
    # A dev file that no tag tells of has train's.
    bilou = text_of("a B-x / b L-x / c U-x")
    (tmp_path / "dev.txt").write_text(text_of("a O / b O"))
    assert line_of(load(tmp_path, bilou, dev="dev.txt"), "dev").endswith("bilou")
    (tmp_path / "dev.txt").write_text(text_of("a S-x / b O"))
    assert "not one of scheme bilou" in error_of(tmp_path, bilou, dev="dev.txt", scheme="bilou")


# Lines that are no words and tags


GOOD = "in O / New B-LOC / York I-LOC // on O / Monday O // " * 25
BAD_LINES = {
    "# id 1 domain=en / x O": ("comment", "--config.data.comment='# id'"),
    "#->http://x": ("comment", "--config.data.comment='#'"),
    "# id 1->domain=en": ("comment", "--config.data.comment='# id'"),
    "# newdoc": ("comment", "--config.data.comment='# newdoc'"),
    "work B-creative work": ("'B-creative work' seems to hold a space", "'B-creative_work'"),
    "Ann B- PER": ("'B- PER' seems to hold a space",),
    "a,O": ("CSV", "save it with tabs"),
    "a\u00a0O": ("U+00A0 NO-BREAK SPACE",),
    "a\u3000O": ("U+3000 IDEOGRAPHIC SPACE",),
    "\ufeffa O": ("byte-order mark (U+FEFF)", "joined"),
    "a B\u2014LOC": ("U+2014 EM DASH",),
    "a \u041e": ("U+041E CYRILLIC CAPITAL LETTER O",),
    "a I-LOC": ("--config.data.scheme=iob1",),
}


@pytest.mark.parametrize("short", BAD_LINES)
def test_a_line_that_cannot_be_read_is_named_with_its_cause(tmp_path, short):
    text = text_of(GOOD + short)
    at = text.split("\n").index(text_of(short).split("\n")[0]) + 1
    message = error_of(tmp_path, text)
    assert f"train.txt:{at}: " in message
    assert all(part in message for part in BAD_LINES[short]), message
    assert skipped(load(tmp_path, text, policy="skip")) == {"train": 1}


def test_the_comment_setting_that_is_offered_reads_the_file(tmp_path):
    # The words of tweets may begin with the mark as well.
    text = text_of("# id 7 domain=en / #rome B-LOC / # O // # id 8 domain=en / is O")
    assert "--config.data.comment='# id'" in error_of(tmp_path, text)
    corpus = load(tmp_path, text, comment="# id")
    assert words(corpus) == ["#rome #", "is"]
    assert "2 comment lines" in line_of(corpus)


FILES = {
    "word,tag\nin,O\nRome,B-LOC\n": ("CSV", "save it with tabs"),
    "in;O\nRome;B-LOC\n": ("CSV", "';'"),
    "in\u00a0O\nRome\u00a0B-LOC\n": ("U+00A0 NO-BREAK SPACE",),
    "in\u2003O\nRome\u2003B-LOC\n": ("U+2003 EM SPACE",),
    "Word Tag\nin O\nRome B-LOC\n": ("train.txt:1", "header"),
    "tokens\tner_tags\nin\tO\nRome\tB-LOC\n": ("train.txt:1", "header"),
    "id text pos ner\n1 in P O\n2 Rome N B-LOC\n": ("word_column=2",),
    "word label\nHi O\nto O\nJohn NAME\n": ("train.txt:1", "header"),
    "in B_LOC\nRome I_LOC\nto O\nbe O\n": ("'B-LOC'",),
    "Rome b-loc\nin o\nbe o\n": ("'B-loc'",),
    "Rome B:LOC\nin O\nOslo B:LOC\n": ("'B-LOC'",),
    "Rome LOC-B\nin X\n": ("tag_column", "separator"),
    "Rome B-LOC\nOslo B-L\u041eC\n": ("U+041E",),
}


@pytest.mark.parametrize("text", FILES)
def test_a_file_that_cannot_be_read_is_named_with_its_cause(tmp_path, text):
    message = error_of(tmp_path, text)
    assert all(part in message for part in FILES[text]), message


def test_two_types_that_look_alike_are_named_with_both_places(tmp_path):
    text = text_of("Rome B-OPA // Oslo B-\u041e\u0420\u0410")
    message = error_of(tmp_path, text)
    assert "train.txt:3: the type" in message and "train.txt:1" in message and "U+041E" in message


def test_a_column_file_that_begins_with_a_brace_is_read(tmp_path):
    text = text_of("{ O / Rome B-LOC / } O")
    assert words(load(tmp_path, text)) == ["{ Rome }"]
    message = error_of(tmp_path, text.replace("{ O", '{" O'))
    assert "train.txt:1: not JSON" in message and "data.reader=columns" in message
    assert words(load(tmp_path, text.replace("{ O", '{" O'), reader="columns"))


def test_the_limit_of_words_is_named_with_the_number_that_is_needed(tmp_path):
    text = "a B-x\n" * 113 + "\n" + "a O\n" * 124
    message = error_of(tmp_path, text, max_words=100)
    assert "train.txt:1: a sentence of 113 words" in message
    assert "the longest has 124: set --config.text.max_words=124" in message
    assert len(load(tmp_path, text, max_words=124).train) == 2
    assert len(load(tmp_path, text, max_words=0).train) == 2


# JSON lines


def jsonl(*items: Any) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


TEXT = "Ann Lee is in Bonn."
NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TOKENS = ["Ann", "Lee", "is", "in", "Bonn"]
FOUND = [("Ann Lee", "PER"), ("Bonn", "LOC")]


@pytest.mark.parametrize(
    "item",
    [
        {"tokens": TOKENS, "ner_tags": [1, 2, 0, 0, 3], "id": "7"},
        {"tokens": TOKENS, "ner_tags": ["B-PER", "I-PER", "O", "O", "B-LOC"]},
        {"tokens": TOKENS, "tags": [1, 2, 0, 0, 3], "text": TEXT},
        {"words": TOKENS, "labels": ["B-PER", "I-PER", "O", "O", "B-LOC"]},
        # What is said of the sentence as a whole: its intent, and WikiANN's spans without a place.
        {"words": TOKENS, "tags": ["B-PER", "I-PER", "O", "O", "B-LOC"], "label": "inform"},
        {"text": TEXT, "spans": [[0, 7, "PER"], [14, 18, "LOC"]], "label": 3},
        {"tokens": TOKENS, "ner_tags": [1, 2, 0, 0, 3], "spans": ["PER: Ann Lee", "LOC: Bonn"]},
        {"id": 1, "text": TEXT, "label": [[0, 7, "PER"], [14, 18, "LOC"]]},
        {"id": 1, "text": TEXT, "labels": [[14, 18, "LOC"], [0, 7, "PER"]], "Comments": []},
        {"text": TEXT, "entities": [[0, 7, "PER"], [14, 18, "LOC"]]},
        {
            "text": TEXT,
            "entities": [
                {"id": 3, "label": "PER", "start_offset": 0, "end_offset": 7},
                {"id": 4, "label": "LOC", "start_offset": 14, "end_offset": 18},
            ],
            "relations": [],
        },
        {
            "text": TEXT,
            "tokens": [{"text": "Ann", "start": 0, "end": 3, "id": 0}],
            "spans": [
                {"start": 0, "end": 7, "label": "PER", "token_start": 0, "token_end": 1},
                {"start": 14, "end": 18, "label": "LOC"},
            ],
            "answer": "accept",
        },
        # White space at the ends of a span, and a line break in the text.
        {"text": TEXT.replace(" is", "\nis"), "label": [[0, 8, "PER"], [13, 18, "LOC"]]},
        {
            "words": TOKENS,
            "decide": "map",
            "labelings": [
                {
                    "spans": [
                        {"start": 0, "end": 2, "type": "PER", "text": "Ann Lee", "confidence": 1},
                        {
                            "start": 4,
                            "end": 5,
                            "type": "LOC",
                            "text": "Bonn",
                            "start_char": 14,
                            "end_char": 18,
                            "confidence": 0.5,
                        },
                    ],
                    "score": -0.1,
                },
                {"spans": [], "score": -2.0},
            ],
        },
    ],
)
def test_json_lines_of_annotation_tools_are_read(tmp_path, item):
    corpus = load(tmp_path, jsonl(item), tag_names=NAMES, split_text="unicode")
    assert spans(corpus) == [FOUND]
    assert "JSON lines, " in line_of(corpus)


BAD_ITEMS = [
    ({"tokens": TOKENS, "ner_tags": [1, 2, 0, 0, 3]}, "--config.data.tag_names=O,B-type"),
    ({"tokens": TOKENS, "ner_tags": [1, 2, 0, 3]}, "a list of 5 strings"),
    ({"tokens": ["a"], "ner_tags": [-100], "x": 1}, "are numbers"),
    ({"text": TEXT, "label": [[0, 2, "PER"]]}, "span 0 to 2 ('An', PER) cuts the word 'Ann', "),
    ({"text": TEXT, "label": [[0, 2, "PER"]]}, "characters 0 to 3"),
    ({"text": TEXT, "label": [[14, 18, "LOC"]]}, "--config.text.split=unicode"),
    ({"text": TEXT, "label": [[0, 40, "PER"]]}, "leaves the text of 19 characters"),
    ({"text": TEXT, "label": [[3, 4, "PER"]]}, "holds no word"),
    ({"text": TEXT, "label": [[4, 7, "B"], [0, 7, "A"]]}, "'Ann Lee' (A) and 'Lee' (B) overlap"),
    ({"words": TOKENS, "spans": [[0, 2, "A"], [0, 2, "B"]]}, "'Ann Lee' (A) and 'Ann Lee' (B)"),
    ({"words": TOKENS, "spans": [[0, 9, "A"], [4, 5, "B"]]}, "leaves the sentence of 5 words"),
    ({"text": TEXT, "label": ["positive"]}, "[start, end"),
    ({"text": TEXT, "label": [], "spans": []}, "its keys are text, label, spans"),
    ({"words": ["a"], "tags": ["O"], "label": ["O"]}, "its keys are words, tags, label"),
    ({"words": ["a"], "tags": ["O"], "spans": [[0, 1, "X"]]}, "its keys are words, tags, spans"),
    ({"words": ["a"], "label": "inform"}, "a list of 1 strings"),
    ({"text": TEXT, "ner_tags": [1]}, "are of words"),
    ({"text": TEXT, "tokens": TOKENS, "spans": [[0, 2, "PER"]]}, "may count either"),
    ({"text": "  ", "spans": []}, "holds no word"),
    ({"error": "not UTF-8", "line": 3}, "an error, no sentence: not UTF-8"),
    ({"words": TOKENS, "labelings": []}, "no first labeling"),
    ({"words": TOKENS, "labelings": [{"spans": [{"start": 4, "end": 9, "type": "X"}]}]}, "leaves"),
]


@pytest.mark.parametrize(("item", "says"), BAD_ITEMS, ids=range(len(BAD_ITEMS)))
def test_a_bad_object_is_named_with_its_cause(tmp_path, item, says):
    text = jsonl({"words": ["a"], "spans": [[0, 1, "x"]]}, item)
    message = error_of(tmp_path, text)
    assert "train.txt:2: " in message and says in message, message


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["t.json", "t.txt"])
def test_a_json_list_as_a_whole_is_read(tmp_path, indent, name):
    items = [
        {"tokens": TOKENS, "ner_tags": [1, 2, 0, 0, 3]},
        {"text": TEXT.replace(".", ""), "spans": []},
    ]
    wholes = [items] if name == "t.txt" else [items, {"version": 1, "data": items}]
    for whole in wholes:
        text = json.dumps(whole, indent=indent)
        corpus = load(tmp_path, text, train=name, tag_names=NAMES)
        assert spans(corpus) == [FOUND, []]
        assert "a JSON list, " in line_of(corpus)
    bad = json.dumps([*items, {"text": TEXT, "label": [[0, 2, "X"]]}], indent=indent)
    message = error_of(tmp_path, bad, train=name, tag_names=NAMES)
    assert f"{name}: object 3: the span 0 to 2" in message
    assert len(load(tmp_path, bad, train=name, tag_names=NAMES, policy="skip").train) == 2


def test_a_json_document_that_is_no_list_is_named(tmp_path):
    for text in (json.dumps({"train": [1]}, indent=2), '[\n {"words": ["a"]}\n {}\n]\n'):
        message = error_of(tmp_path, text, train="t.json")
        assert "t.json:1: not JSON" in message and "nor, as a whole, a list of objects" in message


# Prodigy's and spaCy's own words, which text.split would cut otherwise or not at all.
OWN = {
    "text": "O'Neil's  can't\nUSA.",
    "tokens": [
        {"text": t, "start": start, "end": start + len(t), "id": i}
        for i, (t, start) in enumerate(
            [("O'Neil", 0), ("'s", 6), (" ", 9), ("ca", 10), ("n't", 12), ("\n", 15), ("USA", 16)]
        )
    ],
    "spans": [{"start": 0, "end": 6, "label": "PER"}, {"start": 16, "end": 19, "label": "LOC"}],
}


def test_the_tokens_of_a_text_are_its_words(tmp_path):
    corpus = load(tmp_path, jsonl(OWN))
    assert words(corpus) == ["O'Neil 's ca n't USA"]
    assert spans(corpus) == [[("O'Neil", "PER"), ("USA", "LOC")]]
    assert "text, its tokens and spans" in line_of(corpus)
    # Unless it is said how text becomes words, which predict goes by, too.
    corpus = load(tmp_path, jsonl(OWN), split_text="punctuation")
    assert words(corpus) == ["O ' Neil ' s can ' t USA ."]
    wrong = OWN | {"tokens": [*OWN["tokens"], {"text": "!", "start": 19, "end": 20}]}
    assert "the token '!', characters 19 to 20" in error_of(tmp_path, jsonl(wrong))
    wrong = OWN | {"tokens": [*OWN["tokens"], {"text": "A", "start": 18, "end": 19}]}
    assert "the token 18 to 19 is empty" in error_of(tmp_path, jsonl(wrong))


@pytest.mark.parametrize(
    ("text", "span", "advice"),
    [
        ("in Rome.", [3, 7, "LOC"], "text.split=unicode"),
        ("Rome's oldest", [0, 4, "LOC"], "text.split=punctuation"),
        ("(EU/USA)", [4, 7, "LOC"], "text.split=unicode"),
    ],
)
def test_the_split_that_cuts_no_span_is_named(tmp_path, text, span, advice):
    item = jsonl({"text": text, "label": [span]})
    assert advice in error_of(tmp_path, item)
    split = advice.partition("=")[2]
    assert spans(load(tmp_path, item, split_text=split)) == [[(text[span[0] : span[1]], "LOC")]]
    item = jsonl({"text": text, "label": [[span[0], span[1] - 1, "LOC"]]})
    assert "text.split" not in error_of(tmp_path, item)


def label_studio(*annotations: list[tuple[int, int, str]], **more: Any) -> dict[str, Any]:
    results = [
        [
            {
                "value": {"start": a, "end": b, "text": TEXT[a:b], "labels": [type_]},
                "from_name": "label",
                "type": "labels",
            }
            for a, b, type_ in spans
        ]
        for spans in annotations
    ]
    relation = {"type": "relation", "from_id": "a", "to_id": "b"}
    done = [{"id": i, "result": [*found, relation]} for i, found in enumerate(results)]
    return {"id": 1, "data": {"text": TEXT, "meta": "x"}, "annotations": done} | more


def test_label_studio_exports_are_read(tmp_path):
    good = [(0, 7, "PER"), (14, 18, "LOC")]
    kept, other = label_studio(good), label_studio()
    cancelled = label_studio(good, [])
    cancelled["annotations"][1]["was_cancelled"] = True
    text = json.dumps([kept, cancelled, other], indent=1)
    corpus = load(tmp_path, text, split_text="unicode")
    assert spans(corpus) == [FOUND, FOUND]
    assert "left out: 1 of no annotation" in line_of(corpus)
    two = json.dumps([label_studio(good, good)])
    assert "it has 2 annotations" in error_of(tmp_path, two, split_text="unicode")
    nothing = json.dumps([label_studio(good, data={"image": 7})])
    assert "`data` has no `text`" in error_of(tmp_path, nothing)
    # JSON-MIN, and spaCy 2.
    short = {"text": TEXT, "label": [v["value"] for v in kept["annotations"][0]["result"][:2]]}
    assert spans(load(tmp_path, json.dumps([short]), split_text="unicode")) == [FOUND]
    pair = [TEXT, {"entities": [list(span) for span in good]}]
    for text in (json.dumps([pair]), json.dumps(pair) + "\n" + json.dumps(pair)):
        corpus = load(tmp_path, text, train="t.jsonl", split_text="unicode")
        assert spans(corpus)[0] == FOUND
    short["label"][0]["labels"] = ["PER", "ORG"]
    assert "[start, end" in error_of(tmp_path, json.dumps([short]), split_text="unicode")


def test_a_tag_beyond_the_names_is_named(tmp_path):
    text = jsonl({"tokens": ["a", "b"], "ner_tags": [1, 7]})
    assert "the number 7" in error_of(tmp_path, text, tag_names=NAMES)
    text = jsonl({"tokens": ["a", "b"], "ner_tags": [1, -100]})
    assert "the number -100" in error_of(tmp_path, text, tag_names=NAMES)


def test_rejected_examples_are_left_out_and_counted(tmp_path):
    good = {"text": "in Rome", "spans": [{"start": 3, "end": 7, "label": "LOC"}]}
    text = jsonl(
        good | {"answer": "accept"}, good | {"answer": "reject"}, {"words": [], "labelings": []}
    )
    corpus = load(tmp_path, text)
    assert len(corpus.train) == 1
    assert "left out: 1 of answer reject, 1 of empty line" in line_of(corpus)
    message = error_of(tmp_path, jsonl(good | {"answer": "ignore"}))
    assert "holds no sentence (read as JSON lines; left out: 1 of answer ignore)" in message


def test_spans_of_characters_count_code_points_in_any_script(tmp_path):
    item = {"text": "🙂 トヨタカローラは速い。", "label": [[2, 5, "ORG"], [5, 9, "PRO"]]}
    corpus = load(tmp_path, jsonl(item), split_text="unicode")
    (sentence,) = corpus.train
    assert ["".join(sentence.words[s.start : s.end]) for s in sentence.labeling] == [
        "トヨタ",
        "カローラ",
    ]


# Arrow


def features(names: tuple[str, ...]) -> dict[str, Any]:
    tags = {"feature": {"names": list(names), "_type": "ClassLabel"}, "_type": "Sequence"}
    tokens = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
    return {"tokens": tokens, "ner_tags": tags}


def arrow_table(rows: list[dict[str, Any]], described: bool) -> Any:
    table = pyarrow.Table.from_pylist(rows)
    if described:
        info = json.dumps({"info": {"features": features(NAMES)}})
        table = table.replace_schema_metadata({"huggingface": info})
    return table


ROWS = [{"tokens": TOKENS, "ner_tags": [1, 2, 0, 0, 3]}, {"tokens": ["Rome"], "ner_tags": [3]}]
WANTED = [FOUND, [("Rome", "LOC")]]


@pytest.mark.parametrize("described", [True, False])
def test_a_parquet_file_is_read(tmp_path, described):
    pyarrow.parquet.write_table(arrow_table(ROWS, described), tmp_path / "train.parquet")
    names = () if described else NAMES
    corpus = load(tmp_path, train="train.parquet", tag_names=names)
    assert spans(corpus) == WANTED
    assert corpus.train[1].source.endswith("train.parquet:1")
    # Names that are given come before those of the file.
    other = load(tmp_path, train="train.parquet", tag_names=("O", "B-a", "I-a", "B-b", "I-b"))
    assert spans(other)[1] == [("Rome", "b")]
    if not described:
        message = error_of(tmp_path, train="train.parquet")
        assert "train.parquet: row 0: " in message and "tag_names" in message


@pytest.mark.parametrize(
    "info",
    [
        "[1]",
        '{"features": [1]}',
        '{"features": null}',
        '{"features": {"ner_tags": {"names": 5}}}',
        "no JSON",
    ],
)
def test_a_description_that_datasets_has_not_written_names_no_tags(tmp_path, info):
    pyarrow.parquet.write_table(arrow_table(ROWS, False), tmp_path / "train.parquet")
    (tmp_path / "dataset_info.json").write_text(info)
    assert "tag_names" in error_of(tmp_path, train="train.parquet")


def test_keys_of_spans_that_other_rows_brought_in_count_as_absent(tmp_path):
    # A table has one set of keys: each span gets the `type` or the `label` of the other as null.
    spans_ = [{"start": 0, "end": 7, "label": "PER"}, {"start": 14, "end": 18, "type": "LOC"}]
    table = pyarrow.Table.from_pylist([{"text": TEXT, "spans": spans_}])
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert spans(load(tmp_path, train="train.parquet", split_text="unicode")) == [FOUND]


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "dataset_info.json").write_text(json.dumps({"features": features(NAMES)}))
    for i, row in enumerate(ROWS):
        table = arrow_table([row], described=False)
        with (
            (folder / f"data-0000{i}-of-00002.arrow").open("wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table)
    corpus = load(tmp_path, train="set")
    assert spans(corpus) == WANTED
    pyarrow.parquet.write_table(arrow_table(ROWS, True), folder / "test-00000.parquet")
    assert "holds files of data, test" in error_of(tmp_path, train="set")
    # As the message asks for it: the file of one split, by its name alone.
    assert spans(load(tmp_path, train="set/data-00001-of-00002.arrow")) == WANTED[1:]
    (tmp_path / "bad.parquet").write_text("no parquet")
    assert "bad.parquet: is no Parquet" in error_of(tmp_path, train="bad.parquet")
