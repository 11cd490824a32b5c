"""TFDS sets of words and tags, read through `tfds.data_source`, so TensorFlow is never imported.

`GrootColumns` is a builder that prepares local column files; other sets are taken by name when
they have a feature of words and one of tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from groot_jax.data.readers.columns import read_columns
from groot_jax.data.readers.layout import Columns
from groot_jax.data.readers.reading import Problems, Read, require_path, resolve_path
from groot_jax.data.schemes import Tagged
from groot_jax.errors import UserError

OURS = "groot_columns"
# What other sets call their splits.
_SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "dev", "valid"), "test": ("test",)}


class GrootColumns(tfds.core.GeneratorBasedBuilder):
    """Column files as a TFDS set with features `tokens`, `tags` and `source` (file:line).

    Its configuration is named by a digest of the files and of how they are read, so that changed
    files are prepared anew. What config.data.policy=skip dropped stands in the set's metadata.
    """

    name = OURS
    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks this up through a package that it does not declare; given here, it need not.
    code_path = Path(__file__)

    def __init__(self, *, paths: Mapping[str, Path], columns: Columns, policy: str, **kwargs: Any):
        self._paths, self._columns, self._policy = dict(paths), columns, policy
        digest = hashlib.sha256(repr((*columns, policy)).encode())
        for split, path in self._paths.items():
            digest.update(f"{split} {path}".encode())
            digest.update(path.read_bytes())
        # 64 of its 256 bits: a path of a file system has to hold it, and two sets in a folder meet
        # by chance once in 10^19 pairs.
        config = tfds.core.BuilderConfig(name=digest.hexdigest()[:16])
        super().__init__(config=config, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        texts = tfds.features.Sequence(tfds.features.Text())
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sentences of column files: words and their tags.",
            features=tfds.features.FeaturesDict(
                {"tokens": texts, "tags": texts, "source": tfds.features.Text()}
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # Sentences keep the order of their file.
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._paths}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        problems = Problems(self._policy)
        sentences, layout = read_columns(self._paths[split], self._columns, problems)
        if not sentences:
            raise UserError(
                f"config.data.{split}: {self._paths[split]} holds no sentence; give another"
            )
        # Later jobs find the set prepared and read no file; what was wrong with it they read here.
        self.info.metadata[split] = {
            "skipped": problems.count,
            "first": problems.first,
            "layout": layout,
        }
        for i, item in enumerate(sentences):
            assert isinstance(item, Tagged)
            yield i, {"tokens": item.words, "tags": item.tags, "source": item.place()}


def read_tfds(data: ConfigDict, problems: Mapping[str, Problems]) -> dict[str, Read]:
    """The splits of the set config.data.tfds_name.

    For `groot_columns`, data.train, dev and test are column files; for other sets they are split
    names (`train[:90%]` too), by default those that the set has. Raises UserError for a set, split
    or feature that is not there.
    """
    tfds.disable_progress_bar()
    if data.tfds_name == OURS:
        paths = {
            split: require_path(resolve_path(data, data[split]), f"config.data.{split}")
            for split in _SPLIT_NAMES
            if data[split]
        }
        columns = Columns.from_config(data)
        sources = _open(data, {"paths": paths, "columns": columns, "policy": data.policy})
    else:
        sources = _open(data, {})
        for split, names in _SPLIT_NAMES.items():
            # data.dev "" and splits train, validation -> dev is validation; data.train
            # "train[:90%]" is no split of that name, and TFDS is asked for the slice.
            wanted = data[split] or next((name for name in names if name in sources), "")
            if wanted:
                found = sources[wanted] if wanted in sources else _open(data, {}, wanted)
                sources |= {split: found}
        sources = {split: sources[split] for split in _SPLIT_NAMES if split in sources}
    if "train" not in sources:
        raise UserError(
            f"config.data.train is empty and {data.tfds_name} has no split train; name one"
        )
    splits: dict[str, Read] = {}
    for split, source in sources.items():
        items = _read_source(data, split, source, problems[split])
        layout = f"TFDS, {data.words_feature} and {data.tags_feature}"
        prepared = (source.dataset_info.metadata or {}).get(split)
        if data.tfds_name == OURS and prepared:
            problems[split].count += prepared["skipped"]
            problems[split].first = problems[split].first or prepared["first"]
            layout = prepared["layout"]
        splits[split] = Read(items, layout)
    return splits


def _open(data: ConfigDict, builder_kwargs: dict[str, Any], split: str | None = None) -> Any:
    """One split as a TFDS data source, or all of them by name."""
    try:
        return tfds.data_source(
            data.tfds_name,
            split=split,
            data_dir=data.tfds_dir or None,
            builder_kwargs={**builder_kwargs, "file_format": "array_record"},
        )
    except tfds.core.DatasetNotFoundError:
        where = data.tfds_dir or "TFDS's own folder"
        raise UserError(
            f"config.data.tfds_name: TFDS knows no set {data.tfds_name!r}, and {where} has none; "
            "check the name and config.data.tfds_dir"
        ) from None
    except (ValueError, NotImplementedError, OSError) as error:
        split_of = f" split {split!r} of" if split else ""
        raise UserError(
            f"config.data.tfds_name:{split_of} {data.tfds_name!r} cannot be read as array_record "
            f"({' '.join(str(error).split())[:300]}); prepare it with file_format=array_record"
        ) from error


def _texts(feature: Any, values: Sequence[Any]) -> list[str]:
    """Words or tags of one example: class numbers by name, text from the bytes it comes back as.

    ClassLabel(O, B-x), [1, 0] -> B-x, O; Text, [b"caf\\xc3\\xa9"] -> café.
    """
    inner = getattr(feature, "feature", None)
    if isinstance(inner, tfds.features.ClassLabel):
        return [inner.int2str(int(value)) for value in values]
    return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]


def _read_source(data: ConfigDict, split: str, source: Any, problems: Problems) -> list[Tagged]:
    """The sentences of one split, placed by the file and line of ours, else by their number."""
    name, features = data.tfds_name, source.dataset_info.features
    ours = name == OURS
    words_key, tags_key = ("tokens", "tags") if ours else (data.words_feature, data.tags_feature)
    for key, config_key in (
        (words_key, "config.data.words_feature"),
        (tags_key, "config.data.tags_feature"),
    ):
        inner = getattr(dict(features.items()).get(key), "feature", None)
        if not isinstance(inner, (tfds.features.ClassLabel, tfds.features.Text)):
            raise UserError(
                f"{config_key}: {name} has no sequence of texts or classes {key!r}; its features "
                f"are {', '.join(features)}"
            )
    sentences = []
    for i in range(len(source)):
        example = source[i]
        words = _texts(features[words_key], example[words_key])
        tags = _texts(features[tags_key], example[tags_key])
        file, line = f"{name}/{split}", i
        if ours:
            # "C:/my/train.txt:8" -> the last colon parts file and line.
            file, _, number = example["source"].decode("utf-8").rpartition(":")
            line = int(number)
        if len(words) != len(tags) or not words:
            problems.add(f"{file}:{line}: {len(words)} words and {len(tags)} tags; mend the set")
            continue
        sentences.append(Tagged(tuple(words), tuple(tags), file, (line,) * len(words)))
    return sentences
