"""Parquet files, and folders that `datasets` saved: rows of words and tags, or of text and spans.

The names of numbered tags come from config.data.tag_names, else from what `datasets` wrote into the
file. Read by pyarrow, which comes with tensorflow-datasets; never by `datasets`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from groot_jax.data.readers.objects import Found, Objects
from groot_jax.data.readers.reading import Problems, Read
from groot_jax.errors import UserError


def _files(folder: Path) -> list[Path]:
    # `save_to_disk` writes data-00000-of-00002.arrow, a repository train-00000-of-00001.parquet.
    return sorted([*folder.glob("*.arrow"), *folder.glob("*.parquet")])


def read_arrow(path: Path, objects: Objects, problems: Problems) -> Read:
    """The rows of a Parquet file, or of all files of a folder, in the order of their names; bad
    rows, numbered from 0 over them all, go to `problems`. Raises UserError for a damaged file."""
    found = Found()
    number = 0
    files = _files(path) if path.is_dir() else [path]
    # data-00000-of-00002 and data-00001-of-00002 are one split, train and test are two.
    splits = sorted({file.stem.split("-")[0] for file in files})
    if len(splits) > 1:
        raise UserError(f"{path} holds files of {', '.join(splits)}: name the file of one split")
    for file in files:
        try:
            table = _table(file)
        except (OSError, pyarrow.ArrowException) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{file}: is no Parquet or Arrow file ({said}); give another") from None
        names = _tag_names(table, file.parent)
        own = objects._replace(tag_names=objects.tag_names or names)
        for row in table.to_pylist():
            # A column without a value in this row is a key that the object lacks.
            item = {key: value for key, value in row.items() if value is not None}
            try:
                found.add(item, (str(file), number), own)
            except ValueError as error:
                problems.add(f"{file}: row {number}: {error}; mend the row")
            number += 1
    return found.read("Arrow")


def _table(file: Path) -> Any:
    if file.suffix == ".parquet":
        return pyarrow.parquet.ParquetFile(file).read()
    with pyarrow.memory_map(str(file)) as source:
        return pyarrow.ipc.open_stream(source).read_all()


def _tag_names(table: Any, folder: Path) -> tuple[str, ...]:
    """The names of the classes of the feature of tags, as `datasets` describes it in the schema or
    in dataset_info.json beside the file; nothing where it does not."""
    described = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        info = json.loads(described)
        features = info.get("info", {}).get("features")
        if not features and (folder / "dataset_info.json").exists():
            features = json.loads((folder / "dataset_info.json").read_text("utf-8"))["features"]
        found = (_class_names(features.get(key)) for key in ("ner_tags", "tags", "labels", "label"))
        return next(filter(None, found), ())
    except (ValueError, KeyError, AttributeError, TypeError):
        return ()  # Other tools call their files so, too.


def _class_names(feature: object) -> tuple[str, ...]:
    # {"feature": {"names": [...], "_type": "ClassLabel"}, "_type": "Sequence"}; the list itself
    # around the class in what older versions wrote.
    while isinstance(feature, Mapping | list) and feature:
        if isinstance(feature, list):
            feature = feature[0]
        elif "names" in feature:
            return tuple(map(str, feature["names"]))
        else:
            feature = feature.get("feature")
    return ()
