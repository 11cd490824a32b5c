"""What an evaluation leaves on disk, one JSON file each; it may not score or summarise anything.

W/eval/<system>[+mbr|+threshold]-<split>-<step>.json holds one system on one split:
    system      "groot"               decide      "map" | "mbr" | "threshold"
    split       "test" | "dev"        step        update that the checkpoint was saved at
    checkpoint  "best" | "latest" | "step": how the checkpoint was asked for
    reward      name of the training reward
    metrics     the dict of `metrics.summarise`
    per_sentence {"reward@1": [...], "mean_reward@10": [...], ...}: what the bootstrap resamples
    seconds     that the evaluation took                num_sentences
    samples     for the report: [{"index": position in the split, "words": [...], "gold": spans,
                 "candidates": [{"spans", "score", "probability", "reward", "well_formed"}, ...],
                 "corrections": [[spans, reward], ...]}], with spans as [[start, end, type], ...]
The report's figures of a system come from one such file, chosen by `read_records`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groot_jax.data.labeling import Labeling, Sentence
from groot_jax.errors import UserError
from groot_jax.evaluation.decisions import labeling_probabilities
from groot_jax.evaluation.metrics import Beam, Scorer, distinct
from groot_jax.runtime.files import write_text

Record = dict[str, Any]

# How a checkpoint was asked for, the preferred last.
_KINDS = ("step", "latest", "best")


def system_name(system: str, decide: str) -> str:
    """`groot` decided by `map` is plain `groot`; any other rule is part of the name."""
    return system if decide == "map" else f"{system}+{decide}"


def make_record(
    *,
    system: str,
    split: str,
    step: int,
    checkpoint: str,
    reward: str,
    metrics: Mapping[str, Any],
    per_sentence: Mapping[str, Sequence[float] | np.ndarray],
    seconds: float,
    samples: Sequence[Mapping[str, Any]] = (),
    decide: str = "map",
) -> Record:
    """One evaluation as the file's JSON (see the module's docstring)."""
    return {
        "system": system,
        "decide": decide,
        "split": split,
        "step": int(step),
        "checkpoint": checkpoint,
        "reward": reward,
        "metrics": dict(metrics),
        "per_sentence": {
            key: [round(float(value), 6) for value in values]
            for key, values in per_sentence.items()
        },
        "seconds": round(float(seconds), 3),
        "num_sentences": metrics["num_sentences"],
        "samples": list(samples),
    }


def sample_indices(num_sentences: int, limit: int) -> list[int]:
    """Evenly spread positions: every system of a split shows the same sentences."""
    count = min(num_sentences, limit)
    return [i * num_sentences // count for i in range(count)]


def make_samples(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    score: Scorer,
    limit: int,
    correct: Callable[[Labeling, Labeling], Sequence[Labeling]] | None = None,
    malformed_penalty: float = 0.0,
) -> list[dict[str, Any]]:
    """Samples for the report's browser, of at most `limit` sentences.

    `correct(candidate, gold)` gives the corrections of rank 1 to show beside the candidates.
    """
    samples = []
    for index in sample_indices(len(sentences), limit):
        sentence, beam = sentences[index], beams[index]
        chances = labeling_probabilities(beam)
        candidates = distinct(beam)
        corrections = (
            list(correct(candidates[0].labeling, sentence.labeling))
            if (correct and candidates)
            else []
        )
        labelings = [c.labeling for c in candidates] + corrections
        rewards = list(score([(y, sentence.labeling, sentence.words) for y in labelings]))
        samples.append(
            {
                "index": index,
                "words": list(sentence.words),
                "gold": _spans(sentence.labeling),
                "candidates": [
                    {
                        "spans": _spans(c.labeling),
                        "score": round(c.score, 4) if math.isfinite(c.score) else None,
                        "probability": round(chances[c.labeling], 5),
                        "reward": round(r if c.well_formed else max(0.0, r - malformed_penalty), 5),
                        "well_formed": c.well_formed,
                    }
                    for c, r in zip(candidates, rewards, strict=False)
                ],
                "corrections": [
                    [_spans(y), round(r, 5)]
                    for y, r in zip(corrections, rewards[len(candidates) :], strict=True)
                ],
            }
        )
    return samples


def _spans(labeling: Labeling) -> list[list[int | str]]:
    return [[start, end, type_] for start, end, type_ in labeling]


def write_eval(workdir: str | Path, record: Mapping[str, Any]) -> Path:
    """Writes a record to its file in W/eval and returns that path.

    A record of the same checkpoint is replaced, but a checkpoint once evaluated as the best one
    stays so when it is evaluated again under another name.
    """
    name = system_name(record["system"], record["decide"])
    path = Path(workdir) / "eval" / f"{name}-{record['split']}-{record['step']}.json"
    if path.exists() and _read_record(path)["checkpoint"] == "best":
        record = {**record, "checkpoint": "best"}
    write_text(path, json.dumps(record, allow_nan=False) + "\n")
    return path


def read_records(workdir: str | Path) -> list[Record]:
    """The record to report of each system and split: `best` before `latest` before any step, then
    the highest step. Systems in the order of training, each followed by its decision rules."""
    chosen: dict[tuple[str, str], Record] = {}
    for path in sorted((Path(workdir) / "eval").glob("*.json")):
        record = _read_record(path)
        key = (system_name(record["system"], record["decide"]), record["split"])
        if key not in chosen or _preference(record) > _preference(chosen[key]):
            chosen[key] = record
    trained = [line.get("system") for line in read_metrics(workdir)]
    order = {system: place for place, system in enumerate(dict.fromkeys(trained))}

    def place(record: Record) -> tuple:
        system, decide = record["system"], record["decide"]
        return (order.get(system, len(order)), system, decide != "map", decide, record["split"])

    return sorted(chosen.values(), key=place)


def _preference(record: Record) -> tuple[int, int]:
    return (_KINDS.index(record["checkpoint"]), record["step"])


def _read_record(path: Path) -> Record:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _preference(record)
        for key in ("system", "decide", "split", "metrics"):
            record[key]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not an evaluation's file ({error}): remove it and evaluate again"
        ) from error
    return record


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of W/metrics.jsonl, none where there is no file.

    A line that a kill cut short is left out; it is written again after the run is resumed.
    """
    path = Path(workdir) / "metrics.jsonl"
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines
