"""The config of a run: read it from a file and the command line, write it to the work directory.

Every mistake of the user ends as one UserError sentence that names the key or the file and line.
Knows keys and types; what values mean together is checked in `config_checks.py`. No JAX here.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ml_collections import ConfigDict

from groot_jax.config.checks import check_keys, flatten, lookup, nearest, validate, variant
from groot_jax.config.uses import check_read, unread
from groot_jax.errors import UserError
from groot_jax.runtime.files import expanded, write_text

CONFIG_FILE = "config.json"
LOCK_FILE, STATUS_FILE = "train.lock", "status.json"  # See training/status.py.

# A work directory may be continued with other values of these: they change how fast or where a run
# computes, which systems it trains and what is reported, never what a system is trained to be.
# (`groot.accumulate` and `loader.node_buckets`, for when memory is short, draw dropout anew.)
FREE_KEYS = (
    "checkpoint.keep",
    "compilation_cache",
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
    "reward.deadline",
    "reward.workers",
    "systems",
)
FREE_SECTIONS = ("mesh",)

__all__ = [
    "claim_workdir",
    "default_config",
    "differing_keys",
    "dump",
    "job_parser",
    "load",
    "load_dumped",
    "make_workdir",
    "override",
    "parse_arg",
    "parse_job",
    "validate",
    "variant",
]

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


# ---- The command line -------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        defaults = flatten(default_config())
        keys = "\n".join(f"  --config.{key}={value}" for key, value in defaults.items())
        return (
            super().format_help()
            + "\nThe keys of the config with their defaults; configs/default.py explains each:\n"
            + f"{keys}\n"
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help lists what there is")


def job_parser(
    prog: str, description: str, config_file: bool = False, workdir: bool = True
) -> argparse.ArgumentParser:
    """A parser with what every job takes; the job adds flags of its own.

    `config_file`: the job starts from `--config=FILE.py`; otherwise from `--workdir`'s config.json.
    Without `workdir` it has no such folder and reads no data, which the config need not name then.
    """
    parser = _Parser(
        prog=f"python -m {prog}",
        description=description,
        epilog="--config.KEY=VALUE changes one key of the config, such as --config.groot.tau=0.2.",
        allow_abbrev=False,
    )
    if config_file:
        parser.add_argument(
            "--config",
            required=True,
            metavar="FILE.py[:ARG]",
            help="the experiment, such as configs/retail.py; what follows a colon goes to the file",
        )
    if workdir:
        parser.add_argument(
            "--workdir",
            required=True,
            type=lambda text: expanded(text, "--workdir"),
            metavar="FOLDER",
            help="the run's own folder: config, checkpoints, metrics, results and report",
        )
    return parser


def parse_job(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    before_reading: Callable[[argparse.Namespace], None] = lambda args: None,
) -> argparse.Namespace:
    """The job's flags, with `config` replaced by the resolved, validated ConfigDict.

    `before_reading` is called with the flags before config.json is read from the work directory.
    Raises UserError for every mistake; `--help` prints and exits as usual.
    """
    plain, overrides = _split_overrides(sys.argv[1:] if argv is None else argv)
    known = [option for action in parser._actions for option in action.option_strings]
    for word in plain:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag != "--" and flag not in known:
            hint = nearest(flag, known)
            raise UserError(f"{parser.prog}: there is no flag {flag}{hint}; --help lists them")
    args = parser.parse_args(plain)
    if hasattr(args, "config"):
        args.config = load(args.config, overrides, has_data=hasattr(args, "workdir"))
    else:
        before_reading(args)
        path = args.workdir / CONFIG_FILE
        config = load_dumped(path)
        check_keys(config, default_config(), str(path))
        before = flatten(config)
        args.config = _finish(config, overrides)
        _check_settled(before, flatten(args.config), args.workdir)
    return args


# What evaluation and prediction read of the config. All else, training has settled: the sizes of
# the model, its vocabulary and its format, and how it was trained.
_READ_LATER = (
    "checkpoint.",
    "compilation_cache",
    "data.",
    "distributed.",
    "evaluate.",
    "generate.",
    "loader.",
    "mesh.",
    "model.dtype",
    "model.normalise",
    "model.remat",
    "model.scan_layers",
    "nll.checkpoint",
    "reward.",
    "seed",
    "systems",
    "text.long_sentences",
    "text.max_words",
)
_OF_TRAINING = ("data.augment", "data.hide_words", "data.train_limit")


def _check_settled(theirs: dict[str, Any], ours: dict[str, Any], workdir: Path) -> None:
    for key, value in ours.items():
        read = key.startswith(_READ_LATER) and key not in _OF_TRAINING
        if not read and theirs.get(key) != value:
            raise UserError(
                f"--config.{key}={value}: training in {workdir} has settled it as "
                f"{theirs.get(key)!r}, and nothing reads it now; leave it out"
            )


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.KEY=VALUE` and `--config.KEY VALUE` out of the command line."""
    plain: list[str] = []
    overrides: list[tuple[str, str]] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--config."):
            plain.append(word)
            continue
        key, equals, text = word.removeprefix("--config.").partition("=")
        if not equals:
            following = next(words, None)
            if following is None or following.startswith("--"):
                raise UserError(f"--config.{key} has no value: write --config.{key}=VALUE")
            text = following
        overrides.append((key, text))
    return plain, overrides


# ---- Reading ----------------------------------------------------------------------------------


def load(
    config_arg: str, overrides: Sequence[tuple[str, str]] = (), has_data: bool = True
) -> ConfigDict:
    """Runs the config file `path.py` or `path.py:arg` and applies the overrides, in their order.

    The result has the keys and types of configs/default.py, is validated, and is locked; without
    `has_data` it need not name any. Raises UserError.
    """
    name, colon, arg = config_arg.partition(".py:")
    path = Path(name + ".py" if colon else name)
    if not path.exists() and (_configs_home() / path).is_file():
        path = _configs_home() / path
    with _configs_importable(path):
        get_config = _get_config_of(path)
        takes_arg = bool(inspect.signature(get_config).parameters)
        if arg and not takes_arg:
            raise UserError(f"{path} takes no argument, but --config gives it {arg!r}")
        config = _run_user_code(path, lambda: get_config(arg) if takes_arg else get_config())
        default = default_config()
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returned {type(config).__name__}, not a ConfigDict")
    check_keys(config, default, str(path))
    config = _finish(config, overrides, has_data)
    check_read(config, default)
    if config.nll.checkpoint:
        # Other jobs start elsewhere and look there too.
        with config.unlocked():
            config.nll.checkpoint = _absolute(config.nll.checkpoint)
    return config


def _absolute(workdir: str) -> str:
    return str(expanded(workdir, "config.nll.checkpoint").absolute())


def _finish(
    config: ConfigDict, overrides: Sequence[tuple[str, str]], has_data: bool = True
) -> ConfigDict:
    with config.unlocked():
        for key, text in overrides:
            override(config, key, text)
    validate(config, has_data)
    return config.lock()


def parse_arg(arg: str, **defaults: str) -> dict[str, str]:
    """For config files: reads `name=value,name=value`, what follows `--config=file.py:`.

    Raises UserError for a name that is not among `defaults`.
    """
    values = dict(defaults)
    for part in filter(None, arg.split(",")):
        name, equals, value = part.partition("=")
        if not equals or name not in defaults:
            raise UserError(
                f"--config: {part!r} is not one of {', '.join(f'{n}=...' for n in defaults)}, "
                "separated by commas, which are what this config file takes after its colon"
            )
        values[name] = value
    return values


def _configs_home() -> Path:
    """The folder that holds configs/: the checkout, or one in the package where it is installed."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "built_in"
    return installed if installed.is_dir() else package.parent


def default_config() -> ConfigDict:
    """What configs/default.py says: every key with its type."""
    return _get_config_of(_configs_home() / "configs" / "default.py")()


@contextmanager
def _configs_importable(path: Path) -> Iterator[None]:
    """Lets a config file say `from configs.default import get_config`, whatever the cwd is."""
    folders = [str(_configs_home()), str(path.resolve().parent.parent)]
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)


def _get_config_of(path: Path) -> Callable[..., Any]:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise UserError(f"--config: there is no file {path}{nearest(path.name, near)}")
    spec = importlib.util.spec_from_file_location(f"groot_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {path} is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _run_user_code(path, lambda: loader.exec_module(module))
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{path} has no function get_config, which is what a config file defines")
    return module.get_config


def _run_user_code(path: Path, code: Callable[[], Any]) -> Any:
    """Calls `code`; what it raises becomes one sentence with the line of `path` at fault."""
    try:
        return code()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        cause: BaseException = error
        while cause.args and isinstance(cause.args[0], BaseException):
            cause = cause.args[0]  # ml_collections wraps the sentence in two exceptions.
        text = " ".join(str(cause.args[0] if cause.args else "").split())
        raise UserError(f"{where}: {type(error).__name__}: {text}") from error


# ---- Keys, types and overrides ----------------------------------------------------------------


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets `a.b.c` from text, as the type that the key has; keys of a variant have the types of
    config.groot, and a new variant starts out empty. Raises UserError."""
    *sections, last = key.split(".")
    in_variant = len(sections) >= 2 and sections[0] == "variants"
    try:
        current = (
            lookup(config.groot, ".".join([*sections[2:], last]))
            if in_variant
            else lookup(config, key)
        )
    except KeyError:
        known = [*flatten(config), *(f"variants.NAME.{name}" for name in flatten(config.groot))]
        raise UserError(
            f"--config.{key}: there is no such key{nearest(key, known)}; "
            "configs/default.py has all of them"
        ) from None
    if isinstance(current, ConfigDict):
        inner = ", ".join(f"--config.{key}.{name}" for name in current) or "none yet"
        raise UserError(f"--config.{key} is a section, not a value; its keys: {inner}")
    value = _parse_value(key, text, current)
    node = config
    for section in sections:
        if section not in node:
            node[section] = ConfigDict()
        node = node[section]
    if in_variant and last in node:
        del node[last]  # What stands there may be an int where config.groot has a float.
    node[last] = value


def _parse_value(key: str, text: str, current: Any) -> Any:
    if isinstance(current, tuple):
        inside = text.strip()
        if inside[:1] + inside[-1:] in ("()", "[]"):
            inside = inside[1:-1]
        parts = [part.strip().strip("'\"") for part in inside.split(",")]
        element = current[0] if current else ""
        return tuple(_parse_value(key, part, element) for part in parts if part)
    kind = type(current)
    if kind is str:
        return text
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
        if kind is float:
            return float(text)
        try:
            return int(text)
        except ValueError:
            number = float(text)
            if not number.is_integer():
                raise
            return int(number)
    except (ValueError, KeyError, OverflowError):
        raise UserError(f"--config.{key} takes {_KINDS[kind]}, not {text!r}") from None


# ---- The work directory -----------------------------------------------------------------------


def dump(config: ConfigDict, path: Path) -> None:
    """Writes the config as JSON, whole or not at all; tuples become JSON's lists."""
    write_text(path, json.dumps(config.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n")


def load_dumped(path: Path) -> ConfigDict:
    """Reads what `dump` wrote; keys that are newer than the file get what held without them.

    Raises UserError where it is not there or not what was written.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_hook=_lists_to_tuples)
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} is not a work directory (it has no {path.name}): "
            "train there first, or name another --workdir"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not the JSON that training wrote: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is not the JSON that training wrote: it holds no object")
    defaults = default_config()
    for key, value in _BEFORE.items():
        section, name = key.split(".")
        defaults[section][name] = value
    _fill(values, defaults.to_dict())
    return ConfigDict(values).lock()


# What training did before a key was there, where that is not its default: a run that began without
# swapped mentions is not continued with them.
_BEFORE = {"data.augment": 0.0, "data.hide_words": 0.0}


def _fill(values: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Adds what `values` lacks, down to the last section; variants are whole as they are."""
    for key, default in defaults.items():
        value = values.setdefault(key, default)
        if isinstance(value, dict) and isinstance(default, dict) and key != "variants":
            _fill(value, default)


def _lists_to_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def make_workdir(workdir: Path) -> None:
    """Creates the folder. Raises UserError where it holds something else, or cannot be made."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        names = {p.name for p in workdir.iterdir()}
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--workdir={workdir} is a file or lies in one: name a folder") from error
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used: {error.strerror}") from error
    # What a kill may have left of the first moments of a run is ours.
    first = (LOCK_FILE, STATUS_FILE, f".{CONFIG_FILE}.", f".{STATUS_FILE}.")
    strangers = {name for name in names if not name.startswith(first)}
    if strangers and CONFIG_FILE not in strangers:
        raise UserError(
            f"--workdir={workdir} holds other files ({', '.join(sorted(strangers)[:3])}) and no "
            f"{CONFIG_FILE}: name a new or empty folder"
        )


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Makes `workdir` the home of this config: creates it, or checks that it belongs to it.

    Settings in FREE_KEYS may differ from those of an earlier run; the new ones are written. Raises
    UserError when the folder belongs to another config, to something else, or cannot be written.
    """
    make_workdir(workdir)
    path = workdir / CONFIG_FILE
    if not path.exists():
        dump(config, path)
        return
    theirs, ours = flatten(load_dumped(path)), flatten(config)
    if theirs["nll.checkpoint"]:  # Earlier versions kept it as it was typed.
        theirs["nll.checkpoint"] = _absolute(theirs["nll.checkpoint"])
    if theirs == ours:
        return
    # What earlier versions took without reading it makes no difference.
    before = {key for key, _ in unread(load_dumped(path), default_config())}
    if differing := [key for key in differing_keys(theirs, ours) if key not in before]:
        parts = [
            f"{key} is {_shown(theirs, key)} there and {_shown(ours, key)} here"
            for key in differing[:3]
        ]
        more = f", and {len(differing) - 3} more keys differ" if len(differing) > 3 else ""
        raise UserError(
            f"--workdir={workdir} belongs to another config: {'; '.join(parts)}{more}; "
            "name another --workdir, or go back to the old settings"
        )
    dump(config, path)


def differing_keys(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Keys of two flat configs whose values differ and may not."""
    return [
        key
        for key in sorted({*theirs, *ours})
        if not _is_free(key) and (key not in theirs or key not in ours or theirs[key] != ours[key])
    ]


def _is_free(key: str) -> bool:
    section, _, rest = key.partition(".")
    if section == "variants":
        key = f"groot.{rest.partition('.')[2]}"
    return key in FREE_KEYS or section in FREE_SECTIONS


def _shown(flat: dict[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "absent"
