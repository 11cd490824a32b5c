"""Which keys of a config something reads, and under which others; no value goes unread in silence.

A key that is set, that is, differs from configs/default.py, and that nothing would read is a
misunderstanding: `config.optimizer.b1` under Adafactor. No JAX here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ml_collections import ConfigDict

from groot_jax.config.checks import lookup, variant
from groot_jax.errors import UserError


class _Use(NamedTuple):
    keys: tuple[str, ...]
    needs: str  # completes "it needs ..."
    holds: Callable[[ConfigDict], bool]


def _reads_files(config: ConfigDict) -> bool:
    return config.data.reader != "retail"


def _reads_columns(config: ConfigDict) -> bool:
    return config.data.reader in ("auto", "columns", "tfds")


def _draws(config: ConfigDict) -> bool:
    """Whether some split is drawn from another, or from the text to pretrain on."""
    data = config.data
    carved = _reads_files(config) and not (data.dev and data.test)
    return bool(carved or data.train_limit or config.pretrain.text)


def _trains_tokenizer(config: ConfigDict) -> bool:
    source = config.text.tokenizer
    return source == "train" or (source == "auto" and not config.model.init)


def _may_be_aligned(config: ConfigDict) -> bool:
    return config.text.format in ("auto", "aligned")


def _terms(names: str) -> list[str]:
    """The rewards in a sum of weighted ones, or in a list of them."""
    return [part.rpartition("*")[2].strip() for part in re.split(r"[+,]", names)]


def _some_system_weighs(config: ConfigDict, loss: str) -> bool:
    return any(variant(config, name).loss[loss] > 0 for name in config.systems)


_USES = (
    _Use(
        (
            "data.dir",
            "data.train",
            "data.dev",
            "data.test",
            "data.dev_fraction",
            "data.test_fraction",
            "data.unknown_types",
        ),
        "another config.data.reader than retail, which makes its own splits",
        _reads_files,
    ),
    _Use(
        ("data.dev_fraction",),
        "no config.data.dev",
        lambda c: not c.data.dev,
    ),
    _Use(
        ("data.scheme",),
        "tags to read, which retail has not: another config.data.reader",
        lambda c: c.data.reader not in ("retail", "jsonl"),
    ),
    _Use(
        ("data.column_order", "data.separator", "data.comment"),
        "files of columns: config.data.reader=columns",
        _reads_columns,
    ),
    _Use(
        ("data.tfds_name", "data.tfds_dir", "data.words_feature", "data.tags_feature"),
        "config.data.reader=tfds",
        lambda c: c.data.reader == "tfds",
    ),
    _Use(
        ("data.retail_seed",),
        "config.data.reader=retail",
        lambda c: c.data.reader == "retail",
    ),
    _Use(
        ("data.split_seed",),
        "a split to be drawn: no config.data.dev or test, or a config.data.train_limit",
        _draws,
    ),
    _Use(
        ("data.hide_words",),
        "words with features: config.text.format=aligned",
        _may_be_aligned,
    ),
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
        ("model.scan_layers",),
        "config.model.remat=full",
        lambda c: c.model.remat == "full",
    ),
    _Use(
        ("reward.type_weights",),
        "an F-beta in config.reward.name, such as f1",
        lambda c: any(re.fullmatch(r"f[\d.]+", term) for term in _terms(c.reward.name)),
    ),
    _Use(
        ("reward.wrong_cost",),
        "utility in config.reward.name, or in config.evaluate.rewards",
        lambda c: "utility" in (*_terms(c.reward.name), *_terms(c.evaluate.rewards)),
    ),
    _Use(
        ("reward.batch", "reward.deadline"),
        "a Python function in config.reward.name or config.evaluate.rewards",
        lambda c: ":" in c.reward.name or ":" in c.evaluate.rewards,
    ),
    _Use(
        ("optimizer.b1", "optimizer.b2"),
        "config.optimizer.name=adamw",
        lambda c: c.optimizer.name == "adamw",
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
