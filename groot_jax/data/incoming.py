"""Sentences to label, from a file, a pipe or a terminal: text or JSON lines, in chunks.

Whoever writes a line and waits gets its answer; plentiful input comes in whole chunks. Knows
nothing of labels or models.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from groot_jax.data.readers.reading import words_of
from groot_jax.errors import UserError

Words = tuple[str, ...]


@contextmanager
def open_input(name: str) -> Iterator[int]:
    """The descriptor of a file, or of standard input for `-`. Raises UserError."""
    if name == "-":
        if sys.stdin is None:
            raise UserError("stdin is closed; name a file, or give it something to read")
        yield sys.stdin.fileno()
        return
    try:
        file = open(name, "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"{name}: cannot be read ({error.strerror}); name a file, or - for stdin"
        ) from None
    with file:
        yield file.fileno()


def read_chunks(
    descriptor: int, name: str, check: Callable[[Sequence[str], str], Words], size: int
) -> Iterator[list[Words]]:
    """Lists of `size` sentences, and of fewer where the next one is not there yet.

    `check` gets words and their `file:line`, and raises UserError where they will not do. What
    comes before a bad line is handed out before its error.
    """
    chunk: list[Words] = []
    try:
        number = 0
        for line in _lines(descriptor):
            if line is not None:
                number += 1
                where = f"{'stdin' if name == '-' else name}:{number}"
                chunk.append(check(_words(line, number == 1, where), where))
            if len(chunk) == size or (line is None and chunk):
                yield chunk
                chunk = []
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _lines(descriptor: int) -> Iterator[bytes | None]:
    """Lines without their line feeds; None where reading on would have to wait."""
    rest = b""
    while True:
        if not select.select([descriptor], [], [], 0)[0]:
            yield None
        data = os.read(descriptor, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _words(raw: bytes, first: bool, where: str) -> list[str]:
    try:
        line = raw.decode("utf-8-sig" if first else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is not UTF-8 ({error.reason}); convert it") from None
    return words_of_line(line, where)


def words_of_line(line: str, where: str) -> list[str]:
    """The words of a line; one that starts with { is JSON, with `words` or `text`.

    Raises UserError, which begins with `where`, for JSON that has neither.
    """
    if not line.lstrip().startswith("{"):
        return words_of(line)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON ({error}); mend the line") from None
    words = value.get("words")
    if words is None and isinstance(value.get("text"), str):
        words = words_of(value["text"].replace("\r", " ").replace("\n", " "))
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(
            f'{where}: has no "words" (a list of strings) and no "text" (a string); give it one'
        )
    return words
