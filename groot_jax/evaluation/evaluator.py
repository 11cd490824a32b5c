"""Beams of given parameters on one split, and the few figures of them that training watches.

Used alike by the training job and by the evaluation job. Changes no parameter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from groot_jax.data.batches import Batch, encode, evaluation_batches
from groot_jax.data.labeling import Candidate, Sentence, Span
from groot_jax.evaluation.joining import join_windows
from groot_jax.evaluation.metrics import (
    Beam,
    Totals,
    TripleReward,
    deduplicated,
    merge_totals,
    score_beams,
    summarise,
    totals,
)
from groot_jax.evaluation.records import Json, sample_indices
from groot_jax.generate.generator import Generator
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.pool import Triple
from groot_jax.reward.rewards import RewardSpec, term_names
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import Task

_MISSING = ("dropped", "abstained")
_WATCHED = 12  # Dev sentences whose lists are kept at each evaluation during training.


def open_oracle(config: ConfigDict) -> Oracle:
    """The scoring processes of a job. Raises UserError where the reward cannot be had."""
    return Oracle(RewardSpec(**config.reward), config.seed)


class Evaluator:
    """Decodes and scores one split with given parameters."""

    def __init__(
        self,
        task: Task,
        generator: Generator,
        oracle: Oracle,
        sentences: Sequence[Sentence],
        hosts: Hosts,
        limit: int = 0,
    ) -> None:
        """Encodes the first `limit` sentences, 0: all, once. Raises UserError for one that no
        batch can hold."""
        self.sentences = list(sentences[:limit] if limit else sentences)
        self._task = task
        self._generator = generator
        self._oracle = oracle
        self._hosts = hosts
        # Sentences in windows of one, or of several where they are long: sentence 0 whole and
        # sentence 1 in two are pieces 0, 1 and 2.
        self._bounds = [task.windows.bounds(sentence.words) for sentence in self.sentences]
        pieces = [
            Sentence(sentence.words[start:end], (), sentence.source)
            for sentence, bounds in zip(self.sentences, self._bounds, strict=True)
            for start, end in bounds
        ]
        # Without gold: the search may not see it, and a sentence whose types training never had,
        # and which so has no target, is still asked.
        examples = encode(pieces, task.format, gold=False)
        own_B = generator.own_rows(task.config.evaluate.batch_size)
        self._batches = list(evaluation_batches(examples, len(own_B), task.ladder, own_B))
        # The same sentences at each evaluation, so that it shows how their lists change.
        watched = min(_WATCHED, task.config.evaluate.samples, len(self.sentences))
        self._watched = {*sample_indices(len(self.sentences), watched)} if watched else set()
        # Of the last evaluation, in the first process; see `evaluate`.
        self.samples: list[Json] = []

    @property
    def one_of_each_size(self) -> list[Batch]:
        """Of the batches that are searched, one of each size."""
        return [*{(b.source_BxS.shape, b.target_BxT.shape): b for b in self._batches}.values()]

    def beams(self, params: Any) -> list[Beam] | None:
        """Candidates of every sentence, best first; None in all processes but the first."""
        return gather_beams(self._found(params), len(self.sentences), self._hosts)

    def _found(self, params: Any) -> dict[int, Beam]:
        """The beams that this process has found, by sentence. Those of sentences in windows, which
        several processes may have searched, are joined in the first."""
        pieces = self._generator.label(params, self._batches)
        found: dict[int, Beam] = {}
        places: dict[int, tuple[int, int]] = {}  # of a piece in windows: its sentence and number
        piece = 0
        for index, bounds in enumerate(self._bounds):
            if len(bounds) == 1 and piece in pieces:
                found[index] = pieces[piece]
            elif len(bounds) > 1:
                places |= {piece + i: (index, i) for i in range(len(bounds))}
            piece += len(bounds)
        if not places:
            return found
        windows = collect_beams({i: pieces[i] for i in places if i in pieces}, self._hosts)
        if windows is not None:
            beams: dict[int, list[Beam]] = {}
            for i in sorted(places):
                beams.setdefault(places[i][0], []).append(windows[i])
            for index, parts in beams.items():
                found[index], _ = join_windows(self._bounds[index], parts, self._generator.k)
        return found

    def evaluate(self, params: Any) -> dict[str, float]:
        """The few figures that training watches, under the training reward and, where that is a
        weighted sum, under each of its terms.

        `samples` then holds the lists of a few sentences: {"index", "words", "gold", "candidates":
        [{"spans", "score", "reward"}, ...]}, a list in the order of s, spans as [start, end, type].
        """
        reward = self._task.config.reward
        terms = term_names(RewardSpec(**reward))
        k = self._generator.k
        # Each process scores the sentences that it has found, and a few sums travel. `beams` has
        # all candidates travel, which takes longer and leaves the scoring to one process.
        found = sorted(self._found(params).items())
        sums: Totals = {}
        samples: list[Json] = []
        if found:
            missing: dict[str, float] = {}
            scores = score_beams(
                [self.sentences[index] for index, _ in found],
                [beam for _, beam in found],
                _with_terms(self._oracle, reward.name, terms, missing),
                reward.malformed_penalty,
            )
            sums = totals(scores, reward.name, (k,))
            sums |= {name: (count, 1.0) for name, count in missing.items()}
            samples = [
                self._sample(index, beam, scores.rewards_RxNxK[0, n])
                for n, (index, beam) in enumerate(found)
                if index in self._watched
            ]
        parts = self._hosts.collect(samples) if self._watched else []
        self.samples = sorted((s for part in parts or () for s in part), key=lambda s: s["index"])
        sums = self._hosts.merge(sums, merge_totals)
        metrics = summarise(sums, reward.name)
        figures = {
            "reward@1": metrics["reward@1"],
            "mean_reward": metrics[f"mean_reward@{k}"],
            "max_reward": metrics[f"max_reward@{k}"],
            "span_f1": metrics["span_f1"],
            "exact_match": metrics["exact_match"],
        }
        for term in terms:
            figures[f"reward@1/{term}"] = metrics["rewards"][term]["reward@1"]
            figures[f"mean_reward/{term}"] = metrics["rewards"][term][f"mean_reward@{k}"]
        # Candidates that count as 0 since they have no reward; see `Oracle.evaluate`.
        return figures | {name: sums[name][0] for name in _MISSING if name in sums}

    def _sample(self, index: int, beam: Beam, rewards_K: np.ndarray) -> Json:
        sentence, ranked = self.sentences[index], deduplicated(beam)
        return {
            "index": index,
            "words": list(sentence.words),
            "gold": [list(span) for span in sentence.labeling],
            "candidates": [
                {
                    "spans": [list(span) for span in candidate.labeling],
                    "score": round(candidate.score, 4),
                    "reward": round(float(value), 5),
                }
                for candidate, value in zip(ranked, rewards_K, strict=False)
            ],
        }


def _with_terms(
    oracle: Oracle, name: str, terms: Sequence[str], missing: dict[str, float]
) -> dict[str, TripleReward]:
    """The training reward and its terms, of which one call of the oracle finds all; `missing` is
    then told how many candidates have none, for each reason that there was."""
    rows: list[list[float]] = []

    def total(triples: Sequence[Triple]) -> list[float]:
        rows[:], counts = oracle.evaluate(triples)
        found = {key: float(getattr(counts, key)) for key in _MISSING}
        missing.update({key: count for key, count in found.items() if count})
        return [row[0] for row in rows]

    # Asked in this order, all with the same triples.
    def column(i: int) -> TripleReward:
        return lambda triples: [row[i] for row in rows]

    return {name: total} | {term: column(i) for i, term in enumerate(terms, 1)}


def gather_beams(found: Mapping[int, Beam], count: int, hosts: Hosts) -> list[Beam] | None:
    """The beams of `count` sentences, of which each process has found some; None in all processes
    but the first."""
    beams = collect_beams(found, hosts)
    return None if beams is None else [beams[index] for index in range(count)]


def collect_beams(found: Mapping[int, Beam], hosts: Hosts) -> Mapping[int, Beam] | None:
    """The beams of all processes, by index; None in all processes but the first."""
    if hosts.count == 1:
        return found
    # Processes speak JSON, which has neither named tuples nor whole numbers as keys:
    # {7: [Candidate((Span(0, 1, "color"),), -0.5, True, 0)]} travels as
    # [[7, [[[[0, 1, "color"]], -0.5, true, 0]]]].
    parts = hosts.collect([[i, [dataclasses.astuple(c) for c in b]] for i, b in found.items()])
    if parts is None:
        return None
    return {
        index: [
            Candidate(tuple(Span(*span) for span in labeling), *rest) for labeling, *rest in beam
        ]
        for part in parts
        for index, beam in part
    }
