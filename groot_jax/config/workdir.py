"""The config of a work directory: written when a run starts, and held against later command lines.

No JAX here.
"""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict

from groot_jax.config.keys import Flat, flatten, variant
from groot_jax.config.loading import absolute_checkpoint, default_config
from groot_jax.config.uses import unread
from groot_jax.errors import UserError
from groot_jax.runtime.checksums import SUMS_FILE, read_guarded, sum_of, write_guarded
from groot_jax.runtime.files import write_text

CONFIG_FILE = "config.json"
LOCK_FILE, STATUS_FILE = "train.lock", "status.json"  # See training/status.py.

# A work directory may be continued with other values of these: they change how fast or where a run
# computes, which systems it trains and what is reported, never what a system is trained to be.
# (`groot.accumulate` and `loader.node_buckets`, for when memory is short, draw dropout anew.)
_FREE_KEYS = (
    "checkpoint.every_",
    "checkpoint.keep",
    "checkpoint.retry_minutes",
    "compilation_cache",
    "decide.hypotheses",
    "distributed.start_timeout",
    "distributed.timeout",
    "evaluate.batch_size",
    "evaluate.bootstrap",
    "evaluate.decide",
    "evaluate.rewards",
    "evaluate.samples",
    "groot.accumulate",
    "loader.node_buckets",
    "loader.threads",
    "log_every",
    "mesh.",
    "optimizer.max_",
    "optimizer.nonfinite",
    "profile.",
    "report_to",
    "reward.deadline",
    "reward.max_dropped",
    # A run that an error has stopped may be continued without the candidates that raise it.
    "reward.on_error",
    "reward.retries",
    "reward.timeout_s",
    "reward.workers",
    "systems",
)


# What a run makes; of two of them in a folder without config.json, that has been there.
_OF_A_RUN = {
    *("checkpoints", "task", "eval", "decisions", "predictions", "results.json", "report"),
    *("metrics.jsonl", "samples.jsonl", "jobs.jsonl", "data_card.json"),
}
_BRING_BACK = "bring a copy back (that of another run of the same command is the same)"


def dump(config: ConfigDict, path: Path) -> None:
    """Writes the config as JSON, whole or not at all; tuples become JSON's lists."""
    write_text(path, _text(config))


def _text(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"


def _dump_with_sum(config: ConfigDict, workdir: Path) -> None:
    """Writes W/config.json, and first its sum to W/checksums.json, where that of the content
    before it stays: a kill between the two files leaves that content."""
    text = _text(config)
    kept = (read_guarded(workdir / SUMS_FILE) or {}).get(CONFIG_FILE, [])[-1:]
    sums = {CONFIG_FILE: [*kept, sum_of([text.encode()])]}
    write_guarded(workdir / SUMS_FILE, sums)
    write_text(workdir / CONFIG_FILE, text)


def config_damage(workdir: Path) -> str | None:
    """What is wrong with W/config.json; empty: it is what was written; None: there is no sum, as in
    work directories of version 0.1. Raises UserError, OSError where a file cannot be read."""
    if not (workdir / SUMS_FILE).exists():
        return None
    sums = read_guarded(workdir / SUMS_FILE)
    if sums is None:
        return f"{SUMS_FILE}, which has its sum, is not what was written"
    found = sum_of([(workdir / CONFIG_FILE).read_bytes()])
    return "" if found in sums.get(CONFIG_FILE, []) else "is not what was written"


def load_dumped(path: Path) -> ConfigDict:
    """Reads what `dump` wrote; keys that are newer than the file get what held without them.

    Raises UserError where it is not there or not what was written.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_hook=_lists_to_tuples)
    except FileNotFoundError as error:
        if has_lost_config(path.parent):
            raise UserError(
                f"{path.parent} is a work directory that has lost its {path.name}: {_BRING_BACK}, "
                "or name another --workdir"
            ) from error
        raise UserError(
            f"{path.parent} is not a work directory (it has no {path.name}): "
            "train there first, or name another --workdir"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not the JSON that training wrote: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not the JSON that training wrote: it holds no object")
    defaults = default_config()
    for key, value in _BEFORE.items():
        section, name = key.split(".")
        defaults[section][name] = value
    try:
        _name_stages_optimizers(values)
        _fill(values, defaults.to_dict())
        return ConfigDict(values).lock()
    except ValueError as error:  # Of ConfigDict: a key that holds a dot.
        raise UserError(f"{path} is not what training wrote: {error}") from error


def has_lost_config(workdir: Path) -> bool:
    """Whether a folder has been a work directory, and has no config.json any more."""
    try:
        names = {path.name for path in workdir.iterdir()}
    except OSError:
        return False  # Whoever reads it says why.
    return CONFIG_FILE not in names and len(names & _OF_A_RUN) > 1


# What training did before a key was there, where that is not its default: a run that began without
# swapped mentions is not continued with them.
_BEFORE = {"data.augment": 0.0, "data.hide_words": 0.0}


def _name_stages_optimizers(values: dict[str, object]) -> None:
    """Of earlier versions, where all stages had the optimizer that `optimizer.name` said."""
    shared = values.get("optimizer")
    if isinstance(shared, dict) and "name" in shared:
        name = shared.pop("name")
        for stage in ("pretrain", "nll", "groot"):
            settings = values.setdefault(stage, {})
            if isinstance(settings, dict):
                settings.setdefault("optimizer", name)


def _fill(values: dict[str, object], defaults: dict[str, object]) -> None:
    """Adds what `values` lacks, down to the last section; variants are whole as they are."""
    # {"groot": {"tau": .2}} and {"seed": 0, "groot": {"tau": .3, "lag": 1}}
    # -> {"seed": 0, "groot": {"tau": .2, "lag": 1}}
    # A variant is not filled: what it leaves out is what it does not change.
    for key, default in defaults.items():
        value = values.setdefault(key, default)
        if not _is_like(value, default):
            raise ValueError(f"{key} is {value!r}, which is of another type than {default!r}")
        if isinstance(value, dict) and isinstance(default, dict) and key != "variants":
            _fill(value, default)


def _is_like(value: object, default: object) -> bool:
    """Whether a value can stand where the default does: sections, numbers, texts and lists of
    either."""
    if isinstance(default, tuple):
        items = value if isinstance(value, tuple) else (None,)
        return not default or all(type(item) is type(default[0]) for item in items)
    # 1 is written for 1.0; but True, which Python counts as a number, is none.
    return type(value) is type(default) or (type(value) is int and type(default) is float)


def _lists_to_tuples(values: dict[str, object]) -> dict[str, object]:
    # JSON has no tuples, and a config no lists: what was dumped from one comes back as one. Its
    # items are plain: ml_collections fails at others, and no config has any.
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            raise ValueError(f"{key} holds a list of lists or objects")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def make_workdir(workdir: Path, flag: str = "--workdir") -> None:
    """Creates the folder that `flag` names. Raises UserError where it holds something else, or
    cannot be made."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        names = {p.name for p in workdir.iterdir()}
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{flag}={workdir} is a file or lies in one: name a folder") from error
    except OSError as error:
        raise UserError(f"{flag}={workdir} cannot be used: {error.strerror}") from error
    # What a kill may have left of the first moments of a run is ours.
    own = (CONFIG_FILE, STATUS_FILE, SUMS_FILE)
    first = (LOCK_FILE, STATUS_FILE, SUMS_FILE, *(f".{name}." for name in own))
    strangers = {name for name in names if not name.startswith(first)}
    if has_lost_config(workdir):
        raise UserError(
            f"{flag}={workdir} is a work directory that has lost its {CONFIG_FILE}: {_BRING_BACK}, "
            "or name a new folder"
        )
    if strangers and CONFIG_FILE not in strangers:
        raise UserError(
            f"{flag}={workdir} holds other files ({', '.join(sorted(strangers)[:3])}) and no "
            f"{CONFIG_FILE}: name a new or empty folder"
        )


def claim_workdir(workdir: Path, config: ConfigDict, flag: str = "--workdir") -> None:
    """Makes `workdir` the home of this config: creates it, or checks that it belongs to it.

    Settings in _FREE_KEYS may differ from those of an earlier run; the new ones are written. Raises
    UserError when the folder belongs to another config, to something else, or cannot be written.
    """
    make_workdir(workdir, flag)
    path = workdir / CONFIG_FILE
    if not path.exists():
        _dump_with_sum(config, workdir)
        return
    theirs = load_dumped(path)
    if theirs.nll.checkpoint:  # Earlier versions kept it as it was typed.
        with theirs.unlocked():
            theirs.nll.checkpoint = absolute_checkpoint(theirs.nll.checkpoint)
    if theirs == config and (workdir / SUMS_FILE).exists():
        return
    # What earlier versions took without reading it makes no difference.
    before = {key for key, _ in unread(theirs, default_config())}
    if differing := [key for key in differing_keys(theirs, config) if key not in before]:
        there, here = flatten(theirs), flatten(config)
        parts = [
            f"{key} is {_shown(there, key)} there and {_shown(here, key)} here"
            for key in differing[:3]
        ]
        more = f", and {len(differing) - 3} more keys differ" if len(differing) > 3 else ""
        raise UserError(
            f"{flag}={workdir} belongs to another config: {'; '.join(parts)}{more}; "
            f"name another {flag}, or go back to the old settings"
        )
    _dump_with_sum(config, workdir)


def differing_keys(theirs: ConfigDict, ours: ConfigDict) -> list[str]:
    """Keys of two configs whose values differ and may not, in alphabetical order.

    Of a variant it counts what it comes to, and not how it is written. In a config.json of a time
    when there was no loss `rank`, nll_continued sets all losses to 0 but that one, which is 0 in
    config.groot anyway: the same system as one that sets it too.
    """
    there, here = flatten(theirs), flatten(ours)
    standard = default_config().variants
    both = {
        name: (flatten(variant(theirs, name)), flatten(variant(ours, name)))
        for name in {*theirs.variants} & {*ours.variants}
    }

    def differs(key: str) -> bool:
        section, _, rest = key.partition(".")
        name, _, setting = rest.partition(".")
        if section != "variants" or not name:
            # Before 0 followed the data, 100 was the default, and refused data that are longer.
            if key == "text.max_words" and {there.get(key), here.get(key)} == {0, 100}:
                return False
            return key not in there or key not in here or there[key] != here[key]
        if name in both:
            left, right = both[name]
            return left.get(setting) != right.get(setting)
        # configs/default.py may have it since then: nothing was trained by it there.
        alone = (theirs if name in theirs.variants else ours).variants[name]
        return name not in standard or flatten(alone) != flatten(standard[name])

    return [key for key in sorted({*there, *here}) if not is_free(key) and differs(key)]


def is_free(key: str) -> bool:
    """Whether a work directory may be continued with another value of the key."""
    # variants.risk.accumulate is as free as groot.accumulate.
    section, _, rest = key.partition(".")
    if section == "variants":
        key = f"groot.{rest.partition('.')[2]}"
    return key.startswith(_FREE_KEYS)


def _shown(flat: Flat, key: str) -> str:
    return repr(flat[key]) if key in flat else "absent"
