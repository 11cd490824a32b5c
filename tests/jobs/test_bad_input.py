"""What bad input gets: one sentence with file, line or key, status 1, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from groot_jax.command import JOBS
from groot_jax.config import load_dumped
from groot_jax.data.corpus import load_corpus
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.task import check_corpus, load_task
from groot_jax.training.checkpoints import saved_steps
from groot_jax.training.monitor import Monitor
from groot_jax.training.status import WorkdirLock
from tests.jobs.support import (
    ROOT,
    TIMEOUT,
    Jobs,
    column_lines,
    error_of,
    job_environment,
    one_error,
    wait_for,
)

GOOD = [
    {"words": ["find", "dark", "blue", "jeans"], "spans": [[1, 3, "color"], [3, 4, "product"]]},
    {"words": ["levi", "shirt"], "spans": [[0, 1, "brand"], [1, 2, "product"]]},
]
Refused = Callable[..., str]


@pytest.fixture
def refused(jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The sentence that training in tmp_path/w ends with, under some flags."""

    def run(*flags: str, job: str = "train", workdir: Path | None = None) -> str:
        if job == "predict":
            flags = (os.devnull, *flags)
        return error_of(lambda: jobs.run(job, workdir or tmp_path / "w", *flags), capsys)

    return run


def columns(path: Path, *more: str) -> Path:
    """A column file of good sentences, then the given lines."""
    blocks = ["\n".join(column_lines(item)) for item in GOOD * 40]
    path.write_text("\n\n".join(blocks) + "\n\n" + "".join(line + "\n" for line in more))
    return path


def jsonl(path: Path, *more: str) -> Path:
    lines = [json.dumps(item) for item in GOOD * 4]
    path.write_text("".join(line + "\n" for line in [*lines, *more]))
    return path


# ---- Data -------------------------------------------------------------------------------------

# What stands after 80 good sentences; the line at fault from the end; words of the message.
BAD_LINES = {
    "a line with too many columns": (["find\tO", "levi\tB-brand\tO"], 1, "columns"),
    "a line without a tag": (["find\tO", "levi"], 1, "column"),
    "a stray I-": (["find\tO", "blue\tI-color"], 1, "stray 'I-color'"),
    "a tag of no scheme": (["find\tO", "levi\tbrand"], 1, "'brand'"),
    "over the sentinel limit": (["find\tO"] * 101, 101, "101 words is over the limit of 100"),
}


@pytest.mark.parametrize("case", BAD_LINES)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_bad_line_is_named_by_file_and_line(
    refused: Refused, tmp_path: Path, case: str, split: str
) -> None:
    lines, from_end, wanted = BAD_LINES[case]
    path = columns(tmp_path / "bad.txt", *lines)
    flags = [f"--config.data.{split}={path}"]
    if split == "dev":
        flags.append(f"--config.data.train={columns(tmp_path / 'good.txt')}")
    said = refused(*flags)
    number = len(path.read_text().splitlines()) - from_end + 1
    assert f"{path}:{number}: " in said and wanted in said, said
    assert "config.data.policy=skip" in said  # What to do.
    assert not (tmp_path / "w").exists()


def test_an_unreadable_line_is_named_by_file_and_line(refused: Refused, tmp_path: Path) -> None:
    path = columns(tmp_path / "bad.txt")
    path.write_bytes(path.read_bytes() + b"caf\xe9\tO\n")
    number = len(path.read_bytes().splitlines())
    assert f"{path}:{number}: " in refused(f"--config.data.train={path}")
    for line in ('{"words": ["a"]', '{"words": ["a"], "spans": [[0, 2, "t"]]}', '{"text": "a"}'):
        path = jsonl(tmp_path / "bad.jsonl", line)
        assert f"{path}:9: " in refused(f"--config.data.train={path}")


def test_a_weight_for_a_type_that_the_data_lack_is_named(refused: Refused, tmp_path: Path) -> None:
    said = refused("--config.reward.type_weights=brnd=2")
    assert "'brnd'" in said and "brand, color, product" in said
    assert not (tmp_path / "w").exists()


def test_misaligned_seq_files_are_named_by_line(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "seq.in").write_text("find levi\nred shirt\n")
    (tmp_path / "seq.out").write_text("O B-brand\nB-color\n")
    said = refused(f"--config.data.train={tmp_path}")
    assert "seq.out:2" in said or "seq.in:2" in said
    (tmp_path / "seq.out").write_text("O B-brand\n")
    assert "seq.in" in refused(f"--config.data.train={tmp_path}")


def test_an_unknown_tag_in_dev_is_named_by_file_and_line(refused: Refused, tmp_path: Path) -> None:
    train = columns(tmp_path / "train.txt")
    dev = columns(tmp_path / "dev.txt", "find\tO", "xl\tB-size")
    said = refused(f"--config.data.train={train}", f"--config.data.dev={dev}")
    assert f"{dev}:" in said and "'size'" in said and "config.data.unknown_types=keep" in said


def test_an_empty_corpus_is_named(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("\n\n")
    for split in ("train", "dev", "test"):
        assert f"config.data.{split}: {path}" in refused(f"--config.data.{split}={path}")
    path.write_text("find\tO\nlevi\tO\n\n")
    said = refused(f"--config.data.train={path}")
    assert "config.data.train" in said and "no labeled span" in said


def test_a_dev_split_without_a_sentence_is_refused(refused: Refused, tmp_path: Path) -> None:
    train = columns(tmp_path / "train.txt")
    flags = (f"--config.data.train={train}", "--config.data.dev=")
    said = refused(*flags, "--config.data.dev_fraction=0.001")
    assert "config.data.dev" in said and "no dev sentences" in said
    said = refused(*flags, "--config.data.dev_fraction=0.999")
    assert "config.data.train" in said and "no train sentences" in said
    assert "config.data.dev" in refused(*flags, "--config.data.dev_fraction=0")


def test_a_file_that_is_not_there_is_named_with_what_is(refused: Refused, tmp_path: Path) -> None:
    columns(tmp_path / "train.txt")
    said = refused(f"--config.data.train={tmp_path / 'trian.txt'}")
    assert "config.data.train" in said and "train.txt" in said


@pytest.mark.slow
def test_skipped_sentences_are_counted_and_the_rest_is_trained_on(
    jobs: Jobs, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text((jobs.corpus / "train.jsonl").read_text() + '{"words": []}\nnonsense\n')
    flags = (f"--config.data.train={path}", "--config.data.policy=skip", "--config.systems=()")
    jobs.run("train", tmp_path / "w", *flags)
    said = capsys.readouterr().out
    assert "train: sentences skipped: 2, the first: " in said and f"{path}:65: " in said
    assert saved_steps(tmp_path / "w", "nll")[-1] == 12


def test_a_sentence_of_too_many_tokens_is_named_by_file_and_line(
    refused: Refused, tmp_path: Path
) -> None:
    long = ["find\tO", f"{'jeans' * 240}\tB-product"]
    path = columns(tmp_path / "bad.txt", *long)
    good = columns(tmp_path / "good.txt")
    number = len(path.read_text().splitlines()) - 1
    pieces = "--config.text.format=fused_sentinel"  # In aligned any word is one position.
    for split in ("train", "dev"):
        flags = (f"--config.data.train={good}", f"--config.data.{split}={path}", pieces)
        said = refused(*flags)
        assert f"{path}:{number}: " in said and "config.loader.source_buckets" in said
        assert "config.data.policy=skip" in said
        assert not (tmp_path / "w").exists()
    path.write_text("\n".join(long) + "\n")
    said = refused(f"--config.data.dev={path}", "--config.data.policy=skip", pieces)
    assert "config.data.dev: no sentence is left" in said and f"{path}:1: " in said


@pytest.mark.slow
def test_sentences_of_too_many_tokens_are_skipped_and_counted_by_every_job(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config.data.policy=skip", "--config.systems=()", "--config.nll.epochs=1"]
    flags.append("--config.text.format=fused_sentinel")  # In aligned any word is one position.
    for split in ("train", "test"):
        path = tmp_path / f"{split}.jsonl"
        path.write_text(
            json.dumps({"words": ["shirt" * 240], "spans": [[0, 1, "product"]]})
            + "\n"
            + (jobs.corpus / f"{split}.jsonl").read_text()
        )
        flags.append(f"--config.data.{split}={path}")
    jobs.run("train", tmp_path / "w", *flags)
    said = capsys.readouterr().out
    for split in ("train", "test"):
        path = tmp_path / f"{split}.jsonl"
        assert f"{split}: too long sentences skipped: 1, the first: {path}:1: " in said
    assert saved_steps(tmp_path / "w", "nll")[-1] == 4
    jobs.run("evaluate", tmp_path / "w")
    assert "nll: best step 4 scored on test" in capsys.readouterr().out


# ---- Config and work directory ----------------------------------------------------------------

BAD_FLAGS = {
    "an unknown key": ("--config.groot.tua=0.2", ["config.groot.tua", "groot.tau"]),
    "a wrong type": ("--config.groot.batch_size=many", ["config.groot.batch_size", "whole number"]),
    "a word for a switch": ("--config.nll.enabled=maybe", ["config.nll.enabled", "true or false"]),
    "an unknown choice": ("--config.text.format=fused", ["config.text.format", "fused_sentinel"]),
    "out of range": ("--config.groot.tau=0", ["config.groot.tau", "above 0"]),
    "not a number": ("--config.groot.tau=nan", ["config.groot.tau"]),
    "an unknown flag": ("--workdri=w", ["--workdri", "--workdir"]),
    "an unknown system": ("--config.systems=nll_contiued", ["nll_contiued", "nll_continued"]),
    "an unknown reward": ("--config.reward.name=f-one", ["config.reward.name", "f-one"]),
    "an unknown reported reward": (
        "--config.evaluate.rewards=f1,exat",
        ["config.evaluate.rewards", "'exat'", "did you mean 'exact'"],
    ),
    "no such module": ("--config.reward.name=no.such:reward", ["config.reward.name", "no.such"]),
    "a bucket too small": ("--config.loader.source_buckets=4", ["config.loader.source_buckets"]),
    "a mesh too large": ("--config.mesh.tensor=512", ["config.mesh", "512"]),
    "no such tokenizer": ("--config.text.tokenizer=/no/such", ["/no/such"]),
    "no such checkpoint": ("--config.nll.checkpoint=/no/such", ["config.nll.checkpoint", "such"]),
    "nothing to train": ("--config.nll.enabled=false", ["nothing to train"]),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_a_bad_setting_is_named_and_claims_no_work_directory(
    refused: Refused, tmp_path: Path, case: str
) -> None:
    flag, wanted = BAD_FLAGS[case]
    more = {
        "nothing to train": ["--config.systems=()"],
        "no such tokenizer": ["--config.text.vocab_size=2000"],
    }.get(case, [])
    said = refused(flag, *more)
    assert all(text in said for text in wanted), said
    # Whoever mends the mistake may name the same folder again.
    assert not (tmp_path / "w").exists()


def test_a_missing_or_broken_config_file_is_named(
    jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(config: Path) -> str:
        return error_of(lambda: jobs.run("train", tmp_path / "w", f"--config={config}"), capsys)

    assert "there is no file" in said(tmp_path / "none.py")
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    return oops\n")
    assert f"{path}:2: NameError" in said(path)


@pytest.mark.slow
def test_a_work_directory_of_another_config_is_left_alone(
    refused: Refused, trained: Path, jobs: Jobs, tmp_path: Path
) -> None:
    workdir = tmp_path / "begun"
    shutil.copytree(trained, workdir)
    (workdir / "train.lock").unlink()  # Is that of whoever looked last.
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    said = refused("--config.groot.tau=0.2", workdir=workdir)
    assert f"--workdir={workdir}" in said and "groot.tau is 0.3 there and 0.2 here" in said
    (workdir / "train.lock").unlink()
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before
    said = refused(workdir=jobs.corpus)
    assert "holds other files" in said and not (jobs.corpus / "config.json").exists()


@pytest.mark.slow
def test_data_that_changed_under_their_old_name_are_refused(
    trained: Path, jobs: Jobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A copy of the run that names a copy of its data.
    own = Jobs(tmp_path / "corpus", jobs.cache)
    shutil.copytree(jobs.corpus, own.corpus)
    shutil.copytree(trained, tmp_path / "w")
    config_path = tmp_path / "w" / "config.json"
    config_path.write_text(config_path.read_text().replace(str(jobs.corpus), str(own.corpus)))
    config = load_dumped(config_path)
    for split in ("train", "test"):
        path = own.corpus / f"{split}.jsonl"
        before = path.read_text()
        path.write_text("".join(reversed(before.splitlines(keepends=True))))
        for job in ("train", "evaluate"):
            said = error_of(partial(own.run, job, tmp_path / "w"), capsys)
            assert f"the {split} split does not hold the sentences" in said
        # A work directory of an earlier version holds no digests to compare with.
        shutil.copytree(tmp_path / "w", tmp_path / split)
        facts_path = tmp_path / split / "task" / "task.json"
        facts = json.loads(facts_path.read_text())
        assert {*facts.pop("digests")} == {"train", "dev", "test"}
        facts_path.write_text(json.dumps(facts))
        facts_path.with_name("checksums.json").unlink()  # Nor any sums.
        task = load_task(tmp_path / split, config)
        check_corpus(task, load_corpus(config.data), tmp_path / split)
        path.write_text(before)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"types": 3}'])
def test_a_damaged_task_is_named(
    refused: Refused, trained: Path, tmp_path: Path, text: str
) -> None:
    shutil.copytree(trained, tmp_path / "w", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "w" / "task" / "task.json").write_text(text)
    for job in ("train", "evaluate", "predict"):
        assert "task.json is not what training wrote" in refused(job=job, workdir=tmp_path / "w")


@pytest.mark.slow
def test_a_damaged_tokenizer_is_named_and_made_anew(
    refused: Refused, trained: Path, jobs: Jobs, tmp_path: Path
) -> None:
    workdir = tmp_path / "w"
    shutil.copytree(trained, workdir)
    task = workdir / "task"
    files = {path: path.read_bytes() for path in task.rglob("*") if path.is_file()}
    damaged = [path for path in files if path.parent.name == "tokenizer"]
    assert damaged
    for path in damaged:
        for text in (b"", b"{}", b"\xff\x00", files[path][: len(files[path]) // 2]):
            path.write_bytes(text)
            said = refused(job="predict", workdir=workdir)
            assert f"{task} is not what training wrote" in said, (path.name, said)
            assert f"(tokenizer/{path.name} " in said, (path.name, said)
            assert f"move {task} away and run groot_jax.train again" in said
        path.write_bytes(files[path])
    task.rename(tmp_path / "away")
    jobs.run("train", workdir)
    assert {path: path.read_bytes() for path in task.rglob("*") if path.is_file()} == files


@pytest.mark.slow
def test_a_second_training_in_a_work_directory_is_refused_and_changes_nothing(
    refused: Refused, trained: Path, tmp_path: Path
) -> None:
    begun, new = tmp_path / "begun", tmp_path / "new"
    shutil.copytree(trained, begun)
    new.mkdir()
    for workdir in (begun, new):
        with WorkdirLock(workdir) as lock:
            lock.take()
            before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
            said = refused(workdir=workdir)
            assert f"--workdir={workdir} is being trained in by another process" in said
            assert f"pid {os.getpid()} on" in said
            assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("parent", ["file", "/sys", "/proc"])
def test_a_work_directory_that_cannot_be_written_is_named(
    refused: Refused, tmp_path: Path, parent: str
) -> None:
    # Not even root may make a folder in these.
    if parent == "file":
        (tmp_path / "file").write_text("")
    elif not Path(parent).is_dir():
        pytest.skip(f"no {parent} here")
    folder = (tmp_path / "file" if parent == "file" else Path(parent)) / "groot"
    assert f"--workdir={folder}" in refused(workdir=folder)


@pytest.mark.slow
def test_a_stage_0_of_another_vocabulary_is_not_started_from(
    refused: Refused, trained: Path, jobs: Jobs, tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text((jobs.corpus / "train.jsonl").read_text().replace("jeans", "skirt"))
    flags = (f"--config.nll.checkpoint={trained}", "--config.data.unknown_types=keep")
    said = refused(*flags, f"--config.data.train={path}")
    assert "config.nll.checkpoint" in said and "another vocabulary" in said
    more = ("--config.text.format=tag_only", "--config.loader.target_buckets=24")
    said = refused(*flags, *more)
    assert "config.nll.checkpoint" in said and "another" in said
    said = refused(f"--config.nll.checkpoint={trained}", "--config.systems=()")
    assert "nothing to train" in said


def test_a_training_set_without_a_span_left_is_named(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    nothing = {"words": ["find", "it"], "spans": []}
    path.write_text("".join(json.dumps(item) + "\n" for item in [GOOD[0], *[nothing] * 99]))
    keep = "--config.data.unknown_types=keep"
    said = refused(f"--config.data.train={path}", "--config.data.train_limit=1", keep)
    assert "no labeled span" in said and "config.data.train_limit" in said


def test_flags_that_would_not_be_read_are_refused(refused: Refused, trained: Path) -> None:
    said = refused("--reward=exact", job="predict", workdir=trained)
    assert "--reward=exact is for --decide=consensus or mbr" in said
    said = refused("--watch", "--checkpoint=latest", job="evaluate", workdir=trained)
    assert "--checkpoint=latest names one, but --watch scores all" in said


@pytest.mark.slow
def test_a_missing_checkpoint_is_named(
    refused: Refused, trained: Path, tmp_path: Path, jobs: Jobs
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("checkpoints"))
    for job in ("evaluate", "predict"):
        said = refused(job=job, workdir=copy)
        assert f"{copy / 'checkpoints'} holds no checkpoint; run groot_jax.train first" in said
    said = refused(f"--config.nll.checkpoint={copy}")
    assert f"{copy} holds no checkpoint of stage 0" in said
    assert not (copy / "checkpoints").exists()


# ---- As a process: status, one line, no traceback ---------------------------------------------


@pytest.mark.slow
def test_a_process_exits_with_status_1_and_one_line(jobs: Jobs, tmp_path: Path) -> None:
    bad = columns(tmp_path / "bad.txt", "find\tO", "blue\tI-color")
    for job, flags in [
        ("train", [f"--config.data.train={bad}"]),
        ("train", ["--config.groot.tua=0.2"]),
        ("evaluate", []),
        ("predict", ["--config.generate.k=ten"]),
    ]:
        done = jobs.call(job, tmp_path / "w", *flags)
        assert (done.status, done.out) == (1, "")
        one_error(done.err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupt_keeps_the_checkpoint_and_says_how_to_go_on(
    jobs: Jobs, tmp_path: Path, number: int, status: int, word: str
) -> None:
    workdir = tmp_path / "w"
    with jobs.start("train", workdir, "--config.systems=()") as process:
        wait_for(lambda: bool(saved_steps(workdir, "nll")), process)
        process.send_signal(number)
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status
    assert err == f"{word}; run the same command again to continue\n"
    assert saved_steps(workdir, "nll")
    # A save under way has landed.
    assert not [p for p in (workdir / "checkpoints" / "nll").iterdir() if "tmp" in p.name]
    assert json.loads((workdir / "status.json").read_text())["state"] == "stopped"


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupt_that_python_drops_comes_again(number: int, status: int, word: str) -> None:
    """What a signal raises in a callback of the garbage collector, as in JAX's, is ignored."""
    program = f"""
import gc, os, time
from groot_jax.errors import exit_on_user_error

def callback(phase, info):
    if phase == "start" and not sent:
        sent.append(os.kill(os.getpid(), {int(number)}))
        time.sleep(0.01)

def main():
    gc.callbacks.append(callback)
    gc.collect()
    print("went on", flush=True)
    time.sleep(60)

sent = []
exit_on_user_error(main, "; go on")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, cwd=ROOT
    )
    assert done.stdout == "went on\n"  # Else nothing was dropped.
    assert (done.returncode, done.stderr) == (status, f"{word}; go on\n")


# Preflight reads its command line before it imports what is slow, and verify needs no JAX.
@pytest.mark.parametrize("job", [job for job in JOBS if job not in ("preflight", "verify")])
def test_an_interrupt_while_a_job_still_imports_is_one_word(tmp_path: Path, job: str) -> None:
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-m", f"groot_jax.{job}", "--workdir=w"],
        env=job_environment() | {"PYTHONPATH": paths},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "interrupted\n")


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_a_job_without_a_word(jobs: Jobs, trained: Path) -> None:
    with jobs.start("predict", trained, stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write("find levi jeans\n")
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


# ---- A user's reward --------------------------------------------------------------------------

REWARDS = """
import os, time

def leaves(candidate, gold, words):
    os._exit(0)

def raises(candidate, gold, words):
    raise KeyError("price")

def nan(candidate, gold, words):
    return float("nan")

def hangs(candidate, gold, words):
    while True:
        time.sleep(60)

def early(candidate, gold):
    return not candidate or not gold or candidate == gold

def later_raises(candidate, gold, words):
    return 1.0 if early(candidate, gold) else raises(candidate, gold, words)

def later_nan(candidate, gold, words):
    return 1.0 if early(candidate, gold) else nan(candidate, gold, words)

def later_hangs(candidate, gold, words):
    return 1.0 if early(candidate, gold) else hangs(candidate, gold, words)

def divides(candidate, gold, words):
    return len(set(candidate) & set(gold)) / len(candidate)

def divides_by_gold(candidate, gold, words):
    return len(set(candidate) & set(gold)) / len(gold)

def lists(candidates, golds, words):
    return [float(c == g) for c, g in zip(candidates, golds)]

def scalar(candidate, gold, words):
    return float(candidate == gold)
"""
FAULTS = {
    "raises": ["raised KeyError", "price", "tiny_rewards.py:8"],
    "nan": ["returned nan", "no number in [0, 1]"],
    "hangs": ["was not back after 0.5 seconds", "config.reward.deadline"],
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_reward_ends_training_with_its_name_and_the_sentence(
    jobs: Jobs, trained: Path, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "tiny_rewards.py").write_text(REWARDS)
    workdir = tmp_path / "w"
    name = f"tiny_rewards:later_{fault}"
    flags = [
        f"--config.nll.checkpoint={trained}",
        "--config.systems=groot",
        f"--config.reward.name={name}",
        "--config.reward.deadline=0.5",
        "--config.reward.workers=2",
        "--config.data.augment=0",  # The sentence that is named stands in the file.
    ]
    done = jobs.call("train", workdir, *flags, cwd=tmp_path)
    assert done.status == 1
    said = one_error(done.err)
    assert f"reward '{name}', called for the sentence" in said
    assert all(text in said for text in FAULTS[fault]), said
    sentences = [
        " ".join(json.loads(line)["words"])
        for line in (jobs.corpus / "train.jsonl").read_text().splitlines()
    ]
    assert any(f'"{sentence}"' in said for sentence in sentences)
    status = json.loads((workdir / "status.json").read_text())
    assert status["state"] == "stopped"
    assert saved_steps(workdir, "groot") == []
    assert not children_of(status["pid"])


SERVICE = """
import json, os

SENTENCE = tuple(json.loads(open("dev.jsonl").readline())["words"])

def service(candidate, gold, words):
    if words == SENTENCE and candidate != gold: raise KeyError("price")
    # From the first evaluation on it is away.
    if '"dev"' in (open("w/metrics.jsonl").read() if os.path.exists("w/metrics.jsonl") else ""):
        raise ConnectionError("service is away")
    return len(set(candidate) & set(gold)) / max(len(set(candidate) | set(gold)), 1)
service.in_job = True
"""


@pytest.mark.slow
def test_a_service_that_goes_away_ends_a_training_that_drops_candidates_after_a_save(
    jobs: Jobs,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "dropping_service.py").write_text(SERVICE)
    shutil.copy(jobs.corpus / "dev.jsonl", tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = [
        f"--config.nll.checkpoint={trained}",
        "--config.systems=groot",
        "--config.reward.name=dropping_service:service",
        "--config.reward.workers=0",
        "--config.reward.retries=0",
        "--config.reward.on_error=drop",
    ]
    with pytest.raises(UserError, match=r"were dropped after errors, more than.*max_dropped=0\.1"):
        jobs.run("train", tmp_path / "w", *flags)
    lines = map(json.loads, (tmp_path / "w" / "metrics.jsonl").read_text().splitlines())
    # The one evaluation says how many count as 0, and no other came after it.
    (dev,) = (line for line in lines if line["split"] == "dev")
    assert 1 <= dev["dropped"] <= 9 and "abstained" not in dev
    assert f"{dev['dropped']:.0f} were dropped" in capsys.readouterr().err
    assert saved_steps(tmp_path / "w", "groot")[-1] >= dev["step"]


@pytest.mark.parametrize("key", ["reward.name", "evaluate.rewards"])
@pytest.mark.parametrize("fault", [*FAULTS, "leaves"])
def test_a_bad_reward_is_found_before_anything_is_trained(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, key: str
) -> None:
    (tmp_path / "early_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    said = refused(
        f"--config.{key}=early_rewards:{fault}",
        "--config.reward.deadline=0.5",
        "--config.reward.retries=0",
        "--config.reward.workers=1",
    )
    assert f"reward 'early_rewards:{fault}', called for the sentence" in said
    assert all(text.replace("tiny", "early") in said for text in FAULTS.get(fault, [])), said
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("name", "batch", "said"),
    [
        ("divides", False, "raised ZeroDivisionError"),
        ("divides_by_gold", False, "raised ZeroDivisionError"),
        ("lists", False, "a function of lists wants config.reward.batch=true"),
        ("scalar", True, "returned 1 values for 3 candidates"),
    ],
)
def test_a_reward_is_tried_with_what_training_will_bring(
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    batch: bool,
    said: str,
) -> None:
    (tmp_path / "tried_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    assert said in refused(
        f"--config.reward.name=tried_rewards:{name}",
        f"--config.reward.batch={batch}",
        "--config.reward.workers=1",
    )
    assert not (tmp_path / "w").exists()


def children_of(pid: int) -> list[str]:
    """Scoring processes are given the job's process id as their last argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"groot_jax.reward.worker" in words and str(pid).encode() in words:
            found.append(path.parent.name)
    return found


# ---- A full disk ------------------------------------------------------------------------------


# Stage 0 alone, of a model whose checkpoint is larger than all else in a work directory.
LARGER = ("--config.model.preset=nano", "--config.systems=()")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many MiB; skips where that is not allowed."""
    mounted = []

    def mount(size: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("only root may mount a file system here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_training_on_a_full_disk_keeps_what_was_saved_and_goes_on_when_there_is_room(
    jobs: Jobs, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(40)
    workdir = disk / "w"
    # Room for one checkpoint of 7 MiB and a half beside this.
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * (27 * 2**20))
    flags = LARGER
    done = jobs.call("train", workdir, *flags)
    assert done.status == 1
    said = one_error(done.err)
    assert "the disk is full" in said and "run the same command again" in said
    assert str(workdir / "checkpoints" / "nll") in said
    assert saved_steps(workdir, "nll") == [4]
    ballast.unlink()
    done = jobs.call("train", workdir, *flags)
    assert (done.status, done.err) == (0, "")
    assert "nll: continues from step 4" in done.out


def test_a_disk_that_is_full_from_the_start_is_named(
    refused: Refused, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(1)
    ballast = disk / "ballast"
    for room in (0, 20 * 2**10):  # For nothing, for the config alone.
        with ballast.open("wb") as file:
            file.write(b"\0" * (2**20 - room))
        said = refused(workdir=disk / "w")
        assert "No space left" in said and str(disk / "w") in said, said
        ballast.unlink()


@pytest.mark.slow
def test_a_save_that_meets_the_end_of_the_disk_says_so(
    jobs: Jobs, small_disk: Callable[[int], Path]
) -> None:
    """As above, but found out by the writing itself: others fill a disk, too."""
    workdir = small_disk(5) / "w"
    code = (
        "import sys; from groot_jax import train; from groot_jax.errors import exit_on_user_error\n"
        "from groot_jax.training.checkpoints import Checkpoints\n"
        "Checkpoints.check_writable = lambda *_: None; exit_on_user_error(train.main)"
    )
    argv = [sys.executable, "-c", code, *jobs.argv("train", workdir, *LARGER)]
    done = subprocess.run(argv, env=job_environment(), capture_output=True, text=True)
    assert done.returncode == 1
    said = one_error(done.stderr)
    assert "the disk is full" in said or "No space left" in said
    assert saved_steps(workdir, "nll") == []


@pytest.mark.slow
def test_a_file_that_may_not_grow_ends_the_run_in_one_sentence(jobs: Jobs, tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, 2**21))\n"
        "from groot_jax import train; from groot_jax.errors import exit_on_user_error\n"
        "exit_on_user_error(train.main)"
    )
    argv = [sys.executable, "-c", code, *jobs.argv("train", workdir, *LARGER)]
    done = subprocess.run(argv, env=job_environment(), capture_output=True, text=True)
    assert done.returncode == 1
    said = one_error(done.stderr)
    assert str(workdir / "checkpoints" / "nll") in said and "earlier checkpoints are whole" in said


@pytest.mark.slow
def test_metrics_that_cannot_be_written_end_the_run_with_their_file(
    jobs: Jobs,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workdir = tmp_path / "w"
    flags = (f"--config.nll.checkpoint={trained}", "--config.systems=nll_continued")
    log = Monitor.log

    class Full:
        def write(self, *_: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        flush = close = write

    def full_at_4(self: Monitor, step: int, *args: Any) -> None:
        if step == 4:
            self._file.close()
            self._file = Full()  # type: ignore[assignment]
        log(self, step, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "log", full_at_4)
        said = error_of(lambda: jobs.run("train", workdir, *flags), capsys)
    assert str(workdir / "metrics.jsonl") in said and "No space left" in said
    # The state was saved before the evaluation that failed, with which training goes on.
    assert saved_steps(workdir, "nll_continued") == [2, 4]
    lines = [json.loads(i) for i in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [(i["step"], i["split"]) for i in lines] == [(2, "train"), (2, "dev")]


def test_any_other_write_to_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file")

    assert error_of(fail, capsys).startswith("error: /some/file: No space left on device")


def test_a_message_of_many_lines_is_printed_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError("first\nsecond")

    assert error_of(fail, capsys) == "error: first second"


def traceback_of(run: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        exit_on_user_error(run)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and "error: " not in said
    return said


def test_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    assert traceback_of(fail, capsys).endswith("ZeroDivisionError\n")


def test_no_memory_left_on_a_device_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(lambda: jnp.zeros(1 << 46).block_until_ready(), capsys)
    assert line.startswith(
        "error: the device has no memory left (262144.00 GiB more were asked for)"
    )
    for advice in ("batch_size", "groot.accumulate", "model.remat", "groot_jax.preflight"):
        assert advice in line


def test_a_gpu_says_it_in_units(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        text = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3.00GiB."
        raise jax.errors.JaxRuntimeError(text)

    assert "(3.00GiB more were asked for)" in error_of(fail, capsys)


def test_another_error_of_a_device_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: something else, RESOURCE")

    assert "INTERNAL: something else, RESOURCE" in traceback_of(fail, capsys)


def test_a_terminal_that_lacks_letters_and_the_log_of_xla(tmp_path: Path) -> None:
    config = tmp_path / "own.py"
    config.write_text(
        "import os\nraise ValueError('caf\u00e9 ' + os.environ['TF_CPP_MIN_LOG_LEVEL'])\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "groot_jax.train", f"--config={config}", f"--workdir={tmp_path}/w"],
        env=job_environment() | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    # XLA's log is silent below FATAL, unless the user has set a level.
    assert done.stderr == f"error: {config}:2: ValueError: caf\\xe9 3\n"
