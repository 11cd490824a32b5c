"""What a work directory fixes once: types, tokenizer, text format, grammar, sizes and the model.

Written to W/task/ when a run starts and read back by every job, so that evaluation and prediction
need no corpus. Holds no parameters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from groot_jax.data.batches import Ladder, encode, fit_ladder
from groot_jax.data.corpus import Corpus
from groot_jax.data.format import Format
from groot_jax.data.formats import make_format, resolve_format
from groot_jax.data.labeling import Sentence
from groot_jax.data.lengths import without_too_long
from groot_jax.data.tokenizer import Tokenizer, WordTokenizer, load_tokenizer, train_tokenizer
from groot_jax.errors import UserError
from groot_jax.generate.generator import Generator
from groot_jax.generate.grammar import Grammar, make_grammar
from groot_jax.mesh import arrays
from groot_jax.model.config import T5Config, from_scratch, run_settings
from groot_jax.model.pretrained import load_config, load_pretrained, resize_embeddings
from groot_jax.model.scratch import Start
from groot_jax.model.t5 import T5, init_params
from groot_jax.runtime.files import whole_folder

# Embedding rows are rounded up to a multiple of this, which tensor sharding and TPU tiles like.
_ROWS = 128


@dataclass(frozen=True)
class Task:
    """Fixed for a work directory; see the module."""

    config: ConfigDict
    types: tuple[str, ...]
    tokenizer: Tokenizer
    format: Format
    grammar: Grammar
    ladder: Ladder
    model_config: T5Config
    digests: dict[str, str]  # of each split; none in a work directory of an earlier version

    @property
    def model(self) -> T5:
        return T5(self.model_config)

    def generator(self, *, k: int | None = None, **changes: Any) -> Generator:
        """The search as `config.generate` describes it; `changes` go to `Generator`."""
        settings = self.config.generate
        model = changes.pop("model", self.model)
        options = {
            "use_grammar": settings.grammar,
            "length_penalty": settings.length_penalty,
        } | changes
        return Generator(model, self.format, self.grammar, k=k or settings.k, **options)


def make_task(config: ConfigDict, corpus: Corpus) -> Task:
    """Trains or loads the tokenizer and settles every size, from the training split."""
    name, tokenizer = make_tokenizer(config, corpus.train, corpus.types)
    format_ = make_format(name, tokenizer, corpus.types)
    # The format may have added whole pieces for tags to the tokenizer that it was given.
    model_config = make_model_config(config.model, format_.tokenizer.vocab_size)
    examples = encode(without_too_long(corpus, format_, config).train, format_)
    loader = config.loader
    ladder = fit_ladder(
        examples,
        loader.source_buckets,
        loader.target_buckets,
        padding=loader.padding,
        max_rungs=loader.rungs,
    )
    return _task(config, corpus.types, format_, ladder, model_config, digests_of(corpus))


def make_tokenizer(
    config: ConfigDict, sentences: Sequence[Sentence], types: Sequence[str]
) -> tuple[str, WordTokenizer]:
    """The format's name and the tokenizer, loaded or trained on `sentences`, that `config.text` and
    `model.init` ask for."""
    text, model = config.text, config.model
    source = text.tokenizer
    if source == "auto":
        source = model.init or "train"
    if source == "train":
        name = resolve_format(text.format, pretrained=bool(model.init))
        tokenizer = train_tokenizer(
            sentences,
            types,
            text.vocab_size,
            num_sentinels=max(100, text.max_words),
            lowercase=text.lowercase,
            max_features=text.max_features if name == "aligned" else 0,
        )
        return name, tokenizer
    # Where the config does not lower-case words, the tokenizer may still have been made for it.
    tokenizer = load_tokenizer(source, lowercase=text.lowercase or None)
    pretrained, features = bool(model.init), tokenizer.has_features
    return resolve_format(text.format, pretrained, features), tokenizer


def make_model_config(model: ConfigDict, pieces: int) -> T5Config:
    """The shape that `config.model` asks for, with rows for `pieces` ids or more."""
    rows = -(-pieces // _ROWS) * _ROWS
    if not model.init:
        return from_scratch(model, rows)
    config = load_config(model.init, **run_settings(model))
    return dataclasses.replace(config, vocab_size=max(rows, config.vocab_size))


def digests_of(corpus: Corpus) -> dict[str, str]:
    """A digest of the words and labels of each split, wherever they were read from."""
    digests = {}
    for split in ("train", "dev", "test"):
        digest = hashlib.blake2b(digest_size=16)
        for sentence in getattr(corpus, split):
            line = json.dumps([sentence.words, sentence.labeling], separators=(",", ":"))
            digest.update(line.encode() + b"\n")
        digests[split] = digest.hexdigest()
    return digests


def check_corpus(task: Task, corpus: Corpus, workdir: Path) -> None:
    """Raises UserError where the data are no longer those that `workdir` was trained on."""
    check_types(task, corpus, workdir)
    found = digests_of(corpus) if task.digests else {}
    for split, digest in task.digests.items():
        if found[split] != digest:
            raise UserError(
                f"config.data: the {split} split does not hold the sentences that it held when "
                f"{workdir} was first trained in: bring the old data back, or name another "
                "--workdir"
            )


def check_types(task: Task, corpus: Corpus, workdir: Path) -> None:
    """Raises UserError where a model of `workdir` cannot be scored on the data."""
    if corpus.types != task.types:
        raise UserError(
            f"config.data: the types of the data are not those that {workdir} was trained on; "
            "give it the same training data"
        )


def _task(
    config: ConfigDict,
    types: Sequence[str],
    format_: Format,
    ladder: Ladder,
    model_config: T5Config,
    digests: dict[str, str],
) -> Task:
    grammar = make_grammar(format_, config.model.normalise, model_config.vocab_size)
    return Task(
        config, tuple(types), format_.tokenizer, format_, grammar, ladder, model_config, digests
    )


def initial_params(task: Task, shardings: Any = None) -> Any:
    """Random parameters, or those of `model.init` with rows added for new pieces, where
    `shardings` says."""
    return make_params(task.config, task.model_config, task.format.name == "aligned", shardings)


def make_params(
    config: ConfigDict, model_config: T5Config, aligned: bool, shardings: Any = None
) -> Any:
    """As `initial_params`; `aligned`: whether source positions are words."""
    init = config.model.init
    if not init:
        start = Start(**config.model.start.to_dict()) if aligned else None
        return init_params(model_config, config.seed, shardings, start)
    _, params = load_pretrained(init)
    params = resize_embeddings(params, model_config.vocab_size)
    return params if shardings is None else arrays.put(params, shardings)


def save_task(task: Task, workdir: Path) -> None:
    """Writes W/task/, whole or not at all."""
    facts = {
        "types": list(task.types),
        "format": task.format.name,
        "ladder": [list(rung) for rung in task.ladder.rungs],
        "model": dataclasses.asdict(task.model_config),
        "digests": task.digests,
    }
    with whole_folder(workdir / "task") as draft:
        task.tokenizer.save(draft / "tokenizer")
        (draft / "task.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_task(workdir: Path, config: ConfigDict) -> Task:
    """Reads W/task/. Raises UserError where nothing was trained there."""
    path = workdir / "task" / "task.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        types, format_name = tuple(map(str, facts["types"])), str(facts["format"])
        rungs = tuple((int(source), int(target)) for source, target in facts["ladder"])
        # How the model computes, unlike what it is, may be another matter than in training.
        model_config = T5Config(**(facts["model"] | run_settings(config.model)))
        digests = dict(facts.get("digests", {}))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing, so nothing was trained in {workdir}; run groot_jax.train first"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not what training wrote ({type(error).__name__}: {error}): bring the file "
            "back, or train in another --workdir"
        ) from error
    tokenizer = load_tokenizer(path.parent / "tokenizer")
    format_ = make_format(format_name, tokenizer, types)
    ladder = Ladder(config.loader.source_buckets, config.loader.target_buckets, rungs)
    return _task(config, types, format_, ladder, model_config, digests)
