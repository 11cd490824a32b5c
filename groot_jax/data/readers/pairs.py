"""The seq.in + seq.out pair: a folder with one file of words and one of tags, a sentence a line.

The third file of such folders, `label`, holds intents; nothing here needs it.
"""

from __future__ import annotations

from pathlib import Path

from groot_jax.data.readers.reading import (
    BOM,
    Problems,
    Read,
    mark_within,
    not_text,
    read_lines,
    require_path,
    words_of,
)
from groot_jax.data.schemes import Tagged
from groot_jax.errors import UserError


def _content(path: Path) -> list[str | None]:
    # Blank lines at the end are nobody's sentence, and one of the two files often has one more.
    lines = read_lines(path)
    while lines and lines[-1] is not None and not lines[-1].strip(" \t"):
        lines.pop()
    return lines


def read_pairs(folder: Path, key: str, problems: Problems) -> Read:
    """Reads `folder`/seq.in and seq.out; bad lines go to `problems`.

    Raises UserError when their numbers of lines differ: then nobody knows which line lacks its
    partner, and no policy can skip it.
    """
    word_path = require_path(folder / "seq.in", key)
    tag_path = require_path(folder / "seq.out", key)
    word_lines, tag_lines = _content(word_path), _content(tag_path)
    if len(word_lines) != len(tag_lines):
        raise UserError(
            f"{word_path} has {len(word_lines)} lines and {tag_path} has {len(tag_lines)}: they "
            "must pair line by line; add or remove the lines that have no partner"
        )
    pairs = zip(word_lines, tag_lines, strict=True)
    sentences = []
    for number, (word_line, tag_line) in enumerate(pairs, start=1):
        if word_line is None or tag_line is None:
            path = word_path if word_line is None else tag_path
            problems.add(not_text(path, number))
            continue
        if word_line.startswith(BOM) or tag_line.startswith(BOM):
            path = word_path if word_line.startswith(BOM) else tag_path
            problems.add(mark_within(path, number))
            continue
        # "play abba" and "O B-artist": one tag a word, by place.
        words, tags = tuple(words_of(word_line)), tuple(words_of(tag_line))
        if len(words) != len(tags):
            problems.add(
                f"{word_path}:{number}: {len(words)} words, but {tag_path.name}:{number} has "
                f"{len(tags)} tags; give each word one tag"
            )
        elif not words:
            problems.add(f"{word_path}:{number}: an empty line is no sentence; remove it from both")
        else:
            sentences.append(Tagged(words, tags, str(word_path), (number,) * len(words)))
    return Read(sentences, "words in seq.in, tags in seq.out")
