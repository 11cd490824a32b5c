"""One corpus and one finished run for all tests of the jobs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.conftest import SHARED, made_once
from tests.jobs.support import Jobs, sentence, write_jsonl


def write_corpus(folder: Path) -> None:
    for seed, (split, size) in enumerate({"train": 64, "dev": 24, "test": 24}.items()):
        rng = random.Random(seed)
        write_jsonl(folder / f"{split}.jsonl", [sentence(rng) for _ in range(size)])
    rng = random.Random(3)
    # As no labeled sentence begins: one that is known would be left out.
    lines = [" ".join(["buy", *sentence(rng)["words"]]) + "\n" for _ in range(40)]
    (folder / "unlabeled.txt").write_text("".join(lines))


@pytest.fixture(scope="session")
def jobs() -> Jobs:
    """On a corpus into which nothing may write."""
    return Jobs(made_once("corpus", write_corpus), SHARED / "programs")


@pytest.fixture(scope="session")
def trained(jobs: Jobs) -> Path:
    """A work directory that was never interrupted. Nothing may write into it, nor lock it."""
    return made_once("trained", lambda folder: jobs.run("train", folder / "w")) / "w"
