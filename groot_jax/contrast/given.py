"""Teacher-forced scores of labelings that no search has written. Trains nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from groot_jax.contrast.projection import OutputColumns
from groot_jax.contrast.update import NllBatch, Params, nll_batch, nll_scores
from groot_jax.data.batches import encode, evaluation_batches
from groot_jax.data.format import Format
from groot_jax.data.labeling import Sentence
from groot_jax.data.ladder import Ladder
from groot_jax.mesh import arrays
from groot_jax.mesh.layout import Layout, use_layout
from groot_jax.mesh.rows import counted_rows, own_rows
from groot_jax.model.t5 import T5


class GivenScores:
    """s(y) of given labelings: the quantity that the beam search returns, by one pass over y."""

    def __init__(
        self, model: T5, format_: Format, ladder: Ladder, columns: OutputColumns, layout: Layout
    ) -> None:
        self._format, self._ladder, self._layout = format_, ladder, layout
        self._columns = arrays.put(columns, layout.everywhere)

        def score(params: Params, batch: NllBatch, columns: OutputColumns) -> jax.Array:
            with use_layout(layout):
                logp_BxT, _, mask_BxT = nll_scores(model, params, batch, columns)
                return (logp_BxT * mask_BxT).sum(1)

        self._score = jax.jit(score, out_shardings=layout.batch)

    def __call__(
        self, params: Params, sentences: Sequence[Sentence], batch_size: int
    ) -> dict[int, float]:
        """The score of each sentence's labeling, by its place; of several processes, each has a
        share. Raises UserError for a sentence that no batch can hold."""
        own_B = own_rows(self._layout, batch_size)
        counted_B = counted_rows(self._layout, len(own_B))
        examples = [
            dataclasses.replace(example, index=place)
            for place, example in enumerate(encode(sentences, self._format))
        ]
        found: dict[int, float] = {}
        for batch in evaluation_batches(examples, len(own_B), self._ladder, own_B):
            data = arrays.put(nll_batch(batch), self._layout.batch)
            scores_B = arrays.read(self._score(params, data, self._columns))
            for b in np.flatnonzero(counted_B & (batch.index_B >= 0)).tolist():
                found[int(batch.index_B[b])] = float(scores_B[b])
        return found
