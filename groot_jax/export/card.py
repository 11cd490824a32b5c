"""README.md of an exported folder: what the labeler is, how to use it, how good it is."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from groot_jax import __version__
from groot_jax.data.card import read_card
from groot_jax.evaluation.bootstrap import paired_bootstrap, ratio_interval
from groot_jax.evaluation.predictions import span_counts
from groot_jax.evaluation.records import Record, read_records
from groot_jax.trained import Trained

_NEEDS = {
    "transformers": "transformers, 4.57 or 5, with torch",
    "flax": "transformers with torch; for FlaxT5ForConditionalGeneration, transformers 4.57",
    "ctranslate2": "ctranslate2 and tokenizers",
    "stablehlo": "jax, flatbuffers, numpy and tokenizers",
}
# Of a record: its name in the card, and where it is kept for each sentence, for an interval.
_METRICS = (
    ("reward of rank 1, mean of the sentences", "reward@1"),
    ("mean reward of the list", "mean_reward@10"),
    ("best reward of the list", "max_reward@10"),
    ("F1 over all spans", "span_f1"),
    ("precision over all spans", "span_precision"),
    ("recall over all spans", "span_recall"),
    ("sentences labeled without an error", "exact_match"),
)
# Of those that W/eval has for no single sentence: the counts whose sum is divided, and those whose
# mean divides it.
_RATIOS: dict[str, tuple[str, tuple[str, ...]]] = {
    "span_f1": ("right", ("predicted", "gold")),
    "span_precision": ("right", ("predicted",)),
    "span_recall": ("right", ("gold",)),
    "exact_match": ("exact", ("sentences",)),
}


def model_card(trained: Trained, kind: str) -> str:
    """The text of README.md. `kind`: the format of the folder."""
    task = trained.task
    config, format_ = task.config, task.format
    k = min(5, config.generate.k)
    library = "transformers" if kind in ("transformers", "flax") else kind
    types = ", ".join(f"`{type_}`" for type_ in format_.types)
    blocks = [
        f"---\nlibrary_name: {library}\npipeline_tag: token-classification\n"
        "tags:\n- groot_jax\n- sequence-labeling\n---",
        "# A sequence labeler\n\n"
        f"A T5 model that reads a sentence and writes its labels, in the text format "
        f"`{format_.name}`. It was trained with groot_jax, for the reward `{config.reward.name}`; "
        f"this is step {trained.step} of the system `{trained.system}`.",
        f"Types: {types}.",
        "## Use\n\n"
        f"`labeling.py` needs {_NEEDS[kind]}, and nothing of groot_jax.\n\n"
        f'    echo "black levi jeans" | python labeling.py -k {k}\n\n'
        "    from labeling import Labeler\n"
        f'    Labeler("FOLDER").label(["black", "levi", "jeans"], k={k})\n\n'
        + _search(trained, kind),
        *(f"Note: {note}." for note in notes(trained)),
        "## Data\n\n" + _data(trained),
        "## Quality\n\n" + _quality(trained),
        "## Training\n\nVersions: " + _versions() + ".\n\n"
        "The config, each key of which `configs/default.py` of groot_jax explains:\n\n"
        "```json\n" + json.dumps(config.to_dict(), indent=1, sort_keys=True) + "\n```",
        "## How to cite\n\n"
        "Kazuma Hashimoto and Karthik Raman: GROOT: Corrective Reward Optimization for Generative "
        "Sequential Labeling, arXiv 2209.14694; the text formats are those of Raman et al., arXiv "
        "2203.08378. Name groot_jax "
        f"{__version__} as the implementation.",
    ]
    return "\n\n".join(blocks) + "\n"


def notes(trained: Trained) -> list[str]:
    """Where `labeling.py` does otherwise than `groot_jax.predict` by default would."""
    text, rule = trained.task.config.text, trained.tuning().rule
    found = []
    if rule != "map":
        found.append(
            f"predict orders its answers by `{rule}`, the rule that dev chose; `labeling.py` by "
            "probability, as `predict --decide=map` does"
        )
    if text.split != "spaces":
        found.append(
            f"predict parts text into words by `text.split={text.split}`; the command of "
            "`labeling.py` at spaces alone: give it words that are parted so, with spaces between"
        )
    elif trained.punctuation_apart():
        found.append(
            "punctuation stood apart from words in training: give `labeling.py` text in which it "
            "does, `in Rome .`"
        )
    if text.long_sentences == "window":
        found.append(
            f"predict cuts sentences of over {trained.task.max_words} words into windows; "
            "`labeling.py` refuses them"
        )
    return found


def _search(trained: Trained, kind: str) -> str:
    """What a user of this folder has to know of the search."""
    settings = trained.task.config.generate
    said = f"The list is that of a beam search of width {settings.k}, under a grammar. "
    if kind in ("transformers", "flax"):
        said += (
            "`generate` alone has the width and no grammar, and a softmax over the whole "
            "vocabulary, which training had not seen where `model.normalise` is `legal`: "
            "`labeling.py` puts both in their place."
        )
    elif kind == "ctranslate2":
        said += (
            "CTranslate2 knows no grammar: what it writes beyond it is dropped, and such a "
            "sentence is searched once more, step by step, which is exact and slow."
        )
    else:
        said += (
            "It is compiled for each new size of batch when it is first called; `programs/` has "
            "one program for each length of output, for CPUs, CUDA GPUs and TPUs."
        )
    return said


def _data(trained: Trained) -> str:
    data, digests = trained.task.config.data, trained.task.digests
    source = {"tfds": data.tfds_name, "retail": "the generated corpus of groot_jax"}
    lines = [f"Read as `{data.reader}` from {source.get(data.reader, 'files')}."]
    card = read_card(trained.workdir) or {}
    known = card.get("splits", {})
    for split in ("train", "dev", "test"):
        name = data[split] or ("a part of train" if data.train else "-")
        if data.reader in source:
            name = "its own"
        if known and split not in known:
            lines.append(f"- {split}: none")
            continue
        counts = ""
        if facts := known.get(split):
            spans = ", ".join(f"{type_} {count:,}" for type_, count in facts["spans"].items())
            counts = f", {facts['sentences']:,} sentences; spans: {spans or 'none'}"
            if facts["also_in_train"]:
                counts += f"; {facts['also_in_train']:,} sentences stand in train too"
        digest = f"; digest `{digests[split]}`" if split in digests else ""
        lines.append(f"- {split}: `{name}`{counts}{digest}")
    if data.train_limit:
        lines.append(f"- of train, {data.train_limit} sentences were used")
    return "\n".join([*lines, *(f"- {note}" for note in card.get("notes", ()))])


def _quality(trained: Trained) -> str:
    found = [
        record
        for record in read_records(trained.workdir)
        if (record["system"], record["step"]) == (trained.system, trained.step)
        and record["decide"] == "map"
    ]
    if not found:
        return (
            "This checkpoint was not evaluated: `python -m groot_jax.evaluate` does that, and a "
            "new export tells of it."
        )
    resamples = trained.task.config.evaluate.bootstrap
    return "\n\n".join(_table(record, trained.workdir, resamples) for record in found)


def _table(record: Record, workdir: Path, resamples: int) -> str:
    chose = ", which chose the checkpoint" if record["split"] == "dev" else ""
    rows = [
        f"{record['num_sentences']} sentences of {record['split']}{chose}; reward: "
        f"`{record['reward']}`. In brackets, 95 % of the resamples (bootstrap over sentences).",
        "",
        "| | |",
        "|---|---|",
    ]
    place = record["system"], record["split"], record["step"], record["decide"]
    counts = span_counts(workdir, *place)
    for name, key in _METRICS:
        value = record["metrics"].get(key)
        if value is not None:
            interval = _interval(record["per_sentence"].get(key, ()), resamples)
            if counts is not None and key in _RATIOS:
                interval = _ratio(counts, key, value, resamples)
            rows.append(f"| {name} | {value:.4f}{interval} |")
    return "\n".join(rows)


def _ratio(counts: dict[str, np.ndarray], key: str, value: float, resamples: int) -> str:
    """The interval of a metric that is a ratio of sums; none where the predictions that lie there
    are of another evaluation."""
    part, wholes = _RATIOS[key]
    # F1 is right spans over the mean of predicted and gold ones.
    parts_N = counts[part] * len(wholes)
    wholes_N = np.sum([counts[whole] for whole in wholes], axis=0)
    if abs(parts_N.sum() / max(wholes_N.sum(), 1e-9) - value) > 1e-6:
        return ""
    low, high = ratio_interval(parts_N, wholes_N, resamples)
    return f" [{low:.4f}, {high:.4f}]"


def _interval(values: Sequence[float], resamples: int) -> str:
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)] if known.size else known
    if not known.size:
        return ""
    low, high = paired_bootstrap(known, np.zeros_like(known), resamples)["interval"]
    return f" [{low:.4f}, {high:.4f}]"


def _versions() -> str:
    names = ["jax", "flax", "numpy", "tokenizers", "sentencepiece", "transformers"]
    known = [f"Python {platform.python_version()}", f"groot_jax {__version__}"]
    for name in names:
        try:
            known.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(known)
