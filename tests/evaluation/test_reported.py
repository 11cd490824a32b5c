"""Users' functions among the rewards that a report shows: guarded as that of training is."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from groot_jax.config import default_config
from groot_jax.data.labeling import Span
from groot_jax.errors import UserError
from groot_jax.evaluation.recorder import reported_rewards

GOLD = (Span(0, 1, "A"), Span(2, 3, "B"))
TRIPLES = [(GOLD[:n], GOLD, (f"s{n}", "w", "w")) for n in (1, 2, 0)]
FUNCTIONS = """
import os, time
HERE = os.path.dirname(os.path.abspath(__file__))

def share(candidate, gold, words): return len(candidate) / 4

def leaves_once(candidate, gold, words):
    try:
        os.close(os.open(os.path.join(HERE, "left"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return len(candidate) / 4
    os._exit(0)

def leaves(candidate, gold, words):
    if words[0] == "s2": os._exit(0)
    return 0.5

def hangs(candidate, gold, words):
    if words[0] == "s2": time.sleep(60)
    return 0.5

def interrupts(candidate, gold, words): raise KeyboardInterrupt

def abstains(candidate, gold, words): return None if words[0] == "s2" else 0.5

def where(candidate, gold, words): return float(os.getpid() == JOB)

def where_it_may(candidate, gold, words): return where(candidate, gold, words)
where_it_may.in_job = True
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    Path(f"reported_{tmp_path.name}.py").write_text(f"JOB = {os.getpid()}\n{FUNCTIONS}")
    config = default_config()
    config.reward.workers, config.reward.retries, config.reward.deadline = 1, 0, 0.5
    return config


def scores(config: ConfigDict, tmp_path: Path, function: str) -> list[float]:
    name = f"reported_{tmp_path.name}:{function}"
    config.evaluate.rewards = f"f1, {name}, exact, {name},"
    with reported_rewards(config) as found:
        # That of training is not among them.
        assert [*found] == [name, "exact"]
        assert found["exact"](TRIPLES) == [0.0, 1.0, 0.0]
        return [*found[name](TRIPLES)]


def test_they_have_processes_of_their_own_unless_they_say_otherwise(
    config: ConfigDict, tmp_path: Path
) -> None:
    threads = threading.active_count()
    assert scores(config, tmp_path, "share") == [0.25, 0.5, 0.0]
    assert scores(config, tmp_path, "where") == [0.0] * 3
    config.reward.workers = 0
    assert scores(config, tmp_path, "where_it_may") == [1.0] * 3
    assert threading.active_count() == threads


def test_a_process_that_leaves_is_replaced_and_none_is_no_reward(
    config: ConfigDict, tmp_path: Path
) -> None:
    config.reward.retries = 1
    assert scores(config, tmp_path, "leaves_once") == [0.25, 0.5, 0.0]
    assert scores(config, tmp_path, "abstains") == [0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("leaves", r"\"s2 w w\".*ended its scoring process \(exit status 0\)"),
        ("hangs", r"\"s2 w w\".*not back after 0.5 seconds"),
        ("interrupts", "raised KeyboardInterrupt"),
        ("absent", "config.evaluate.rewards: module .* has no function 'absent'"),
    ],
)
def test_one_that_fails_ends_in_a_sentence(
    config: ConfigDict, tmp_path: Path, function: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        scores(config, tmp_path, function)


def test_processes_that_do_not_score_start_none(config: ConfigDict) -> None:
    config.evaluate.rewards = "no_such_module_z:f"
    with reported_rewards(config, main=False) as found:
        assert found == {}


def test_an_error_inside_the_block_is_told_as_it_is(config: ConfigDict) -> None:
    config.evaluate.rewards = "exact"
    with pytest.raises(UserError, match=r"^config\.reward\.name: no$"), reported_rewards(config):
        raise UserError("config.reward.name: no")
