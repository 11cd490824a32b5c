"""Sentences in, ranked candidates out: the beam search with what it needs around it.

Holds the compiled search of one model and format. May not know gold labels or rewards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from groot_jax.data.batches import Batch, Example
from groot_jax.data.format import Format
from groot_jax.data.labeling import Candidate
from groot_jax.generate.beam_search import Beams, beam_search
from groot_jax.generate.grammar import Grammar
from groot_jax.generate.steps import SearchInput, search_input
from groot_jax.generate.walk import SearchPlan
from groot_jax.mesh import arrays
from groot_jax.mesh.layout import Layout, batch_ways, use_layout
from groot_jax.model.t5 import T5


class Generator:
    """The jitted search: `generator(params, batch)` returns `Beams` on the device, at once."""

    def __init__(
        self,
        model: T5,
        format_: Format,
        grammar: Grammar,
        *,
        k: int,
        use_grammar: bool = True,
        length_penalty: float = 0.0,
        keep_unfinished: bool = False,
        layout: Layout | None = None,
    ) -> None:
        self.k = k
        self._format = format_
        self._batch_sharding = layout.batch if layout else None
        plan = SearchPlan(grammar, model.config.vocab_size)

        def search(params: Any, inputs: SearchInput, key: jax.Array | None) -> Beams:
            with use_layout(layout):
                return beam_search(
                    model,
                    params,
                    plan,
                    inputs,
                    k=k,
                    use_grammar=use_grammar,
                    length_penalty=length_penalty,
                    keep_unfinished=keep_unfinished,
                    dropout_key=key,
                )

        # Every result has the sentences first.
        self._search: Any = jax.jit(search, out_shardings=self._batch_sharding)

    def __call__(self, params: Any, batch: Batch, dropout_key: jax.Array | None = None) -> Beams:
        inputs = search_input(batch)
        if self._batch_sharding is not None:
            inputs = arrays.put(inputs, self._batch_sharding)
        return self.search(params, inputs, dropout_key)

    def search(
        self, params: Any, inputs: SearchInput, dropout_key: jax.Array | None = None
    ) -> Beams:
        """The compiled search itself, of arrays that are where it wants them."""
        return self._search(params, inputs, dropout_key)

    def clear_cache(self) -> None:
        """Lets go of the compiled searches, as a jitted function's `clear_cache` does."""
        self._search.clear_cache()

    def lower(self, params: Any, inputs: SearchInput) -> Any:
        """The search as `jax.jit(...).lower` has it; shapes with shardings may stand for arrays."""
        return self._search.lower(params, inputs, None)

    def rows(self, batch_size: int) -> int:
        """`batch_size` rounded up to what the mesh divides; the rows added are padding."""
        ways = batch_ways(self._batch_sharding) if self._batch_sharding else 1
        return -(-batch_size // ways) * ways

    def own_rows(self, batch_size: int) -> np.ndarray:
        """bool [rows]: the rows of such a batch that this process has to fill."""
        if self._batch_sharding is None:
            return np.ones(batch_size, bool)
        return arrays.own_rows(self._batch_sharding, self.rows(batch_size))

    def counted_rows(self, rows: int) -> np.ndarray:
        """bool [rows]: those that this process counts, so that each is counted once."""
        if self._batch_sharding is None:
            return np.ones(rows, bool)
        return arrays.counted_rows(self._batch_sharding, rows)

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

    def label(self, params: Any, batches: Iterable[Batch]) -> dict[int, list[Candidate]]:
        """Candidates of every example, by its index; of several processes, each has a share.

        The next batch is on the device while the last one is read.
        """
        found: dict[int, list[Candidate]] = {}
        waiting: tuple[Beams, Batch] | None = None

        def take(beams: Beams, batch: Batch) -> None:
            counted = set(batch.index_B[self.counted_rows(len(batch.index_B))].tolist())
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
