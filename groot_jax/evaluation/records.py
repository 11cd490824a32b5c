"""What an evaluation leaves on disk, one JSON file each; it may not score or summarise anything.

W/eval/<system>[+<rule>]-<split>-<step>.json holds one system on one split, a `Record`, where a rule
other than `map` decides. The report's figures of a system come from one such file, chosen by
`read_records`. W/decisions/ holds what dev chose for each checkpoint: see `write_tuning`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import google_crc32c

from groot_jax.data.labeling import Labeling, Sentence
from groot_jax.errors import UserError
from groot_jax.evaluation.decisions import Tuning
from groot_jax.evaluation.metrics import Beam, Summary, TripleReward, deduplicated
from groot_jax.evaluation.shapes import JOB, KINDS, METRICS, RECORD, SAMPLES, TUNING, all_finite
from groot_jax.reward.correction import corrections
from groot_jax.reward.space import HYPOTHESES, hypotheses, labeling_probabilities
from groot_jax.runtime.files import write_text
from groot_jax.runtime.json_files import parsed, read_bytes, read_lines, reading

# An object of a JSON file.
Json: TypeAlias = dict[str, Any]

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
JOBS_FILE = "jobs.jsonl"
# Corrections of rank 1 that the report shows of a sentence, and labelings that the beam lacks.
_CORRECTIONS = 4


class Record(TypedDict):
    """The content of one file of W/eval."""

    system: str
    decide: str  # map, mbr, threshold or consensus
    split: str  # test or dev
    step: int  # update that the checkpoint was saved at
    checkpoint: str  # how it was asked for: best, latest or step
    reward: str  # name of the training reward
    metrics: Summary
    per_sentence: dict[str, list[float]]  # "reward@1", ...: what the bootstrap resamples
    seconds: float  # that the evaluation took
    num_sentences: int
    samples: list[Json]  # of `make_samples`


def system_name(record: Record) -> str:
    """`groot` decided by `map` is plain `groot`; any other rule is part of the name."""
    system, decide = record["system"], record["decide"]
    return system if decide == "map" else f"{system}+{decide}"


def sample_indices(num_sentences: int, limit: int) -> list[int]:
    """Evenly spread positions: every system of a split shows the same sentences.

    4 of 10 are 0, 2, 5 and 7.
    """
    count = min(num_sentences, limit)
    return [i * num_sentences // count for i in range(count)]


def make_samples(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    score: TripleReward,
    limit: int,
    malformed_penalty: float,
) -> list[Json]:
    """What the report's browser shows of at most `limit` sentences, spans as [start, end, type].

    {"index": position in the split, "words": [...], "gold": spans,
     "candidates": [{"spans", "score", "probability", "reward", "well_formed"}, ...],
     "corrections": [[spans, reward], ...], of rank 1, such as training contrasts,
     "consensus": [[spans, reward, expected reward], ...]}: the best `hypotheses` that the beam
     lacks, which training contrasts with `groot.pool.consensus`
    """
    samples = []
    for index in sample_indices(len(sentences), limit):
        sentence, beam = sentences[index], beams[index]
        chances = labeling_probabilities(beam)
        candidates = deduplicated(beam)
        gold = sentence.labeling
        # A generator of its own for each sentence: what is drawn does not depend on the others.
        rng = random.Random(0)
        best = candidates[0].labeling if candidates else gold  # Gold has nothing to correct.
        corrected = list(islice(corrections(best, gold, rng), _CORRECTIONS))
        lacking = [y for y in hypotheses(chances, HYPOTHESES) if y not in chances]
        labelings = [c.labeling for c in candidates] + corrected + lacking
        # Candidates first, then corrections, then what the beam lacks, and the last against each
        # of the beam as well: one call scores all.
        triples = [(y, gold, sentence.words) for y in labelings]
        triples += [(y, u, sentence.words) for y in lacking for u in chances]
        values = iter(score(triples))
        rewards = list(islice(values, len(labelings)))
        expected = [sum(p * next(values) for p in chances.values()) for _ in lacking]
        by_gold = rewards[len(candidates) + len(corrected) :]
        beyond = sorted(zip(lacking, by_gold, expected, strict=True), key=lambda item: -item[2])
        samples.append(
            {
                "index": index,
                "words": list(sentence.words),
                "gold": spans_of(gold),
                "candidates": [
                    {
                        "spans": spans_of(c.labeling),
                        # JSON has no NaN, the score of what the search has not written.
                        "score": round(c.score, 4) if math.isfinite(c.score) else None,
                        "probability": round(chances[c.labeling], 5),
                        "reward": round(r if c.well_formed else max(0.0, r - malformed_penalty), 5),
                        "well_formed": c.well_formed,
                    }
                    for c, r in zip(candidates, rewards, strict=False)
                ],
                "corrections": [
                    [spans_of(y), round(r, 5)]
                    for y, r in zip(corrected, rewards[len(candidates) :], strict=False)
                ],
                "consensus": [
                    [spans_of(y), round(r, 5), round(e, 5)] for y, r, e in beyond[:_CORRECTIONS]
                ],
            }
        )
    return samples


def spans_of(labeling: Labeling) -> list[list[int | str]]:
    """A labeling for JSON: [[start, end, type], ...]."""
    return [[start, end, type_] for start, end, type_ in labeling]


def write_eval(workdir: Path, record: Record) -> Path:
    """Writes a record to its file in W/eval and returns that path.

    A record of the same checkpoint is replaced, but a checkpoint once evaluated as the best one
    stays so when it is evaluated again under another name. Raises UserError where the file that is
    there is damaged, or the disk refuses.
    """
    place = f"{system_name(record)}-{record['split']}-{record['step']}"
    path = workdir / "eval" / f"{place}.json"
    # Otherwise `--checkpoint=latest`, of a run whose latest is the best, would take the best away
    # from the report.
    before = _read_record(path)
    if before is not None and before["checkpoint"] == "best":
        record = {**record, "checkpoint": "best"}
    write_text(path, json.dumps(record, allow_nan=False) + "\n")
    return path


def write_tuning(
    workdir: Path, system: str, step: int, reward: str, tuning: Tuning, num_sentences: int
) -> None:
    """Keeps what dev, of so many sentences, chose for a checkpoint, and the threshold for a reward,
    for `predict`: a file for each, since training and a watch beside it both write.

    W/decisions/groot-750.json: {"temperature": 1.44, "threshold": 0.35, "rule": "consensus",
    "curve": [[0.004, 0.01], [0.09, 0.2], ...], "k": 10, "reward": "f1", "dev_sentences": 1500,
    "crc32c": 2774105421}, a sum of all the rest
    """
    kept = dataclasses.asdict(tuning) | {"reward": reward, "dev_sentences": num_sentences}
    kept["crc32c"] = _sum(kept)
    write_text(_tuning_path(workdir, system, step), json.dumps(kept) + "\n")


def read_tuning(workdir: Path, system: str, step: int, reward: str) -> Tuning:
    """What dev chose for a checkpoint: where nothing was, temperature 1 and `map`; no threshold and
    no other rule but for the reward that they were chosen for. Raises UserError for a file that
    nobody wrote."""
    path = _tuning_path(workdir, system, step)
    data = read_bytes(path)
    if data is None:
        return Tuning()
    try:
        kept = parsed(data, TUNING)
        # Files of earlier versions lack what was not there yet: a sum, a rule, a curve, k.
        if kept.pop("crc32c", None) not in (None, _sum(kept)):
            raise ValueError("it is not what was written, by its sum")
        curve = tuple((float(c), float(share)) for c, share in kept.get("curve", ()))
        if [*curve] != sorted(curve):
            raise ValueError("a curve ascends")
    except ValueError as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove it, and groot_jax.evaluate writes it again"
        ) from None
    tuning = Tuning(float(kept["temperature"]), curve=curve, k=kept.get("k", 0))
    if kept["reward"] != reward:
        return tuning
    rule = kept.get("rule", "map")
    return dataclasses.replace(tuning, threshold=float(kept["threshold"]), rule=rule)


def _sum(kept: Json) -> int:
    # Python writes a number that it has read as it was: the text is the same again.
    return int(google_crc32c.value(json.dumps(kept).encode()))


def _tuning_path(workdir: Path, system: str, step: int) -> Path:
    return workdir / "decisions" / f"{system}-{step}.json"


def read_records(workdir: Path) -> list[Record]:
    """The record to report of each system and split: `best` before `latest` before any step, then
    the highest step. Systems in the order of training, each followed by its decision rules.

    Raises UserError, with its name, for a file that is not a record.
    """
    chosen: dict[tuple[str, str], Record] = {}
    folder, paths = workdir / "eval", list[Path]()
    with suppress(FileNotFoundError), reading(folder):
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    for path in paths:
        record = _read_record(path)
        if record is None:  # Removed meanwhile.
            continue
        key = (system_name(record), record["split"])
        if key not in chosen or _preference(record) > _preference(chosen[key]):
            chosen[key] = record
    # The first lines of nll, nll_continued and groot come one after another in metrics.jsonl.
    trained = list(dict.fromkeys(line["system"] for line in read_metrics(workdir, warn=False)))

    def place(record: Record) -> tuple[int, str, bool, str, str]:
        system, decide = record["system"], record["decide"]
        # A system that was trained elsewhere, as stage 0 may be, comes last.
        order = trained.index(system) if system in trained else len(trained)
        return (order, system, decide != "map", decide, record["split"])

    return sorted(chosen.values(), key=place)


def _preference(record: Record) -> tuple[int, int]:
    return (KINDS.index(record["checkpoint"]), record["step"])


def _read_record(path: Path) -> Record | None:
    data = read_bytes(path)
    if data is None:
        return None
    try:
        record: Record = parsed(data, RECORD)
        if not all_finite(record):  # Of what no table shows: results.json repeats all.
            raise ValueError("it holds a number that is not finite")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not an evaluation's file ({error}): remove it and evaluate again"
        ) from error
    return record


def read_metrics(workdir: Path, warn: bool = True) -> list[Json]:
    """The lines of W/metrics.jsonl, none where there is no file.

    A line that a kill cut short is left out; it is written again after the run is resumed. Lines
    that are something else are left out and counted on stderr, unless `warn` is false. Raises
    UserError where the file cannot be read.
    """
    return [line for _, line in read_lines(workdir / METRICS_FILE, METRICS, warn)]


def read_samples(workdir: Path) -> list[Json]:
    """The lines of W/samples.jsonl, read as those of the metrics: the lists of a few dev sentences
    at each evaluation during training, {"system", "step", "sentences": [...]}."""
    return [line for _, line in read_lines(workdir / SAMPLES_FILE, SAMPLES)]


def read_jobs(workdir: Path) -> list[Json]:
    """The lines of W/jobs.jsonl, read as those of the metrics: a job and its machine, see
    runtime/machine.py."""
    return [line for _, line in read_lines(workdir / JOBS_FILE, JOB)]
