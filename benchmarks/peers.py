"""What people would pick instead: a CRF over word features, and spaCy's NER, on the same splits.

    python benchmarks/peers.py --config=configs/retail.py [--config=configs/snips.py ...]
        [--peers crf spacy] [--seeds 0 1 2] [--split test] [--json FILE]

Needs `pip install -e '.[peers]' -c constraints.txt`. A config's data are loaded as a training job
loads them (GROOT_DATA_DIR and all), so that train, dev and test are those of our own tables, and
the figures come out of the same metrics and rewards.

crf: linear chain, trained by python-crfsuite's L-BFGS; features in `word_features`. Deterministic.
spacy: the `ner` pipe of spaCy, from scratch, with spaCy's own training settings; after each epoch a
look at dev, whose best is kept. Its seed draws the weights, dropout and the order of the sentences.

+threshold: spans whose confidence lies below a threshold are dropped, as our own decision rule of
that name does it. The threshold is the one of 0, 0.05, ..., 1 with the best mean reward on dev, for
f0.5 and for utility (a wrong span costs reward.wrong_cost missed ones) separately.

Prints a Markdown table a config: span precision, recall and F1, exact matches, and the mean reward
of the one labeling that a peer gives (our reward@1). Seconds are those of CPU time, so that other
jobs on the machine do not count; looks at dev are part of a training. --json writes all figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from groot_jax import config as configs
from groot_jax.data.corpus import Corpus, load_corpus
from groot_jax.data.labeling import Candidate, Labeling, Sentence, Span
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.evaluation.decisions import GRID
from groot_jax.evaluation.metrics import one_by_one, score_beams, summarise, totals
from groot_jax.reward.rewards import Reward, RewardSpec, make_reward

PEERS = {"crf": "python-crfsuite", "spacy": "spacy"}
REWARDS = ("f1", "f0.5", "f2", "utility")
# Rewards under which it can pay to say less: a threshold is chosen for each.
CAUTIOUS = ("f0.5", "utility")
# Means over dev are equal up to so many digits.
_DIGITS = 12


class Peer(Protocol):
    """A trained labeler that gives one labeling a sentence."""

    facts: dict[str, Any]  # How its training went, for --json.

    def tag(self, sentences: Sequence[Sentence]) -> list[Labeling]:
        """The labeling of each sentence; gold is not looked at."""

    def confidences(
        self, sentences: Sequence[Sentence], labelings: Sequence[Labeling]
    ) -> list[tuple[float, ...]]:
        """The probability that the peer gives to each span of what it tagged, in their order."""


# ---- The CRF ----------------------------------------------------------------------------------

# What python-crfsuite's users know as c1, c2: weights of the L1 and the L2 norm.
CRF_SETTINGS = {
    "c1": 0.1,
    "c2": 0.01,
    "max_iterations": 100,
    # Weights for the transitions that train lacks as well, so that they can be forbidden.
    "feature.possible_transitions": True,
}


@lru_cache(maxsize=65536)
def own_features(word: str) -> tuple[str, ...]:
    """What a word tells by itself: first and last one to four letters in lower case, and shape.

    The shape puts X for a capital, x for another letter of a to z, d for a digit, and cuts runs to
    two: `Levi's` is `Xxx'x`, `1,000` is `d,dd`.
    """
    lower = word.lower()
    classes = re.sub(r"\d", "d", re.sub("[A-Z]", "X", re.sub("[a-z]", "x", word)))
    return (
        *(f"p{size}={lower[:size]}" for size in range(1, 5)),
        *(f"s{size}={lower[-size:]}" for size in range(1, 5)),
        "sh=" + re.sub(r"(.)\1{2,}", r"\1\1", classes),
    )


def word_features(words: Sequence[str]) -> list[list[str]]:
    """The binary features of each word: itself and its neighbours.

    Words up to two away, in lower case; `own_features` up to one away; the pairs with the word
    before and the word after; where the sentence ends within two words; and one that is always on.
    """
    lower = [word.lower() for word in words]
    features = []
    for i in range(len(words)):
        found = ["bias"]
        for offset in (-2, -1, 0, 1, 2):
            j = i + offset
            if not 0 <= j < len(words):
                found.append(f"{offset}:outside")
                continue
            found.append(f"{offset}:w={lower[j]}")
            if abs(offset) <= 1:
                found += [f"{offset}:{feature}" for feature in own_features(words[j])]
        if i > 0:
            found.append(f"-1:pair={lower[i - 1]}|{lower[i]}")
        if i + 1 < len(words):
            found.append(f"1:pair={lower[i]}|{lower[i + 1]}")
        features.append(found)
    return features


def bio_tags(labeling: Labeling, num_words: int) -> list[str]:
    """`B-type` on the first word of a span, `I-type` on its others, `O` elsewhere."""
    tags = ["O"] * num_words
    for start, end, type_ in labeling:
        tags[start:end] = ["B-" + type_] + ["I-" + type_] * (end - start - 1)
    return tags


def labeling_of_bio(tags: Sequence[str]) -> Labeling:
    """Inverse of `bio_tags`, leniently as conlleval: an `I-` with no span of its type before it
    begins one."""
    spans: list[Span] = []
    for i, tag in enumerate(tags):
        prefix, _, type_ = tag.partition("-")
        last = spans[-1] if spans else None
        if prefix == "I" and last and (last.end, last.type) == (i, type_):
            spans[-1] = last._replace(end=i + 1)
        elif prefix != "O":
            spans.append(Span(i, i + 1, type_))
    return tuple(spans)


class Crf:
    """A trained chain, with the exact probability of a span under it.

    A chain's score of the tags y is a sum of state scores s[i, y_i], which the features of word i
    make, and of transitions a[y_i, y_i+1]; p(y) is its softmax over all sequences. crfsuite keeps
    both to itself but tells probabilities, and those of short sentences give them away, up to what
    is the same for all tags and so cancels: in a sentence of one word log p(y) is s[0, y] and a
    constant, in one of two words without features log p(y, z) is a[y, z] and a constant. That is
    exact to the last bits, where the dump of a model has six decimals.
    """

    def __init__(self, model: bytes):
        self.facts: dict[str, Any] = {"model_bytes": len(model)}
        self._tagger = require("crf", "pycrfsuite").Tagger()
        # The tagger reads these bytes where they lie, for as long as it lives, and does not keep
        # them from being freed: that ended in a segmentation fault on retail.
        self._model = model
        self._tagger.open_inmemory(model)
        self._tags: list[str] = self._tagger.labels()
        self._index = {tag: k for k, tag in enumerate(self._tags)}
        self._tagger.set([[], []])
        self._transitions_TxT = _log(
            [[self._tagger.probability([a, b]) for b in self._tags] for a in self._tags]
        )

    def tag_sequences(self, sentences: Sequence[Sentence]) -> list[list[str]]:
        """The most probable tags of each sentence (Viterbi)."""
        return [self._tagger.tag(word_features(sentence.words)) for sentence in sentences]

    def tag(self, sentences: Sequence[Sentence]) -> list[Labeling]:
        return [labeling_of_bio(tags) for tags in self.tag_sequences(sentences)]

    def confidences(
        self, sentences: Sequence[Sentence], labelings: Sequence[Labeling]
    ) -> list[tuple[float, ...]]:
        return [
            tuple(self.span_probabilities(sentence.words, labeling)) if labeling else ()
            for sentence, labeling in zip(sentences, labelings, strict=True)
        ]

    def span_probabilities(self, words: Sequence[str], labeling: Labeling) -> list[float]:
        """p(the tags read as this span), for each span by itself.

        The sum over all sequences with `B-type` and then `I-type` on the span's words, and on the
        word after it anything but `I-type`, which would make the span longer; that is a forward
        pass up to the span's first word, its own path, and a backward pass from there. (Where the
        chain begins a span by a stray `I-`, what counts is still the span written as it should be.)
        The product of the words' marginals, the common stand-in, is wrong both ways: tags of one
        span depend on each other, and it asks nothing of the word after.
        """
        state_NxT = self._state_scores(words)
        forward_NxT, backward_NxT = self._passes(state_NxT)
        log_total = np.logaddexp.reduce(forward_NxT[-1])
        probabilities = []
        for start, end, type_ in labeling:
            # A type whose spans in train all have one word has no I-.
            inside = self._index.get("I-" + type_)
            path = [self._index.get("B-" + type_), *[inside] * (end - start - 1)]
            if None in path:
                probabilities.append(0.0)
                continue
            known = [tag for tag in path if tag is not None]
            value = forward_NxT[start, known[0]]
            for i, (before, after) in enumerate(pairwise(known), start + 1):
                value += self._transitions_TxT[before, after] + state_NxT[i, after]
            if end < len(words):
                after_T = self._transitions_TxT[known[-1]] + state_NxT[end] + backward_NxT[end]
                if inside is not None:
                    after_T = np.delete(after_T, inside)
                value += np.logaddexp.reduce(after_T)
            probabilities.append(float(np.exp(value - log_total)))
        return probabilities

    def _state_scores(self, words: Sequence[str]) -> np.ndarray:
        """s[i, y], up to a constant for each word."""
        rows = []
        for features in word_features(words):
            self._tagger.set([features])
            rows.append([self._tagger.marginal(tag, 0) for tag in self._tags])
        return _log(rows)

    def _passes(self, state_NxT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the sums over what comes before a word, its own state score included, and
        over what comes after it."""
        forward_NxT, backward_NxT = state_NxT.copy(), np.zeros_like(state_NxT)
        for i in range(1, len(state_NxT)):
            forward_NxT[i] += np.logaddexp.reduce(
                forward_NxT[i - 1][:, None] + self._transitions_TxT, axis=0
            )
        for i in range(len(state_NxT) - 2, -1, -1):
            backward_NxT[i] = np.logaddexp.reduce(
                self._transitions_TxT + (state_NxT[i + 1] + backward_NxT[i + 1])[None], axis=1
            )
        return forward_NxT, backward_NxT


def _log(probabilities: Sequence[Sequence[float]]) -> np.ndarray:
    with np.errstate(divide="ignore"):  # Below 1e-308 it is 0, whose logarithm is -inf.
        return np.log(np.array(probabilities, np.float64))


def train_crf(corpus: Corpus) -> Crf:
    """Trains on the whole of train; dev has no part in it."""
    trainer = require("crf", "pycrfsuite").Trainer(verbose=False)
    for sentence in corpus.train:
        tags = bio_tags(sentence.labeling, len(sentence.words))
        trainer.append(word_features(sentence.words), tags)
    trainer.set_params(CRF_SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crf"
        trainer.train(str(path))
        return Crf(path.read_bytes())


# ---- spaCy ------------------------------------------------------------------------------------

# A look at dev each epoch; the training ends after so many without a better one. On MIT Restaurant
# the best was the eighth (F1 .784), and the seven after it were all worse.
SPACY_PATIENCE = 5
SPACY_EPOCHS = 20
# As spaCy's own examples of beam_parse have them. Parses below a share `density` of the best one's
# probability are cut off.
BEAM_WIDTH = 16
BEAM_DENSITY = 1e-4
# Docs parsed at a time: a beam keeps 16 parser states for each.
BEAM_DOCS = 64


class SpacyNer:
    """spaCy's transition-based NER with its own tokenizer out of the way: words are given."""

    def __init__(self, types: Sequence[str]):
        self.facts: dict[str, Any] = {}
        self.nlp = require("spacy", "spacy").blank("en")
        self.ner = self.nlp.add_pipe("ner")
        for type_ in types:
            self.ner.add_label(type_)

    def doc(self, words: Sequence[str], labeling: Labeling | None = None) -> Any:
        """A Doc of these words, with gold spans where a labeling is given.

        spaCy lets no span begin with a word of white space alone, such as a no-break space, and so
        would never find one that does: such words become a dash.
        """
        texts = ["-" if word.isspace() else word for word in words]
        tags = None if labeling is None else bio_tags(labeling, len(words))
        doc_type = require("spacy", "spacy.tokens").Doc
        return doc_type(self.nlp.vocab, words=texts, ents=tags)

    def tag(self, sentences: Sequence[Sentence]) -> list[Labeling]:
        docs = self.ner.pipe(self.doc(sentence.words) for sentence in sentences)
        return [tuple(Span(ent.start, ent.end, ent.label_) for ent in doc.ents) for doc in docs]

    def confidences(
        self, sentences: Sequence[Sentence], labelings: Sequence[Labeling]
    ) -> list[tuple[float, ...]]:
        """The share of a beam of parses that holds the span, by the parses' probabilities; 0 where
        none does, which happens, as the greedy parse need not be in the beam.

        The pipe is trained greedily, so that a parse's score, a sum over its transitions, was never
        asked to be a probability: these are the confidences that spaCy has, not good ones.
        """
        found: list[tuple[float, ...]] = []
        for at in range(0, len(sentences), BEAM_DOCS):
            docs = [self.doc(sentence.words) for sentence in sentences[at : at + BEAM_DOCS]]
            beams = self.ner.beam_parse(docs, beam_width=BEAM_WIDTH, beam_density=BEAM_DENSITY)
            scores = self.ner.scored_ents(beams)
            for labeling, by_span in zip(labelings[at : at + BEAM_DOCS], scores, strict=True):
                found.append(tuple(float(by_span.get(tuple(span), 0.0)) for span in labeling))
        return found


def train_spacy(
    corpus: Corpus, seed: int, epochs: int = SPACY_EPOCHS, patience: int = SPACY_PATIENCE
) -> SpacyNer:
    """Trains with the batches, dropout and optimizer of spaCy's default config; the weights with
    the best span F1 on dev are kept.

    spaCy's own loop looks at dev every 200 updates and gives up after 1,600 without a better one.
    At the 1,000 words a batch that it reaches after 2,300 updates those are 14 to 32 epochs of the
    five built-in configs' sets, which take 5 minutes and more; hence the shorter patience.
    """
    spacy, training = require("spacy", "spacy"), require("spacy", "spacy.training")
    spacy.util.fix_random_seed(seed)
    peer = SpacyNer(corpus.types)
    examples = [
        training.Example(peer.doc(s.words), peer.doc(s.words, s.labeling)) for s in corpus.train
    ]
    # The weights' shapes come from the labels; a few examples let it check them.
    optimizer = peer.nlp.initialize(lambda: examples[:10])
    settings = peer.nlp.config["training"]
    make_batches = spacy.util.registry.resolve({"batcher": settings["batcher"]})["batcher"]
    order = random.Random(seed)
    best_f1, best_epoch, best = -1.0, 0, b""
    for epoch in range(1, epochs + 1):
        order.shuffle(examples)
        for batch in make_batches(examples):
            peer.nlp.update(batch, drop=settings["dropout"], sgd=optimizer)
        f1 = span_f1(corpus.dev, peer.tag(corpus.dev))
        if f1 > best_f1:
            best_f1, best_epoch, best = f1, epoch, peer.ner.model.to_bytes()
        if epoch - best_epoch >= patience:
            break
    peer.ner.model.from_bytes(best)
    peer.facts = {"best_epoch": best_epoch, "epochs": epoch, "dev_span_f1": best_f1}
    return peer


# ---- Thresholds and figures -------------------------------------------------------------------


class Tagged(NamedTuple):
    """What a peer said of one sentence, and how sure it was of each span."""

    labeling: Labeling
    confidences: tuple[float, ...]

    def above(self, threshold: float) -> Labeling:
        """The spans that are left; as in our own rule, rounding costs none of them at 1."""
        pairs = zip(self.labeling, self.confidences, strict=True)
        return tuple(span for span, confidence in pairs if confidence >= threshold - 1e-9)


def choose_threshold(
    sentences: Sequence[Sentence],
    tagged: Sequence[Tagged],
    reward: Reward,
    grid: Sequence[float] = GRID,
) -> float:
    """The threshold of `grid` with the best mean reward, the lowest on a tie; to be asked on dev.

    With the default grid 0 is among them, so that keeping everything is a choice.
    """
    means = [
        statistics.fmean(
            reward(said.above(threshold), sentence.labeling, sentence.words)
            for sentence, said in zip(sentences, tagged, strict=True)
        )
        for threshold in grid
    ]
    return float(grid[int(np.argmax(np.round(means, _DIGITS)))])


def score(
    sentences: Sequence[Sentence], labelings: Sequence[Labeling], rewards: Mapping[str, Reward]
) -> dict[str, Any]:
    """Our metrics of lists that hold one labeling each."""
    beams = [[Candidate(labeling)] for labeling in labelings]
    given = {name: one_by_one(reward) for name, reward in rewards.items()}
    return summarise(totals(score_beams(sentences, beams, given), "f1", ks=()), "f1")


def span_f1(sentences: Sequence[Sentence], labelings: Sequence[Labeling]) -> float:
    metrics = score(sentences, labelings, {"f1": make_reward(RewardSpec("f1"))})
    return float(metrics["span_f1"])


@dataclass(frozen=True)
class Result:
    """One row: a peer of one seed (None: it draws nothing), with or without a threshold.

    Seconds of CPU time. `tagging_seconds`: from words to labelings, for a threshold with the
    confidences.
    """

    config: str
    split: str
    kind: str
    seed: int | None
    decide: str  # map, as our own rule of the single best is called, or a reward of CAUTIOUS.
    threshold: float
    training_seconds: float
    tagging_seconds: float
    facts: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def system(self) -> str:
        return self.kind if self.decide == "map" else f"{self.kind}+threshold ({self.decide})"


def measure(
    peer: Peer,
    dev: Sequence[Sentence],
    sentences: Sequence[Sentence],
    rewards: Mapping[str, Reward],
    **named: Any,
) -> list[Result]:
    """The rows of one trained peer on `sentences`: as it is, and with the thresholds of `dev`.

    Gold of `sentences` is used for the metrics alone.
    """
    begun = time.process_time()
    labelings = peer.tag(sentences)
    tagging = time.process_time() - begun
    confidences = peer.confidences(sentences, labelings)
    with_confidences = time.process_time() - begun
    tagged = [Tagged(*pair) for pair in zip(labelings, confidences, strict=True)]
    dev_labelings = peer.tag(dev)
    dev_confidences = peer.confidences(dev, dev_labelings)
    dev_tagged = [Tagged(*pair) for pair in zip(dev_labelings, dev_confidences, strict=True)]
    rows = [("map", 0.0, tagging)]
    for name in CAUTIOUS:
        rows.append((name, choose_threshold(dev, dev_tagged, rewards[name]), with_confidences))
    return [
        Result(
            decide=decide,
            threshold=threshold,
            tagging_seconds=seconds,
            facts=peer.facts,
            metrics=score(sentences, [said.above(threshold) for said in tagged], rewards),
            **named,
        )
        for decide, threshold, seconds in rows
    ]


def compare(name: str, peers: Sequence[str], seeds: Sequence[int], split: str) -> list[Result]:
    """Trains and measures the peers on the data of one config."""
    config = configs.load(name)
    corpus = load_corpus(config.data, config.text.max_words)
    sentences = {"dev": corpus.dev, "test": corpus.test}[split]
    for needed, what in ((corpus.dev, "dev"), (sentences, split)):
        if not needed:
            raise UserError(
                f"{name}: its data have no {what} split, which the peers are chosen or measured "
                f"on; set config.data.{what} or config.data.{what}_fraction in that file"
            )
    spec = RewardSpec(**config.reward)
    rewards = {reward: make_reward(replace(spec, name=reward)) for reward in REWARDS}
    results = []
    for kind in peers:
        # L-BFGS from zero weights draws nothing: another seed would give the same chain.
        for seed in [None] if kind == "crf" else seeds:
            begun = time.process_time()
            peer: Peer = train_crf(corpus) if seed is None else train_spacy(corpus, seed)
            seconds = time.process_time() - begun
            rows = measure(
                peer,
                corpus.dev,
                sentences,
                rewards,
                config=name,
                split=split,
                kind=kind,
                seed=seed,
                training_seconds=seconds,
            )
            results += rows
            f1 = rows[0].metrics["span_f1"]
            drawn = "" if seed is None else f", seed {seed}"
            print(
                f"{name}: {kind}{drawn}: {seconds:.0f} s of training, {split} F1 {f1:.3f}",
                file=sys.stderr,
                flush=True,
            )
    return results


# ---- The command ------------------------------------------------------------------------------

COLUMNS = ("P", "R", "F1", "exact", *REWARDS)


def figures(result: Result) -> list[float]:
    """The numbers of a row, in the order of COLUMNS."""
    metrics = result.metrics
    spans = [metrics[key] for key in ("span_precision", "span_recall", "span_f1", "exact_match")]
    return spans + [metrics["rewards"][name]["reward@1"] for name in REWARDS]


def table(results: Sequence[Result]) -> str:
    """The Markdown table of one config; several seeds are one row, mean ± standard deviation."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.system, []).append(result)
    first = results[0]
    name = Path(first.config.partition(".py:")[0]).stem
    lines = [
        f"{name}, {first.split} split, {first.metrics['num_sentences']:,} "
        "sentences; f1 to utility are mean rewards of the one labeling:",
        "",
        "| system | " + " | ".join(COLUMNS) + " | threshold | training | tagging |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    for system, group in groups.items():
        cells = [spread(values) for values in zip(*map(figures, group), strict=True)]
        thresholds = [f"{result.threshold:g}" for result in group]
        cells.append("" if group[0].decide == "map" else ", ".join(thresholds))
        cells.append(f"{statistics.fmean(result.training_seconds for result in group):.0f} s")
        cells.append(f"{statistics.fmean(result.tagging_seconds for result in group):.1f} s")
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    seeds = sorted({result.seed for result in results if result.seed is not None})
    if len(seeds) > 1:
        lines += ["", f"± is the standard deviation over seeds {', '.join(map(str, seeds))}."]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation (n - 1) where there are several."""
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def as_json(results: Sequence[Result]) -> str:
    """Every figure of every run, with the versions of what was compared."""
    packages = [PEERS[kind] for kind in dict.fromkeys(result.kind for result in results)]
    runs = [vars(result) | {"system": result.system} for result in results]
    document = {"versions": {name: version(name) for name in packages}, "runs": runs}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def require(kind: str, module: str) -> Any:
    """A module of a peer's package; raises UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise UserError(
            f"the peer {kind} needs {PEERS[kind]}, which is not installed: "
            "pip install -e '.[peers]' -c constraints.txt"
        ) from None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="FILE.py[:ARG]",
        help="whose data to compare on, such as configs/retail.py; may be given several times",
    )
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of spaCy (0)")
    parser.add_argument("--split", choices=("test", "dev"), default="test", help="measured on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all figures")
    args = parser.parse_args(argv)
    for kind, module in (("crf", "pycrfsuite"), ("spacy", "spacy")):
        if kind in args.peers:  # Now, rather than after the minutes that another one takes.
            require(kind, module)
    results: list[Result] = []
    for name in args.config:
        found = compare(name, args.peers, args.seeds, args.split)
        print(table(found), flush=True)
        results += found
        if args.json:  # After each config: what is there stays, should a later one fail.
            args.json.write_text(as_json(results), encoding="utf-8")


if __name__ == "__main__":
    exit_on_user_error(main)
