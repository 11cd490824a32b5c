"""Keys of a config and the types of their values: which there are, near ones, those of a variant.

One UserError sentence per mistake, with the key in it. Reads configs, changes nothing. No JAX here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeAlias

from ml_collections import ConfigDict, FrozenConfigDict

from groot_jax.errors import UserError

# What a key may hold. A dict is an empty section, and JSON has lists for the tuples.
Value: TypeAlias = bool | int | float | str | tuple["Value", ...] | dict[str, object]
Flat: TypeAlias = dict[str, Value]  # a config as `a.b.c` -> value


def flatten(config: ConfigDict, prefix: str = "") -> Flat:
    """Leaves of nested sections as `a.b.c` -> value; an empty section is a leaf `{}`.

    {"seed": 0, "groot": {"tau": 0.3, "pool": {}}} -> {"seed": 0, "groot.tau": 0.3,
    "groot.pool": {}}
    """
    flat: Flat = {}
    for name in config:
        value = config[name]
        if not isinstance(value, ConfigDict):
            flat[prefix + name] = value
        elif len(value):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = {}
    return flat


def lookup(config: ConfigDict, key: str) -> Value | ConfigDict:
    """The value or section at `a.b.c`; raises KeyError where there is none."""
    node: Value | ConfigDict = config
    for section in key.split("."):
        if not isinstance(node, ConfigDict) or section not in node:
            raise KeyError(key)
        node = node[section]
    return node


def nearest(name: str, known: Iterable[str]) -> str:
    """` (near: a, b)` for the known names most like `name`, or nothing."""
    # First what is hardly misspelled, then what ends in its section, where that was one
    # ("optimizer.name" -> nll.optimizer), what is spelled alike as a whole, and what ends in the
    # very name ("tau" -> groot.tau, given without its section); without any of these what is less
    # alike.
    names = sorted(known)
    *sections, leaf = name.split(".")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.85)
    near += [n for n in names if n.rpartition(".")[2] in sections[-1:]]
    near += difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    near += [n for n in names if n.rpartition(".")[2] == leaf]
    near = [*dict.fromkeys(near)]
    near = near or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" (near: {', '.join(near[:4])})" if near else ""


def check_keys(config: ConfigDict, default: ConfigDict, where: str) -> None:
    """A config file may set only the keys of configs/default.py, each to a value of its type.

    `where` names the file in the sentence. Variants are left to `validate`.
    """
    # Which variants there are is the file's choice, and what they may hold config.groot says.
    known = {k: v for k, v in flatten(default).items() if not k.startswith("variants")}
    given = {k: v for k, v in flatten(config).items() if not k.startswith("variants")}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"{where}: there is no key config.{key}{nearest(key, known)}")
        if not _same_type(value, known[key]):
            raise UserError(
                f"{where}: config.{key} is {value!r}, which is not of the type of "
                f"{known[key]!r}, its default"
            )
    for key in [*known, "variants"]:
        if key not in given and not (key == "variants" and "variants" in config):
            raise UserError(f"{where}: config.{key} is missing, which configs/default.py has")


def _same_type(value: Value, default: Value) -> bool:
    # Not isinstance, for which True is an int. An empty default says nothing of its items' type.
    if isinstance(value, tuple) and isinstance(default, tuple) and default:
        return all(type(item) is type(default[0]) for item in value)
    return type(value) is type(default)


def variant(config: ConfigDict, name: str) -> FrozenConfigDict:
    """`config.groot` as the system `name` changes it, frozen.

    Raises UserError for an unknown system, and for a key or type that config.groot does not have.
    """
    if name not in config.variants:
        hint = nearest(name, config.variants) or f"; there are {', '.join(config.variants)}"
        raise UserError(f"there is no system {name!r} in config.variants{hint}")
    if not isinstance(config.variants[name], ConfigDict):
        raise UserError(
            f"config.variants.{name} is {config.variants[name]!r}, but has to be a section: what "
            "the system changes in config.groot"
        )
    # config.groot {tau: .3, loss: {margin: .4, risk: 0}} with {loss: {margin: 0, risk: 5}} is
    # {tau: .3, loss: {margin: 0, risk: 5}}: key by key, so that what a variant leaves out stays.
    settings = config.groot.copy_and_resolve_references().unlock()
    known = flatten(settings)
    for key, value in flatten(config.variants[name]).items():
        if value == {}:  # A section without a key, which changes nothing.
            continue
        if key not in known:
            raise UserError(
                f"config.variants.{name}.{key}: config.groot has no key {key}{nearest(key, known)}"
            )
        # Variants are new sections, so that ml_collections cannot know that 1 is meant as 1.0.
        as_int_for_float = type(value) is int and type(known[key]) is float
        if not (as_int_for_float or _same_type(value, known[key])):
            raise UserError(
                f"config.variants.{name}.{key} is {value!r}, which is not of the type of "
                f"{known[key]!r}, what config.groot has"
            )
        *sections, last = key.split(".")
        node = settings
        for section in sections:
            node = node[section]
        node[last] = value
    return FrozenConfigDict(settings)
