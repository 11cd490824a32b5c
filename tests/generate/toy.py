"""A vocabulary of letters, whose tags have a piece for each."""

from __future__ import annotations

from groot_jax.data.format import Format
from groot_jax.data.formats import make_format
from groot_jax.data.tokenizer import Tokenizer

PIECES = ["a", "b", "O", "I", ";", "[", "]", "w", "v"]


class Letters:
    """A base vocabulary of letters: pad 0, EOS 1, unknown 2, `PIECES`, three sentinels."""

    pad_id, eos_id, unk_id = 0, 1, 2
    size = 3 + len(PIECES) + 3
    sentinels: tuple[int, ...] = (size - 1, size - 2, size - 3)

    def encode(self, text: str) -> list[int]:
        return [3 + PIECES.index(c) if c in PIECES else 2 for c in text.replace(" ", "")]

    def decode(self, ids: list[int]) -> str:
        return "".join(PIECES[id_ - 3] for id_ in ids if 3 <= id_ < 3 + len(PIECES))

    def save(self, folder) -> None: ...


def toy(name: str, types) -> Format:
    return make_format(name, Tokenizer(Letters()), types)
