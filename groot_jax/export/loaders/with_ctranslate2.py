"""The search of CTranslate2, for `labeling.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groot_jax.export.loaders.words import Found, Sentence, State, Words, command_line

# ---- The search ------------------------------------------------------------------------------


class Labeler(Words):
    """A labeler by the beam search of CTranslate2. That takes no grammar: what it finds beyond the
    grammar is dropped, and where it finds such, a search of our own asks the model step by step.

    `device`: "cpu", "cuda"; `compute_type`: "float32", "int8", ...: see CTranslate2. `exact`:
    search step by step always: slower, and the list is that of training to the last rank.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        device: str = "cpu",
        compute_type: str = "default",
        exact: bool = False,
    ) -> None:
        import ctranslate2
        import numpy

        self._numpy, self._cpu, self._exact = numpy, ctranslate2.Device.cpu, exact
        super().__init__(folder)
        # By default it takes EOS out of the softmax of the first step, and cuts long sources.
        self._options = {"min_decoding_length": 0, "max_input_length": 0}
        self.model = ctranslate2.Translator(
            str(self.folder), device=device, compute_type=compute_type
        )
        self._token = self._vocabulary("source")
        self._id = {token: id_ for id_, token in enumerate(self._token)}
        self._column = {self._id[t]: column for column, t in enumerate(self._vocabulary("target"))}

    def _vocabulary(self, side: str) -> list[str]:
        # One file where both sides have the same ids.
        path = self.folder / f"{side}_vocabulary.json"
        path = path if path.exists() else self.folder / "shared_vocabulary.json"
        return list(json.loads(path.read_text(encoding="utf-8")))

    def search(self, sentences: Sequence[Sentence], beams: int) -> list[Found]:
        """See `Words.search`."""
        sources = [[self._token[id_] for id_ in s.source] for s in sentences]
        if self._exact:
            pairs = zip(sentences, sources, strict=True)
            return [self._step_by_step(sentence, source, beams) for sentence, source in pairs]
        found = self.model.translate_batch(
            sources,
            **self._options,
            beam_size=beams,
            num_hypotheses=beams,
            patience=2,
            length_penalty=0,
            return_scores=True,
            return_end_token=True,
            max_decoding_length=max(sentence.longest for sentence in sentences),
        )
        listed: list[Found] = []
        for sentence, source, result in zip(sentences, sources, found, strict=True):
            outputs: Found = []
            for tokens, score in zip(result.hypotheses, result.scores, strict=True):
                ids = [self._id[token] for token in tokens]
                if self.grammar.read(sentence.template, ids) is not None:
                    outputs.append((ids, score))
            if len(outputs) < len(result.hypotheses):
                outputs = self._step_by_step(sentence, source, beams)
            listed.append(outputs)
        return listed

    def _log_probs(self, view: Any) -> Any:
        """Of one step, of all columns, from its logits."""
        view = view if view.device == "cpu" else view.to_device(self._cpu)
        logits = self._numpy.array(view).reshape(-1).astype("float64")
        return logits - self._numpy.logaddexp.reduce(logits)

    def _step_by_step(self, sentence: Sentence, source: list[str], beams: int) -> Found:
        """A beam search under the grammar, a call of the model for each choice: what the grammar
        leaves no choice about is written on the way, and beams are compared after equally many
        choices, as in training."""
        template, whole = sentence.template, len(sentence.template)
        running: list[tuple[float, list[int], State]] = [(0.0, [], State())]
        ended: Found = []
        while running:
            forced = [self._forced(template, ids, state) for _, ids, state in running]
            prefixes = [[self._token[id_] for id_ in ids] for ids, _ in forced]
            step = self.model.translate_batch(
                [source] * len(running),
                **self._options,
                target_prefix=prefixes,
                beam_size=1,
                max_decoding_length=max(map(len, prefixes)) + 1,
                return_logits_vocab=True,
            )
            grown: list[tuple[float, list[int], State]] = []
            for (score, before, _), (ids, state), result in zip(running, forced, step, strict=True):
                # One row for each id from the first that is not counted yet, and for the next one.
                rows = [
                    self._log_probs(view) for view in result.logits[0][len(before) : len(ids) + 1]
                ]
                for row, id_ in zip(rows, ids[len(before) :], strict=False):
                    score += float(row[self._column[id_]])
                for id_ in self.grammar.allowed(template, state):
                    after = self.grammar.after(template, state, id_)
                    assert after is not None
                    grown.append((score + float(rows[-1][self._column[id_]]), [*ids, id_], after))
            grown.sort(key=lambda item: -item[0])
            best = grown[: 2 * beams]
            ended += [(ids, score) for score, ids, state in best if state.place == whole]
            running = [item for item in best if item[2].place < whole][:beams]
            ended.sort(key=lambda item: -item[1])
            # No score rises: what runs on below the worst of a full list stays out of it.
            if len(ended) >= beams and running and running[0][0] <= ended[beams - 1][1]:
                break
        return ended[:beams]

    def _forced(
        self, template: Sequence[int], ids: list[int], state: State
    ) -> tuple[list[int], State]:
        """An output up to where there is a choice, or up to its last id, which ends it."""
        while state.place < len(template) - 1:
            allowed = self.grammar.allowed(template, state)
            if len(allowed) > 1:
                break
            after = self.grammar.after(template, state, allowed[0])
            assert after is not None
            ids, state = [*ids, allowed[0]], after
        return ids, state


if __name__ == "__main__":
    command_line(Labeler)
