"""Files of JSON as they are read back: damage, and what may not be read, as one sentence that names
the file. No JAX here.

A *shape* says what was written: a type; a set of values; `[shape]`, a list of such; `(shape, ...)`,
a list of as many; `{"key": shape, "maybe?": shape}`, an object with these keys, the ones with a
question mark only perhaps; under `str` that of all other keys, which otherwise are not looked at;
or a function that says whether a value will do.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groot_jax.errors import UserError

_SHOWN = 5  # Lines that a message names.
# Sums, squares and differences of a few numbers below it are finite.
_LARGE = 1e100


def number(value: object) -> bool:
    """Whether a value is a number that a float holds, NaN and infinity among them: earlier versions
    have written those. True is none, and neither is one of 400 digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def finite(value: object) -> bool:
    """Whether a value is a finite number, of a size that can be computed with."""
    return number(value) and abs(value) < _LARGE  # type: ignore[arg-type]


def whole(value: object) -> bool:
    """Whether a value is a whole number of a size that something is counted in, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def or_none(shape: Any) -> Any:
    """The shape, or null."""
    return lambda value: value is None or not misfit(value, shape)


def misfit(value: object, shape: Any, where: str = "it") -> str:
    """What of a value is not of a shape, as "splits.train.words is not as expected"; empty:
    nothing."""
    wrong = f"{where} is not as expected"
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is no object"
        return next(filter(None, _misfits_of_keys(value, shape, where)), "")
    if isinstance(shape, list | tuple):
        if not isinstance(value, list) or (isinstance(shape, tuple) and len(value) != len(shape)):
            return wrong
        inners = shape if isinstance(shape, tuple) else shape * len(value)
        pairs = enumerate(zip(value, inners, strict=True))
        found = (misfit(item, inner, f"{where}[{i}]") for i, (item, inner) in pairs)
        return next(filter(None, found), "")
    if isinstance(shape, type):
        fits = isinstance(value, shape)
    elif isinstance(shape, set | frozenset):
        fits = isinstance(value, str) and value in shape
    else:
        fits = shape(value)
    return "" if fits else wrong


def _misfits_of_keys(value: dict[str, Any], shape: dict[Any, Any], where: str) -> Iterator[str]:
    named = set()
    for name, inner in shape.items():
        if name is str:
            continue
        key = name.removesuffix("?")
        named.add(key)
        place = key if where == "it" else f"{where}.{key}"
        if key in value:
            yield misfit(value[key], inner, place)
        elif key == name:
            yield f"{place!r} is missing"
    for key in value if str in shape else ():
        if key not in named:
            yield misfit(value[key], shape[str], key if where == "it" else f"{where}.{key}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system refuses when a file is read, as a UserError that names it. That it is not
    there stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read ({error.strerror or error}): see that it is "
            "what training wrote and that this user may read it, then run the same command again"
        ) from error


def read_bytes(path: Path) -> bytes | None:
    """A file's content; None where it is not there. Raises UserError where it may not be read."""
    try:
        with reading(path):
            return path.read_bytes()
    except FileNotFoundError:
        return None


def parsed(data: bytes, shape: Any) -> Any:
    """The JSON in `data`. Raises ValueError, with what is wrong, where it is none of that shape."""
    try:
        value = json.loads(data.decode())
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if why := misfit(value, shape):
        raise ValueError(why)
    return value


def read_lines(path: Path, shape: Any, warn: bool = True) -> list[tuple[str, Any]]:
    """The lines of a file of JSON lines, each with its value; none where there is no file.

    Lines that are not of the shape are left out, and counted on stderr where `warn`. Raises
    UserError where the file cannot be read at all.
    """
    found, why = good_lines(path, shape)
    if why and warn:
        print(f"{path}: {why}, and left out; the others are read", file=sys.stderr)
    return found


def good_lines(path: Path, shape: Any) -> tuple[list[tuple[str, Any]], str]:
    """As `read_lines`, without a word; and which lines are something else, as "line 3 is not what
    training wrote", empty: none. The last one is left out quietly where it has no line break: that
    is what a kill leaves."""
    found, bad = [], []
    # Not `splitlines`, which breaks at U+2028 and U+0085 too: a word may hold them.
    *lines, last = (read_bytes(path) or b"").split(b"\n")
    for place, line in enumerate([*lines, last], 1):
        try:
            found.append((line.decode(), parsed(line, shape)))
        except ValueError:
            if line.strip() and place <= len(lines):
                bad.append(place)
    which = ", ".join(map(str, bad[:_SHOWN])) + (", ..." if len(bad) > _SHOWN else "")
    many = f"{len(bad)} lines ({which}) are" if len(bad) > 1 else f"line {which} is"
    return found, f"{many} not what training wrote" if bad else ""
