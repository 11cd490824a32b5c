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

import os
import sys
from typing import TYPE_CHECKING

from groot_jax.errors import leave_quietly_when_interrupted

if TYPE_CHECKING:
    from groot_jax.labeler import Labeler as Labeler

__version__ = "0.1.0"


def prepare_job(interrupted: str = "interrupted\n") -> None:
    """For a process that is a job, before JAX is there.

    XLA logs at level ERROR that a program takes long to compile, in a block that asks for a bug
    report. What ends a job comes as an exception, or at level FATAL. `interrupted` is what Ctrl-C
    says while the job imports.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    leave_quietly_when_interrupted(interrupted)


# Here and not in the main of a job: `python -m groot_jax.train` imports this package, then all that
# train.py imports, JAX among it, and only then runs a line of train.py's own. A Ctrl-C in those
# seconds, and XLA's level of logs, can be seen to nowhere later. Nobody else is touched: sys.argv
# begins with "-m" only while Python looks for the module that it was told to run.
if sys.argv[:1] == ["-m"]:
    # A scoring process says nothing: Ctrl-C reaches it too, and its job speaks for both.
    scores = f"{__name__}.reward.worker" in sys.orig_argv
    prepare_job("" if scores else "interrupted\n")


def __getattr__(name: str) -> object:
    """`groot_jax.Labeler`, found only when it is asked for: it brings in JAX."""
    if name == "Labeler":
        from groot_jax.labeler import Labeler

        return Labeler
    raise AttributeError(f"module 'groot_jax' has no attribute {name!r}")
