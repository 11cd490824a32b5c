"""Rows of the embedding, and columns of the head, for pieces that a checkpoint does not have."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from groot_jax.errors import UserError


def check_rows(there: int, wanted: int) -> None:
    """Raises UserError where the vocabulary would shrink."""
    if wanted < there:
        raise UserError(
            f"vocabulary: the checkpoint has {there} embeddings and the tokenizer only "
            f"{wanted} pieces; use the checkpoint's own tokenizer"
        )


def moments(blocks: Iterable[np.ndarray], by_row: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation, [D] each, of an embedding that comes in blocks of rows: of [V, D] where
    `by_row`, else of [D, V]."""
    if not by_row:
        pairs = [(b.mean(1, dtype=np.float64), b.std(1, dtype=np.float64)) for b in blocks]
        mean, std = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    else:
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for block in blocks:
            count += len(block)
            total = total + block.sum(0, dtype=np.float64)
            squares = squares + np.square(block, dtype=np.float64).sum(0)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean.astype(np.float32), std.astype(np.float32)


def drawn_rows(mean_D: np.ndarray, std_D: np.ndarray, count: int) -> np.ndarray:
    """`count` rows of new pieces, [count, D], normal with that mean and deviation; always the same.

    Rows with T5's initial deviation among trained ones would have logits out of line with all
    others; drawn like these, they begin as an average piece.
    """
    rng = np.random.default_rng(0)
    return mean_D + std_D * rng.standard_normal((count, len(mean_D)), np.float32)
