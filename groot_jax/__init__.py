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

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groot_jax import api
    from groot_jax.calls import Job
    from groot_jax.data.labeling import Span as Span
    from groot_jax.errors import UserError as UserError
    from groot_jax.labeler import Labeler as Labeler
    from groot_jax.prediction import Prediction as Prediction
    from groot_jax.prediction import ScoredLabeling as ScoredLabeling

    train = Job(api.train)
    evaluate = Job(api.evaluate)

__version__ = "0.1.0"

# What is found only when it is asked for, since most of it brings in JAX: name -> its module.
# `train` and `evaluate` are modules that can be called.
_HOMES = {
    "Labeler": "labeler",
    "Prediction": "prediction",
    "ScoredLabeling": "prediction",
    "Span": "data.labeling",
    "UserError": "errors",
}
__all__ = ("__version__", "evaluate", "train", *_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"groot_jax.{_HOMES[name]}"), name)
    if name in ("train", "evaluate"):
        return import_module(f"groot_jax.{name}")
    raise AttributeError(f"module 'groot_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
