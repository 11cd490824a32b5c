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
from functools import cached_property
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from groot_jax import warm_start
from groot_jax.data.batches import encode
from groot_jax.data.corpus import USUAL_WORDS, Corpus
from groot_jax.data.format import Format
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Sentence
from groot_jax.data.ladder import Ladder, fit_ladder, lengths_allowed
from groot_jax.data.lengths import Windows, without_too_long
from groot_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer, wanted_files
from groot_jax.errors import UserError
from groot_jax.generate.generator import Generator
from groot_jax.generate.grammar import Grammar, make_grammar
from groot_jax.mesh import arrays
from groot_jax.mesh.layout import Layout
from groot_jax.model.config import T5Config, from_scratch, run_settings
from groot_jax.model.param_tree import Params
from groot_jax.runtime.checksums import write_sums
from groot_jax.runtime.files import whole_folder
from groot_jax.runtime.hub import fetch
from groot_jax.runtime.json_files import parsed, read_bytes
from groot_jax.task_files import FACTS, check_files

# Embedding rows are rounded up to a multiple of this, which tensor sharding and TPU tiles like.
_ROWS = 128
# Of a pretrained tokenizer's ids, how many may be without a row: a released T5 has more rows than
# ids, and one whose tokenizer was extended lacks a handful.
_MISSING = 0.03


@dataclass(frozen=True)
class Task:
    """Fixed for a work directory; see the module. Types and tokenizer are those of `format`."""

    config: ConfigDict
    format: Format
    ladder: Ladder
    model_config: T5Config
    digests: dict[str, str]  # of each split; none in a work directory of an earlier version
    data_words: int = USUAL_WORDS  # what config.text.max_words=0 stands for: see `follow_data`
    # System and step of the labeler that `model.init` names, where it names one.
    start: tuple[str, int] | None = None

    @property
    def max_words(self) -> int:
        """Words of the longest sentence, or window, that is labeled in one piece."""
        return min(self.config.text.max_words or self.data_words, self.format.max_words)

    @cached_property
    def windows(self) -> Windows:
        """Where sentences are cut; each into one window unless `text.long_sentences` is window."""
        return Windows(self.format, self.config, self.max_words)

    @cached_property
    def grammar(self) -> Grammar:
        """What may follow in an output, over the columns that `model.normalise` asks for."""
        return make_grammar(self.format, self.config.model.normalise, self.model_config.vocab_size)

    def generator(
        self,
        layout: Layout,
        *,
        k: int | None = None,
        model: T5Config | None = None,
        keep: bool = False,
        hurried: bool = False,
    ) -> Generator:
        """The search as `config.generate` describes it, on the devices of `layout`.

        k: labelings of a sentence, without: `generate.k`. model: the task's with another dropout.
        keep: what is traced stays on disk between runs, beside the compiled programs. hurried: with
        `keep`, the search of one sentence is compiled soon and not for speed.
        """
        settings = self.config.generate
        return Generator(
            model or self.model_config,
            self.format,
            self.grammar,
            k=k or settings.k,
            use_grammar=settings.grammar,
            length_penalty=settings.length_penalty,
            layout=layout,
            keep=keep,
            hurried=hurried,
        )


def make_task(config: ConfigDict, corpus: Corpus) -> Task:
    """Trains or loads the tokenizer and settles every size, from the training split.

    Raises UserError for types or sentences that the format or the sizes of batches cannot hold.
    """
    # The order matters: the tokenizer needs the format's name, the format the tokenizer, the model
    # the format's own tokenizer, and lengths are known once the format is.
    words = config.text.max_words or follow_data(config, corpus)
    name, tokenizer = make_tokenizer(config, corpus.train, corpus.types, words)
    format_ = make_format(name, tokenizer, corpus.types)
    earlier = warm_start.labeler_of(config.model)
    if earlier is not None:
        warm_start.check(earlier, config, format_)
    # The format may have added whole pieces for tags to the tokenizer that it was given.
    model_config = make_model_config(config.model, format_.tokenizer.vocab_size, tokenizer)
    examples = encode(without_too_long(corpus, format_, config, words).train, format_)
    needs = [example.need for example in examples]
    ladder = fit_ladder(needs, config.loader, format_.tokenizer.bytes)
    start = None if earlier is None else earlier.start
    return Task(config, format_, ladder, model_config, digests_of(corpus), words, start)


def follow_data(config: ConfigDict, corpus: Corpus) -> int:
    """Words of a sentence, or of a window, at most, where config.text.max_words does not say:
    those of the longest sentence and at least 100, the usual ones, which longer ones are cut to."""
    if config.text.long_sentences == "window":
        return USUAL_WORDS
    return max(USUAL_WORDS, *(len(s.words) for s in (*corpus.train, *corpus.dev, *corpus.test)))


def resolve_format(config: ConfigDict, has_features: bool = False) -> str:
    """`text.format`, `auto` resolved; `has_features`: whether a pretrained tokenizer has any.

    A released T5 gets text, which it has learned to read. `aligned` is for what starts from
    scratch, where there is nothing to keep, and for a model that groot_jax.pretrain made: its
    tokenizer has features of words, and it has learned to read those. A labeler keeps its own.
    """
    if config.text.format != "auto":
        return str(config.text.format)
    if (earlier := warm_start.labeler_of(config.model)) is not None:
        return earlier.format.name
    return "sentinel_tag" if config.model.init and not has_features else "aligned"


def num_sentinels(config: ConfigDict, max_words: int = 0) -> int:
    """Sentinels of a tokenizer that is trained: T5's 100, or one for each word of a sentence."""
    return max(USUAL_WORDS, max_words or config.text.max_words)


def make_tokenizer(
    config: ConfigDict, sentences: Sequence[Sentence], types: Sequence[str], max_words: int = 0
) -> tuple[str, Tokenizer]:
    """The format's name and the tokenizer, loaded or trained on `sentences`, that `config.text` and
    `model.init` ask for; `max_words` is that of a sentence, 0: `text.max_words`.

    Raises UserError where there is none to load, or nothing to train on.
    """
    text = config.text
    if (earlier := warm_start.labeler_of(config.model)) is not None:
        return resolve_format(config), warm_start.tokenizer_for(earlier, config, types)
    source, what = text.tokenizer, "config.text.tokenizer"
    if source == "auto" and config.model.init:
        source, what = init_folder(config.model), "config.model.init"
    elif source == "auto":
        source = "train"
    if source == "train":
        name = resolve_format(config)
        tokenizer = train_tokenizer(
            sentences,
            types,
            text.vocab_size,
            num_sentinels=num_sentinels(config, max_words),
            lowercase=text.lowercase,
            # Only `aligned` reads features; to the others they were thousands of rows without use.
            max_features=text.max_features if name == "aligned" else 0,
        )
        return name, tokenizer
    # Where the config does not lower-case words, the tokenizer may still have been made for it.
    tokenizer = load_tokenizer(source, lowercase=text.lowercase or None, what=what)
    return resolve_format(config, tokenizer.has_features), tokenizer


def init_folder(model: ConfigDict) -> Path:
    """The folder of `model.init`, fetched from the Hub where it is no folder, once a process.
    Raises UserError where there is none to have."""
    return fetch(model.init, "config.model.init", _files_of_init)


def _files_of_init(names: Sequence[str], where: str) -> list[str]:
    """Of a repository's files config.json, the weights in one format, and the tokenizer."""
    from groot_jax.model.stored import weight_files

    files = {"config.json", *weight_files(names, where), *wanted_files(names, where)}
    return sorted(files & {*names})


def make_model_config(
    model: ConfigDict, pieces: int, tokenizer: Tokenizer | None = None
) -> T5Config:
    """The shape that `config.model` asks for, with rows for `pieces` ids or more.

    Proves the headers of a checkpoint. `tokenizer`: the one that `model.init` goes with, which has
    to agree with it. Raises UserError where it does not.
    """
    from groot_jax.model.pretrained import open_checkpoint

    # Retail's 9,596 ids in format `aligned` get 9,600 rows, 75 times 128.
    rows = -(-pieces // _ROWS) * _ROWS
    if not model.init:
        return from_scratch(model, rows)
    if (earlier := warm_start.labeler_of(model)) is not None:
        config = dataclasses.replace(earlier.model_config, **run_settings(model))
    else:
        folder = init_folder(model)
        eos_id = None if tokenizer is None else tokenizer.eos_id
        config = open_checkpoint(folder, eos_id, **run_settings(model)).config
        if tokenizer is not None:
            _check_ids(config, tokenizer, folder)
    # T5's 32,128 rows hold its 32,100 ids and up to 28 labels: no checkpoint is ever cut short.
    return dataclasses.replace(config, vocab_size=max(rows, config.vocab_size))


def _check_ids(config: T5Config, tokenizer: Tokenizer, folder: Path) -> None:
    """Raises UserError where a checkpoint and a tokenizer are not of each other."""
    expected = {
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.eos_id,
        "decoder_start_token_id": tokenizer.pad_id,  # T5 begins its outputs with pad.
    }
    for name, id_ in expected.items():
        found = getattr(config, name)
        if found != id_:
            raise UserError(
                f"{folder / 'config.json'}: {name} is {found}, but by the tokenizer it is {id_}: "
                "give config.text.tokenizer the tokenizer that the model was trained with"
            )
    missing = tokenizer.first_whole - config.vocab_size
    if missing > _MISSING * tokenizer.first_whole:
        raise UserError(
            f"config.model.init={folder}: the model has {config.vocab_size} embeddings, and the "
            f"tokenizer {tokenizer.first_whole} ids: give config.text.tokenizer the tokenizer that "
            "the model was trained with"
        )


def digests_of(corpus: Corpus) -> dict[str, str]:
    """A digest of the words and labels of each split, wherever they were read from; of unlabeled
    sentences where there are some, which training alone reads."""
    digests = {}
    unlabeled = ("unlabeled",) if corpus.unlabeled else ()
    for split in ("train", "dev", "test", *unlabeled):
        digest = hashlib.blake2b(digest_size=16)
        for sentence in getattr(corpus, split):
            # `red shoes` -> [["red","shoes"],[[0,1,"color"]]]: as JSON, for of words joined by
            # spaces nobody could say whether `new york` was one word or two.
            line = json.dumps([sentence.words, sentence.labeling], separators=(",", ":"))
            digest.update(line.encode() + b"\n")
        digests[split] = digest.hexdigest()
    return digests


def check_corpus(task: Task, corpus: Corpus, workdir: Path) -> None:
    """Raises UserError where the data are no longer those that `workdir` was trained on."""
    check_types(task, corpus, workdir)
    # Types first: where they differ, digests do too, and types say more.
    found = digests_of(corpus) if task.digests else {}
    for split, digest in task.digests.items():
        if split in found and found[split] != digest:
            raise UserError(
                f"config.data: the {split} split does not hold the sentences that it held when "
                f"{workdir} was first trained in: bring the old data back, or name another "
                "--workdir"
            )


def check_types(task: Task, corpus: Corpus, workdir: Path) -> None:
    """Raises UserError where a model of `workdir` cannot be scored on the data."""
    if corpus.types != task.format.types:
        raise UserError(
            f"config.data: the types of the data are not those that {workdir} was trained on; "
            "give it the same training data"
        )


def initial_params(task: Task, shardings: Any = None) -> Params:
    """Random parameters, or those of `model.init` with rows added for new pieces, where
    `shardings` says."""
    earlier = warm_start.labeler_of(task.config.model, task.start)
    if earlier is not None:
        params = warm_start.grown_params(earlier, task.format, task.model_config)
        return params if shardings is None else arrays.put(params, shardings)
    return make_params(task.config, task.model_config, task.format.name == "aligned", shardings)


def make_params(
    config: ConfigDict, model_config: T5Config, aligned: bool, shardings: Any = None
) -> Params:
    """As `initial_params`; `aligned`: whether source positions are words."""
    # Here and not above, as in the other functions that make parameters or read released ones:
    # who labels with a model that is there needs no Flax, which takes a quarter of a second.
    from groot_jax.model.pretrained import open_checkpoint
    from groot_jax.model.scratch import Start
    from groot_jax.model.t5 import init_params

    init = config.model.init
    if not init:
        # `model.start` was chosen for words that are sums of features; the other formats begin as
        # T5 does.
        start = Start(**config.model.start.to_dict()) if aligned else None
        return init_params(model_config, config.seed, shardings, start)
    # T5 small has 32,128 rows: 40 labels on its 32,100 ids need 32,256, 128 rows more.
    checkpoint = open_checkpoint(init_folder(config.model))
    return checkpoint.params(model_config.vocab_size, shardings)


def save_task(task: Task, workdir: Path) -> None:
    """Writes W/task/ with sums of its files, whole or not at all."""
    facts = {
        "types": list(task.format.types),
        "format": task.format.name,
        "ladder": [list(rung) for rung in task.ladder.rungs],
        "model": dataclasses.asdict(task.model_config),
        "digests": task.digests,
        "max_words": task.data_words,
        "start": task.start,
    }
    with whole_folder(workdir / "task") as draft:
        task.format.tokenizer.save(draft / "tokenizer")
        (draft / "task.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_sums(draft)


def load_task(workdir: Path, config: ConfigDict) -> Task:
    """Reads W/task/. Raises UserError where nothing was trained there."""
    path = workdir / "task" / "task.json"
    data = read_bytes(path)
    if data is None:
        raise UserError(
            f"{path} is missing, so nothing was trained in {workdir}; run groot_jax.train first"
        )
    try:
        facts = parsed(data, FACTS)
        # How the model computes (dtype, dropout, remat, scan_layers), unlike what it is, may be
        # another matter than in training.
        model_config = T5Config(**(facts["model"] | run_settings(config.model)))
    except (UserError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not what training wrote ({error}): bring the file back, or train in "
            "another --workdir"
        ) from error
    check_files(path.parent)
    try:
        tokenizer = load_tokenizer(path.parent / "tokenizer")
    except Exception as error:  # Each library that reads a part of it has errors of its own.
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{path.parent / 'tokenizer'} is not what training wrote ({why}): move {path.parent} "
            "away and run groot_jax.train again, which makes it anew from the same data"
        ) from error
    format_ = make_format(facts["format"], tokenizer, tuple(facts["types"]))
    rungs = tuple((source, target) for source, target in facts["ladder"])
    ladder = Ladder(*lengths_allowed(config.loader, tokenizer.bytes), rungs)
    digests = dict(facts.get("digests", {}))
    data_words = facts.get("max_words", config.text.max_words or USUAL_WORDS)
    start = facts.get("start")
    start = None if start is None else (start[0], start[1])
    return Task(config, format_, ladder, model_config, digests, data_words, start)
