"""Scores of labelings that a decision rule has put first and that no search has written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from groot_jax.data.labeling import Labeling, Sentence, Span
from groot_jax.evaluation.metrics import Beam
from groot_jax.mesh.layout import Layout
from groot_jax.model.param_tree import Params
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import Task

if TYPE_CHECKING:
    from groot_jax.contrast.given import GivenScores


class MissingScores:
    """Fills in the score of each beam's first labeling where it has none: teacher-forced, in all
    processes together."""

    def __init__(self, task: Task, layout: Layout, params: Params, hosts: Hosts) -> None:
        self._task, self._layout, self._params, self._hosts = task, layout, params, hosts

    @cached_property
    def given(self) -> GivenScores:
        # Here and not above: most answers need none, and it brings in Flax and optax.
        from groot_jax.contrast.given import GivenScores
        from groot_jax.contrast.projection import OutputColumns
        from groot_jax.model.t5 import T5

        grammar = self._task.grammar
        return GivenScores(
            T5(self._task.model_config),
            self._task.format,
            self._task.ladder,
            OutputColumns(grammar.columns_C, grammar.column_of_V),
            self._layout,
        )

    def __call__(
        self,
        words: Sequence[tuple[str, ...]],
        beams: list[Beam] | None,
        cuts: list[list[int]] | None,
        batch_size: int,
    ) -> list[Beam] | None:
        """The beams of these sentences with all scores; None in processes that have none. `cuts`:
        between the windows of each sentence."""
        wanted: list[tuple[int, list[Sentence]]] = []
        for i, beam in enumerate(beams or ()):
            if beam and math.isnan(beam[0].score):
                at = cuts[i] if cuts else []
                wanted.append((i, _pieces(words[i], beam[0].labeling, at)))
        # As JSON has them: between processes a tuple becomes a list.
        told = self._hosts.broadcast([(p.words, p.labeling) for _, many in wanted for p in many])
        if not told:
            return beams
        pieces = [
            Sentence(tuple(words), tuple(Span(*span) for span in labeling))
            for words, labeling in told
        ]
        scores = self.given(self._params, pieces, batch_size)
        parts = self._hosts.collect([*scores.items()])
        if beams is None or parts is None:
            return beams
        by_piece = {place: score for part in parts for place, score in part}
        place = 0
        for i, many in wanted:
            # s of a sentence in windows is the sum of their parts.
            score = sum(by_piece[place + j] for j in range(len(many)))
            place += len(many)
            beams[i] = [dataclasses.replace(beams[i][0], score=score), *beams[i][1:]]
        return beams


def _pieces(words: tuple[str, ...], labeling: Labeling, cuts: Sequence[int]) -> list[Sentence]:
    """A labeled sentence in the parts that its windows had a say on. No span of a beam lies across
    two of them."""
    pieces = []
    for start, end in pairwise((0, *cuts, len(words))):
        spans = (span for span in labeling if start <= span.start < end)
        moved = tuple(Span(s.start - start, s.end - start, s.type) for s in spans)
        pieces.append(Sentence(words[start:end], moved))
    return pieces
