"""What the labeler is judged against: features, tags, confidences, thresholds, and whole runs."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import crf as chains
from benchmarks import peer, peers, spacy_ner
from benchmarks.crf import own_features, word_features
from benchmarks.peer import bio_tags, labeling_of_bio
from benchmarks.peers import Tagged
from groot_jax.data.corpus import Corpus
from groot_jax.data.labeling import Labeling, Sentence, Span
from groot_jax.errors import UserError
from groot_jax.reward.rewards import RewardSpec, make_reward

ROOT = Path(__file__).resolve().parents[2]
NEEDS = "pip install -e '.[peers]' to compare with it"
REWARDS = {name: make_reward(RewardSpec(name)) for name in peers.REWARDS}


# ---- Features and tags ------------------------------------------------------------------------


def test_a_word_tells_its_ends_and_its_shape():
    assert own_features("Levi's") == (
        *("p1=l", "p2=le", "p3=lev", "p4=levi"),
        *("s1=s", "s2='s", "s3=i's", "s4=vi's"),
        "sh=Xxx'x",
    )
    assert own_features("1,000")[-1] == "sh=d,dd"
    assert own_features("iPHONE7")[-1] == "sh=xXXd"


def test_features_look_two_words_to_each_side_and_one_closely():
    first, second, *_, last = word_features(["Red", "a", "b", "c", "Shoe"])
    assert {"bias", "0:w=red", "1:w=a", "2:w=b", "-1:outside", "-2:outside"} <= set(first)
    assert {"0:sh=Xxx", "0:p2=re", "1:p1=a", "1:pair=red|a"} <= set(first)
    assert not any("=c" in feature or "shoe" in feature for feature in first)
    # Of words two away there is the word alone.
    assert not any(f.startswith(("2:p", "2:s")) for f in first)
    assert {"-1:w=red", "-1:sh=Xxx", "-1:pair=red|a", "-2:outside"} <= set(second)
    assert {"-1:w=c", "-2:w=b", "1:outside", "2:outside", "-1:pair=c|shoe"} <= set(last)
    assert word_features([]) == []


def test_spans_become_tags_and_tags_spans():
    labeling = (Span(0, 1, "a"), Span(1, 3, "a"), Span(4, 6, "b-c"))
    tags = ["B-a", "B-a", "I-a", "O", "B-b-c", "I-b-c", "O"]
    assert bio_tags(labeling, 7) == tags
    assert labeling_of_bio(tags) == labeling
    assert labeling_of_bio([]) == ()


def test_a_stray_inside_begins_a_span():
    assert labeling_of_bio(["I-a", "I-a", "I-b", "O", "I-b", "B-b"]) == (
        *(Span(0, 2, "a"), Span(2, 3, "b")),
        *(Span(4, 5, "b"), Span(5, 6, "b")),
    )


# ---- Thresholds -------------------------------------------------------------------------------

A, B = Span(0, 1, "a"), Span(1, 2, "a")


def sentence(*gold: Span) -> Sentence:
    return Sentence(("x", "y"), tuple(gold))


class Sure:
    """A peer that labels both words of every sentence, with the same confidences."""

    def __init__(self, *confidences: float):
        self.facts: dict[str, Any] = {}
        self.sure = confidences

    def tag(self, sentences: Sequence[Sentence]) -> list[Labeling]:
        return [(A, B)] * len(sentences)

    def confidences(
        self, sentences: Sequence[Sentence], labelings: Sequence[Labeling]
    ) -> list[tuple[float, ...]]:
        return [self.sure] * len(sentences)


def test_a_threshold_drops_what_lies_below_it():
    said = Tagged((A, B), (0.4, 1 - 1e-12))
    assert said.above(0) == (A, B)
    assert said.above(0.4) == (A, B)
    assert said.above(0.45) == (B,)
    assert said.above(1) == (B,)
    assert said._replace(confidences=(0.4, 0.99)).above(1) == ()


@pytest.mark.parametrize(
    ("gold", "reward", "expected"),
    [
        # Both right: to keep everything is best, and of all that keep it the lowest wins.
        ((A, B), "f0.5", 0.0),
        # B alone is right: the lowest threshold that drops A, whose confidence is .3.
        ((B,), "f0.5", 0.35),
        ((B,), "utility", 0.35),
        # Nothing is right: the lowest that drops both.
        ((), "f0.5", 0.75),
    ],
)
def test_the_threshold_is_the_best_of_dev(
    gold: tuple[Span, ...], reward: str, expected: float
) -> None:
    tagged = [Tagged((A, B), (0.3, 0.7))] * 3
    assert peers.choose_threshold([sentence(*gold)] * 3, tagged, REWARDS[reward]) == expected


def test_each_reward_has_a_threshold_of_its_own():
    # A is right in 7 of 10. f0.5 with it: .7 + .3 * 5/9 = .867, without: .7 * 5/6 + .3 = .883;
    # utility with it: .7, as the wrong one takes all of its sentence; without: .7 / 2 + .3 = .65.
    dev = [sentence(A, B)] * 7 + [sentence(B)] * 3
    tagged = [Tagged((A, B), (0.3, 0.7))] * 10
    assert peers.choose_threshold(dev, tagged, REWARDS["f0.5"], (0.0, 0.5)) == 0.5
    assert peers.choose_threshold(dev, tagged, REWARDS["utility"], (0.0, 0.5)) == 0.0


def test_test_gold_has_no_part_in_the_threshold():
    dev, test = [sentence(B)] * 4, [sentence(A, B)] * 4
    named = dict(config="c.py", split="test", kind="crf", seed=None, training_seconds=1.0)  # noqa: C408
    plain, *cautious = peers.measure(Sure(0.3, 0.7), dev, test, REWARDS, **named)
    assert (plain.system, plain.threshold) == ("crf", 0.0)
    assert plain.metrics["span_f1"] == plain.metrics["exact_match"] == 1.0
    assert [row.decide for row in cautious] == ["f0.5", "utility"]
    for row in cautious:
        # It costs recall on test, whose gold would have had it at 0.
        assert row.threshold == 0.35
        assert row.metrics["span_recall"] == 0.5 and row.metrics["span_precision"] == 1.0
    other = peers.measure(Sure(0.3, 0.7), dev, [sentence()] * 4, REWARDS, **named)
    assert [row.threshold for row in other] == [0.0, 0.35, 0.35]
    assert other[0].metrics["span_f1"] == 0.0


# ---- The table --------------------------------------------------------------------------------


def test_seeds_are_put_together_in_the_table():
    def row(seed: int, f1: float, decide: str = "map", threshold: float = 0.0) -> peers.Result:
        metrics = {"span_precision": 0.5, "span_recall": 0.5, "span_f1": f1, "exact_match": 0.25}
        metrics["num_sentences"] = 1500
        rewards = {name: {"reward@1": 0.125} for name in peers.REWARDS}
        return peers.Result(
            *("my/c.py:train=a/b", "test", "spacy", seed, decide, threshold, 10.0 + seed, 0.5, {}),
            metrics | {"rewards": rewards},
        )

    rows = [row(0, 0.6), row(0, 0.7, "f0.5", 0.3), row(1, 0.8), row(1, 0.7, "f0.5", 0.45)]
    text = peers.table(rows)
    assert text.startswith("c, test split, 1,500 sentences")
    lines = [line for line in text.splitlines() if line.startswith("| spacy")]
    assert [line.count("|") for line in lines] == [len(peers.COLUMNS) + 5] * 2
    assert "| 0.700 ± 0.141 |" in lines[0] and lines[0].endswith("|  | 10 s | 0.5 s |")
    assert lines[1].startswith("| spacy+threshold (f0.5) |") and "| 0.3, 0.45 |" in lines[1]
    assert "seeds 0, 1" in text
    assert "±" not in peers.table(rows[:2])
    document = json.loads(json.dumps([vars(one) for one in rows]))
    assert document[3]["threshold"] == 0.45


def test_a_peer_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycrfsuite", None)
    with pytest.raises(UserError, match=r"needs python-crfsuite.*pip install -e '.\[peers\]'"):
        peers.main(["--config=configs/retail.py", "--peers", "crf"])


def test_a_corpus_without_a_test_split_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("red B-color\nshoe O\n\n" * 20)
    config = (
        "from configs.default import get_config as default\n"
        "def get_config():\n"
        "    config = default()\n"
        f"    config.data.train = {str(tmp_path / 'train.txt')!r}\n"
        "    return config\n"
    )
    (tmp_path / "mine.py").write_text(config)
    with pytest.raises(UserError, match="no test split.*config.data.test_fraction"):
        peers.compare(str(tmp_path / "mine.py"), ["crf"], [0], "test")


# ---- The CRF ----------------------------------------------------------------------------------

COLORS, BRANDS, THINGS = ("red", "blue", "dark green"), ("acme", "big fish", "zed"), ("shoe", "hat")


def tiny(count: int) -> tuple[Sentence, ...]:
    """Queries of a color, a brand or both, in turn, before a thing; spans of one and two words."""
    sentences = []
    for n in range(count):
        words: list[str] = []
        spans = []
        parts = [("color", COLORS[n % 3]), ("brand", BRANDS[n // 3 % 3])]
        for type_, text in parts[(n % 5 == 0) : 1 + (n % 4 > 0)]:
            spans.append(Span(len(words), len(words) + len(text.split()), type_))
            words += text.split()
        words.append(THINGS[n % 2])
        sentences.append(Sentence(tuple(words), tuple(spans)))
    return tuple(sentences)


CORPUS = Corpus(
    train=tiny(60),
    dev=tiny(24),
    test=tiny(36),
    types=("brand", "color"),
    notes=(),
)


def test_a_span_has_the_probability_of_all_sequences_that_hold_it():
    pytest.importorskip("pycrfsuite", reason=NEEDS)
    crf = chains.train_crf(CORPUS)
    tagger = crf._tagger
    tags = tagger.labels()
    assert len(tags) == 5
    # Words that it knows in an order that it does not, so that it is not sure of anything.
    words = ["fish", "dark", "zed", "hat"]
    tagger.set(word_features(words))
    sequences = list(itertools.product(tags, repeat=len(words)))
    probabilities = [tagger.probability(sequence) for sequence in sequences]
    assert sum(probabilities) == pytest.approx(1)
    for span in (
        *(Span(0, 1, "brand"), Span(0, 2, "brand"), Span(1, 2, "color"), Span(1, 3, "color")),
        *(Span(2, 4, "brand"), Span(3, 4, "color"), Span(0, 4, "brand")),
    ):
        # A stray I- begins no span here: bio_tags of what is read must be what was said there.
        expected = 0.0
        for sequence, p in zip(sequences, probabilities, strict=True):
            said = sequence[span.start : span.end]
            inside = span.end < len(words) and sequence[span.end] == "I-" + span.type
            if list(said) == bio_tags((span,), span.end)[span.start :] and not inside:
                expected += p
        (found,) = crf.span_probabilities(words, (span,))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert crf.span_probabilities(words, (Span(0, 1, "unheard of"),)) == [0.0]


def test_the_crf_learns_a_tiny_corpus_and_repeats_itself():
    pytest.importorskip("pycrfsuite", reason=NEEDS)
    crf = chains.train_crf(CORPUS)
    labelings = crf.tag(CORPUS.test)
    assert labelings == [one.labeling for one in CORPUS.test]
    # What it is right about it is sure of, and a span never counts twice.
    confidences = crf.confidences(CORPUS.test, labelings)
    assert [len(c) for c in confidences] == [len(labeling) for labeling in labelings]
    flat = [c for one in confidences for c in one]
    assert min(flat) > 0.5 and max(flat) <= 1 + 1e-9
    assert chains.train_crf(CORPUS).confidences(CORPUS.test, labelings) == confidences


# ---- spaCy ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_spacy_learns_a_tiny_corpus():
    pytest.importorskip("spacy", reason=NEEDS)
    first = spacy_ner.train_spacy(CORPUS, 0, epochs=12, patience=12)
    labelings = first.tag(CORPUS.test)
    assert peer.span_f1(CORPUS.test, labelings) > 0.9
    # The weights at the end are those of the best evaluation.
    assert peer.span_f1(CORPUS.dev, first.tag(CORPUS.dev)) == first.facts["dev_span_f1"]
    confidences = first.confidences(CORPUS.test, labelings)
    assert [len(c) for c in confidences] == [len(labeling) for labeling in labelings]
    flat = [c for one in confidences for c in one]
    assert min(flat) >= 0 and 0.5 < max(flat) <= 1 + 1e-6


@pytest.mark.slow
def test_the_weights_of_the_best_evaluation_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spacy", reason=NEEDS)
    one = spacy_ner.train_spacy(CORPUS, 0, epochs=1)
    figures = iter([0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr(spacy_ner, "span_f1", lambda *_: next(figures))
    best = spacy_ner.train_spacy(CORPUS, 0, epochs=9, patience=2)
    # A tie is not better: the third evaluation ends it, before the fourth could be the best.
    assert best.facts == {"best_epoch": 1, "epochs": 3, "dev_span_f1": 0.5}
    labelings = [sentence.labeling for sentence in CORPUS.test]
    found = best.confidences(CORPUS.test, labelings)
    assert found == one.confidences(CORPUS.test, labelings)
    assert len(set(found)) > 1


@pytest.mark.slow
def test_the_seed_draws_the_order_and_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spacy", reason=NEEDS)
    labelings = [sentence.labeling for sentence in CORPUS.test]

    def sure(seed: int) -> list[tuple[float, ...]]:
        model = spacy_ner.train_spacy(CORPUS, seed, epochs=1)
        return model.confidences(CORPUS.test, labelings)

    first = sure(0)
    assert sure(0) == first
    ordered = SimpleNamespace(Random=lambda seed: random.Random(7))
    monkeypatch.setattr(spacy_ner, "random", ordered)
    reordered = sure(0)
    assert reordered != first
    assert sure(1) != reordered


@pytest.mark.slow
def test_spacy_finds_a_span_that_begins_with_white_space() -> None:
    pytest.importorskip("spacy", reason=NEEDS)
    odd = Sentence(("\xa0", "zed", "hat"), (Span(0, 2, "brand"),))
    corpus = replace(CORPUS, train=(odd,) * 60, dev=(odd,))
    assert spacy_ner.train_spacy(corpus, 0, epochs=8, patience=8).tag([odd]) == [odd.labeling]


def test_gold_is_handed_to_spacy_whole() -> None:
    pytest.importorskip("spacy", reason=NEEDS)
    model = spacy_ner.SpacyNer(CORPUS.types)
    gold = (Span(0, 1, "brand"), Span(1, 3, "brand"))
    doc = model.doc(("zed", "big", "fish", "hat"), gold)
    assert [Span(ent.start, ent.end, ent.label_) for ent in doc.ents] == list(gold)
    # A sentence without spans is one whose words are all outside, not one that is not labeled.
    assert {token.ent_iob_ for token in model.doc(("zed", "hat"), ())} == {"O"}
    assert {token.ent_iob_ for token in model.doc(("zed", "hat"))} == {""}


# ---- The command ------------------------------------------------------------------------------


def write(folder: Path, name: str, sentences: Sequence[Sentence]) -> str:
    path = folder / f"{name}.jsonl"
    lines = [{"words": one.words, "spans": one.labeling} for one in sentences]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"{name}={path}"


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_all_figures(tmp_path: Path) -> None:
    pytest.importorskip("pycrfsuite", reason=NEEDS)
    pytest.importorskip("spacy", reason=NEEDS)
    given = {"train": CORPUS.train[:15], "dev": CORPUS.dev[:6]}
    data = ",".join(write(tmp_path, name, sentences) for name, sentences in given.items())
    # Gold that no peer can give: what is measured is the test split.
    last = [len(one.words) for one in CORPUS.test]
    spans = [(Span(end - 1, end, "brand"),) for end in last]
    test = [replace(one, labeling=gold) for one, gold in zip(CORPUS.test, spans, strict=True)]
    data += "," + write(tmp_path, "test", test)
    file = tmp_path / "peers.json"
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "peers.py"), "--seeds", "0", "1"),
            *(f"--config=configs/columns.py:{data}", "--json", str(file)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("columns, test split, 36 sentences")
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| crf", "| spacy"))]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [
        *("crf", "crf+threshold (f0.5)", "crf+threshold (utility)"),
        *("spacy", "spacy+threshold (f0.5)", "spacy+threshold (utility)"),
    ]
    assert all(" ± " not in row for row in rows[:3]) and all(" ± " in row for row in rows[3:])
    document = json.loads(file.read_text())
    assert set(document["versions"]) == {"python-crfsuite", "spacy"}
    runs = [(run["kind"], run["seed"], run["decide"]) for run in document["runs"]]
    decides = ("map", "f0.5", "utility")
    assert runs == [
        *(("crf", None, decide) for decide in decides),
        *(("spacy", seed, decide) for seed in (0, 1) for decide in decides),
    ]
    for run in document["runs"]:
        assert run["metrics"]["num_sentences"] == 36 and run["training_seconds"] > 0
        assert run["metrics"]["span_f1"] == 0.0
