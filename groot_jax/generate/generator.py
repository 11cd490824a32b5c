"""Sentences in, ranked candidates out: the beam search with what it needs around it.

Holds the compiled search of one model and format. May not know gold labels or rewards.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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

# Searches that a CPU does side by side: products of a small model are too short for two cores to
# share one. nano on two: 840 queries of `retail` a second instead of 640.
_AT_ONCE = 2
_SMALL = 20_000_000  # Parameters; of more, cores do share, and two searches take twice the memory.


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
        hurried: bool = False,
    ) -> None:
        """`keep`: what was traced is kept on disk between runs, see `kept.py`; `hurried`: a search
        of one sentence, of those kept, is compiled soon and not for speed."""
        self.k = k
        self._format, self._layout = format_, layout
        # A program of several devices is one for these very devices.
        self._keeps, self._hurried = keep and layout.mesh.size == 1, hurried
        self._programs: dict[object, Callable[..., Any]] = {}  # by size of batch, of those kept
        self._compiled: set[object] = set()  # sizes of batches that were searched before

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
            hurried = self._hurried and len(batch.examples) == 1
            self._programs[size] = kept(self.search, (params, inputs, None), facts, hurried)
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

        While a batch is read others are searched: two side by side where the model is small and
        the device a CPU.
        """
        found: dict[int, list[Candidate]] = {}
        begun: deque[tuple[Callable[[], Beams], Batch]] = deque()
        small = sum(leaf.size for leaf in jax.tree.leaves(params)) < _SMALL
        aside = small and self._layout.mesh.size == 1 and jax.default_backend() == "cpu"
        pool = ThreadPoolExecutor(_AT_ONCE, "search")

        def begin(batch: Batch) -> Callable[[], Beams]:
            size = (batch.source_BxS.shape, batch.target_BxT.shape)
            if aside and size in self._compiled:
                # JAX starts what a thread asks of a CPU when that thread's last program has ended.
                return pool.submit(lambda: jax.block_until_ready(self(params, batch))).result
            beams = self(params, batch)  # Compiled in this thread, which others watch.
            self._compiled.add(size)
            return lambda: beams

        def take(result: Callable[[], Beams], batch: Batch) -> None:
            counted_B = counted_rows(self._layout, len(batch.index_B))
            counted = set(batch.index_B[counted_B].tolist())
            for example, candidates in self.read(result(), batch):
                if example.index in counted:
                    found[example.index] = candidates

        try:
            for batch in batches:
                begun.append((begin(batch), batch))
                if len(begun) > (_AT_ONCE if aside else 1):
                    take(*begun.popleft())
            while begun:
                take(*begun.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
        return found
