"""benchmarks/contrast.py: which change is kept, and which runs it asks for."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import contrast, ideas
from groot_jax.config import load

#             map,  consensus, mean@10, max@10: differences from the defaults
BETTER = (-0.010, 0.002, -0.005, -0.005)  # map alone is not what is decided by
LEVEL = (0.010, 0.000, 0.050, 0.001)


@pytest.mark.parametrize(
    ("sets", "kept"),
    [
        ([BETTER, BETTER], True),
        ([BETTER, LEVEL], True),  # .001 in the mean
        ([LEVEL, LEVEL], False),  # a longer list is not what is asked
        ([(0.0, 0.010, 0.0, 0.0), (0.0, -0.002, 0.0, 0.0)], False),  # costs one set too much
        ([(0.0, 0.010, -0.006, 0.0), BETTER], False),  # costs the list
        ([(0.0, 0.010, 0.0, -0.006), BETTER], False),  # costs the best of ten
    ],
)
def test_what_is_kept(sets, kept):
    assert contrast.kept(np.array(sets)) is kept


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch, capsys):
    """Two seeds of one config: stage 0 once each, each change once each, and nothing twice."""
    trained, scored = [], []

    def job(name: str, flags: list[str], idea: str = "", idea_of: str = "") -> None:
        given = dict(flag.split("=", 1) for flag in flags)
        workdir = Path(given["--workdir"])
        if name == "train":
            trained.append(workdir.name)
            assert given["--split"] == "none"  # The job itself would read test.
            workdir.mkdir(parents=True)
            (workdir / "status.json").write_text(json.dumps({"state": "finished"}))
            return
        scored.append(workdir.name)
        assert given["--split"] == "dev"
        output = Path(given.get("--output", workdir))
        metrics = dict.fromkeys(("reward@1", "mean_reward@10", "max_reward@10"), 0.5)
        if "weighted" in workdir.name:
            metrics["reward@1"] = 0.6
        output.mkdir(parents=True, exist_ok=True)
        records = [
            {"system": given["--system"], "split": "dev", "decide": rule, "metrics": metrics}
            for rule in ("map", "consensus")
        ]
        (output / "records.json").write_text(json.dumps(records))

    monkeypatch.setattr(contrast, "run_job", job)
    monkeypatch.setattr(
        contrast,
        "read_records",
        lambda folder: [
            record
            for path in folder.glob("records.json")
            for record in json.loads(path.read_text())
        ],
    )
    command = ["contrast.py", "--configs", "retail", "--workdir", str(tmp_path / "w")]
    monkeypatch.setattr("sys.argv", [*command, "--changes", "weighted_margin 1.6"])
    for _ in range(2):
        contrast.main()
    assert sorted(trained) == [
        *("retail-0-base", "retail-0-f0.5-the_defaults", "retail-0-f0.5-weighted_margin_1_6"),
        *("retail-1-base", "retail-1-f0.5-the_defaults", "retail-1-f0.5-weighted_margin_1_6"),
    ]
    assert sorted(scored) == sorted(trained)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == lines[5:]
    assert lines[2] == "| NLL continued | 0.5000, 0.5000, 0.5000, 0.5000 | 2 |  |"
    assert lines[4] == "| weighted_margin 1.6 | +0.1000, +0.1000, +0.0000, +0.0000 | 2 | yes |"


def test_a_change_that_lowers_consensus_with_the_first_seed_is_dropped(monkeypatch, capsys):
    """The second seed would lift it: it is not asked."""
    asked = []

    def changed(config: str, seed: int, change: str, *_: object) -> list[float]:
        asked.append((change, seed))
        consensus = {"the defaults": 0.5, "tau .6": 0.4 if seed == 0 else 0.9}[change]
        return [0.5, consensus, 0.5, 0.5]

    monkeypatch.setattr(contrast, "changed", changed)
    monkeypatch.setattr(contrast, "continued", lambda *_: [0.5] * 4)
    monkeypatch.setattr("sys.argv", ["contrast.py", "--configs", "retail", "--changes", "tau .6"])
    contrast.main()
    assert asked == [("the defaults", 0), ("the defaults", 1), ("tau .6", 0)]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "| tau .6 | +0.0000, -0.1000, +0.0000, +0.0000 | 1 | no |"


def test_ideas_name_what_there_is():
    assert {*contrast.IDEAS, *contrast.OF_STAGE_0} <= {*contrast.CHANGES}
    of_stage_0 = {idea for _, idea, _ in contrast.OF_STAGE_0.values() if idea}
    assert {*contrast.IDEAS.values(), *of_stage_0} <= {*ideas.IDEAS}
    for _, _, settings in contrast.OF_STAGE_0.values():
        load("configs/retail.py", [split_setting(one) for one in settings])


def split_setting(setting: str) -> tuple[str, str]:
    key, _, value = setting.partition("=")
    return key, value
