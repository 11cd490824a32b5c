"""GROOT in JAX: generate, correct and contrast top-k labelings under the user's reward.

Arrays carry their axes as a name suffix (`scores_BxM`). The legend, of batches, model/, generate/
and contrast/ (elsewhere an axis is explained where it is made):
    B sentences    S source tokens          T target tokens            F ids fused to a source token
    V vocabulary   C output columns         D model dimension          H heads, Dh of D each
    K beams        J continuations (2K)     I steps of a search        W tokens fed in one step
    G phases of a grammar                   P pieces forced after a choice
    L items of a template, or cache slots   M candidates of a sentence: its pool
    N nodes: distinct prefixes of outputs   E edges of a token tree: a node and the next token
    R bins, rows of token trees             U source tokens of a bin
This file imports nothing of JAX, so that reward workers start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groot_jax.labeler import Labeler as Labeler

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`groot_jax.Labeler`, found only when it is asked for: it brings in JAX."""
    if name == "Labeler":
        from groot_jax.labeler import Labeler

        return Labeler
    raise AttributeError(f"module 'groot_jax' has no attribute {name!r}")
