"""Sentences in, ranked candidates out: the beam search with what it needs around it.

Holds the compiled search of one model and format. May not know gold labels or rewards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from groot_jax.data.batches import Batch, Example
from groot_jax.data.format import Format
from groot_jax.data.labeling import Candidate
from groot_jax.generate.grammar import Grammar, StepPlan, plan_steps
from groot_jax.generate.inputs import Beams, SearchInput, search_input
from groot_jax.generate.kept import kept
from groot_jax.mesh import arrays
from groot_jax.mesh.layout import Layout, use_layout
from groot_jax.mesh.rows import counted_rows, own_rows
from groot_jax.model.config import T5Config
from groot_jax.model.param_tree import Params


class Generator:
    """The jitted search: `generator(params, batch)` returns `Beams` on the device, at once.

    `search` is the compiled function itself, of (parameters, `SearchInput`, dropout key or None),
    all of which must be where it wants them. It has one program for each size of batch.
    """

    def __init__(
        self,
        model: T5Config,
        format_: Format,
        grammar: Grammar,
        *,
        k: int,
        use_grammar: bool = True,
        length_penalty: float = 0.0,
        layout: Layout,
        keep: bool = False,
    ) -> None:
        """`keep`: what was traced is kept on disk between runs, see `kept.py`."""
        self.k = k
        self._format, self._layout = format_, layout
        # A program of several devices is one for these very devices.
        self._keeps = keep and layout.mesh.size == 1
        self._programs: dict[object, Callable[..., Any]] = {}  # by size of batch, of those kept

        def plan(length: int) -> StepPlan:
            return plan_steps(format_, grammar, length, use_grammar)

        def facts(length: int) -> object:
            tables = [hashlib.blake2b(np.asarray(x).tobytes()).digest() for x in grammar]
            return model, tables, plan(length), k, length_penalty

        # All that a search of outputs of so many ids is made of beside its arguments.
        self._facts = facts

        def search(params: Params, inputs: SearchInput, key: jax.Array | None) -> Beams:
            # Here and not above: whoever finds what was traced on disk needs neither this nor Flax.
            from groot_jax.generate.beam_search import beam_search
            from groot_jax.model.t5 import T5

            with use_layout(layout):
                return beam_search(
                    T5(model),
                    params,
                    grammar,
                    plan(inputs.fused_target_BxT.shape[1]),
                    inputs,
                    k=k,
                    length_penalty=length_penalty,
                    dropout_key=key,
                )

        # Every result has the sentences first. Any: its declared type lacks `clear_cache`.
        self.search: Any = jax.jit(search, out_shardings=layout.batch)

    def __call__(self, params: Params, batch: Batch, dropout_key: jax.Array | None = None) -> Beams:
        """Starts the search of a batch that lies on the host; with `dropout_key`, the encoder runs
        with its dropout on."""
        inputs = arrays.put(search_input(batch), self._layout.batch)
        if dropout_key is not None or not self._keeps:
            return self.search(params, inputs, dropout_key)
        size = jax.tree.map(np.shape, inputs)
        if size not in self._programs:
            facts = self._facts(inputs.fused_target_BxT.shape[1])
            self._programs[size] = kept(self.search, (params, inputs, None), facts)
        return Beams(*self._programs[size](params, inputs, None))

    def own_rows(self, batch_size: int) -> np.ndarray:
        """bool [rows]: the rows of such a batch that this process has to fill."""
        return own_rows(self._layout, batch_size)

    def read(self, beams: Beams, batch: Batch) -> list[tuple[Example, list[Candidate]]]:
        """Waits for the device; (example, candidates best first) of each real row that lies on this
        process's devices.

        `slot` of a candidate is its row in `tokens_BxKxT`; unfinished slots are left out.
        """
        tokens_BxKxT, scores_BxK, valid_BxK = (arrays.read(x) for x in beams)
        result = []
        for b, example in enumerate(batch.examples):
            if example is None:
                continue
            words = example.sentence.words
            candidates = []
            for k in np.flatnonzero(valid_BxK[b]).tolist():
                labeling, well_formed = self._format.read(tokens_BxKxT[b, k].tolist(), words)
                candidates.append(Candidate(labeling, float(scores_BxK[b, k]), well_formed, k))
            result.append((example, candidates))
        return result

    def label(self, params: Params, batches: Iterable[Batch]) -> dict[int, list[Candidate]]:
        """Candidates of every example, by its index; of several processes, each has a share.

        The next batch is on the device while the last one is read.
        """
        found: dict[int, list[Candidate]] = {}
        waiting: tuple[Beams, Batch] | None = None

        def take(beams: Beams, batch: Batch) -> None:
            counted_B = counted_rows(self._layout, len(batch.index_B))
            counted = set(batch.index_B[counted_B].tolist())
            for example, candidates in self.read(beams, batch):
                if example.index in counted:
                    found[example.index] = candidates

        for batch in batches:
            beams = self(params, batch)
            if waiting is not None:
                take(*waiting)
            waiting = (beams, batch)
        if waiting is not None:
            take(*waiting)
        return found
