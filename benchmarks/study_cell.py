"""One cell of benchmarks/study.py, done in a process of its own that ends with the study's."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType

from benchmarks.crf import Crf, train_crf
from benchmarks.peers import Tagged, choose_threshold
from benchmarks.study_grid import ROOT, Cell, Json, Study, load
from groot_jax import evaluate, train
from groot_jax.data.corpus import Corpus, read_corpus
from groot_jax.data.labeling import Candidate, Labeling, Sentence
from groot_jax.evaluation.metrics import one_by_one, per_sentence, score_beams, summarise, totals
from groot_jax.evaluation.records import Record, write_eval
from groot_jax.reward.rewards import RewardSpec, make_reward
from groot_jax.runtime.files import write_text, writing

_PACKAGES = ("groot_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_HEARTBEAT = 5.0  # Seconds after which the time spent so far is on disk: a kill loses no more.


def run_cell(study: Study, cell: Cell) -> None:
    """Does the cell; its record then says so. Raises what its job raises, UserErrors among it."""
    with _Accounts(study, cell):
        if cell.system == "crf":
            _crf(study, cell)
        else:
            job, argv = study.argv(cell)
            {"train": train.main, "evaluate": evaluate.main}[job](argv)


class _Accounts:
    """Keeps the record of a cell while it is worked on: state, versions, seconds over all tries."""

    def __init__(self, study: Study, cell: Cell) -> None:
        self._path, self._cell, self._study = study.record_path(cell), cell, study
        self._before = study.record(cell)
        self._begun = time.monotonic()
        self._parent = os.getppid()
        self._ended = threading.Event()
        self._written = threading.Lock()

    def __enter__(self) -> None:
        self._write("begun")
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._ended.set()
        stopped = kind is not None and not issubclass(kind, Exception)  # Ctrl-C, or SIGTERM.
        self._write("begun" if stopped else "failed" if kind else "finished")

    def _watch(self) -> None:
        """Writes the time now and then, and ends the process with its study's."""
        last = time.monotonic()
        while not self._ended.wait(0.5):
            if os.getppid() != self._parent:
                os._exit(1)
            if time.monotonic() - last >= _HEARTBEAT:
                last = time.monotonic()
                with suppress(Exception):  # A full disk ends the job itself, which says so.
                    self._write("begun")

    def _write(self, state: str) -> None:
        own = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
        wall = time.monotonic() - self._begun
        record: Json = {
            "cell": vars(self._cell),
            "state": state,
            "wall_seconds": round(self._before.get("wall_seconds", 0.0) + wall, 1),
            "cpu_seconds": round(self._before.get("cpu_seconds", 0.0) + cpu, 1),
            "tries": self._before.get("tries", 0) + 1,
            "quick": self._study.quick,
            "settings": self._study.settings(self._cell),
            "config": _config_of(self._study, self._cell),
            "versions": versions(),
        }
        with self._written:
            if state == "begun" and self._ended.is_set():
                return  # A heartbeat that comes after the end.
            write_text(self._path, json.dumps(record, indent=1) + "\n")


def _config_of(study: Study, cell: Cell) -> str | None:
    """Where the resolved config of a cell lies."""
    if cell.system == "crf":
        return None
    folder = study.home(cell) if cell.action == "train" else study.scores(cell)
    return str((folder / "config.json").relative_to(study.root))


def versions() -> dict[str, str]:
    """Of all that takes part in a figure."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in (*_PACKAGES, "python-crfsuite"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        found["commit"] = said.stdout.strip()
    return found


# ---- The CRF ----------------------------------------------------------------------------------


def _crf(study: Study, cell: Cell) -> None:
    config = load(cell.set, study.common)
    corpus = read_corpus(config)
    path = study.home(cell) / "model"
    if cell.action == "train":
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name("model.tmp")
            beside.write_bytes(train_crf(corpus).model)
            os.replace(beside, path)
        return
    crf = Crf(path.read_bytes())
    spec = replace(RewardSpec(**config.reward), name=cell.reward)
    for record in crf_records(crf, corpus, cell.action, spec):
        write_eval(study.scores(cell), record)


def crf_records(crf: Crf, corpus: Corpus, split: str, reward: RewardSpec) -> list[Record]:
    """Records of a CRF as it is (`map`), and with the confidence that is best on dev for the reward
    (`threshold`), in the form of our own."""
    score = make_reward(reward)

    def tagged(sentences: Sequence[Sentence]) -> list[Tagged]:
        labelings = crf.tag(sentences)
        confidences = crf.confidences(sentences, labelings)
        return [Tagged(*pair) for pair in zip(labelings, confidences, strict=True)]

    sentences = corpus.dev if split == "dev" else corpus.test
    dev = tagged(corpus.dev)
    found = dev if split == "dev" else tagged(sentences)
    threshold = choose_threshold(corpus.dev, dev, score)

    def record(rule: str, labelings: Sequence[Labeling]) -> Record:
        beams = [[Candidate(labeling)] for labeling in labelings]
        scores = score_beams(sentences, beams, {reward.name: one_by_one(score)})
        metrics = summarise(totals(scores, reward.name, ks=()), reward.name)
        if rule == "threshold":
            metrics["threshold"] = threshold
        figures = per_sentence(scores, reward.name, ks=())
        return Record(
            system="crf",
            decide=rule,
            split=split,
            step=0,
            checkpoint="best",
            reward=reward.name,
            metrics=metrics,
            per_sentence={key: [float(v) for v in values] for key, values in figures.items()},
            seconds=0.0,
            num_sentences=len(sentences),
            samples=[],
        )

    return [
        record("map", [said.labeling for said in found]),
        record("threshold", [said.above(threshold) for said in found]),
    ]
