"""The training job from end to end: what it leaves behind, and that a kill changes nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax._src import monitoring
from tensorboardX.proto.event_pb2 import Event

from groot_jax import train
from groot_jax.config import load_dumped
from groot_jax.data.batches import Batch, TrainingBatches
from groot_jax.reward.oracle import Oracle
from groot_jax.task import Task
from groot_jax.training import groot, nll, setup
from groot_jax.training.checkpoints import saved_steps
from groot_jax.training.monitor import Monitor
from tests.jobs.support import TIMEOUT, Ended, Jobs, job_environment, snapshot

# Checkpoints are read here as a stranger would, without saying where arrays shall lie.
pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")

# Updates of each system, and how many lie between two evaluations.
TOTALS = {"nll": 12, "nll_continued": 8, "groot": 8}
EVAL_EVERY = {"nll": 4, "nll_continued": 2, "groot": 2}
REQUIRED = (
    "reward@1",
    "mean_reward@10",
    "max_reward@10",
    "span_precision",
    "span_recall",
    "span_f1",
    "exact_match",
    "malformed@1",
    "malformed@10",
)


def metrics_of(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def timeless(value: Any) -> Any:
    """Without what a clock says."""
    if isinstance(value, dict):
        clocks = ("seconds", "sentences_per_second")
        return {k: timeless(v) for k, v in value.items() if k not in clocks}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def status_of(workdir: Path) -> str:
    return json.loads((workdir / "status.json").read_text())["state"]


def state_of(workdir: Path, system: str) -> dict[str, np.ndarray]:
    """Step, parameters and optimizer of the latest checkpoint, read without the project."""
    folder = workdir / "checkpoints" / system / str(saved_steps(workdir, system)[-1]) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder.absolute())
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_state(a: Path, b: Path, system: str) -> None:
    left, right = state_of(a, system), state_of(b, system)
    assert left.keys() == right.keys()
    assert any("opt_state" in key for key in left) and any("params" in key for key in left)
    different = [key for key in left if left[key].tobytes() != right[key].tobytes()]
    assert different == []


# ---- What a run leaves behind -----------------------------------------------------------------


@pytest.mark.slow
def test_config_json_is_the_resolved_config(trained: Path) -> None:
    config = load_dumped(trained / "config.json")
    assert config.data.reader == "auto" and config.nll.epochs == 3.0 and config.groot.tau == 0.3


@pytest.mark.slow
def test_every_evaluation_of_every_system_is_in_metrics_once(trained: Path) -> None:
    lines = metrics_of(trained)
    expected = [
        (system, step, split)
        for system, total in TOTALS.items()
        for step in range(EVAL_EVERY[system], total + 1, EVAL_EVERY[system])
        for split in ("train", "dev")
    ]
    assert [(line["system"], line["step"], line["split"]) for line in lines] == expected
    for line in lines:
        figures = {k: v for k, v in line.items() if k not in ("system", "split")}
        assert all(np.isfinite(value) for value in figures.values())
        if line["split"] == "dev":
            assert {"reward@1", "mean_reward", "max_reward", "span_f1", "exact_match"} <= {*line}
        else:
            assert {"loss", "gold_score", "grad_norm"} <= {*line}
    groot = [line for line in lines if (line["system"], line["split"]) == ("groot", "train")]
    assert all(line["contrast"] > 0 and 0 <= line["reward@1"] <= 1 for line in groot)
    continued = [line for line in lines if line["system"] == "nll_continued"]
    assert all(line["contrast"] == 0 for line in continued if line["split"] == "train")


@pytest.mark.slow
def test_tensorboard_events_hold_the_same_figures(trained: Path) -> None:
    for system in TOTALS:
        found = scalars(trained / "tensorboard" / system)
        for line in metrics_of(trained):
            if line["system"] == system:
                for key in {*line} - {"system", "step", "split"}:
                    tag = (f"{line['split']}/{key}".replace("@", "_"), line["step"])
                    assert found[tag] == pytest.approx(line[key], rel=1e-6)


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """(tag, step) -> value of all event files of a folder, which are TFRecords of protos."""
    found = {}
    for path in folder.iterdir():
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16  # Length, its checksum, data, its checksum.
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


@pytest.mark.slow
def test_the_best_and_the_latest_checkpoint_are_kept(trained: Path) -> None:
    for system in TOTALS:
        steps = saved_steps(trained, system)
        dev = {
            line["step"]: (line["reward@1"], line["mean_reward"], -line["step"])
            for line in metrics_of(trained)
            if (line["system"], line["split"]) == (system, "dev")
        }
        assert steps == sorted({max(dev, key=dev.__getitem__), *sorted(dev)[-2:]})


@pytest.mark.slow
def test_results_json_has_the_promised_keys(trained: Path) -> None:
    systems = json.loads((trained / "results.json").read_text())["systems"]
    assert {*TOTALS} <= {*systems}
    assert {f"{system}+{rule}" for system in TOTALS for rule in ("mbr", "threshold")} <= {*systems}
    for system in systems.values():
        test = system["test"]
        assert all(0 <= test[key] <= 1 for key in REQUIRED)
        ranks = test["reward_by_rank"]
        assert 1 <= len(ranks) <= 4 and all(0 <= reward <= 1 for reward in ranks)
        assert test["num_sentences"] == 24
        assert test["max_reward@10"] >= test["reward@1"] == pytest.approx(ranks[0])


@pytest.mark.slow
def test_evaluation_records_and_a_report_of_one_file_are_written(trained: Path) -> None:
    records = [json.loads(path.read_text()) for path in (trained / "eval").glob("*.json")]
    assert len(records) == 9 and {record["checkpoint"] for record in records} == {"best"}
    html = (trained / "report" / "index.html").read_text()
    assert [path.name for path in (trained / "report").iterdir()] == ["index.html"]
    assert all(system in html for system in TOTALS) and "running" in html
    assert status_of(trained) == "finished"


@pytest.mark.slow
def test_all_answers_are_on_file_and_give_the_figures_of_the_table(
    jobs: Jobs, trained: Path
) -> None:
    gold = [json.loads(line) for line in (jobs.corpus / "test.jsonl").read_text().splitlines()]
    results = json.loads((trained / "results.json").read_text())["systems"]
    for system in TOTALS:
        (path,) = (trained / "predictions").glob(f"{system}-test-*.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["words"] for line in lines] == [one["words"] for one in gold]
        assert [line["gold"] for line in lines] == [one["spans"] for one in gold]
        for rule in ("map", "mbr", "threshold"):
            first = [line["decided"][rule] for line in lines]
            figures = results[system if rule == "map" else f"{system}+{rule}"]["test"]
            rewards = [one["reward"] for one in first]
            assert np.mean(rewards) == pytest.approx(figures["reward@1"], abs=1e-6)
            exact = [one["spans"] == line["gold"] for one, line in zip(first, lines, strict=True)]
            assert np.mean(exact) == pytest.approx(figures["exact_match"])
            # Each span of gold and of rank 1 is in the table of types once.
            counts = figures["confusion"]["cells"]
            assert sum(same + other for gold_, _, same, other in counts if gold_) == sum(
                len(one["spans"]) for one in gold
            )
            assert sum(same + other for _, found, same, other in counts if found) == sum(
                len(one["spans"]) for one in first
            )
    (job, *_) = map(json.loads, (trained / "jobs.jsonl").read_text().splitlines())
    assert job["job"] == "train" and "--config.groot.batch_size=16" in job["command"].split()


@pytest.mark.slow
def test_the_model_learns(trained: Path) -> None:
    dev = [line for line in metrics_of(trained) if line["split"] == "dev"]
    first = next(line for line in dev if line["system"] == "nll")
    last = [line for line in dev if line["system"] == "groot"][-1]
    assert last["reward@1"] > first["reward@1"]


# ---- The same command again, and either stage alone -------------------------------------------


@pytest.mark.slow
def test_the_same_command_again_changes_no_checkpoint(
    jobs: Jobs,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workdir = tmp_path / "w"
    shutil.copytree(trained, workdir)
    before = snapshot(workdir / "checkpoints")
    opened = []
    start = Oracle.__init__

    def counted(self: Oracle, *args: Any) -> None:
        opened.append(self)
        start(self, *args)

    monkeypatch.setattr(Oracle, "__init__", counted)
    capsys.readouterr()
    jobs.run("train", workdir)
    assert len(opened) == 1
    said = capsys.readouterr().out
    assert all(f"{system}: finished before, at step {n}" in said for system, n in TOTALS.items())
    assert snapshot(workdir / "checkpoints") == before
    assert metrics_of(workdir) == metrics_of(trained)
    assert status_of(workdir) == "finished"
    results = [json.loads((w / "results.json").read_text()) for w in (workdir, trained)]
    assert timeless(results[0]) == timeless(results[1])


@pytest.mark.slow
def test_stage_0_is_skipped_where_a_checkpoint_is_given(
    jobs: Jobs, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given from where training starts; the jobs after it start elsewhere. The dropout of a stage 0
    that is done is nobody's business."""
    workdir = tmp_path / "w"
    before = snapshot(trained)
    flags = ("--config.systems=nll_continued", "--config.model.dropout=0.3")
    monkeypatch.chdir(trained.parent)
    jobs.run("train", workdir, f"--config.nll.checkpoint={trained.name}", *flags)
    assert json.loads((workdir / "config.json").read_text())["nll"]["checkpoint"] == str(trained)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(workdir / "eval")
    jobs.run("evaluate", workdir, "--config.evaluate.decide=map")
    assert {*json.loads((workdir / "results.json").read_text())["systems"]} == {
        "nll",
        "nll_continued",
    }
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["nll_continued"]
    assert_same_state(workdir, trained, "nll_continued")
    assert snapshot(trained) == before


@pytest.mark.slow
def test_stage_0_alone(jobs: Jobs, trained: Path, tmp_path: Path) -> None:
    jobs.run("train", tmp_path / "w", "--config.systems=()", "--config.evaluate.decide=map")
    assert [path.name for path in (tmp_path / "w" / "checkpoints").iterdir()] == ["nll"]
    assert_same_state(tmp_path / "w", trained, "nll")
    assert status_of(tmp_path / "w") == "finished"


@pytest.mark.slow
def test_stage_1_alone_starts_from_initial_parameters(jobs: Jobs, tmp_path: Path) -> None:
    flags = ("--config.nll.enabled=false", "--config.systems=nll_continued")
    jobs.run("train", tmp_path / "w", *flags)
    assert [path.name for path in (tmp_path / "w" / "checkpoints").iterdir()] == ["nll_continued"]
    (first, *_) = [line for line in metrics_of(tmp_path / "w") if line["split"] == "train"]
    # A sentence has some six tags of eight columns: about 12 nats where nothing was learned yet.
    assert first["gold_score"] < -8


@pytest.mark.slow
def test_without_a_test_split_dev_is_reported(jobs: Jobs, trained: Path, tmp_path: Path) -> None:
    config = jobs.argv("train", tmp_path)[1].partition(",test=")[0]
    flags = (config, f"--config.nll.checkpoint={trained}", "--config.data.test_fraction=0")
    short = ("--config.systems=nll_continued", "--config.groot.epochs=0.5")
    jobs.run("train", tmp_path / "w", *flags, *short)
    systems = json.loads((tmp_path / "w" / "results.json").read_text())["systems"]
    assert {*systems["nll_continued"]} == {"dev"}


# ---- Killed and continued ---------------------------------------------------------------------

# Trains, but kills itself as soon as a save of a step has landed, or has only begun.
KILLED = """
import os, signal, sys
from groot_jax import train
from groot_jax.training.checkpoints import Checkpoints

system, step, moment, *argv = sys.argv[1:]
save = Checkpoints.save

def save_and_die(self, at, state, meta, flight):
    save(self, at, state, meta, flight)
    if (self.folder.name, at) == (system, int(step)):
        if moment == "landed":
            self.wait()
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoints.save = save_and_die
train.main(argv)
"""


@dataclass(frozen=True)
class Continued:
    workdir: Path
    after_stage_0: Ended  # the run that was killed in stage 1
    after_stage_1: Ended  # the run to the end
    logged_at_kill: list[int]  # logged evaluations of groot when it was killed


@pytest.fixture(scope="module")
def continued(jobs: Jobs, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Continued:
    """Killed in stage 0 after a checkpoint, then in stage 1 while one is written, then ended."""
    workdir = tmp_path_factory.mktemp("killed") / "w"
    killed = []
    for system, step, moment in (("nll", "4", "landed"), ("groot", "4", "begun")):
        argv = [sys.executable, "-c", KILLED, system, step, moment, *jobs.argv("train", workdir)]
        done = subprocess.run(
            argv, env=job_environment(), capture_output=True, text=True, timeout=TIMEOUT
        )
        assert done.returncode == -9, done.stderr
        assert status_of(workdir) == "training"
        killed.append(Ended(done.returncode, done.stdout, done.stderr))
    logged = [line["step"] for line in metrics_of(workdir) if line["system"] == "groot"]
    return Continued(workdir, killed[1], jobs.call("train", workdir), logged)


@pytest.mark.slow
def test_a_killed_run_continues_from_its_latest_checkpoint(continued: Continued) -> None:
    assert "nll: continues from step 4" in continued.after_stage_0.out
    assert continued.after_stage_1.status == 0, continued.after_stage_1.err
    assert continued.after_stage_1.err == ""
    assert "nll: finished before, at step 12" in continued.after_stage_1.out
    assert "nll_continued: finished before, at step 8" in continued.after_stage_1.out
    # The save of step 4 had begun only; whether it landed is up to the disk.
    said = continued.after_stage_1.out
    assert "groot: continues from step 2" in said or "groot: continues from step 4" in said
    assert status_of(continued.workdir) == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("system", TOTALS)
def test_a_killed_run_ends_with_the_same_bits(
    continued: Continued, trained: Path, system: str
) -> None:
    assert saved_steps(continued.workdir, system) == saved_steps(trained, system)
    assert_same_state(continued.workdir, trained, system)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_metrics_and_results(
    continued: Continued, trained: Path
) -> None:
    # A save comes after the line of its updates and before that of its evaluation.
    assert continued.logged_at_kill == [2, 2, 4]
    lines = metrics_of(continued.workdir)
    assert {*Counter((i["system"], i["step"], i["split"]) for i in lines).values()} == {1}
    assert timeless(lines) == timeless(metrics_of(trained))
    results = [json.loads((w / "results.json").read_text()) for w in (continued.workdir, trained)]
    assert timeless(results[0]) == timeless(results[1])


class Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("lag", "unlabeled"), [(0, False), (2, True)])
def test_a_stop_between_evaluations_changes_no_bit_at_any_lag(
    jobs: Jobs,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lag: int,
    unlabeled: bool,
) -> None:
    """Nor with updates of unlabeled sentences between the others, or without any other."""
    stage_0 = tmp_path / "stage_0"
    shutil.copytree(trained, stage_0)
    flags: tuple[str, ...] = (
        f"--config.nll.checkpoint={stage_0}",
        "--config.systems=groot",
        f"--config.groot.lag={lag}",
        "--config.evaluate.decide=map",
        "--config.groot.eval_every=0.75",  # Evaluations at 3, 6 and 8.
    )
    systems = ("groot", "distilled") if unlabeled else ("groot",)
    if unlabeled:
        flags += (
            f"--config.systems={','.join(systems)}",
            f"--config.data.unlabeled={jobs.corpus / 'unlabeled.txt'}",
            "--config.groot.unlabeled=0.5",
            "--config.groot.expected=0.5",
            "--config.groot.pool.consensus=3",
            "--config.variants.distilled.loss.margin=0",
            "--config.variants.distilled.unlabeled=1",
            "--config.variants.distilled.teacher=policy",
        )
    jobs.run("train", tmp_path / "whole", *flags)
    advance = Monitor.advance

    def stop_at_5(self: Monitor, step: int, *args: Any) -> None:
        advance(self, step, *args)
        if step == 5:
            assert {"loss", "reward@1", "beams", "dev reward@1", "mean"} == {*args[1]}
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Monitor, "advance", stop_at_5)
        # Saved after each update: the beams of those that follow are in the checkpoint, for the
        # parameters that made them are gone.
        jobs.run("train", tmp_path / "stopped", *flags, "--config.checkpoint.every_steps=1")
    assert saved_steps(tmp_path / "stopped", "groot")[-2:] == [4, 5]
    latest = tmp_path / "stopped" / "checkpoints" / "groot" / "5"
    assert (latest / "flight").exists() == (lag > 0)
    assert status_of(tmp_path / "stopped") == "stopped"
    if not unlabeled:  # Stage 1 has a checkpoint of its own by now, and no teacher.
        shutil.rmtree(stage_0)
    jobs.run("train", tmp_path / "stopped", *flags)
    for system in systems:
        assert_same_state(tmp_path / "whole", tmp_path / "stopped", system)
    lines = [line for line in metrics_of(tmp_path / "whole") if line["split"] == "train"]
    kinds = {line["system"]: {"reward@1", "unlabeled_reward@1"} & {*line} for line in lines}
    both = {"reward@1", "unlabeled_reward@1"}
    assert kinds["groot"] == (both if unlabeled else {"reward@1"})
    assert kinds.get("distilled", both - {"reward@1"}) == both - {"reward@1"}
    same = [timeless(metrics_of(tmp_path / name)) for name in ("whole", "stopped")]
    assert same[0] == same[1]


@pytest.mark.slow
def test_both_stages_see_augmented_sentences_and_a_stop_changes_no_bit(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (jobs.corpus / "train.jsonl").read_text().splitlines()
    corpus = {tuple(json.loads(line)["words"]) for line in lines}
    new: dict[int, set[tuple[str, ...]]] = {0: set(), 1: set()}  # by seed, one a stage
    get = TrainingBatches.__getitem__

    def seen(self: TrainingBatches, step: int) -> Batch:
        batch = get(self, step)
        words = {example.sentence.words for example in batch.examples if example}
        new[self._seed] |= words - corpus
        return batch

    flags = (
        "--config.data.augment=0.7",
        "--config.systems=groot",
        "--config.nll.epochs=2",
        "--config.groot.epochs=1",
        "--config.evaluate.decide=map",
    )
    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "__getitem__", seen)
        jobs.run("train", tmp_path / "whole", *flags)
    assert len(new[0]) > 20 and len(new[1]) > 20
    # In the midst of an epoch, and before an evaluation: those are at 4 and 8, and at 2 and 4. An
    # update is shown once the next one has begun.
    advance = Monitor.advance
    for stop, saved in ((6, "nll"), (3, "groot")):

        def stop_there(self: Monitor, step: int, *args: Any, stop: int = stop) -> None:
            advance(self, step, *args)
            if step == stop:
                raise Stopped

        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Monitor, "advance", stop_there)
            jobs.run("train", tmp_path / "stopped", *flags)
        assert saved_steps(tmp_path / "stopped", saved)[-1] == stop + 1
    jobs.run("train", tmp_path / "stopped", *flags)
    for system in ("nll", "groot"):
        assert_same_state(tmp_path / "whole", tmp_path / "stopped", system)
    same = [timeless(metrics_of(tmp_path / name)) for name in ("whole", "stopped")]
    assert same[0] == same[1]


def test_a_run_compiles_one_program_a_size_and_a_second_start_none(
    jobs, tmp_path, monkeypatch, capsys
):
    steps, searches = [], []
    found = {"misses": 0, "hits": 0}  # Of the cache of compiled programs.

    class Counted:
        def __init__(self, step):
            self.step, self.sizes, self.programs = step, set(), 0
            steps.append(self)

        def __call__(self, state, data, *rest):
            self.sizes.add(tuple(leaf.shape for leaf in jax.tree.leaves(data)))
            return self.step(state, data, *rest)

        def lower(self, *args):
            return self.step.lower(*args)

        def clear_cache(self):
            self.programs = self.step._cache_size()
            self.step.clear_cache()

    def note(event, **_):
        kind = event.removeprefix("/jax/compilation_cache/cache_")
        if kind in found:
            found[kind] += 1

    def guarded(run, make=train.stages):
        """No update brings anything to the device but what is put there by name."""
        for stage in make(run):

            def updates(*at, stream=stage.updates):
                stream = stream(*at)
                while True:
                    with jax.transfer_guard("disallow"):
                        update = next(stream, None)
                    if update is None:
                        return
                    yield update

            yield dataclasses.replace(stage, updates=updates)

    def counted_search(task, *layout, make=Task.generator, **options):
        searches.append(make(task, *layout, **options))
        return searches[-1]

    monkeypatch.setattr(train, "stages", guarded)
    monkeypatch.setattr(Task, "generator", counted_search)
    monkeypatch.setattr(setup, "replication_problem", lambda *_: "too much is replicated")
    monkeypatch.setattr(setup, "_KEPT_FROM", 0.0)
    for module, name in ((nll, "jit_nll_step"), (groot, "jit_groot_step")):
        make = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, make=make: Counted(make(*args)))
    flags = (
        "--config.systems=risk,groot",  # Of other losses and rewards, and of the same programs.
        "--config.nll.epochs=1",
        "--config.groot.epochs=1",
        "--config.evaluate.decide=map",
    )
    jax.monitoring.register_event_listener(note)
    try:
        jobs.run("train", tmp_path / "first", *flags)
        first = dict(found)
        jobs.run("train", tmp_path / "second", *flags)
    finally:
        monitoring.unregister_event_listener(note)
    # A run has one search of dev and test, and one with dropout. It says once what it warns of.
    assert len(searches) == 2 * 2
    assert capsys.readouterr().err.count("warning: too much is replicated") == 2
    # The corpus fits one size of batch; bins of trees differ in number alone.
    assert [search.search._cache_size() for search in searches[::2]] == [1, 1]
    assert [len(step.sizes) for step in steps[::2]] == [1, 1]
    assert all(1 <= len(step.sizes) <= 9 for step in steps)
    assert [step.programs for step in steps] == [len(step.sizes) for step in steps]
    # A system that is done holds none of them.
    assert [step.step._cache_size() for step in steps] == [0] * len(steps)
    # What the first start asks for other tests may have compiled.
    assert found["misses"] == first["misses"] and found["hits"] > first["hits"]
