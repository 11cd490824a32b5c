"""GROOT in JAX: generate, correct and contrast top-k labelings under the user's reward.

Arrays carry their axes as a name suffix (`scores_BxM`). The legend, everywhere:
    B sentences    K beams          M pool (candidates of a sentence)   N nodes of a token trie
    S source       T target         L template items or cache slots     C legal output columns
    D model        H heads          Dh head dimension                   F feed-forward
    V vocabulary
This file imports nothing of JAX, so that reward workers start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groot_jax.predict import Labeler as Labeler

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Labeler":
        from groot_jax.predict import Labeler

        return Labeler
    raise AttributeError(f"module 'groot_jax' has no attribute {name!r}")
