"""What benchmarks/study.py has to do: the cells of its grid, their order, their place, their state.

Plans and reads; it trains and scores nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from groot_jax import config as configs
from groot_jax.errors import UserError
from groot_jax.reward.rewards import RewardSpec, make_reward

Json: TypeAlias = dict[str, Any]  # an object of JSON

ROOT = Path(__file__).resolve().parent.parent
SETS = ("retail", "mit_restaurant", "snips", "atis", "wnut17")
REWARDS = ("f1", "f0.5", "f2", "utility")
SEEDS = (0, 1, 2)
# Beside stage 0 and NLL continued, which every difference needs.
SYSTEMS = ("groot", "risk", "no_corrections", "crf")
SPLITS = ("dev", "test")
# Minutes of one core that training took: stage 0 with NLL continued, and any other system.
_MINUTES = {
    "retail": (6.1, 3.4),
    "mit_restaurant": (3.1, 4.0),
    "snips": (5.2, 3.6),
    "atis": (4.3, 3.1),
    "wnut17": (5.0, 3.0),
}
_OTHER_SET = (5.0, 4.0)
_CRF_MINUTES, _SCORING_MINUTES = 2.0, 0.8


@dataclass(frozen=True)
class Cell:
    """One piece of work, done whole or not at all: a training, or the scoring of one on a split.

    `base` is stage 0 with NLL continued, which no reward takes part in: it is trained once a seed
    and scored under each reward. The CRF draws nothing and is trained once a set.
    """

    action: str  # train, dev or test
    set: str
    system: str  # base, crf, or one of config.variants
    reward: str = ""  # "": does not depend on it
    seed: int | None = None

    @property
    def name(self) -> str:
        """`retail-groot-f0.5-0-train`: also the name of its record and of its log."""
        seed = "" if self.seed is None else str(self.seed)
        return "-".join(filter(None, (self.set, self.system, self.reward, seed, self.action)))


@dataclass(frozen=True)
class Study:
    """A grid in a work directory. `quick`: updates are divided by it, and all is kept apart."""

    workdir: Path
    sets: tuple[str, ...] = SETS
    rewards: tuple[str, ...] = REWARDS
    seeds: tuple[int, ...] = SEEDS
    systems: tuple[str, ...] = SYSTEMS
    quick: int = 1
    common: tuple[str, ...] = ()  # --config.KEY=VALUE for every training

    @property
    def root(self) -> Path:
        return self.workdir if self.quick == 1 else self.workdir / f"quick{self.quick}"

    # ---- The cells ----

    def trainings(self) -> Iterator[Cell]:
        """In an order that leaves a whole, smaller grid where time ends: seed by seed."""
        if "crf" in self.systems:
            for name in self.sets:
                yield Cell("train", name, "crf")
        for seed in self.seeds:
            for name in self.sets:
                yield Cell("train", name, "base", seed=seed)
                for reward in self.rewards:
                    for system in self.systems:
                        if system != "crf":
                            yield Cell("train", name, system, reward, seed)

    def scorings(self, split: str) -> Iterator[Cell]:
        """On a split. Stage 0 and NLL continued, whatever they were trained for, count under each
        reward."""
        for cell in self.trainings():
            for reward in (cell.reward,) if cell.reward else self.rewards:
                yield Cell(split, cell.set, cell.system, reward, cell.seed)

    def needs(self, cell: Cell) -> list[Cell]:
        """What has to be done before."""
        if cell.action != "train":
            reward = "" if cell.system in ("base", "crf") else cell.reward
            return [Cell("train", cell.set, cell.system, reward, cell.seed)]
        if cell.system in ("base", "crf"):
            return []
        return [Cell("train", cell.set, "base", seed=cell.seed)]

    # ---- Where they are and how they are made ----

    def home(self, cell: Cell) -> Path:
        """The work directory of a training."""
        trained = cell if cell.action == "train" else self.needs(cell)[0]
        return self.root / "runs" / trained.name.removesuffix("-train")

    def scores(self, cell: Cell) -> Path:
        """The folder that holds `eval/` of a scored cell."""
        if cell.system in ("base", "crf"):
            return self.root / "scores" / f"{self.home(cell).name}-{cell.reward}"
        return self.home(cell)

    def argv(self, cell: Cell) -> tuple[str, list[str]]:
        """(job, its flags) of a cell of a system of ours."""
        home = self.home(cell)
        if cell.action != "train":
            flags = [f"--workdir={home}", f"--split={cell.action}"]
            if cell.system == "base":
                flags += [
                    f"--config.reward.name={cell.reward}",
                    f"--output={self.scores(cell)}",
                ]
            else:  # Of a folder that takes its stage 0 from elsewhere, that is not scored again.
                flags += [f"--system={cell.system}"]
            return "evaluate", flags
        flags = [f"--config={ROOT / 'configs' / cell.set}.py", f"--workdir={home}", "--split=none"]
        flags += [*self.common, *self.shortened(cell.set), f"--config.seed={cell.seed}"]
        if cell.system == "base":
            return "train", [*flags, "--config.systems=nll_continued"]
        base = self.home(self.needs(cell)[0])
        flags += [f"--config.systems={cell.system}", f"--config.reward.name={cell.reward}"]
        return "train", [*flags, f"--config.nll.checkpoint={base}"]

    def shortened(self, name: str) -> list[str]:
        """Settings of a quick study: the updates divided, dev scored once a stage."""
        if self.quick == 1:
            return []
        config = load(name, self.common)
        flags = []
        for stage in ("nll", "groot"):
            epochs = round(config[stage].epochs / self.quick, 4)
            flags += [f"--config.{stage}.{key}={epochs}" for key in ("epochs", "eval_every")]
        return flags

    # ---- Their state ----

    def record_path(self, cell: Cell) -> Path:
        return self.root / "cells" / f"{cell.name}.json"

    def record(self, cell: Cell) -> Json:
        """What is known of a cell's work so far; empty where there is none."""
        path = self.record_path(cell)
        if not path.exists():
            return {}
        try:
            found: Json = json.loads(path.read_text(encoding="utf-8"))
            for key in ("state", "wall_seconds", "cpu_seconds", "settings"):
                found[key]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not what a study wrote ({error!r}): remove it, and the same command "
                "does that cell again"
            ) from error
        return found

    def state(self, cell: Cell) -> str:
        """finished, interrupted, failed or missing."""
        state = self.record(cell).get("state", "missing")
        return "interrupted" if state == "begun" else str(state)

    def finished(self, cell: Cell) -> bool:
        return self.state(cell) == "finished"

    def settings(self, cell: Cell) -> list[str]:
        """What a cell is made by, places aside: cells that differ in it belong to two studies."""
        # The built-in config itself is checked by the job, which refuses another one's folder.
        own = [] if cell.action != "train" or cell.system == "crf" else self.shortened(cell.set)
        return [*self.common, *own]

    def check(self) -> None:
        """Raises UserError where a finished cell was made with other settings than are asked."""
        for cell in self.trainings():
            record = self.record(cell)
            if record and record["settings"] != self.settings(cell):
                raise UserError(
                    f"--workdir={self.workdir}: {cell.name} was made with the settings "
                    f"{' '.join(record['settings']) or 'of its config'}, and now "
                    f"{' '.join(self.settings(cell)) or 'those of its config'} are asked for: name "
                    "another --workdir"
                )

    def minutes(self, cell: Cell) -> float:
        """How long a cell takes on one core: from a machine that is not yours; `calibration` says
        how yours compares."""
        if cell.action != "train":
            return _SCORING_MINUTES
        if cell.system == "crf":
            return _CRF_MINUTES
        base, other = _MINUTES.get(cell.set, _OTHER_SET)
        return (base if cell.system == "base" else other) / self.quick + 0.5

    def calibration(self, cells: Sequence[Cell]) -> float:
        """Real over expected minutes of those that are finished; 1 where none is."""
        known = [cell for cell in cells if self.finished(cell)]
        real = sum(self.record(cell)["wall_seconds"] / 60 for cell in known)
        expected = sum(self.minutes(cell) for cell in known)
        return real / expected if known and real else 1.0


@lru_cache
def load(name: str, common: tuple[str, ...] = ()) -> Any:
    """The config of a set, as a training has it."""
    overrides = [text.removeprefix("--config.").partition("=")[::2] for text in common]
    return configs.load(str(ROOT / "configs" / f"{name}.py"), overrides)


def check_names(sets: Sequence[str], rewards: Sequence[str], systems: Sequence[str]) -> None:
    """Raises UserError for a set, reward or system that is none, before hours are spent."""
    for name in sets:
        if not (ROOT / "configs" / f"{name}.py").exists():
            raise UserError(f"--sets: there is no configs/{name}.py")
        variants = load(name).variants
        for system in systems:
            if system != "crf" and (system not in variants or system == "nll_continued"):
                known = [*(v for v in variants if v != "nll_continued"), "crf"]
                raise UserError(f"--systems: {system} is none of {', '.join(known)}")
    for reward in rewards:
        # It becomes a part of file names.
        if not re.fullmatch(r"[a-z0-9._]+", reward):
            raise UserError(f"--rewards: {reward!r} is no name of a built-in reward")
        make_reward(RewardSpec(reward))
