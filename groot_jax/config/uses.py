"""Which keys of a config something reads, and under which others; no value goes unread in silence.

A key that is set, that is, differs from configs/default.py, and that nothing would read is a
misunderstanding: `config.optimizer.b1` under Adafactor. No JAX here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ml_collections import ConfigDict

from groot_jax.config.keys import lookup, variant
from groot_jax.errors import UserError


class _Use(NamedTuple):
    keys: tuple[str, ...]
    needs: str  # completes "it needs ..."
    holds: Callable[[ConfigDict], bool]


def _reads_files(config: ConfigDict) -> bool:
    return config.data.reader != "retail"


def _draws(config: ConfigDict) -> bool:
    """Whether some split is drawn from another, or from the text to pretrain on."""
    data = config.data
    # A TFDS set brings its own splits, and only TFDS knows which; without files there is nothing to
    # carve. A test split is carved only where it is given a share.
    carves = data.reader == "tfds" or not data.dev or (not data.test and data.test_fraction > 0)
    return bool((_reads_files(config) and carves) or data.train_limit or config.pretrain.text)


def _trains_tokenizer(config: ConfigDict) -> bool:
    source = config.text.tokenizer
    return source == "train" or (source == "auto" and not config.model.init)


def _may_be_aligned(config: ConfigDict) -> bool:
    return config.text.format in ("auto", "aligned")


def _reported(config: ConfigDict) -> list[str]:
    """The rewards that a run computes: the terms of that of training, and those of the reports.

    ".7*f0.5 + .3*exact" and "f1, recall" -> ["f0.5", "exact", "f1", "recall"]
    """
    parts = re.split(r"[+,]", f"{config.reward.name},{config.evaluate.rewards}")
    return [part.rpartition("*")[2].strip() for part in parts]


def _some_system_weighs(config: ConfigDict, *losses: str) -> bool:
    return any(variant(config, name).loss[loss] > 0 for name in config.systems for loss in losses)


def _some_variant(config: ConfigDict, holds: Callable[[ConfigDict], bool]) -> bool:
    """Of all variants, those too that this run does not train: a later one of the same work
    directory may."""
    return any(holds(variant(config, name)) for name in config.variants)


def _some_stage(config: ConfigDict, holds: Callable[[ConfigDict], bool]) -> bool:
    return holds(config.pretrain) or holds(config.nll) or _some_variant(config, holds)


# The losses that have a temperature.
_WITH_TAU = ("margin", "weighted_margin", "listwise", "logistic", "squared")


# The settings of stage 0 are not here, though under `nll.checkpoint` nothing reads them: config
# files such as configs/atis.py set nll.epochs, and have to serve a run that takes its stage 0 from
# elsewhere as well.
# A key may stand in several entries, and is read where all of them hold: data.dev_fraction wants
# files, and no dev split among them.
_USES = (
    _Use(
        (
            *("data.dir", "data.train", "data.dev", "data.test"),
            *("data.dev_fraction", "data.test_fraction", "data.unknown_types"),
        ),
        "another config.data.reader than retail, which makes its own splits",
        _reads_files,
    ),
    _Use(("data.dev_fraction",), "no config.data.dev", lambda c: not c.data.dev),
    _Use(("data.test_fraction",), "no config.data.test", lambda c: not c.data.test),
    _Use(
        ("data.scheme",),
        "tags to read, which retail has not: another config.data.reader",
        _reads_files,
    ),
    _Use(
        (
            *("data.column_order", "data.word_column", "data.tag_column"),
            *("data.separator", "data.comment"),
        ),
        "files of columns: config.data.reader=columns",
        lambda c: c.data.reader in ("auto", "columns", "tfds"),
    ),
    _Use(
        ("data.tag_names",),
        "files that may number their tags: config.data.reader=jsonl or arrow",
        lambda c: c.data.reader in ("auto", "jsonl", "arrow"),
    ),
    _Use(
        ("text.overlap",),
        "windows: config.text.long_sentences=window",
        lambda c: c.text.long_sentences == "window",
    ),
    _Use(
        ("data.tfds_name", "data.tfds_dir", "data.words_feature", "data.tags_feature"),
        "config.data.reader=tfds",
        lambda c: c.data.reader == "tfds",
    ),
    _Use(("data.retail_seed",), "config.data.reader=retail", lambda c: not _reads_files(c)),
    _Use(
        ("data.split_seed",),
        "a split to be drawn: no config.data.dev, a config.data.test_fraction without a "
        "config.data.test, or a config.data.train_limit",
        _draws,
    ),
    _Use(
        ("data.unlabeled",),
        "a share of the updates: config.groot.unlabeled above 0",
        lambda c: _some_variant(c, lambda s: s.unlabeled > 0),
    ),
    _Use(
        ("groot.teacher",),
        "config.groot.unlabeled above 0",
        lambda c: _some_variant(c, lambda s: s.unlabeled > 0),
    ),
    _Use(
        ("groot.temperature",),
        "config.groot.expected, config.groot.pool.consensus or config.groot.unlabeled above 0",
        lambda c: _some_variant(
            c, lambda s: s.unlabeled > 0 or s.expected > 0 or s.pool.consensus > 0
        ),
    ),
    _Use(
        ("groot.expected", "groot.pool.consensus"),
        "a contrast: a weight for one of config.groot.loss",
        lambda c: _some_variant(c, lambda s: any(s.loss.values())),
    ),
    _Use(("data.hide_words",), "words with features: config.text.format=aligned", _may_be_aligned),
    _Use(
        ("text.vocab_size",),
        "a tokenizer to train: no config.model.init, and config.text.tokenizer=train",
        _trains_tokenizer,
    ),
    _Use(
        ("text.max_features",),
        "a tokenizer to train and config.text.format=aligned",
        lambda c: _trains_tokenizer(c) and _may_be_aligned(c),
    ),
    _Use(
        ("model.preset", "model.variant"),
        "a model from scratch: no config.model.init",
        lambda c: not c.model.init,
    ),
    _Use(
        ("model.start.embedding", "model.start.residual", "model.start.local"),
        "a model from scratch and config.text.format=aligned",
        lambda c: not c.model.init and _may_be_aligned(c),
    ),
    _Use(
        ("model.init_system", "model.init_checkpoint"),
        "the work directory of a labeler in config.model.init",
        lambda c: bool(c.model.init),
    ),
    _Use(("model.scan_layers",), "config.model.remat=full", lambda c: c.model.remat == "full"),
    _Use(
        ("reward.type_weights",),
        "an F-beta, such as f1, in config.reward.name or in config.evaluate.rewards",
        lambda c: any(re.fullmatch(r"f[\d.]+", name) for name in _reported(c)),
    ),
    _Use(
        ("reward.wrong_cost",),
        "utility in config.reward.name, or in config.evaluate.rewards",
        lambda c: "utility" in _reported(c),
    ),
    _Use(
        ("reward.batch", "reward.deadline", "reward.on_error"),
        "a Python function in config.reward.name or config.evaluate.rewards",
        lambda c: any(":" in name for name in _reported(c)),
    ),
    _Use(
        ("reward.max_dropped",),
        "config.reward.on_error=drop",
        lambda c: c.reward.on_error == "drop",
    ),
    _Use(
        ("reward.retries", "reward.timeout_s"),
        "scoring processes: a Python function in config.reward.name or config.evaluate.rewards, or "
        "config.reward.workers above 0",
        lambda c: c.reward.workers > 0 or any(":" in name for name in _reported(c)),
    ),
    _Use(
        ("optimizer.b1", "optimizer.b2"),
        "a stage with another optimizer than adafactor",
        lambda c: _some_stage(c, lambda s: s.optimizer != "adafactor"),
    ),
    _Use(
        ("nll.rdrop", "pretrain.rdrop"),
        "dropout, by which two readings differ: config.model.dropout above 0",
        lambda c: c.model.dropout > 0,
    ),
    _Use(
        ("optimizer.max_skipped",),
        "config.optimizer.nonfinite=skip",
        lambda c: c.optimizer.nonfinite == "skip",
    ),
    # A file that sets tau also serves a run of `nll_continued` alone, where nothing is contrasted.
    _Use(
        ("groot.tau",),
        f"a weight for one of config.groot.loss: {', '.join(_WITH_TAU)}",
        lambda c: _some_system_weighs(c, *_WITH_TAU) or not _some_system_weighs(c, *c.groot.loss),
    ),
    _Use(
        ("groot.rank_margin",),
        "a weight for config.groot.loss.rank",
        lambda c: _some_system_weighs(c, "rank"),
    ),
    _Use(
        ("groot.reinforce_normalise",),
        "a weight for config.groot.loss.reinforce",
        lambda c: _some_system_weighs(c, "reinforce"),
    ),
    _Use(
        ("groot.pool.beams",),
        "as many config.generate.k",
        lambda c: c.groot.pool.beams <= c.generate.k,
    ),
)


def unread(config: ConfigDict, default: ConfigDict) -> Iterator[tuple[str, str]]:
    """(key, what it would need) of each key that is set and that nothing reads."""
    # What equals its default counts as not set: a config has no memory of who set what.
    for use in _USES:
        if use.holds(config):
            continue
        for key in use.keys:
            if lookup(config, key) != lookup(default, key):
                yield key, use.needs


def check_read(config: ConfigDict, default: ConfigDict) -> None:
    """Raises UserError for a key that is set and that nothing reads."""
    for key, needs in unread(config, default):
        raise UserError(
            f"config.{key} is {lookup(config, key)!r}, but nothing reads it: it needs {needs}; "
            "leave it out"
        )
