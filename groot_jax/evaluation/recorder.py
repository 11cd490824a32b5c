"""Full evaluations: every decision rule under every reported reward, one record on disk for each.

Used alike by the evaluation job and at the end of training. Changes no parameter.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from groot_jax.data.corpus import Corpus
from groot_jax.data.labeling import Sentence
from groot_jax.errors import told_as
from groot_jax.evaluation.confidence import calibration_error, reliability
from groot_jax.evaluation.confusion import confusion
from groot_jax.evaluation.decisions import Tuning, decide, tune
from groot_jax.evaluation.evaluator import Evaluator
from groot_jax.evaluation.metrics import (
    Beam,
    Summary,
    TripleReward,
    one_by_one,
    per_sentence,
    remembering,
    score_beams,
    summarise,
    totals,
)
from groot_jax.evaluation.predictions import Predictions
from groot_jax.evaluation.records import Record, make_samples, write_eval, write_tuning
from groot_jax.generate.generator import Generator
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.rewards import RewardSpec, calls_python, make_reward
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import Task, digests_of


@contextmanager
def reported_rewards(config: ConfigDict, main: bool = True) -> Iterator[dict[str, TripleReward]]:
    """The rewards that a report shows beside the training reward, as long as the block lasts; none
    but in the `main` process, which scores for all.

    A user's function has an oracle of its own, as that of training has: processes, retries and a
    deadline. Raises UserError, with the name of their key, for one that cannot be had.
    """
    # "f1, f0.5," -> "f1", "f0.5"
    names = [name.strip() for name in config.evaluate.rewards.split(",") if name.strip()]
    training = RewardSpec(**config.reward)
    told = told_as("config.reward.name", "config.evaluate.rewards")
    found: dict[str, TripleReward] = {}
    with ExitStack() as stack:
        for name in names if main else ():
            spec = dataclasses.replace(training, name=name)
            if name == training.name or name in found:
                continue
            with told_as("config.reward.name", "config.evaluate.rewards"):
                if calls_python(spec):
                    oracle = stack.enter_context(Oracle(spec, config.seed))
                    found[name] = told(evaluated_by(oracle))
                else:
                    found[name] = one_by_one(make_reward(spec))
        yield found


def evaluated_by(oracle: Oracle) -> TripleReward:
    """`Oracle.evaluate`, without the terms of a weighted sum."""
    return lambda triples: [row[0] for row in oracle.evaluate(triples)[0]]


class Recorder:
    """Decodes and scores the splits of a corpus; keeps them encoded. Records go to `folder`: the
    work directory, or a folder beside."""

    def __init__(
        self,
        task: Task,
        corpus: Corpus,
        oracle: Oracle,
        reported: Mapping[str, TripleReward],
        hosts: Hosts,
        generator: Generator,
        folder: Path,
    ) -> None:
        """`oracle`: of the training reward; `reported`: see `reported_rewards`. Raises UserError
        for a sentence that no batch can hold."""
        self.task, self.hosts = task, hosts
        self._oracle, self._reported, self._folder = oracle, reported, folder
        self._digests = digests_of(corpus)
        self._evaluators = {
            split: Evaluator(task, generator, oracle, sentences, hosts)
            for split, sentences in (("dev", corpus.dev), ("test", corpus.test))
        }

    def record(
        self,
        params: Any,
        system: str,
        step: int,
        checkpoint: str,
        split: str,
        predictions: bool = True,
    ) -> float:
        """Writes the records of one checkpoint on one split, and, where they are asked for, its
        `predictions`; the seconds that it took.

        `checkpoint` is how it was asked for: best, latest or step. Dev chooses what decisions need,
        and the rule; without a dev split `threshold` is left out, and the temperature of others is
        1, as it is where only `map` is asked for.
        """
        begun = time.monotonic()
        config, score = self.task.config, self._oracle.score
        name, penalty = config.reward.name, config.reward.malformed_penalty
        evaluator, dev = self._evaluators[split], self._evaluators["dev"]
        beams = evaluator.beams(params)
        searched = time.monotonic() - begun
        # How sure a model is of its spans changes as it trains: what is chosen is chosen on dev
        # beams of the same parameters. All processes search dev, those too that get no beams.
        dev_beams = None
        if dev.sentences and {*config.evaluate.decide} != {"map"}:
            dev_beams = beams if evaluator is dev else dev.beams(params)
        if beams is None:
            return time.monotonic() - begun  # Another process has them all.
        sentences = evaluator.sentences
        rewards = {**self._reported, name: evaluated_by(self._oracle)}  # Last in the report.
        tuning, of_dev = self._tuned(dev_beams, system, step)
        shared: Summary = {
            "calibration": _calibration(sentences, beams, tuning),
            "digest": self._digests[split],
        }
        if dev_beams is not None:
            shared["dev_chose"] = tuning.rule
        answers = Predictions(sentences, beams, tuning.temperature)
        # Rules agree on most sentences: what the report shows of these is scored once for all.
        once = remembering(score)
        for rule in config.evaluate.decide:
            decided_at = time.monotonic()
            if rule == "threshold" and dev_beams is None:
                continue
            known = of_dev.get(rule) if evaluator is dev else None
            limit = config.decide.hypotheses
            decided = known or decide(rule, sentences, beams, score, tuning, limit)
            scores = score_beams(sentences, decided, rewards, penalty)
            answers.add(rule, decided, scores, name)
            metrics = summarise(totals(scores, name), name) | shared
            metrics["confusion"] = confusion(sentences, decided)
            if rule == "threshold":
                metrics["threshold"] = tuning.threshold
            # What the search took is part of every rule's time: each could have been asked alone.
            seconds = searched + time.monotonic() - decided_at
            record = Record(
                system=system,
                decide=rule,
                split=split,
                step=step,
                checkpoint=checkpoint,
                reward=name,
                metrics=metrics,
                # 2/3 is 0.666667 in the file, 8 characters of 18: a split has thousands of these.
                per_sentence={
                    key: [round(float(value), 6) for value in values]
                    for key, values in per_sentence(scores, name).items()
                },
                seconds=round(seconds, 3),
                num_sentences=metrics["num_sentences"],
                samples=make_samples(sentences, decided, once, config.evaluate.samples, penalty),
            )
            write_eval(self._folder, record)
        if predictions:
            answers.write(self._folder, system, split, step)
        return time.monotonic() - begun

    def _tuned(
        self, dev_beams: Sequence[Beam] | None, system: str, step: int
    ) -> tuple[Tuning, dict[str, list[Beam]]]:
        """As `tune`, kept for `predict`; nothing is chosen where dev was not searched."""
        if dev_beams is None:
            return Tuning(), {}
        config, dev = self.task.config, self._evaluators["dev"].sentences
        limit, rules = config.decide.hypotheses, config.evaluate.decide
        tuning, decided = tune(dev, dev_beams, self._oracle.score, rules, limit)
        write_tuning(self._folder, system, step, config.reward.name, tuning, len(dev_beams))
        return tuning, decided


def _calibration(sentences: Sequence[Sentence], beams: Sequence[Beam], tuning: Tuning) -> Summary:
    """How true the confidences of a system's spans are, as the model has them and as dev has
    calibrated them."""
    before = reliability(sentences, beams)
    after = reliability(sentences, beams, tuning.temperature, tuning.curve)
    return {
        "temperature": tuning.temperature,
        "error": calibration_error(after),
        "error_at_1": calibration_error(before),
        "bins": after,
        "bins_at_1": before,
    }
