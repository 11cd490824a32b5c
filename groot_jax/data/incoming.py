"""Sentences to label, from a file, a pipe or a terminal: text or JSON lines, in blocks.

Whoever writes a line and waits gets its answer; plentiful input comes in whole blocks. Knows
nothing of labels or models.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import select
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard

from groot_jax.data.splitting import APART, attached, split_text, words_of_tokens
from groot_jax.data.tags import looks_like_tag
from groot_jax.errors import UserError

Words = tuple[str, ...]
INPUTS = ("auto", "text", "jsonl")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# Bytes of a line. A book has one or two million; what has more is no line, and may never end.
LONGEST_LINE = 1 << 24
_DEEPEST = 500  # Of JSON: Python goes about 990 deep, less those who call it.
_COLUMNS = 5  # Lines in a row that end with a tag: a column file.
LARGEST = 16  # Lines of the largest block over those of the first.


class Incoming(NamedTuple):
    """A sentence to label. `text` and `offsets`, the places of its words in it (see `SplitText`),
    are None where words were given; `echoed`: what else its object holds, for its answer."""

    words: Words
    text: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None
    echoed: Mapping[str, Any] = _NOTHING


class BadLine(NamedTuple):
    """A line that is no sentence: its number from 1, why, and what else its object holds."""

    number: int
    error: str
    echoed: Mapping[str, Any] = _NOTHING


class _BadObject(UserError):
    """An object that is no sentence, with what else it holds."""

    def __init__(self, sentence: str, echoed: Mapping[str, Any]) -> None:
        super().__init__(sentence)
        self.echoed = echoed


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


@dataclass
class LineParser:
    """Turns the lines of one input into sentences.

    `split`: how text becomes words, config.text.split. `kind`: `text`, `jsonl`, or `auto`, where a
    line is JSON if it parses as an object with words or text. Another line that begins with { is
    text there, which `note` is told of once; after a line of JSON it is an error instead.
    `apart`: punctuation stood apart in training. `note` is told once of text that is parted at
    spaces where it is attached, and of lines that are those of a file of columns.
    """

    split: str = "spaces"
    kind: str = "auto"
    note: Callable[[str], None] = lambda sentence: None
    apart: bool = False
    _json: bool = False
    _noted: bool = False
    _tagged: int = 0  # Lines that end with a tag, one after the other; -1 once they were noted.

    def __call__(self, line: str, where: str) -> Incoming:
        """The sentence of a line. Raises UserError, which begins with `where`."""
        found = self._parse(line, where)
        if found.text is not None and found.words:
            self._look_at(found, where)
        return found

    def _look_at(self, found: Incoming, where: str) -> None:
        """Notes what a user would not see from the answers."""
        if self.apart and self.split == "spaces" and (word := attached(found.words)):
            self.apart = False
            self.note(f"{where}: {APART.format(word)}")
        if self._tagged >= 0:
            # `Rome B-LOC`, `the DT O`: five lines of text in a row do not end so.
            tagged = len(found.words) > 1 and looks_like_tag(found.words[-1])
            self._tagged = self._tagged + 1 if tagged else 0
        if self._tagged == _COLUMNS:
            self._tagged = -1
            self.note(
                f"{where}: this and the lines before end with tags, as those of a column file do, "
                "and each is labeled as a sentence; evaluate scores files that have labels"
            )

    def _parse(self, line: str, where: str) -> Incoming:
        # [{ begins a whole document, which is to be an object a line.
        looks = line.lstrip().startswith(("{", "[{"))
        if self.kind == "text" or (self.kind == "auto" and not looks):
            return of_text(line, self.split)
        if not line.strip():
            return Incoming((), line, ())
        try:
            value = _object(line, where)
            problem = f"{where}: is JSON and has no words and no text"
        except UserError as error:
            if self.kind == "jsonl" or self._json:
                raise
            value, problem = {}, str(error).removesuffix("; mend the line")
        if not {"words", "tokens", "text"} & {*value} and self.kind == "auto" and not self._json:
            if not self._noted:
                self._noted = True
                self.note(f"{problem}: such lines are taken as text; --input=jsonl refuses them")
            return of_text(line, self.split)
        self._json = True
        return sentence_of(value, where, self.split)


def read_blocks(
    descriptor: int,
    name: str,
    check: Callable[[Sequence[str], str], Words],
    size: int,
    parse: LineParser,
    strict: bool = False,
) -> Iterator[list[Incoming | BadLine]]:
    """Lists of `size` lines, then of twice as many each, up to `LARGEST` times `size`; and of fewer
    where the next one is not there yet; then an empty one, before it is waited for.

    `check` gets words and their `file:line`, and raises UserError where they will not do. An empty
    line is a sentence of no words, so that answers stay beside their lines. A bad line is a
    `BadLine`, or, where `strict`, a UserError after what comes before it was handed out.
    """
    # Many sentences fill batches of each length: 64 of four lengths would all be searched as if
    # they were as long as the longest. Twice as many each time: who watches the answers of a slow
    # model never waits much longer for the next ones than all before them took.
    # size 2; a, b and c at once, a pause, d -> [a, b] [c] [] [d].
    largest = size * LARGEST
    block: list[Incoming | BadLine] = []
    number, told = 0, True  # Whether nothing was handed out since an empty block.
    for raw in _lines(descriptor):
        if raw is not None:
            number += 1
            found = _line(raw, number, name, check, parse)
            if isinstance(found, BadLine) and strict:
                if block:
                    yield block
                raise UserError(found.error)
            block.append(found)
        if len(block) == size or (raw is None and block):
            yield block
            size = min(2 * size, largest) if len(block) == size else size
            block, told = [], False
        if raw is None and not told:
            yield []
            told = True
    if block:
        yield block


def _lines(descriptor: int) -> Iterator[bytes | None]:
    """Lines without their line feeds, of one that is over LONGEST_LINE as much as shows it; None
    where reading on would have to wait."""
    # "red je", then "ans\nblue\n" -> nothing of the first, `red jeans` and `blue` of the second.
    parts: list[bytes] = []
    length = 0
    while True:
        # A timeout of 0 asks and does not wait; the read below waits.
        if not select.select([descriptor], [], [], 0)[0]:
            yield None
        data = os.read(descriptor, 1 << 16)
        if not data:
            break
        # Joined once a line, and not once a read: 60 MB are 900 reads.
        *ended, rest = data.split(b"\n")
        for line in ended:
            yield b"".join([*parts, line]) if length <= LONGEST_LINE else b"".join(parts)
            parts, length = [], 0
        if rest and length <= LONGEST_LINE:
            parts.append(rest)
            length += len(rest)
    if parts:
        yield b"".join(parts)


def _line(
    raw: bytes,
    number: int,
    name: str,
    check: Callable[[Sequence[str], str], Words],
    parse: LineParser,
) -> Incoming | BadLine:
    where = f"{'stdin' if name == '-' else name}:{number}"
    echoed: Mapping[str, Any] = _NOTHING
    try:
        if len(raw) > LONGEST_LINE:
            raise UserError(f"{where}: is longer than {LONGEST_LINE >> 20} MiB; part it into lines")
        # `utf-8-sig` takes a byte-order mark away, which only a file's first line can have.
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
        sentence = parse(line, where)
        echoed = sentence.echoed
        return sentence._replace(words=check(sentence.words, where))
    except UnicodeDecodeError as error:
        return BadLine(number, f"{where}: is not UTF-8 ({error.reason}); convert it")
    except _BadObject as error:
        return BadLine(number, str(error), error.echoed)
    except UserError as error:
        return BadLine(number, str(error), echoed)


def sentence_of_line(line: str, where: str, split: str = "spaces") -> Incoming:
    """The words of a line; one that starts with { is JSON, with `words` or `text`.

    `red  jeans` and `{"text": "red jeans"}` -> red, jeans; `{"words": ["new york"]}` -> new york.
    `split` as config.text.split; offsets count the characters of the line, or of `text`.

    Raises UserError, which begins with `where`, for JSON that has neither.
    """
    if not line.lstrip().startswith("{"):
        return of_text(line, split)
    return sentence_of(_object(line, where), where, split)


def parse_json(text: str) -> Any:
    """What JSON says. Raises ValueError or RecursionError, also for what could not be echoed: NaN
    and numbers as large as 1e999, which Python writes as no JSON, and what is nested so deep that
    it can be read and not written."""
    value = json.loads(text, parse_constant=_number, parse_float=_number)
    if text.count("[") + text.count("{") > _DEEPEST:
        level: list[Any] = [value] if isinstance(value, dict | list) else []
        for _ in range(_DEEPEST):
            nested = (x.values() if isinstance(x, dict) else x for x in level)
            level = [item for inner in nested for item in inner if isinstance(item, dict | list)]
            if not level:
                return value
        raise ValueError(f"it is nested over {_DEEPEST} deep")
    return value


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number of JSON")
    return number


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON ({error}); mend the line") from None
    if not isinstance(value, dict):
        raise UserError(f'{where}: is not an object such as {{"text": "..."}}; mend the line')
    return value


def sentence_of(value: Mapping[str, Any], where: str, split: str = "spaces") -> Incoming:
    """The sentence of an object: its `words`, or `tokens` if they are strings, else its `text`,
    parted at its `tokens` if they are places in it and `split` is `spaces`.

    Where it has a `text` that is parted into its words, too, they have places in it. Raises
    UserError, which begins with `where`, for an object that has none of the three.
    """
    # What predict printed can be labeled again: its earlier answer is no part of the new one.
    value = {key: item for key, item in value.items() if key not in ("decide", "labelings")}
    words, text = value.get("words"), value.get("text")
    used = "words"
    if words is None and _are_strings(value.get("tokens")):
        words, used = value["tokens"], "tokens"
    echoed = {key: item for key, item in value.items() if key not in (used, "text")}
    if isinstance(text, str) and words is None:
        try:
            # As in training: the words of a text are its tokens, unless text.split says otherwise.
            given = words_of_tokens(text, value.get("tokens")) if split == "spaces" else None
        except ValueError as error:
            raise _BadObject(f"{where}: {error}; mend the line", echoed) from None
        found = Incoming(given.words, text, given.offsets) if given else of_text(text, split)
        return found._replace(echoed=echoed)
    if not _are_strings(words):
        raise _BadObject(
            f'{where}: has no "words" (a list of strings) and no "text" (a string); give it one',
            echoed,
        )
    if isinstance(text, str) and (whole := of_text(text, split)).words == tuple(words):
        return whole._replace(echoed=echoed)
    if "text" in value:
        echoed = {key: item for key, item in value.items() if key != used}
    return Incoming(tuple(words), echoed=echoed)


def of_text(text: str, split: str) -> Incoming:
    """Text parted into words; line breaks part them as spaces do. Raises UserError for what is no
    string."""
    if not isinstance(text, str):
        raise UserError(
            f"a text has to be a string, not {reprlib.repr(text)}; of words, take label"
        )
    # One for one with spaces, so that characters keep their places.
    words, offsets = split_text(text.replace("\r", " ").replace("\n", " "), split)
    return Incoming(words, text, offsets)


def _are_strings(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
