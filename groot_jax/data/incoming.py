"""Sentences to label, from a file, a pipe or a terminal: text or JSON lines, in blocks.

Whoever writes a line and waits gets its answer; plentiful input comes in whole blocks. Knows
nothing of labels or models.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from groot_jax.data.splitting import split_text
from groot_jax.errors import UserError

Words = tuple[str, ...]
LARGEST = 16  # The largest block over the first.


class Incoming(NamedTuple):
    """A sentence to label. `text` and `offsets`, the places of its words in it (see `SplitText`),
    are None where words were given."""

    words: Words
    text: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None


@contextmanager
def open_input(name: str) -> Iterator[int]:
    """The descriptor of a file, or of standard input for `-`. Raises UserError."""
    if name == "-":
        if sys.stdin is None:
            raise UserError("stdin is closed; name a file, or give it something to read")
        # A descriptor and not `sys.stdin`, which reads ahead: what it holds, `select` cannot see.
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


def read_blocks(
    descriptor: int,
    name: str,
    check: Callable[[Sequence[str], str], Words],
    size: int,
    split: str = "spaces",
) -> Iterator[list[Incoming]]:
    """Lists of `size` sentences, then of twice as many each, up to `LARGEST` times `size`; and of
    fewer where the next one is not there yet.

    `split`: how text becomes words, config.text.split. `check` gets words and their `file:line`,
    and raises UserError where they will not do. What comes before a bad line is handed out before
    its error. An empty line is a sentence of no words, so that answers stay beside their lines.
    """
    # Many sentences fill batches of each length: 64 of four lengths would all be searched as if
    # they were as long as the longest. Twice as many each time: who watches the answers of a slow
    # model never waits much longer for the next ones than all before them took.
    # size 2; a, b and c at once, a pause, d -> [a, b] [c] [d].
    largest = size * LARGEST
    block: list[Incoming] = []
    try:
        number = 0
        for line in _lines(descriptor):
            if line is not None:
                number += 1
                where = f"{'stdin' if name == '-' else name}:{number}"
                sentence = _sentence(line, number == 1, where, split)
                block.append(sentence._replace(words=check(sentence.words, where)))
            if len(block) == size or (line is None and block):
                yield block
                size = min(2 * size, largest) if len(block) == size else size
                block = []
    except UserError:
        if block:
            yield block
        raise
    if block:
        yield block


def _lines(descriptor: int) -> Iterator[bytes | None]:
    """Lines without their line feeds; None where reading on would have to wait."""
    # "red je", then "ans\nblue\n" -> nothing of the first, `red jeans` and `blue` of the second.
    rest = b""
    while True:
        # A timeout of 0 asks and does not wait; the read below waits.
        if not select.select([descriptor], [], [], 0)[0]:
            yield None
        data = os.read(descriptor, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _sentence(raw: bytes, first: bool, where: str, split: str) -> Incoming:
    # `utf-8-sig` takes a byte-order mark away, which only a file's first line can have.
    try:
        line = raw.decode("utf-8-sig" if first else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is not UTF-8 ({error.reason}); convert it") from None
    return sentence_of_line(line, where, split)


def sentence_of_line(line: str, where: str, split: str = "spaces") -> Incoming:
    """The words of a line; one that starts with { is JSON, with `words` or `text`.

    `red  jeans` and `{"text": "red jeans"}` -> red, jeans; `{"words": ["new york"]}` -> new york.
    `split` as config.text.split; offsets count the characters of the line, or of `text`.

    Raises UserError, which begins with `where`, for JSON that has neither.
    """
    if not line.lstrip().startswith("{"):
        return Incoming(*_split(line, split))
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON ({error}); mend the line") from None
    words = value.get("words")
    if words is None and isinstance(value.get("text"), str):
        return Incoming(*_split(value["text"], split))
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(
            f'{where}: has no "words" (a list of strings) and no "text" (a string); give it one'
        )
    return Incoming(tuple(words))


def _split(text: str, split: str) -> tuple[Words, str, tuple[tuple[int, int], ...]]:
    # Line breaks part words, one for one with spaces, so that characters keep their places.
    words, offsets = split_text(text.replace("\r", " ").replace("\n", " "), split)
    return words, text, offsets
