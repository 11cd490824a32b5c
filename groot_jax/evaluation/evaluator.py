"""Beams of a checkpoint, scored: evaluations on dev during training and full evaluation records.

Used alike by the training job and by the evaluation job. Changes no parameter.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from groot_jax.data.batches import encode, evaluation_batches
from groot_jax.data.labeling import Candidate, Labeling, Sentence, Span
from groot_jax.errors import UserError
from groot_jax.evaluation.decisions import choose_threshold, decide
from groot_jax.evaluation.metrics import (
    Beam,
    Totals,
    merge_totals,
    per_sentence,
    score_beams,
    summarise,
    totals,
)
from groot_jax.evaluation.records import make_record, make_samples, write_eval
from groot_jax.generate.generator import Generator
from groot_jax.reward.correction import corrections
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.rewards import Reward, RewardSpec, make_reward
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import Task


def reward_spec(config: ConfigDict, name: str | None = None) -> RewardSpec:
    """The training reward, or another one under the same settings."""
    spec = RewardSpec.from_config(config.reward)
    return spec if name is None else RewardSpec(**(vars(spec) | {"name": name}))


def open_oracle(config: ConfigDict) -> Oracle:
    """The scoring processes of a job."""
    return Oracle(RewardSpec.from_config(config.reward), config.seed)


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
        self.sentences = list(sentences[:limit] if limit else sentences)
        self._task = task
        self._generator = generator
        self._oracle = oracle
        self._hosts = hosts
        examples = encode(self.sentences, task.format, gold=False)
        own_B = generator.own_rows(task.config.evaluate.batch_size)
        self._batches = list(evaluation_batches(examples, len(own_B), task.ladder, own_B))

    def beams(self, params: Any) -> list[Beam] | None:
        """Candidates of every sentence, best first; None in all processes but the first."""
        return gather_beams(self._found(params), len(self.sentences), self._hosts)

    def _found(self, params: Any) -> dict[int, Beam]:
        return dict(self._generator.label(params, self._batches))

    def evaluate(self, params: Any) -> dict[str, float]:
        """The few figures that training watches: under the training reward alone."""
        name = self._task.config.reward.name
        k = self._generator.k
        found = sorted(self._found(params).items())
        sums: Totals = {}
        if found:
            scores = score_beams(
                [self.sentences[index] for index, _ in found],
                [beam for _, beam in found],
                {},
                scorers={name: self._oracle.score},
                malformed_penalty=self._task.config.reward.malformed_penalty,
            )
            sums = totals(scores, name, (k,))
        metrics = summarise(self._hosts.merge(sums, merge_totals), name)
        return {
            "reward@1": metrics["reward@1"],
            "mean_reward": metrics[f"mean_reward@{k}"],
            "max_reward": metrics[f"max_reward@{k}"],
            "span_f1": metrics["span_f1"],
            "exact_match": metrics["exact_match"],
        }


def gather_beams(found: dict[int, Beam], count: int, hosts: Hosts) -> list[Beam] | None:
    """The beams of `count` sentences, of which each process has found some; None in all processes
    but the first."""
    if hosts.count == 1:
        return [found[index] for index in range(count)]
    parts = hosts.collect([[i, [dataclasses.astuple(c) for c in b]] for i, b in found.items()])
    if parts is None:
        return None
    beams = {
        index: [
            Candidate(tuple(Span(*span) for span in labeling), *rest) for labeling, *rest in beam
        ]
        for part in parts
        for index, beam in part
    }
    return [beams[index] for index in range(count)]


def write_records(
    task: Task,
    oracle: Oracle,
    workdir: Path,
    *,
    system: str,
    split: str,
    step: int,
    checkpoint: str,
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    dev: tuple[Sequence[Sentence], Sequence[Beam]] | None,
    seconds: float,
) -> list[dict[str, Any]]:
    """Scores one system on one split under every decision rule of the config; writes its records.

    `dev` chooses the confidence threshold; without it that rule is left out.
    """
    config = task.config
    name = config.reward.name
    rewards = reported_rewards(config)
    records = []
    for rule in config.evaluate.decide:
        begun = time.monotonic()
        confidence = 0.0
        if rule == "threshold":
            if dev is None:
                continue
            confidence = choose_threshold(*dev, oracle.score)
        decided = decide(rule, sentences, beams, oracle.score, confidence)
        scores = score_beams(
            sentences,
            decided,
            rewards,
            scorers={name: oracle.score},
            malformed_penalty=config.reward.malformed_penalty,
        )
        metrics = summarise(totals(scores, name), name)
        if rule == "threshold":
            metrics["threshold"] = confidence
        record = make_record(
            system=system,
            split=split,
            step=step,
            checkpoint=checkpoint,
            reward=name,
            metrics=metrics,
            per_sentence=per_sentence(scores, name),
            seconds=seconds + time.monotonic() - begun,
            samples=make_samples(
                sentences,
                decided,
                oracle.score,
                config.evaluate.samples,
                _corrections,
                config.reward.malformed_penalty,
            ),
            decide=rule,
        )
        write_eval(workdir, record)
        records.append(record)
    return records


def reported_rewards(config: ConfigDict) -> dict[str, Reward]:
    """The rewards that a report shows beside the training reward.

    Raises UserError, with the name of their key, for one that cannot be had.
    """
    names = [name.strip() for name in config.evaluate.rewards.split(",") if name.strip()]
    try:
        return {
            name: make_reward(reward_spec(config, name))
            for name in names
            if name != config.reward.name
        }
    except UserError as error:
        text = str(error).replace("config.reward.name", "config.evaluate.rewards")
        raise UserError(text) from error


def _corrections(candidate: Labeling, gold: Labeling) -> list[Labeling]:
    return corrections(candidate, gold, random.Random(0), 4)
