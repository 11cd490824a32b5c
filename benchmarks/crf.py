"""A linear-chain CRF over word features, by python-crfsuite, with exact probabilities of spans."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.peer import bio_tags, labeling_of_bio, require
from groot_jax.data.corpus import Corpus
from groot_jax.data.labeling import Labeling, Sentence

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
        self.facts: dict[str, float] = {"model_bytes": len(model)}
        self._tagger = require("crf", "pycrfsuite").Tagger()
        # The tagger reads these bytes where they lie, for as long as it lives, and does not keep
        # them from being freed: that ended in a segmentation fault on retail.
        self.model = model
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
            # Tags of the span's words: B-type, then I-type for the others.
            path = [self._index.get("B-" + type_), *[inside] * (end - start - 1)]
            if None in path:
                probabilities.append(0.0)
                continue
            known = [tag for tag in path if tag is not None]
            # All that leads to B-type on the first word, the path through the span, and all that
            # may follow it.
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
        # A sentence of one word has no transition: its marginals are the softmax of its scores.
        rows = []
        for features in word_features(words):
            self._tagger.set([features])
            rows.append([self._tagger.marginal(tag, 0) for tag in self._tags])
        return _log(rows)

    def _passes(self, state_NxT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the sums over what comes before a word, its own state score included, and
        over what comes after it; both [N, T] of N words and T tags. exp(forward + backward), summed
        over the tags of any one word, is the sum over all sequences."""
        forward_NxT, backward_NxT = state_NxT.copy(), np.zeros_like(state_NxT)
        for i in range(1, len(state_NxT)):
            # [T before, 1] + [T before, T] -> [T]
            forward_NxT[i] += np.logaddexp.reduce(
                forward_NxT[i - 1][:, None] + self._transitions_TxT, axis=0
            )
        for i in range(len(state_NxT) - 2, -1, -1):
            # [T, T after] + [1, T after] -> [T]
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
