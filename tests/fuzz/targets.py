"""What reads files that people and crashes have a hand in, each as a function of a file's bytes.

Whatever the bytes are, only a UserError may come out. `test_damaged_input.py` feeds them from
hypothesis, `run_atheris.py` from a fuzzer that follows coverage.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from groot_jax import config as configs
from groot_jax.config.checks import validate
from groot_jax.config.workdir import load_dumped
from groot_jax.data.corpus import load_corpus
from groot_jax.data.incoming import sentence_of_line
from groot_jax.errors import UserError
from groot_jax.evaluation.records import read_records, read_tuning
from groot_jax.reward.rewards import RewardSpec, make_reward, parse_type_weights
from groot_jax.training.status import training_ended


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
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


TARGETS: dict[str, Callable[[bytes], None]] = {
    "columns": _in_file("train.txt", _corpus),
    "json lines": _in_file("train.jsonl", _corpus),
    "incoming": _as_text(_incoming),
    "reward name": _as_text(lambda name: make_reward(RewardSpec(name.replace(":", "")))),
    "type weights": _as_text(parse_type_weights),
    "config.json": _in_file("config.json", _config),
    "status.json": _in_file("status.json", lambda path: training_ended(path.parent)),
    "record": _in_file("eval/nll-dev-1.json", lambda path: read_records(path.parent.parent)),
    "tuning": _in_file(
        "decisions/nll-1.json", lambda path: read_tuning(path.parent.parent, "nll", 1, "f1")
    ),
}
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
    "record": [
        b'{"system": "nll", "decide": "map", "split": "dev", "step": 1, "checkpoint": "best", '
        b'"reward": "f1", "metrics": {}, "per_sentence": {}, "seconds": 1, "num_sentences": 1, '
        b'"samples": []}'
    ],
    "tuning": [b'{"temperature": 1.5, "threshold": 0.5, "reward": "f1"}'],
}
