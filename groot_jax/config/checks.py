"""Which values the keys of a config may have, alone and together.

One UserError sentence per mistake, with the key in it. Reads configs, changes nothing. No JAX here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from ml_collections import ConfigDict

from groot_jax.config.keys import Value, flatten, lookup, nearest, variant
from groot_jax.errors import UserError

_SCHEDULES = ("constant", "linear", "cosine")
_AVERAGES = ("token", "sentence")
_OPTIMIZERS = ("adamw", "muon", "adafactor")

CHOICES: dict[str, tuple[str, ...]] = {
    "data.reader": ("auto", "columns", "seq", "jsonl", "arrow", "tfds", "retail"),
    "data.column_order": ("auto", "tag_first", "word_first"),
    "data.separator": ("auto", "tab", "space"),
    "data.policy": ("error", "skip"),
    "data.unknown_types": ("error", "keep"),
    "text.format": ("auto", "aligned", "sentinel_tag", "fused_sentinel", "tag_only", "input_tag"),
    "text.long_sentences": ("refuse", "window"),
    "text.split": ("spaces", "unicode", "punctuation"),
    "model.preset": ("pico", "nano", "mini", "small", "base", "large", "xl", "xxl"),
    "model.variant": ("v1_0", "v1_1", "tied"),
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "dots", "full"),
    "model.normalise": ("legal", "full"),
    "reward.on_error": ("stop", "drop"),
    "optimizer.nonfinite": ("stop", "skip"),
    "nll.optimizer": _OPTIMIZERS,
    "nll.schedule": _SCHEDULES,
    "nll.average": _AVERAGES,
    "groot.optimizer": _OPTIMIZERS,
    "groot.schedule": _SCHEDULES,
    "groot.nll_average": _AVERAGES,
    "pretrain.optimizer": _OPTIMIZERS,
    "pretrain.schedule": _SCHEDULES,
    "pretrain.average": _AVERAGES,
    "groot.teacher": ("start", "policy"),
    "mesh.replicated": ("warn", "error", "allow"),
    "mesh.sums": ("auto", "ordered", "any"),
    "evaluate.decide": ("map", "mbr", "threshold", "consensus"),
    "report_to": ("tensorboard", "wandb"),
}

# Of data.scheme, for all splits or for each its own; the second line holds other names of them.
_SCHEMES = (
    *("auto", "bio", "iob1", "bioes", "bilou", "bmes", "ioe1", "ioe2", "io"),
    *("iob2", "bio2", "iob", "bio1", "iobes", "biluo", "biolu", "bmeso", "bmewo"),
)

# What stands in "config.groot.tau is -1.0, but has to be ...", and whether a number is that.
_Rule = tuple[str, Callable[[float], bool]]
_AT_LEAST_0: _Rule = ("0 or more", lambda v: v >= 0)
_AT_LEAST_1: _Rule = ("1 or more", lambda v: v >= 1)
_AT_LEAST_2: _Rule = ("2 or more", lambda v: v >= 2)
_ABOVE_0: _Rule = ("above 0", lambda v: v > 0)
_AT_LEAST_5: _Rule = ("5 or more", lambda v: v >= 5)
_SHARE: _Rule = ("at least 0 and at most 1", lambda v: 0 <= v <= 1)
_PART: _Rule = ("at least 0 and below 1", lambda v: 0 <= v < 1)
_INSIDE: _Rule = ("above 0 and below 1", lambda v: 0 < v < 1)
_COLUMN: _Rule = ("0, or a column's number, of 1,000 at most", lambda v: abs(v) <= 1000)
_AXIS: _Rule = ("-1 (the devices that are left) or 1 and more", lambda v: v == -1 or v >= 1)

_RANGES: dict[str, _Rule] = {
    "seed": _AT_LEAST_0,
    "data.dev_fraction": _PART,
    "data.test_fraction": _PART,
    "data.split_seed": _AT_LEAST_0,
    "data.train_limit": _AT_LEAST_0,
    "data.retail_seed": _AT_LEAST_0,
    "data.word_column": _COLUMN,
    "data.tag_column": _COLUMN,
    "data.augment": _SHARE,
    "data.hide_words": _PART,
    "text.vocab_size": _AT_LEAST_1,
    "text.max_features": _AT_LEAST_0,
    "distributed.start_timeout": _AT_LEAST_5,
    "distributed.timeout": _AT_LEAST_5,
    "loader.rungs": _AT_LEAST_1,
    "loader.padding": _SHARE,
    "text.max_words": _AT_LEAST_0,
    "text.overlap": _AT_LEAST_0,
    "model.dropout": _PART,
    "model.encoder_layers": _AT_LEAST_0,
    "model.decoder_layers": _AT_LEAST_0,
    "model.start.embedding": _ABOVE_0,
    "model.start.residual": _ABOVE_0,
    "model.start.local": _AT_LEAST_0,
    "generate.k": _AT_LEAST_1,
    "generate.length_penalty": _AT_LEAST_0,
    "reward.wrong_cost": _AT_LEAST_0,
    "reward.malformed_penalty": _SHARE,
    "reward.workers": ("-1 (choose) or 0 and more", lambda v: v >= -1),
    "reward.deadline": ("above 0 and at most a million seconds", lambda v: 0 < v <= 1e6),
    "reward.retries": _AT_LEAST_0,
    "reward.max_dropped": _SHARE,
    "reward.timeout_s": ("1 or more and at most a million seconds", lambda v: 1 <= v <= 1e6),
    "groot.pool.size": _AT_LEAST_2,
    "groot.pool.beams": _AT_LEAST_0,
    "groot.pool.consensus": _AT_LEAST_0,
    "groot.expected": _SHARE,
    "groot.temperature": _ABOVE_0,
    "groot.unlabeled": _SHARE,
    "optimizer.weight_decay": _AT_LEAST_0,
    "optimizer.clip": _AT_LEAST_0,
    "optimizer.max_skipped": _AT_LEAST_1,
    "optimizer.max_gold_drop": _AT_LEAST_0,
    "optimizer.b1": _PART,
    "optimizer.b2": _PART,
    "optimizer.ema": _PART,
    "nll.label_smoothing": _PART,
    "nll.rdrop": _AT_LEAST_0,
    "nll.patience": _AT_LEAST_0,
    "pretrain.label_smoothing": _PART,
    "pretrain.rdrop": _AT_LEAST_0,
    "pretrain.corrupt": _INSIDE,
    "pretrain.mean_span": _AT_LEAST_1,
    "pretrain.patience": _AT_LEAST_0,
    "pretrain.dev_fraction": _INSIDE,
    "pretrain.dev_limit": _AT_LEAST_0,
    "groot.clip": _AT_LEAST_0,
    "groot.dropout": _PART,
    "groot.tau": _ABOVE_0,
    "groot.nll_weight": _AT_LEAST_0,
    "groot.rank_margin": _AT_LEAST_0,
    "groot.lag": _AT_LEAST_0,
    "groot.generate_dropout": _PART,
    "groot.accumulate": _AT_LEAST_1,
    "evaluate.batch_size": _AT_LEAST_1,
    "evaluate.dev_limit": _AT_LEAST_0,
    "evaluate.bootstrap": _AT_LEAST_1,
    "evaluate.samples": _AT_LEAST_0,
    "decide.hypotheses": _AT_LEAST_1,
    "checkpoint.every_minutes": _AT_LEAST_0,
    "checkpoint.every_steps": _AT_LEAST_0,
    "checkpoint.keep": _AT_LEAST_1,
    "checkpoint.retry_minutes": _AT_LEAST_0,
    "log_every": _AT_LEAST_1,
    "checkpoint.tie": _AT_LEAST_0,
    "loader.threads": _AT_LEAST_0,
    "mesh.data": _AXIS,
    "mesh.fsdp": _AXIS,
    "mesh.tensor": _AXIS,
}
# What all three trainings have under the same names.
for _stage in ("pretrain", "nll", "groot"):
    _RANGES |= {
        f"{_stage}.batch_size": _AT_LEAST_1,
        f"{_stage}.epochs": _ABOVE_0,
        f"{_stage}.learning_rate": _ABOVE_0,
        f"{_stage}.warmup": _SHARE,
        f"{_stage}.final_scale": _SHARE,
        f"{_stage}.eval_every": _ABOVE_0,
    }


def validate(config: ConfigDict, has_data: bool = True) -> None:
    """Checks a whole config; raises UserError for the first thing that is wrong.

    Without `has_data` it need not say where its data are.
    """
    # Each value alone first, so that the checks of several together can rely on them.
    flat = flatten(config)
    for key, value in flat.items():
        if not isinstance(value, tuple):
            _check_value(key, value)
    _check_buckets(config)
    if not config.evaluate.decide:
        raise UserError(
            "config.evaluate.decide is empty: name one or more of "
            f"{', '.join(CHOICES['evaluate.decide'])}"
        )
    for key, names in (
        ("evaluate.decide", config.evaluate.decide),
        ("report_to", config.report_to),
    ):
        for name in names:
            _check_value(key, name)
    _check_profile(config.profile.steps)
    if has_data:
        _check_data(config)
    _check_text_and_model(config)
    _check_update("config.groot", config.groot)
    _check_systems(config)
    _check_mesh(config.mesh)


def _check_value(key: str, value: Value, shown: str = "") -> None:
    shown = shown or f"config.{key}"
    # Before the ranges: nan >= 0 is false and would be called too small, inf >= 0 would pass.
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{shown} is {value}, but has to be a finite number")
    if key in CHOICES and value not in CHOICES[key]:
        hint = nearest(str(value), CHOICES[key])
        raise UserError(f"{shown} is {value!r}; it can be {', '.join(CHOICES[key])}{hint}")
    if not isinstance(value, int | float):
        return
    if key in _RANGES and not _RANGES[key][1](value):
        raise UserError(f"{shown} is {value}, but has to be {_RANGES[key][0]}")
    if key.startswith("groot.loss.") and value < 0:
        raise UserError(f"{shown} is {value}, but the weight of a loss has to be 0 or more")


def _check_buckets(config: ConfigDict) -> None:
    for name in ("source_buckets", "target_buckets", "node_buckets"):
        sizes = config.loader[name]
        # (8, 16, 32) is fine; (8, 8), (16, 8), (0, 8) and () are not.
        if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
            raise UserError(
                f"config.loader.{name} is {sizes}, but has to be sizes from 1 on, each larger "
                "than the one before it"
            )


def _check_profile(steps: str) -> None:
    # "10:20" is fine; "10", "20:10", "10:10", "-1:5" and "a:b" are not.
    first, colon, last = steps.partition(":")
    numbers = [int(part) for part in (first, last) if part.isascii() and part.isdecimal()]
    if steps and not (colon and len(numbers) == 2 and numbers[0] < numbers[1]):
        raise UserError(
            f"config.profile.steps is {steps!r}, but has to be two updates with a colon between "
            "them, the first before the last: 10:20"
        )


def _check_data(config: ConfigDict) -> None:
    data = config.data
    if data.reader == "tfds" and not data.tfds_name:
        raise UserError("config.data.reader is tfds, so config.data.tfds_name has to name a set")
    # A config for pretraining names text and no labels.
    if data.reader not in ("tfds", "retail") and not data.train and not config.pretrain.text:
        raise UserError(
            "config.data.train is empty: name the training file (--config=FILE.py:train=PATH where "
            "the file takes it), or take config.data.reader=retail"
        )
    _check_columns(data)
    if data.dev_fraction + data.test_fraction >= 1:
        raise UserError(
            f"config.data.dev_fraction ({data.dev_fraction}) and test_fraction "
            f"({data.test_fraction}) leave nothing to train on"
        )
    if data.reader not in ("tfds", "retail") and not data.dev and data.dev_fraction == 0:
        raise UserError(
            "config.data.dev is empty and config.data.dev_fraction is 0: training needs dev "
            "sentences to choose its checkpoint, so set one of them"
        )


def _check_columns(data: ConfigDict) -> None:
    """How files are read: columns by number, and schemes."""
    named = [key for key in ("word_column", "tag_column") if data[key]]
    if named and data.column_order != "auto":
        raise UserError(
            f"config.data.{named[0]} is {data[named[0]]} and config.data.column_order is "
            f"{data.column_order}, which says it too: take config.data.column_order=auto"
        )
    if len(named) == 2 and data.word_column == data.tag_column:
        raise UserError(
            f"config.data.word_column and config.data.tag_column are both {data.word_column}: give "
            "the two their own columns"
        )
    # "bio", or "train=bio, dev=iob1"
    named_splits: list[str] = []
    for part in data.scheme.split(",") if "=" in data.scheme else (f"train={data.scheme}",):
        split, _, name = (side.strip() for side in part.partition("="))
        if split not in ("train", "dev", "test") or name.lower() not in _SCHEMES:
            hint = nearest(name, _SCHEMES)
            raise UserError(
                f"config.data.scheme is {data.scheme!r}; it can be {', '.join(_SCHEMES)}{hint}, or "
                "one for each split: train=bio,dev=iob1"
            )
        if split in named_splits:
            raise UserError(
                f"config.data.scheme is {data.scheme!r}, which names {split} twice: leave one out"
            )
        named_splits.append(split)


def _check_text_and_model(config: ConfigDict) -> None:
    text, model = config.text, config.model
    if text.format == "input_tag" and model.normalise == "legal":
        raise UserError(
            "config.text.format=input_tag writes the words out, so its outputs have no closed set "
            "of legal columns: take config.model.normalise=full"
        )
    if not text.tokenizer:
        raise UserError(
            "config.text.tokenizer is empty: take config.text.tokenizer=auto (that of model.init "
            "or one trained on the training words), train, a Hub name, a folder or a spiece.model"
        )
    if model.init and (model.encoder_layers or model.decoder_layers):
        raise UserError(
            f"config.model.init={model.init} says how many layers the model has: leave "
            "config.model.encoder_layers and config.model.decoder_layers at 0"
        )
    if model.init_checkpoint not in ("best", "latest") and not model.init_checkpoint.isdecimal():
        raise UserError(
            f"config.model.init_checkpoint is {model.init_checkpoint!r}; it can be best, latest or "
            "a step"
        )
    if text.tokenizer == "train" and model.init:
        raise UserError(
            f"config.text.tokenizer=train makes a new vocabulary, which the embeddings of "
            f"config.model.init={model.init} do not fit: take config.text.tokenizer=auto"
        )


def _check_mesh(mesh: ConfigDict) -> None:
    axes = {axis: mesh[axis] for axis in ("data", "fsdp", "tensor")}
    if list(axes.values()).count(-1) > 1:
        raise UserError(
            f"config.mesh: only one axis may be -1 (the devices that are left), not {axes}"
        )
    for name, rule in mesh.rules.items():
        # "data, fsdp" -> data and fsdp; "" -> none: that dimension is whole on every device.
        given = [part.strip() for part in rule.split(",") if part.strip()]
        if not {*given} <= {*axes} or len({*given}) < len(given):
            raise UserError(
                f"config.mesh.rules.{name} is {rule!r}; it can be '' or mesh axes, each once, with "
                f"commas between them: {', '.join(axes)}"
            )


def _check_systems(config: ConfigDict) -> None:
    if len(set(config.systems)) < len(config.systems):
        raise UserError(f"config.systems names a system twice: {', '.join(config.systems)}")
    if "nll" in config.variants:
        raise UserError("config.variants.nll: the name nll is taken by stage 0; choose another")
    if not config.systems and not config.nll.enabled:
        raise UserError(
            "there is nothing to train: config.nll.enabled is false and config.systems is empty"
        )
    for name in config.systems:
        settings = variant(config, name)  # Raises where there is no such system.
        if settings.unlabeled > 0 and not config.data.unlabeled:
            raise UserError(
                f"the system {name} takes {settings.unlabeled:g} of its updates from sentences "
                "without labels, and there are none: name a file in config.data.unlabeled, or set "
                "config.groot.unlabeled to 0"
            )
        if settings.unlabeled > 0 and not (config.nll.enabled or config.nll.checkpoint):
            raise UserError(
                f"the system {name} learns from sentences without labels what a trained model says "
                "of them, but config.nll.enabled is false: train stage 0, or name one in "
                "config.nll.checkpoint"
            )
    # Variants that no system of this run uses are checked as well: a mistake in one is found when
    # it is made, and not by a later run.
    for name in config.variants:
        where = f"config.variants.{name}"
        settings = variant(config, name)
        for key in flatten(config.variants[name]):
            if key in flatten(settings):
                _check_value(f"groot.{key}", lookup(settings, key), f"{where}.{key}")
        _check_update(where, settings)


def _check_update(where: str, settings: ConfigDict) -> None:
    """What one system's settings of config.groot say together."""
    # Two terms are minimised: the contrast, a weighted sum of losses, and nll_weight times the loss
    # of gold. A contrast compares candidates, and has nothing to compare in a pool of one.
    contrast = any(settings.loss[name] > 0 for name in settings.loss)
    if not contrast and settings.nll_weight == 0:
        raise UserError(
            f"{where}: every loss and nll_weight are 0, so there is nothing to train; give one a "
            "weight"
        )
    if contrast and settings.pool.gold + settings.pool.beams < 2:
        raise UserError(
            f"{where}: a pool without at least two of gold and beam candidates has "
            "nothing to contrast; raise pool.beams"
        )
    pool = settings.pool
    if pool.consensus > (room := max(pool.size - pool.gold - pool.beams, 0)):
        raise UserError(
            f"{where}: pool.consensus is {pool.consensus}, but a pool of pool.size {pool.size} has "
            f"room for {room} beside gold and pool.beams; raise pool.size"
        )
    if settings.batch_size % settings.accumulate:
        raise UserError(
            f"{where}: accumulate is {settings.accumulate}, which does not divide batch_size "
            f"{settings.batch_size}"
        )
