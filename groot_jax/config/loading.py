"""Configs from files: `get_config` of an experiment's file, and keys set from text.

Every mistake ends as one UserError sentence that names the key or the file and line. No JAX here.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ml_collections import ConfigDict

from groot_jax.config.checks import validate
from groot_jax.config.keys import Value, check_keys, flatten, lookup, nearest
from groot_jax.config.uses import check_read
from groot_jax.errors import UserError
from groot_jax.runtime.files import expanded

_Result = TypeVar("_Result")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def load(
    config_arg: str, overrides: Sequence[tuple[str, str]] = (), has_data: bool = True
) -> ConfigDict:
    """Runs the config file `path.py` or `path.py:arg`, or a built-in one (`retail`,
    `columns:train=FILE`), and applies the overrides, in their order.

    The result has the keys and types of configs/default.py, is validated, and is locked; without
    `has_data` it need not name any. Raises UserError.
    """
    path, arg = _path_and_arg(config_arg)
    with _configs_importable(path):
        get_config = _get_config_of(path)
        takes_arg = bool(inspect.signature(get_config).parameters)
        if arg and not takes_arg:
            raise UserError(f"{path} takes no argument, but --config gives it {arg!r}")
        config = _run_user_code(path, lambda: get_config(arg) if takes_arg else get_config())
        default = default_config()
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returned {type(config).__name__}, not a ConfigDict")
    return _complete(config, default, overrides, has_data, str(path))


def checked(config: ConfigDict, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """A copy of a config that Python has made, as `load` gives one. Raises UserError."""
    copy = config.copy_and_resolve_references()
    return _complete(copy, default_config(), overrides, True, "config")


def _complete(
    config: ConfigDict,
    default: ConfigDict,
    overrides: Sequence[tuple[str, str]],
    has_data: bool,
    where: str,
) -> ConfigDict:
    # Keys before values, and both before what is read under which: each relies on the one before.
    check_keys(config, default, where)
    config = finish(config, overrides, has_data)
    check_read(config, default)
    # Other jobs start elsewhere and look there too.
    with config.unlocked():
        if config.nll.checkpoint:
            config.nll.checkpoint = absolute_checkpoint(config.nll.checkpoint)
        if names_labeler(config.model.init):
            config.model.init = str(expanded(config.model.init, "config.model.init").absolute())
    return config


def names_labeler(init: str) -> bool:
    """Whether `config.model.init` is a labeler's work directory, and no checkpoint's folder."""
    return bool(init) and (expanded(init, "config.model.init") / "task" / "task.json").is_file()


def absolute_checkpoint(workdir: str) -> str:
    """`config.nll.checkpoint` as jobs that start in other folders understand it."""
    return str(expanded(workdir, "config.nll.checkpoint").absolute())


def finish(
    config: ConfigDict, overrides: Sequence[tuple[str, str]], has_data: bool = True
) -> ConfigDict:
    """The config with the overrides applied, checked and locked."""
    with config.unlocked():
        for key, text in overrides:
            override(config, key, text)
    validate(config, has_data)
    return config.lock()


def parse_arg(arg: str, **defaults: str) -> dict[str, str]:
    """For config files: reads `name=value,name=value`, what follows `--config=file.py:`.

    Raises UserError for a name that is not among `defaults`, and for one that is given twice.
    """
    # parse_arg("train=a.txt", train="", dev="") -> {"train": "a.txt", "dev": ""}
    values, given = dict(defaults), set[str]()
    for part in filter(None, arg.split(",")):
        name, equals, value = part.partition("=")
        if not equals or name not in defaults:
            raise UserError(
                f"--config: {part!r} is not one of {', '.join(f'{n}=...' for n in defaults)}, "
                "separated by commas, which are what this config file takes after its colon"
            )
        if name in given:
            raise UserError(f"--config: {name}= is given twice: leave one out")
        given.add(name)
        values[name] = value
    return values


def _configs_home() -> Path:
    """The folder that holds configs/: the checkout, or one in the package where it is installed."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "built_in"
    return installed if installed.is_dir() else package.parent


def built_in_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with the package, `default` among them."""
    return {path.stem: path for path in sorted((_configs_home() / "configs").glob("*.py"))}


def _path_and_arg(config_arg: str) -> tuple[Path, str]:
    """`configs/columns.py:train=a.txt` -> configs/columns.py and `train=a.txt`; a bare `retail` is
    the built-in configs/retail.py."""
    name, colon, arg = config_arg.partition(".py:")
    path = Path(name + ".py" if colon else name)
    bare, _, bare_arg = config_arg.partition(":")
    if "/" not in bare and (_configs_home() / "configs" / f"{bare}.py").is_file():
        return _configs_home() / "configs" / f"{bare}.py", bare_arg
    # Where the package is installed, configs/retail.py works from any folder.
    if not path.exists() and (_configs_home() / path).is_file():
        path = _configs_home() / path
    return path, arg


def default_config() -> ConfigDict:
    """What configs/default.py says: every key with its type."""
    return _get_config_of(_configs_home() / "configs" / "default.py")()


@contextmanager
def _configs_importable(path: Path) -> Iterator[None]:
    """Lets a config file say `from configs.default import get_config`, whatever the cwd is."""
    # Ours first: the `configs.default` of whoever has such a folder too is not what is meant.
    folders = [str(_configs_home()), str(path.resolve().parent.parent)]
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)


def _get_config_of(path: Path) -> Callable[..., ConfigDict]:
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        built_in = sorted({*built_in_configs()} - {"default"})
        hint = nearest(path.name, sorted([*near, *built_in]))
        hint = hint or f"; built in are {', '.join(built_in)}"
        raise UserError(f"--config: there is no file {path}{hint}")
    # By its path, under a name of its own: it need not lie in a package or on the path of imports.
    spec = importlib.util.spec_from_file_location(f"groot_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {path} is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _run_user_code(path, lambda: loader.exec_module(module))
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{path} has no function get_config, which is what a config file defines")
    return module.get_config


def _run_user_code(path: Path, code: Callable[[], _Result]) -> _Result:
    """Calls `code`; what it raises becomes one sentence with the line of `path` at fault."""
    try:
        return code()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        # The last frame within the file is where the user wrote the mistake; deeper ones are in the
        # libraries that the line called.
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
    # "variants.cold.loss.margin" has the type of groot.loss.margin.
    *sections, last = key.split(".")
    in_variant = len(sections) >= 2 and sections[0] == "variants"
    typed, name = (config.groot, ".".join([*sections[2:], last])) if in_variant else (config, key)
    try:
        current = lookup(typed, name)
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


def _parse_value(key: str, text: str, current: Value) -> Value:
    # "(8, 16)", "[8,16]", "8, 16" and "8,16," -> (8, 16); "()" and "" -> (). Texts need no quotes.
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
            number = float(text)  # 1e3 is a whole number, 1.5 is none.
            if not number.is_integer():
                raise
            return int(number)
    except (ValueError, KeyError, OverflowError):
        raise UserError(f"--config.{key} takes {_KINDS[kind]}, not {text!r}") from None
