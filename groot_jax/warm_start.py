"""A run that goes on from a labeler: `config.model.init` names its work directory.

Its parameters, tokenizer and text format stay. Types may come and go: where labels are pieces of
their own, new ones get a piece and a row of the embedding; no id that was trained moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.data.format import Format
from groot_jax.data.tokenizer import Tokenizer, tag_labels
from groot_jax.errors import UserError
from groot_jax.model.config import T5Config
from groot_jax.model.param_tree import Params, param_shapes
from groot_jax.runtime.files import expanded
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.systems import choose_step, choose_system, home_of


@dataclass(frozen=True)
class Earlier:
    """The labeler to start from. `chosen`: its system and step, where they are settled already."""

    workdir: Path
    settings: ConfigDict  # config.model of the run that starts
    config: ConfigDict  # its own
    format: Format
    model_config: T5Config
    chosen: tuple[str, int] | None

    @cached_property
    def start(self) -> tuple[str, int]:
        """System and step, as `init_system` and `init_checkpoint` ask for them. Raises UserError
        where they are not there."""
        if self.chosen is not None:
            return self.chosen
        wanted, flag = self.settings.init_system or None, "config.model.init_system"
        system = choose_system(self.workdir, self.config, wanted, flag)
        with self._checkpoints(system) as checkpoints:
            wanted, flag = self.settings.init_checkpoint, "config.model.init_checkpoint"
            return system, choose_step(checkpoints, wanted, flag)

    def params(self) -> Params:
        """The parameters of that step, on the host. Raises UserError where they cannot be read."""
        system, step = self.start
        with self._checkpoints(system) as checkpoints:
            if step not in checkpoints.steps():
                raise UserError(
                    f"config.model.init: {checkpoints.folder} holds no step {step} any more, which "
                    "this run starts from: bring it back, or name another --workdir"
                )
            return checkpoints.restore_params_to_host(step, param_shapes(self.model_config))

    def _checkpoints(self, system: str) -> Checkpoints:
        home, tie = home_of(self.workdir, self.config, system), self.config.checkpoint.tie
        return Checkpoints(home, system, tie=tie, read_only=True)


def labeler_of(model: ConfigDict, chosen: tuple[str, int] | None = None) -> Earlier | None:
    """The labeler whose work directory `config.model.init` names; None where it names none.

    `model`: the section of the config. Raises UserError where that cannot be read, and for
    `init_system` or `init_checkpoint` without a labeler.
    """
    if not configs.names_labeler(model.init):
        if model.init_system or model.init_checkpoint != "best":
            raise UserError(
                f"config.model.init={model.init} is no labeler's work directory, so that "
                "config.model.init_system and init_checkpoint mean nothing: leave them out"
            )
        return None
    workdir = expanded(model.init, "config.model.init")
    try:
        # A run asks for its format, its tokenizer and its shape one after the other.
        written = tuple(path.stat().st_mtime_ns for path in _files_of(workdir) if path.exists())
        config, format_, model_config = _read(workdir, written)
    except UserError as error:
        raise UserError(f"config.model.init: {error}") from error
    return Earlier(workdir, model, config, format_, model_config, chosen)


def _files_of(workdir: Path) -> tuple[Path, ...]:
    return workdir / configs.CONFIG_FILE, workdir / "task" / "task.json"


@lru_cache(maxsize=1)
def _read(workdir: Path, written: tuple[int, ...]) -> tuple[ConfigDict, Format, T5Config]:
    """Config, format and shape of a labeler whose files were `written` then."""
    del written
    # Imported here: a task, too, is made with what stands in this file.
    from groot_jax.task import load_task

    config = configs.load_dumped(workdir / configs.CONFIG_FILE)
    task = load_task(workdir, config)
    return config, task.format, task.model_config


def tokenizer_for(earlier: Earlier, config: ConfigDict, types: Sequence[str]) -> Tokenizer:
    """The labeler's tokenizer, with a piece for each new label where labels are pieces of their
    own; appended, so that no id moves. Raises UserError where the run asks for another."""
    if config.text.tokenizer not in ("auto", config.model.init):
        raise UserError(
            f"config.text.tokenizer is {config.text.tokenizer!r}, but {_settled(earlier)} has its "
            "own: leave it at auto"
        )
    tokenizer = earlier.format.tokenizer
    if not _own_pieces(earlier.format):
        return tokenizer
    return tokenizer.with_whole_pieces(tag_labels(types).values())


def check(earlier: Earlier, config: ConfigDict, format_: Format) -> None:
    """Raises UserError where the run's settings do not go with what the labeler has learned."""
    theirs = earlier.format
    settled = _settled(earlier)
    if format_.name != theirs.name:
        raise UserError(
            f"config.text.format is {format_.name}, but {settled} writes {theirs.name}: leave it "
            "at auto"
        )
    if config.text.lowercase and not theirs.tokenizer.lowercase:
        raise UserError(
            f"config.text.lowercase is true, but {settled} has learned words as they are: leave "
            "it out"
        )
    if config.model.normalise != earlier.config.model.normalise:
        raise UserError(
            f"config.model.normalise is {config.model.normalise}, but {settled} was trained with "
            f"{earlier.config.model.normalise}: give it the same"
        )
    for tag, pieces in theirs.tags.items():
        if format_.tags.get(tag, pieces) != pieces:
            here, there = (_label(f, tag) for f in (format_, theirs))
            raise UserError(
                f"type {tag!r} would be written {here!r}, for another type reads like it, but "
                f"{settled} has learned {there!r}: rename the new type"
            )


def grown_params(earlier: Earlier, format_: Format, model_config: T5Config) -> Params:
    """The labeler's parameters, on the host, with rows for the pieces that `format_` has more.

    A new label's row is drawn from a normal distribution with the mean and the deviation, per
    dimension, of the rows of the labels that were trained: it begins as a type like any other. So
    is its column of a head of its own.
    """
    # Here and not above, for predict, which starts from no labeler and needs no Flax.
    from flax.traverse_util import flatten_dict, unflatten_dict

    from groot_jax.model.pretrained import resize_embeddings

    params = resize_embeddings(earlier.params(), model_config.vocab_size)
    known = earlier.format.tokenizer.vocab_size
    new = [p[0] for p in format_.tags.values() if len(p) == 1 and p[0] >= known]
    if not new:
        return params
    theirs = earlier.format
    types = [theirs.tags[type_][0] for type_ in theirs.types or ("O", "I")]
    rng = np.random.default_rng(0)
    flat = dict(flatten_dict(params))
    for key, is_head in ((("shared", "embedding"), False), (("lm_head", "kernel"), True)):
        if key not in flat:
            continue
        # As [V, D] either way: the head is [D, V].
        rows_VxD = np.array(flat[key].T if is_head else flat[key], np.float32)
        old = rows_VxD[types]
        noise = rng.standard_normal((len(new), rows_VxD.shape[1]), np.float32)
        rows_VxD[new] = old.mean(0) + old.std(0) * noise
        flat[key] = np.ascontiguousarray(rows_VxD.T) if is_head else rows_VxD
    return jax.tree.map(np.asarray, unflatten_dict(flat))


def _settled(earlier: Earlier) -> str:
    return f"the labeler in {earlier.workdir}, which config.model.init names,"


def _own_pieces(format_: Format) -> bool:
    """Whether labels are pieces of their own, as in every vocabulary that we train."""
    base = format_.tokenizer.base_size
    return all(len(pieces) == 1 and pieces[0] >= base for pieces in format_.tags.values())


def _label(format_: Format, tag: str) -> str:
    return tag_labels(format_.types).get(tag, tag)
