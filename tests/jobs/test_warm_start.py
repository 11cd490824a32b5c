"""A run that goes on from a labeler: what stays, what grows, and what is refused."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax import warm_start
from groot_jax.data.corpus import load_corpus
from groot_jax.errors import UserError
from groot_jax.model.config import preset
from groot_jax.model.t5 import init_params
from groot_jax.task import Task, initial_params, load_task, make_task, resolve_format, save_task
from groot_jax.trained import load_trained
from groot_jax.training.checkpoints import saved_steps
from groot_jax.training.pretraining import make_pretrain_task
from tests.jobs.support import ITS_OWN, SETTINGS, Jobs, sentence, state_of, write_jsonl


@pytest.fixture(scope="module")
def more_types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of the jobs with two types more, and one less: no brands."""
    rng = random.Random(5)
    items = []
    for _ in range(40):
        item = sentence(rng)
        item["spans"] = [span for span in item["spans"] if span[2] != "brand"]
        start = len(item["words"])
        item["words"] += ["size", "nine", "today"]
        item["spans"] += [[start, start + 2, "size"], [start + 2, start + 3, "due_date"]]
        items.append(item)
    return write_jsonl(tmp_path_factory.mktemp("more") / "train.jsonl", items)


def config_of(workdir: Path, train: Path, **changes: Any) -> ConfigDict:
    """As the command line makes it: `model__init=...` for model.init."""
    settings = dict(setting.split("=", 1) for setting in SETTINGS)
    settings |= dict(flag.removeprefix("--config.").split("=", 1) for flag in ITS_OWN)
    settings |= {"loader.target_buckets": "16", "model.init": str(workdir)}
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    return configs.load(f"configs/columns.py:train={train},dev={train}", list(settings.items()))


def task_of(config: ConfigDict) -> Task:
    return make_task(config, load_corpus(config.data, config.text.max_words))


def test_parameters_stay_and_new_types_get_rows(trained: Path, more_types: Path) -> None:
    task = task_of(config_of(trained, more_types))
    theirs = load_trained(trained)
    old = theirs.task.format
    assert task.format.name == old.name == "aligned"
    assert task.format.types == ("color", "due_date", "product", "size")
    # What was learned keeps its ids.
    for tag in ("O", "I", "color", "product"):
        assert task.format.tags[tag] == old.tags[tag]
    words = ["show", "me", "dark", "blue", "jeans"]
    assert task.format.source(words) == old.source(words)
    new = [task.format.tags[type_][0] for type_ in ("due_date", "size")]
    assert new == [old.tokenizer.vocab_size, old.tokenizer.vocab_size + 1]
    assert task.start == (theirs.system, theirs.step)
    ours = flatten_dict(initial_params(task))
    before = flatten_dict(theirs.params)
    table = ours.pop(("shared", "embedding"))
    known = np.asarray(before.pop(("shared", "embedding")))
    assert ours.keys() == before.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=str(key))
    np.testing.assert_array_equal(table[: new[0]], known[: new[0]])
    # They begin as a type like any other: with the mean and the spread of those that there are.
    types = known[[old.tags[type_][0] for type_ in old.types]]
    assert 0 < np.abs(table[new] - types.mean(0)).max() <= 5 * types.std(0).max()
    assert not np.array_equal(table[new[0]], table[new[1]])


def test_a_new_type_gets_a_column_of_a_head_of_its_own(trained: Path, more_types: Path) -> None:
    task = task_of(config_of(trained, more_types))
    old = load_trained(trained).task.format
    config = preset("nano", "v1_1", task.model_config.vocab_size)
    theirs = jax.device_get(init_params(config, 0))
    earlier = SimpleNamespace(format=old, params=lambda: theirs)
    ours = warm_start.grown_params(cast(warm_start.Earlier, earlier), task.format, config)
    known, head = theirs["lm_head"]["kernel"], ours["lm_head"]["kernel"]
    new = [task.format.tags[type_][0] for type_ in ("due_date", "size")]
    changed = np.flatnonzero((head != known).any(0))
    np.testing.assert_array_equal(changed, sorted(new))
    types = known[:, [old.tags[type_][0] for type_ in old.types]].T
    assert (np.abs(head[:, new].T - types.mean(0)) <= 5 * types.std(0)).all()


def test_what_it_started_from_is_settled_once(
    trained: Path, more_types: Path, tmp_path: Path
) -> None:
    """A labeler that is trained further meanwhile has another best checkpoint."""
    step = saved_steps(trained, "nll")[-1]
    config = config_of(
        trained, more_types, model__init_system="nll", model__init_checkpoint=str(step)
    )
    task = task_of(config)
    save_task(task, tmp_path)
    again = load_task(tmp_path, config)
    assert again.start == task.start == ("nll", step)
    earlier = warm_start.labeler_of(config.model, ("nll", step + 1))
    assert earlier is not None
    with pytest.raises(UserError, match=f"holds no step {step + 1} any more"):
        earlier.params()
    wanted = state_of(trained, "nll")
    name = "['params']['encoder']['final_layer_norm']['weight']"
    ours = initial_params(again)["encoder"]["final_layer_norm"]["weight"]
    np.testing.assert_array_equal(ours, wanted[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text__format": "sentinel_tag"}, "text.format is sentinel_tag.*writes aligned"),
        ({"text__lowercase": "true"}, "text.lowercase is true.*as they are"),
        ({"text__tokenizer": "elsewhere"}, "text.tokenizer is 'elsewhere'.*leave it at auto"),
        ({"model__normalise": "full"}, "model.normalise is full.*trained with legal"),
        ({"model__init_system": "risk"}, "init_system=risk.*holds nll, nll_continued, groot"),
        ({"model__init_checkpoint": "999"}, "init_checkpoint=999.*holds steps"),
        ({"model__init_checkpoint": "first"}, "can be best, latest or a step"),
        ({"model__preset": "mini"}, "model.preset is 'mini'.*a model from scratch"),
        ({"model__encoder_layers": "2"}, "how many layers"),
    ],
)
def test_settings_that_do_not_go_with_it(
    trained: Path, more_types: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        task_of(config_of(trained, more_types, **changes))


def test_a_type_may_not_change_how_another_is_written(trained: Path, tmp_path: Path) -> None:
    """`due_date` is written `due date`, until a type `due.date` would be written so, too."""
    items = [{"words": ["red", "jeans"], "spans": [[0, 1, "due_date"], [1, 2, "color"]]}] * 3
    first = task_of(config_of(trained, write_jsonl(tmp_path / "b.jsonl", items)))
    earlier = warm_start.labeler_of(first.config.model)
    assert earlier is not None
    theirs = warm_start.Earlier(
        earlier.workdir, earlier.settings, earlier.config, first.format, first.model_config, None
    )
    items = [{"words": ["red", "jeans"], "spans": [[0, 1, "due_date"], [1, 2, "due.date"]]}] * 3
    second = task_of(config_of(trained, write_jsonl(tmp_path / "c.jsonl", items)))
    with pytest.raises(UserError, match=r"'due_date' would be written 'due_date'.*'due date'"):
        warm_start.check(theirs, second.config, second.format)


def test_a_labeler_is_read_once_and_again_when_its_files_change(
    trained: Path, more_types: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "task", tmp_path / "w" / "task")
    shutil.copy(trained / "config.json", tmp_path / "w")
    (tmp_path / "w" / "checkpoints").symlink_to(trained / "checkpoints")
    read: list[Path] = []

    def counted(workdir: Path, config: ConfigDict) -> Task:
        read.append(workdir)
        return load_task(workdir, config)

    monkeypatch.setattr("groot_jax.task.load_task", counted)
    task_of(config_of(tmp_path / "w", more_types))
    assert read == [tmp_path / "w"]
    os.utime(tmp_path / "w" / "task" / "task.json", ns=(1, 1))
    task_of(config_of(tmp_path / "w", more_types))
    assert len(read) == 2


def test_without_a_labeler_its_keys_are_refused(more_types: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no labeler's work directory"):
        resolve_format(config_of(tmp_path, more_types, model__init_system="groot"))
    assert warm_start.labeler_of(config_of(tmp_path, more_types).model) is None


def test_a_labeler_is_not_pretrained_on(trained: Path, more_types: Path) -> None:
    from groot_jax.data.text import Text

    config = config_of(trained, more_types)
    with pytest.raises(UserError, match=r"would forget its labels"):
        make_pretrain_task(config, Text((), (), ()))


@pytest.mark.slow
def test_trained_for_f1_and_on_for_another_reward(
    jobs: Jobs, trained: Path, tmp_path: Path
) -> None:
    """Stage 1 alone, from where the labeler is; the work directory then needs it no more."""
    flags = (
        *ITS_OWN,
        f"--config.model.init={trained}",
        "--config.nll.enabled=false",
        "--config.reward.name=f0.5",
        "--config.systems=groot",
        "--config.groot.epochs=0.5",
    )
    jobs.run("train", tmp_path / "w", *flags)
    assert saved_steps(tmp_path / "w", "groot")
    jobs.run("train", tmp_path / "w", *flags)
    task = load_trained(tmp_path / "w").task
    assert task.start == (load_trained(trained).system, load_trained(trained).step)
