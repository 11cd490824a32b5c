"""One corpus and one finished run for all tests of the jobs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.jobs.support import Jobs, sentence, write_jsonl


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    corpus = tmp_path_factory.mktemp("corpus")
    for seed, (split, size) in enumerate({"train": 64, "dev": 24, "test": 24}.items()):
        rng = random.Random(seed)
        write_jsonl(corpus / f"{split}.jsonl", [sentence(rng) for _ in range(size)])
    rng = random.Random(3)
    # As no labeled sentence begins: one that is known would be left out.
    lines = [" ".join(["buy", *sentence(rng)["words"]]) + "\n" for _ in range(40)]
    (corpus / "unlabeled.txt").write_text("".join(lines))
    # Processes side by side compile the same programs.
    shared = tmp_path_factory.getbasetemp().parent / "groot_jax-cache"
    return Jobs(corpus, shared)


@pytest.fixture(scope="session")
def trained(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory that was never interrupted. Nothing may write into it."""
    workdir = tmp_path_factory.mktemp("trained") / "w"
    jobs.run("train", workdir)
    return workdir
