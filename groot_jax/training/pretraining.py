"""What a work directory of pretraining fixes once, how its loss is measured, and what it leaves.

W/pretraining/ holds tokenizer, sizes and a digest of the text; W/model is a checkpoint folder that
`model.init` takes, in Hugging Face's form with our tokenizer.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from groot_jax.config import names_labeler
from groot_jax.contrast.update import NllBatch, OutputColumns, Params, nll_batch, nll_scores
from groot_jax.data.corruption import Corruption
from groot_jax.data.denoising import Denoising
from groot_jax.data.labeling import Sentence
from groot_jax.data.ladder import Ladder, fit_ladder, lengths_allowed
from groot_jax.data.text import Text, digest_of, without_too_long
from groot_jax.data.tokenizer import Tokenizer, load_tokenizer
from groot_jax.errors import UserError
from groot_jax.mesh import arrays
from groot_jax.mesh.layout import summed, use_layout
from groot_jax.mesh.rows import own_rows
from groot_jax.model.config import T5Config
from groot_jax.model.pretrained import load_config, save_pretrained
from groot_jax.model.t5 import T5
from groot_jax.runtime.checksums import write_sums
from groot_jax.runtime.files import whole_folder
from groot_jax.task import init_folder, make_model_config, make_tokenizer
from groot_jax.training.setup import Partitioning

MODEL_FOLDER = "model"
_FOLDER, _FILE = "pretraining", "pretraining.json"


@dataclass(frozen=True)
class PretrainTask:
    """Fixed for a work directory; see the module."""

    config: ConfigDict
    denoising: Denoising
    ladder: Ladder
    model_config: T5Config
    digest: str  # of the text


def make_pretrain_task(config: ConfigDict, text: Text) -> PretrainTask:
    """Trains or loads the tokenizer and settles every size, from the text.

    Raises UserError where the tokenizer cannot be had, and for a line that no batch can hold.
    """
    if names_labeler(config.model.init):
        raise UserError(
            f"config.model.init={config.model.init} is a labeler, which would forget its labels: "
            "pretrain from scratch or from a released T5, and train a labeler from that"
        )
    format_name, tokenizer = make_tokenizer(config, text.train, ())
    denoising = _denoising(config, tokenizer, format_name == "aligned")
    # Of the text as it was read: the next job compares it before it leaves lines out.
    digest = digest_of(text)
    kept = fitting(config, denoising, text)
    envelopes = denoising.envelopes([*kept.train, *kept.dev])
    needs = [envelope.need for envelope in envelopes]
    ladder = fit_ladder(needs, config.loader, tokenizer.bytes)
    # Rows for pieces, sentinels and features; those of tags are added when a labeler is trained.
    model_config = make_model_config(config.model, tokenizer.vocab_size, tokenizer)
    return PretrainTask(config, denoising, ladder, model_config, digest)


def _denoising(config: ConfigDict, tokenizer: Tokenizer, by_word: bool) -> Denoising:
    settings = config.pretrain
    return Denoising(tokenizer, by_word, Corruption(settings.corrupt, settings.mean_span))


def fitting(config: ConfigDict, denoising: Denoising, text: Text) -> Text:
    """The text without the lines that are over the largest bucket, which no batch can hold.

    Raises UserError for such a line where `data.policy` says so."""
    ladder = Ladder(*lengths_allowed(config.loader, denoising.tokenizer.bytes))

    def check(sentence: Sentence) -> None:
        ladder.of(denoising.envelope(0, sentence).need)

    return without_too_long(text, check, config.data.policy)


def save_pretrain_task(task: PretrainTask, workdir: Path) -> None:
    """Writes W/pretraining/ with sums of its files, whole or not at all."""
    facts = {
        "by_word": task.denoising.by_word,
        "ladder": [list(rung) for rung in task.ladder.rungs],
        "model": dataclasses.asdict(task.model_config),
        "digest": task.digest,
    }
    with whole_folder(workdir / _FOLDER) as draft:
        task.denoising.tokenizer.save(draft / "tokenizer")
        (draft / _FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_sums(draft)


def load_pretrain_task(workdir: Path, config: ConfigDict) -> PretrainTask:
    """Reads W/pretraining/. Raises UserError where it is not what was written there."""
    path = workdir / _FOLDER / _FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        by_word, digest = bool(facts["by_word"]), str(facts["digest"])
        rungs = tuple((int(source), int(target)) for source, target in facts["ladder"])
        model_config = T5Config(**facts["model"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not what pretraining wrote ({type(error).__name__}: {error}): bring the "
            "file back, or name another --workdir"
        ) from error
    denoising = _denoising(config, load_tokenizer(path.parent / "tokenizer"), by_word)
    lengths = lengths_allowed(config.loader, denoising.tokenizer.bytes)
    ladder = Ladder(*lengths, rungs)
    return PretrainTask(config, denoising, ladder, model_config, digest)


def has_pretrain_task(workdir: Path) -> bool:
    """Whether a pretraining has settled its sizes there."""
    return (workdir / _FOLDER / _FILE).exists()


def check_text(task: PretrainTask, text: Text, workdir: Path) -> None:
    """Raises UserError where the text is no longer the one that `workdir` was pretrained on."""
    if digest_of(text) != task.digest:
        raise UserError(
            f"config.pretrain.text: the files do not hold the lines that they held when {workdir} "
            "was first pretrained in: bring the old ones back, or name another --workdir"
        )


def output_columns(task: PretrainTask, partitioning: Partitioning) -> OutputColumns:
    """All of the vocabulary that can be written: the whole, but for features of words where there
    are any. They are most of the rows of such a model (16,000 beside 2,000 pieces) and never a
    target: in the softmax they would cost eight times the logits, and as columns of the tied head
    they would be pushed away from all that the decoder says instead of learning what words mean.
    """
    tokenizer, rows = task.denoising.tokenizer, task.model_config.vocab_size
    count = tokenizer.base_size if tokenizer.has_features else rows
    # Of 6 rows and 4 columns: ids [0, 1, 2, 3], and the way back [0, 1, 2, 3, -1, -1].
    ids_V = np.arange(rows, dtype=np.int32)
    columns = OutputColumns(ids_V[:count], np.where(ids_V < count, ids_V, -1))
    return arrays.put(columns, partitioning.layout.everywhere)


# ---- The loss on text that was set aside ------------------------------------------------------


def dev_loss(
    task: PretrainTask,
    partitioning: Partitioning,
    columns: OutputColumns,
    dev: Sequence[Sentence],
) -> Callable[[Params], dict[str, float]]:
    """The loss on the dev part, as a function of the parameters, the same in all processes, each of
    which has to call it.

    `loss`: nats a target token, sentinels and EOS included; `perplexity`: its exponential. The dev
    part is masked alike each time: otherwise two evaluations would differ by their masks as well.
    """
    layout, model = partitioning.layout, T5(task.model_config)
    own_B = own_rows(layout, task.config.pretrain.batch_size)
    examples = task.denoising.envelopes(dev)
    batches = list(task.denoising.dev_batches(examples, len(own_B), task.ladder, own_B))

    def sums(
        params: Params, batch: NllBatch, columns: OutputColumns
    ) -> tuple[jax.Array, jax.Array]:
        # Sums, and one division on the host at the end: batches differ in their number of tokens.
        logp_BxT, _, mask_BxT = nll_scores(model, params, batch, columns)
        mask_BxT = mask_BxT.astype(logp_BxT.dtype)
        return -(logp_BxT * mask_BxT).sum(), mask_BxT.sum()

    @partial(jax.jit, out_shardings=layout.everywhere)
    def laid_out(
        params: Params, batch: NllBatch, columns: OutputColumns
    ) -> tuple[jax.Array, jax.Array]:
        with use_layout(layout):
            return summed(sums, params, batch, columns)

    def evaluate(params: Params) -> dict[str, float]:
        found = []
        for batch in batches:
            data = arrays.put(nll_batch(batch), layout.batch)
            found.append(laid_out(params, data, columns))
        # Read only now: the host prepares a batch while the device works on the one before.
        loss, tokens = (sum(float(part) for part in parts) for parts in zip(*found, strict=True))
        mean = loss / max(tokens, 1.0)
        # exp(709.8) is about the largest double; a training that diverges gets beyond.
        return {"loss": mean, "perplexity": math.exp(min(mean, 700.0))}

    return evaluate


# ---- The model that it leaves -----------------------------------------------------------------


def write_model(
    task: PretrainTask, params: Params, partitioning: Partitioning, folder: Path
) -> None:
    """Writes `folder`, whole or not at all: what `model.init` and `text.tokenizer` take.

    Every process has to call, since parameters are gathered, one after the other; the first one
    writes. Rows that only fill the embedding up, of which nothing was learned, are left out: rows
    for tags then get draws like the rows that were learned.
    """
    # One parameter at a time: gathered at once, they would be on every device whole.
    whole = jax.tree.map(partial(_gathered, partitioning), params)
    if jax.process_index() != 0:
        return
    init = task.config.model.init
    rows = task.denoising.tokenizer.vocab_size
    if init:  # A released T5 has 32,128 rows for the 32,100 ids of its tokenizer: they stay.
        rows = max(rows, load_config(init_folder(task.config.model)).vocab_size)
    whole["shared"]["embedding"] = whole["shared"]["embedding"][:rows]
    if "lm_head" in whole:
        whole["lm_head"]["kernel"] = whole["lm_head"]["kernel"][:, :rows]
    with whole_folder(folder) as draft:
        save_pretrained(draft, dataclasses.replace(task.model_config, vocab_size=rows), whole)
        task.denoising.tokenizer.save(draft)


def _gathered(partitioning: Partitioning, x: jax.Array) -> np.ndarray:
    """The array on the host, in the first process; nothing of it elsewhere."""
    # Parts of it lie on other processes' devices. Its shards are exchanged by a program, in which
    # every process takes part.
    if not x.is_fully_addressable:
        x = jax.jit(lambda x: x, out_shardings=partitioning.layout.everywhere)(x)
    return arrays.read(x) if jax.process_index() == 0 else np.zeros(0, np.float32)
