"""The jobs as functions of Python, as in a notebook: with an event loop that runs."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, assert_type

import pytest

import groot_jax
from groot_jax import config as configs
from groot_jax.evaluation.metrics import one_by_one
from groot_jax.evaluation.results import Results
from groot_jax.reward.rewards import RewardSpec, make_reward
from tests.jobs.support import CONFIG, SETTINGS, Jobs, own_compilation_cache

WORDS = ["show", "me", "dark", "blue", "orange", "running", "shoes"]
T = TypeVar("T")

if TYPE_CHECKING:
    # What a type checker knows of the package's own names.
    assert_type(groot_jax.train("retail", "w", {"seed": 1}, split="dev"), Results)
    assert_type(groot_jax.evaluate(Path("w"), checkpoint=750), Results)
    LABELER = groot_jax.Labeler.load("w", reward="f0.5")
    assert_type(LABELER.label(["a"], k=2, decide="consensus"), groot_jax.Prediction)
    assert_type(LABELER.label(["a"]).labelings[0], groot_jax.ScoredLabeling)
    assert_type(LABELER.label(["a"]).labelings[0].labeling[0], groot_jax.Span)
    groot_jax.train("retail")  # type: ignore[call-arg]


def in_a_notebook(cell: Callable[[], T]) -> T:
    """Calls it while an event loop runs in this thread."""

    async def run() -> T:
        return cell()

    with own_compilation_cache():
        return asyncio.run(run())


@pytest.mark.slow
def test_train_and_evaluate_return_what_they_write(jobs: Jobs, tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    overrides: dict[str, object] = {}
    overrides |= dict(setting.split("=", 1) for setting in SETTINGS)
    overrides |= {"compilation_cache": jobs.cache, "systems": (), "nll.epochs": 1}
    files = ",".join(f"{split}={jobs.corpus / split}.jsonl" for split in ("train", "dev", "test"))
    results = in_a_notebook(lambda: groot_jax.train(f"{CONFIG}:{files}", workdir, overrides))
    assert results == json.loads((workdir / "results.json").read_text())
    assert {*results["systems"]["nll"]} == {"test"}
    (job,) = (workdir / "jobs.jsonl").read_text().splitlines()
    assert f"--workdir={workdir} --split=test" in json.loads(job)["command"]
    # A config that Python has made; the run is done, and nothing is scored.
    config = configs.load(f"{CONFIG}:{files}", [(k, str(v)) for k, v in overrides.items()])
    again = in_a_notebook(lambda: groot_jax.train(config, str(workdir), split="none"))
    assert again == {"systems": {}, "differences": {}, "worse": {}}
    config.groot.tau = -1.0
    with pytest.raises(groot_jax.UserError, match="groot.tau"):
        groot_jax.train(config, workdir)
    other = in_a_notebook(
        lambda: groot_jax.evaluate(workdir, {"reward.name": "exact"}, split="dev")
    )
    (folder,) = (workdir / "other").iterdir()
    assert other == json.loads((folder / "results.json").read_text())
    assert other["systems"]["nll"]["dev"]["reward"] == "exact"


def test_mistakes_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(groot_jax.UserError, match="there is no file no.py"):
        groot_jax.train("no.py", tmp_path)
    with pytest.raises(groot_jax.UserError, match="split='all'"):
        groot_jax.train("retail", tmp_path, split="all")
    with pytest.raises(groot_jax.UserError, match=r"config\.groot\.tua"):
        groot_jax.train("retail", tmp_path, {"groot.tua": 1})
    with pytest.raises(groot_jax.UserError, match="is not a work directory"):
        groot_jax.evaluate(tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_job_is_a_module_and_a_function() -> None:
    module: Any = import_module("groot_jax.train")
    assert inspect.ismodule(module) and module is getattr(groot_jax, "train")  # noqa: B009
    assert callable(module) and callable(module.main)
    assert callable(groot_jax.evaluate.main)
    assert {*groot_jax.__all__} <= {*dir(groot_jax)}
    for name in groot_jax.__all__:
        assert getattr(groot_jax, name)
    with pytest.raises(AttributeError):
        groot_jax.trian  # noqa: B018


@pytest.mark.slow
def test_a_reward_is_named_and_decides(trained: Path) -> None:
    with own_compilation_cache():
        score = one_by_one(make_reward(RewardSpec("precision")))
        given = groot_jax.Labeler.load(trained, score=score)
        named = groot_jax.Labeler.load(trained, reward="precision")
        for rule in ("mbr", "consensus"):
            assert named.label(WORDS, decide=rule) == given.label(WORDS, decide=rule)
        assert in_a_notebook(lambda: named.label(WORDS)).decide == "map"  # Dev chose for another.
        with pytest.raises(groot_jax.UserError, match="reward 'f-one'|reward.*f-one"):
            groot_jax.Labeler.load(trained, reward="f-one")
        with pytest.raises(groot_jax.UserError, match="leave one out"):
            groot_jax.Labeler.load(trained, reward="f1", score=score)
        # The work directory's own config is as it was.
        assert groot_jax.Labeler.load(trained)._task.config.reward.name == "f1"
