"""One tiny labeler a text format, with random parameters, for all tests of exports."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from groot_jax import config as configs
from groot_jax.data.corpus import Corpus
from groot_jax.data.labeling import Sentence, Span
from groot_jax.export.__main__ import export
from groot_jax.labeler import Labeler
from groot_jax.task import initial_params, make_task
from groot_jax.trained import Trained
from groot_jax.training.setup import make_partitioning

TRAIN = (
    Sentence(
        ("black", "levi", "jeans", "for", "men"),
        (Span(0, 1, "color"), Span(1, 2, "brand_name")),
    ),
    Sentence(
        ("red", "running", "shoes", "size", "nine"),
        (Span(0, 1, "color"), Span(3, 5, "size")),
    ),
)
# Words that training did not have, that look like special pieces, and that are normalised.
SENTENCES = (
    ("black", "levi", "jeans"),
    ("red",),
    ("</s>", "naïve", "日本", "10\u00a0km", "<extra_id_2>"),
    ("shoes", "for", "tall", "men"),
)
K = 4
MakeTrained = Callable[..., Trained]


@pytest.fixture(scope="session")
def make_trained(tmp_path_factory: pytest.TempPathFactory) -> MakeTrained:
    """A labeler of a format; further settings as keys of the config with `__` for the dot."""
    workdir = tmp_path_factory.mktemp("w")

    @lru_cache
    def make(format_name: str, **settings: str) -> Trained:
        overrides = {
            "text.format": format_name,
            "text.max_words": "8",
            "model.preset": "pico",
            "generate.k": str(K),
            "loader.target_buckets": "24,80",
            "compilation_cache": "",
            "model.normalise": "full" if format_name == "input_tag" else "legal",
        } | {key.replace("__", "."): value for key, value in settings.items()}
        config = configs.load("retail", list(overrides.items()))
        corpus = Corpus(
            train=TRAIN, dev=TRAIN, test=(), types=("brand_name", "color", "size"), notes=()
        )
        task = make_task(config, corpus)
        partitioning = make_partitioning(config, task.model_config)
        params = initial_params(task, partitioning.params)
        return Trained(workdir, task, partitioning, params, "groot", 3)

    return make


@pytest.fixture(scope="session")
def exported(
    make_trained: MakeTrained, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """The folder of a text format and a kind, written once. Nothing may write into it."""

    @lru_cache
    def write(format_name: str, kind: str) -> Path:
        pytest.importorskip(
            {"ctranslate2": "ctranslate2", "stablehlo": "flatbuffers"}.get(kind, "jax")
        )
        folder = tmp_path_factory.mktemp(kind) / "out"
        export(make_trained(format_name), folder, kind)
        return folder

    return write


Ranked = list[list[tuple[tuple[tuple[int, int, str], ...], float]]]


@pytest.fixture(scope="session")
def expected(make_trained: MakeTrained) -> Callable[[Trained], Ranked]:
    """What our own labeler answers: spans and score, best first, of each of `SENTENCES`."""

    def label(trained: Trained) -> Ranked:
        labeler = Labeler(trained.task, trained.partitioning, trained.params)
        return [
            [
                (tuple((s.start, s.end, s.type) for s in y.labeling), y.score)
                for y in answer.labelings
            ]
            for answer in labeler.label_all(SENTENCES, K)
        ]

    return label
