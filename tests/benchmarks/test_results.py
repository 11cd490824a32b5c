"""The tables of benchmarks/results.py over several seeds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.results import COLUMNS, over_seeds, seed_groups, seeds_table


def workdir(folder: Path, seed: int, figure: float, tau: float = 0.3) -> Path:
    folder.mkdir()
    config = {
        "seed": seed,
        "reward": {"name": "f1"},
        "nll": {"checkpoint": f"stage_0/{seed}"},
        "groot": {"tau": tau},
    }
    test = {key: figure for key, _ in COLUMNS}
    results = {
        "systems": {"groot": {"test": test}, "nll": {"test": test} if seed < 2 else {}},
        "differences": {
            "baseline": "nll_continued",
            "test": {"groot": {"mean_reward@10": {"difference": figure / 10}}},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_seeds_of_one_config_are_put_together_with_mean_and_deviation(tmp_path: Path) -> None:
    seeds = [workdir(tmp_path / f"s{n}", n, 0.5 + 0.1 * n) for n in range(3)]
    others = [workdir(tmp_path / "cold", 0, 0.9, tau=0.1), workdir(tmp_path / "same", 0, 0.5)]
    assert seed_groups([seeds[0], others[0], *seeds[1:]]) == [seeds]
    assert seed_groups([seeds[0], *others]) == []
    text = seeds_table(seeds)
    assert "seeds 0, 1, 2" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| groot |"))
    assert row.count("0.600 ± 0.100") == len(COLUMNS) and "+0.060 ± 0.010" in row
    # A system that not every seed has is left out.
    assert "| nll |" not in text


def test_seeds_are_summarised_number_by_number() -> None:
    runs = [
        {
            "reward@1": 0.5,
            "reward_by_rank": [0.5, 0.25],
            "by_type": {"a": {"f1": 1.0}},
            "reward": "f1",
        },
        {"reward@1": 0.7, "reward_by_rank": [0.7], "by_type": {"a": {"f1": 0.0}, "b": {"f1": 1}}},
    ]
    summary = over_seeds(runs)
    assert summary["reward@1"] == pytest.approx({"mean": 0.6, "std": math.sqrt(0.02), "n": 2})
    assert len(summary["reward_by_rank"]) == 1
    assert list(summary["by_type"]) == ["a"]
    assert "reward" not in summary
    assert over_seeds(runs[:1])["reward@1"] == {"mean": 0.5, "std": None, "n": 1}
