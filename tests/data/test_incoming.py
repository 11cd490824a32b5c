"""Blocks of sentences: how many at a time, and never later than whoever writes them waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from groot_jax.data.incoming import LARGEST, open_input, read_blocks
from groot_jax.errors import UserError


def blocks_of(path: Path, size: int) -> list[list[tuple[str, ...]]]:
    with open_input(str(path)) as source:
        found = read_blocks(source, str(path), lambda words, where: tuple(words), size)
        return [[sentence.words for sentence in block] for block in found]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 6, 7, 200])
def test_blocks_of_a_file_double_up_to_the_largest(tmp_path: Path, count: int) -> None:
    words = [(f"w{i}",) for i in range(count)]
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{word}\n" for (word,) in words))
    blocks = blocks_of(path, 2)
    assert [sentence for block in blocks for sentence in block] == words
    sizes = [len(block) for block in blocks]
    wanted = [2, 4, 8, 16, 32, *[2 * LARGEST] * 9]
    assert sizes[:-1] == wanted[: max(len(sizes) - 1, 0)]
    assert not sizes or 0 < sizes[-1] <= wanted[len(sizes) - 1]


def test_who_waits_is_answered_and_a_pause_makes_no_block_smaller() -> None:
    reading, writing = os.pipe()
    try:
        blocks = read_blocks(reading, "-", lambda words, where: tuple(words), 2)
        sizes = []
        for lines in (b"a\nb\nc\nd\n", b"e\n", b"f\ng\nh\ni\n", b"j\n"):
            os.write(writing, lines)
            while sum(sizes) < {b"a": 4, b"e": 5, b"f": 9, b"j": 10}[lines[:1]]:
                sizes.append(len(next(blocks)))
        # A block of two, what was there of one of four, the line that came alone, one of four.
        assert sizes == [2, 2, 1, 4, 1]
    finally:
        os.close(writing)
        os.close(reading)


def test_what_comes_before_a_bad_line_is_handed_out_first(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("a\nb\nc\n{bad\n")
    with open_input(str(path)) as source:
        blocks = read_blocks(source, str(path), lambda words, where: tuple(words), 2)
        assert [len(next(blocks)), len(next(blocks))] == [2, 1]
        with pytest.raises(UserError, match=r"lines\.txt:4: is not JSON"):
            next(blocks)
