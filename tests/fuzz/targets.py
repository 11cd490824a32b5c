"""What reads files that people and crashes have a hand in, each as a function of a file's bytes.

Whatever the bytes are, only a UserError may come out. `test_damaged_input.py` feeds them from
hypothesis, `run_atheris.py` from a fuzzer that follows coverage.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from groot_jax import config as configs
from groot_jax.config.checks import validate
from groot_jax.config.workdir import load_dumped
from groot_jax.data.corpus import load_corpus
from groot_jax.data.incoming import sentence_of_line
from groot_jax.data.labeling import Candidate, Sentence, make_labeling
from groot_jax.data.tokenizer import LITERALS, Tokenizer
from groot_jax.data.vocabularies import ByteVocabulary
from groot_jax.errors import UserError
from groot_jax.evaluation.confidence import reliability
from groot_jax.evaluation.confusion import confusion
from groot_jax.evaluation.decisions import Tuning
from groot_jax.evaluation.metrics import one_by_one, per_sentence, score_beams, summarise, totals
from groot_jax.evaluation.records import Record, make_samples, read_tuning, write_tuning
from groot_jax.evaluation.report import write_report
from groot_jax.evaluation.results import known_worse, write_results
from groot_jax.model.config import from_scratch
from groot_jax.reward.rewards import RewardSpec, make_reward, parse_type_weights
from groot_jax.task import load_task
from groot_jax.training.checksums import damage, write_guarded
from groot_jax.training.evaluations import Evaluation, Meta
from groot_jax.training.status import training_ended
from groot_jax.training.systems import recorded_meta


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            with suppress(UserError):
                read(path)

    return target


def _as_text(read: Callable[[str], object]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        with suppress(UserError):
            read(data.decode(errors="surrogateescape"))

    return target


def _corpus(path: Path) -> None:
    for policy in ("error", "skip"):
        config = configs.default_config()
        config.data.train = config.data.dev = str(path)
        config.data.policy = policy
        with suppress(UserError):
            load_corpus(config.data)


def _incoming(line: str) -> None:
    for split in ("spaces", "unicode"):
        with suppress(UserError):
            sentence_of_line(line, "stdin:1", split)


def _config(path: Path) -> None:
    validate(load_dumped(path), has_data=False)


def _report(path: Path) -> None:
    """Of a work directory that has one record, and the file beside it or in its place."""
    workdir = path.parent.parent if path.parent.name == "eval" else path.parent
    (workdir / "eval").mkdir(exist_ok=True)
    if not path.match("eval/*"):
        (workdir / "eval" / "nll-test-1.json").write_bytes(_RECORD)
    write_report(workdir, write_results(workdir, resamples=5))


def _task(path: Path) -> None:
    tokenizer = path.parent / "tokenizer"
    Tokenizer(ByteVocabulary(), LITERALS).save(tokenizer)
    load_task(path.parent.parent, configs.default_config())


def _meta(path: Path) -> None:
    (path.parent / "4").mkdir()
    if (meta := recorded_meta(path.parent.parent.parent, "groot")) is not None:
        meta.worse(0.005)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "columns": _in_file("train.txt", _corpus),
    "json lines": _in_file("train.jsonl", _corpus),
    "incoming": _as_text(_incoming),
    "reward name": _as_text(lambda name: make_reward(RewardSpec(name.replace(":", "")))),
    "type weights": _as_text(parse_type_weights),
    "config.json": _in_file("config.json", _config),
    "status.json": _in_file("status.json", lambda path: training_ended(path.parent)),
    "record": _in_file("eval/nll-dev-1.json", _report),
    "metrics.jsonl": _in_file("metrics.jsonl", _report),
    "samples.jsonl": _in_file("samples.jsonl", _report),
    "jobs.jsonl": _in_file("jobs.jsonl", _report),
    "data_card.json": _in_file("data_card.json", _report),
    "results.json": _in_file("results.json", lambda path: known_worse(path.parent)),
    "task.json": _in_file("task/task.json", _task),
    "meta.json": _in_file("checkpoints/groot/meta.json", _meta),
    "sums": _in_file("4/checksums.0-1.json", lambda path: damage(path.parent)),
    "tuning": _in_file(
        "decisions/nll-1.json", lambda path: read_tuning(path.parent.parent, "nll", 1, "f1")
    ),
}


def _whole(**more: Any) -> bytes:
    """A record as an evaluation writes it, of one sentence."""
    sentences = [Sentence(("red", "levi"), make_labeling([(0, 1, "color")], 2))]
    beams = [[Candidate(sentences[0].labeling, -0.5), Candidate((), -1.5)]]
    score = one_by_one(make_reward(RewardSpec("f1")))
    scores = score_beams(sentences, beams, {"f1": score})
    bins = reliability(sentences, beams)
    metrics = summarise(totals(scores, "f1"), "f1") | {
        "confusion": confusion(sentences, beams),
        "calibration": {"temperature": 1.5, "error": 0.1, "error_at_1": 0.2}
        | {"bins": bins, "bins_at_1": bins},
        "dev_chose": "map",
    }
    figures = per_sentence(scores, "f1")
    record = Record(
        system="nll",
        decide="map",
        split="dev",
        step=1,
        checkpoint="best",
        reward="f1",
        metrics=metrics,
        seconds=1.5,
        num_sentences=1,
        per_sentence={key: values.tolist() for key, values in figures.items()},
        samples=make_samples(sentences, beams, score, 1, 0.1),
    )
    return json.dumps(record | more).encode()


def _guarded(value: dict[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_guarded(Path(folder) / "a.json", value)
        return (Path(folder) / "a.json").read_bytes()


def _tuned() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_tuning(Path(folder), "nll", 1, "f1", Tuning(1.5, 0.5, "map", ((0.1, 0.2),)), 9)
        return (Path(folder) / "decisions" / "nll-1.json").read_bytes()


_RECORD = _whole(split="test")
_SAMPLE = {"index": 0, "words": ["a", "b"], "gold": [[0, 1, "x"]]}
_SPLIT = {"sentences": 1, "words": 2, "spans": {"x": 1}, "longest": 2, "also_in_train": 0}
_SPLIT |= {"punctuation_apart": False, "unwritable": {"words": 1, "examples": ["b"]}}
# What a whole file looks like, for damage that starts from it.
SEEDS: dict[str, list[bytes]] = {
    "columns": [b"new B-city\nyork I-city\n\nred\tO\n", b"B-a x\nI-a y\n"],
    "json lines": [
        b'{"words": ["a", "b"], "spans": [[0, 1, "x"]]}\n',
        b'{"words": ["a"], "tags": ["B-x"]}\n',
    ],
    "incoming": [b"red jeans", b'{"words": ["a"], "text": "b"}'],
    "reward name": [b"0.7*f0.5 + 0.3*exact", b"utility"],
    "type weights": [b"brand=2, color=0.5"],
    "config.json": [b'{"seed": 0, "groot": {"tau": 0.2}, "reward": {"name": "f1"}}'],
    "status.json": [b'{"state": "training", "pid": 1, "host": "h"}'],
    "record": [_whole()],
    "metrics.jsonl": [
        b'{"system": "nll", "step": 4, "split": "dev", "reward@1": 0.5, "seconds": 1.5}\n',
        b'{"system": "nll", "step": 4, "split": "train", "loss": null, "epoch": 1.0}\n',
    ],
    "samples.jsonl": [
        json.dumps(
            {"system": "nll", "step": 4}
            | {"sentences": [_SAMPLE | {"candidates": [{"spans": [[0, 1, "x"]], "reward": 0.5}]}]}
        ).encode()
    ],
    "jobs.jsonl": [
        b'{"job": "train", "started": "now", "command": "groot train", "host": "h", "cpu": "c", '
        b'"cores": 2, "devices": "1 cpu", "processes": 2, "python": "3.12", '
        b'"versions": {"groot_jax": "0.2.0", "jax": "0.10"}}'
    ],
    "data_card.json": [
        json.dumps(
            {"types": ["x"], "notes": ["a note"]}
            | {"splits": {"dev": _SPLIT | {"read": {"place": "f", "layout": "l", "skipped": 1}}}}
        ).encode()
    ],
    "results.json": [b'{"systems": {}, "differences": {}, "worse": {"groot": "why"}}'],
    "task.json": [
        json.dumps(
            {"types": ["x"], "format": "sentinel_tag", "ladder": [[32, 16]], "max_words": 9}
            | {"model": dataclasses.asdict(from_scratch(configs.default_config().model, 384))}
            | {"digests": {"train": "d"}, "start": ["nll", 4]}
        ).encode()
    ],
    "meta.json": [_guarded({"4": Meta([Evaluation(4, {"reward@1": 0.5})], start=0.9).to_json()})],
    "sums": [_guarded({"state/a": [3, 7]})],
    "tuning": [b'{"temperature": 1.5, "threshold": 0.5, "reward": "f1"}', _tuned()],
}
