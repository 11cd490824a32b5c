"""The evaluation job: which checkpoint, which split, and the watch beside a training run."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import pytest

from groot_jax import evaluate
from groot_jax.config import job_parser, parse_job
from groot_jax.task import load_task
from groot_jax.training.checkpoints import Checkpoints, saved_steps
from groot_jax.training.status import training_ended
from tests.jobs.support import Jobs, error_of, snapshot, wait_for

SYSTEMS = ("nll", "nll_continued", "groot")


@pytest.fixture
def workdir(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run without its evaluations."""
    shutil.copytree(trained, tmp_path / "w", ignore=shutil.ignore_patterns("eval", "results.json"))
    return tmp_path / "w"


def records(workdir: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (workdir / "eval").glob("*.json")}


def best_step(workdir: Path, system: str) -> int:
    with Checkpoints(workdir, system, read_only=True) as checkpoints:
        step = checkpoints.best()
    assert step is not None
    return step


@pytest.mark.slow
def test_the_best_checkpoint_of_every_system_on_test_is_the_default(
    jobs: Jobs, trained: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.run("evaluate", workdir)
    found = records(workdir)
    steps = {system: best_step(workdir, system) for system in SYSTEMS}
    rules = ("", "+mbr", "+threshold")
    assert {*found} == {f"{s}{rule}-test-{steps[s]}" for s in SYSTEMS for rule in rules}
    assert {record["checkpoint"] for record in found.values()} == {"best"}
    # The same figures as at the end of training, in another process or not.
    before = records(trained)
    assert all(found[name]["metrics"] == before[name]["metrics"] for name in found)
    said = capsys.readouterr().out
    (row,) = (line for line in said.splitlines() if re.match(r"groot\s", line))
    assert len(re.findall(r"\d\.\d{3}", row)) == 8  # Whole figures, at any width.


@pytest.mark.slow
def test_latest_and_a_step_name_a_checkpoint(jobs: Jobs, workdir: Path) -> None:
    jobs.run("evaluate", workdir, "--checkpoint=latest", "--system=nll_continued", "--split=dev")
    assert {r["checkpoint"] for r in records(workdir).values()} == {"latest"}
    assert {*records(workdir)} >= {"nll_continued-dev-8"}
    (workdir / "report" / "index.html").unlink()
    jobs.run("evaluate", workdir, "--checkpoint=8", "--system=groot", "--split=dev")
    record = records(workdir)["groot-dev-8"]
    assert (record["checkpoint"], record["step"], record["num_sentences"]) == ("step", 8, 24)
    assert (workdir / "report" / "index.html").exists()
    # Dev figures of a step are those that training logged there.
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    place = ("groot", 8, "dev")
    (line,) = (i for i in lines if (i["system"], i["step"], i["split"]) == place)
    assert record["metrics"]["reward@1"] == pytest.approx(line["reward@1"])
    assert record["metrics"]["span_f1"] == pytest.approx(line["span_f1"])


def refusal(jobs: Jobs, capsys: pytest.CaptureFixture[str], workdir: Path, *flags: str) -> str:
    return error_of(lambda: jobs.run("evaluate", workdir, *flags), capsys)


@pytest.mark.slow
def test_what_is_not_there_is_named_with_what_is(
    jobs: Jobs, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(jobs, capsys, workdir, "--checkpoint=7", "--system=nll")
    assert "--checkpoint=7" in said and "holds steps" in said and "12" in said
    assert "--checkpoint=newest" in refusal(jobs, capsys, workdir, "--checkpoint=newest")
    said = refusal(jobs, capsys, workdir, "--system=risk")
    assert "--system=risk" in said and "nll, nll_continued, groot" in said
    assert "--system=risky" in refusal(jobs, capsys, workdir, "--system=risky", "--watch")
    assert "--split" in refusal(jobs, capsys, workdir, "--split=training")
    said = refusal(jobs, capsys, tmp_path / "none")
    assert "is not a work directory" in said and "train there first" in said
    shutil.rmtree(workdir / "checkpoints")
    said = refusal(jobs, capsys, workdir)
    assert "holds no checkpoint" in said and "run groot_jax.train first" in said
    shutil.rmtree(workdir / "task")
    assert "run groot_jax.train first" in refusal(jobs, capsys, workdir)


@pytest.mark.slow
def test_a_split_that_the_data_do_not_have_is_refused(
    jobs: Jobs, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--config.data.test=", "--config.data.test_fraction=0")
    assert "there is no test split" in refusal(jobs, capsys, workdir, *flags)


@pytest.mark.slow
def test_a_system_without_a_checkpoint_yet_does_not_stop_the_others(
    jobs: Jobs, workdir: Path
) -> None:
    shutil.rmtree(workdir / "checkpoints" / "groot")
    (workdir / "checkpoints" / "groot" / "2.orbax-checkpoint-tmp").mkdir(parents=True)
    jobs.run("evaluate", workdir)
    assert {r["system"] for r in records(workdir).values()} == {"nll", "nll_continued"}


@pytest.mark.slow
def test_other_settings_or_data_than_training_s_are_never_mixed_with_its_results(
    jobs: Jobs, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "w"
    shutil.copytree(trained, workdir)

    def own() -> dict[str, bytes]:
        paths = [workdir / "results.json", workdir / "config.json", *(workdir / "eval").iterdir()]
        return {path.name: path.read_bytes() for path in paths}

    before = own()
    decide = "--config.evaluate.decide=map"
    exact = ("--config.reward.name=exact", decide)
    for system in ("nll", "groot"):
        jobs.run("evaluate", workdir, f"--system={system}", *exact)
    (folder,) = (workdir / "other").iterdir()
    assert f"not the settings of training (reward.name): results go to {folder}" in (
        capsys.readouterr().out
    )
    systems = json.loads((folder / "results.json").read_text())["systems"]
    assert {*systems} == {"nll", "groot"}
    assert {system["test"]["reward"] for system in systems.values()} == {"exact"}
    assert (folder / "report" / "index.html").exists()
    # Other sentences under another name; then the same ones.
    moved = tmp_path / "moved.jsonl"
    lines = (jobs.corpus / "test.jsonl").read_text().splitlines(keepends=True)
    moved.write_text("".join(lines[:20]))
    jobs.run("evaluate", workdir, "--system=groot", decide, f"--config.data.test={moved}")
    assert len([*(workdir / "other").iterdir()]) == 2
    assert own() == before
    moved.write_text("".join(lines))
    jobs.run("evaluate", workdir, "--system=groot", decide, f"--config.data.test={moved}")
    assert len([*(workdir / "other").iterdir()]) == 2
    assert own() != before


@pytest.mark.slow
def test_results_can_go_elsewhere_where_the_work_directory_is_not_one_s_own(
    jobs: Jobs, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(trained)
    output = tmp_path / "mine"
    flags = ("--system=groot", "--config.evaluate.decide=map", f"--output={output}")
    jobs.run("evaluate", trained, *flags)
    assert snapshot(trained) == before
    assert {*json.loads((output / "results.json").read_text())["systems"]} == {"groot"}
    assert (output / "report" / "index.html").exists() and len(records(output)) == 1
    # With a card of the data and a line of the job, as a work directory has them.
    card, theirs = (json.loads((f / "data_card.json").read_text()) for f in (output, trained))
    assert card["splits"] == theirs["splits"]
    (job,) = map(json.loads, (output / "jobs.jsonl").read_text().splitlines())
    assert job["job"] == "evaluate" and job["versions"]["jax"] == jax.__version__
    # It holds what compares: other settings need another folder.
    exact = "--config.reward.name=exact"
    said = error_of(lambda: jobs.run("evaluate", trained, *flags, exact), capsys)
    assert f"--output={output} belongs to another config: reward.name" in said


def test_a_mistyped_reward_leaves_no_folder(
    jobs: Jobs, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = "--config.reward.name=f_1"
    said = error_of(lambda: jobs.run("evaluate", trained, flag), capsys)
    assert "there is no reward 'f_1'" in said
    assert not (trained / "other").exists()


@pytest.mark.parametrize("job", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text.lowercase", "true"),
        ("text.max_features", "10"),
        ("model.preset", "mini"),
        ("model.dropout", "0.5"),
        ("nll.epochs", "7"),
        ("groot.tau", "0.7"),
        ("data.augment", "0.7"),
    ],
)
def test_what_training_has_settled_is_not_changed_later(
    jobs: Jobs, trained: Path, capsys: pytest.CaptureFixture[str], job: str, key: str, value: str
) -> None:
    said = error_of(lambda: jobs.run(job, trained, f"--config.{key}={value}"), capsys)
    assert f"--config.{key}=" in said and "has settled it" in said and "leave it out" in said


@pytest.mark.slow
def test_the_card_of_a_run_with_unlabeled_sentences_stays_that_of_its_training(
    jobs: Jobs, workdir: Path
) -> None:
    path = workdir / "task" / "task.json"
    facts = json.loads(path.read_text())
    facts["digests"]["unlabeled"] = "0" * 32  # Evaluation does not read them.
    path.write_text(json.dumps(facts))
    path.with_name("checksums.json").unlink()  # Of the file before.
    card = workdir / "data_card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"notes": ["unlabeled: 40"]}))
    before = card.read_bytes()
    jobs.run("evaluate", workdir, "--system=nll", "--config.evaluate.decide=map")
    assert card.read_bytes() == before and not (workdir / "other").exists()


@pytest.mark.slow
def test_dev_chooses_wherever_there_is_more_than_the_likeliest(jobs: Jobs, workdir: Path) -> None:
    shutil.rmtree(workdir / "decisions")
    jobs.run("evaluate", workdir, "--system=nll", "--config.evaluate.decide=map")
    assert not (workdir / "decisions").exists()
    jobs.run("evaluate", workdir, "--system=nll", "--config.evaluate.decide=map,mbr")
    (path,) = (workdir / "decisions").iterdir()
    chosen = json.loads(path.read_text())["rule"]
    assert chosen in ("map", "mbr")
    assert {record["metrics"]["dev_chose"] for record in records(workdir).values()} == {chosen}


def test_a_work_directory_that_cannot_be_written_in_names_output(
    jobs: Jobs, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "jobs.jsonl").unlink()
    (workdir / "jobs.jsonl").mkdir()  # As root, one may write wherever a disk can be written to.
    said = error_of(lambda: jobs.run("evaluate", workdir, "--system=nll"), capsys)
    assert "jobs.jsonl could not be written" in said and "--output=FOLDER" in said


def test_how_the_model_computes_is_changed_later(jobs: Jobs, trained: Path) -> None:
    changes = {"dtype": "bfloat16", "remat": "full", "scan_layers": True}
    flags = [f"--config.model.{key}={value}" for key, value in changes.items()]
    args = parse_job(job_parser("x", "x"), jobs.argv("evaluate", trained, *flags))
    model_config = load_task(trained, args.config).model_config
    assert {key: getattr(model_config, key) for key in changes} == changes


# ---- Beside a training run --------------------------------------------------------------------


@pytest.mark.slow
def test_a_watch_scores_every_checkpoint_of_a_run_and_ends_with_it(
    jobs: Jobs, trained: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "w"
    flags = (f"--config.nll.checkpoint={trained}", "--config.checkpoint.keep=9")
    # The watch may be there first.
    with jobs.start("evaluate", workdir, "--watch", "--config.evaluate.decide=map") as watch:
        assert watch.stderr is not None
        assert watch.stderr.readline() == f"waiting for training to begin in {workdir}\n"
        jobs.run("train", workdir, *flags)
        said, err = watch.communicate()
    assert (watch.returncode, err) == (0, "")
    landed = {f"{s}-dev-{n}" for s in SYSTEMS for n in saved_steps(workdir, s)}
    assert landed == {f"{s}-dev-{n}" for s in ("nll_continued", "groot") for n in (2, 4, 6, 8)}
    # Stage 0 is another directory's, but compared with here.
    assert landed | {"nll-dev-12"} <= {*records(workdir)}
    assert all(said.count(f"groot: step {n} scored on dev") == 1 for n in (2, 4, 6, 8))
    # Not the last step: the best one.
    systems = json.loads((workdir / "results.json").read_text())["systems"]
    for system in ("nll_continued", "groot"):
        assert systems[system]["dev"]["step"] == best_step(workdir, system)


@pytest.mark.slow
def test_a_watch_says_when_training_ended_without_a_checkpoint(
    jobs: Jobs, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(workdir / "checkpoints")
    said = refusal(jobs, capsys, workdir, "--watch")
    assert f"training in {workdir} ended without a checkpoint; run groot_jax.train" in said
    assert "without a checkpoint of groot;" in refusal(
        jobs, capsys, workdir, "--watch", "--system=groot"
    )


@pytest.mark.slow
def test_a_watch_ends_when_training_was_killed(jobs: Jobs, trained: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    flags = (f"--config.nll.checkpoint={trained}", "--config.systems=nll_continued")
    with jobs.start("train", workdir, *flags) as training:
        wait_for(lambda: bool(saved_steps(workdir, "nll_continued")), training)
        assert not training_ended(workdir)
        training.send_signal(signal.SIGKILL)
        training.wait()
    assert json.loads((workdir / "status.json").read_text())["state"] == "training"
    assert training_ended(workdir)
    jobs.run("evaluate", workdir, "--watch", "--config.evaluate.decide=map")
    landed = {f"nll_continued-dev-{step}" for step in saved_steps(workdir, "nll_continued")}
    assert landed and landed == {name for name in records(workdir) if "continued" in name}


@pytest.mark.slow
def test_a_watch_passes_over_a_checkpoint_that_training_has_just_replaced(
    jobs: Jobs,
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    restore = Checkpoints.restore_params

    def too_late(self: Checkpoints, step: int, target: Any) -> Any:
        if (self.folder.name, step) == ("nll", 12):
            shutil.rmtree(self.folder / "12" / "state" / "d")
            try:
                return restore(self, step, target)
            finally:
                shutil.rmtree(self.folder / "12")
        return restore(self, step, target)

    monkeypatch.setattr(Checkpoints, "restore_params", too_late)
    monkeypatch.setattr(evaluate, "_POLL_SECONDS", 0.01)
    jobs.run("evaluate", workdir, "--watch", "--config.evaluate.decide=map")
    assert "nll: step 12 was replaced before it was read" in capsys.readouterr().out
    assert {*records(workdir)} >= {"groot-dev-8"} and "nll-dev-12" not in records(workdir)


@pytest.mark.slow
def test_a_watch_leaves_a_damaged_checkpoint_to_training(
    jobs: Jobs,
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = workdir / "checkpoints" / "nll" / "12"
    shutil.copytree(folder, workdir / "whole")
    damage = next((folder / "state" / "d").iterdir())
    damage.write_bytes(damage.read_bytes()[:-1])
    asked = []

    def training_goes_on(_: Path) -> bool:
        asked.append(1)
        if len(asked) == 4:
            folder.rename(folder.with_name("12.damaged"))
        if len(asked) == 6:
            (workdir / "whole").rename(folder)
        return len(asked) > 8

    monkeypatch.setattr(evaluate, "training_ended", training_goes_on)
    monkeypatch.setattr(evaluate, "_POLL_SECONDS", 0.01)
    flags = ("--watch", "--config.evaluate.decide=map", "--system=nll")
    jobs.run("evaluate", workdir, *flags)
    said = capsys.readouterr().out
    assert said.count("nll: step 12 is damaged, which training has to see to") == 1
    assert said.index("is damaged") < said.index("nll: step 12 scored on dev")
    assert "nll-dev-12" in records(workdir)
    # Where training ends and has left it, that is an error.
    damage.write_bytes(damage.read_bytes()[:-1])
    asked[:] = [1] * 6
    assert "nll/12 is damaged (" in refusal(jobs, capsys, workdir, *flags)
