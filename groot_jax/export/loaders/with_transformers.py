"""The search of transformers, for `labeling.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groot_jax.export.loaders.words import Found, Sentence, State, Words, command_line

# ---- The search ------------------------------------------------------------------------------


class Labeler(Words):
    """A labeler by the beam search of transformers, held to the grammar by
    `prefix_allowed_tokens_fn`. `device`: "cpu", "cuda", ..."""

    def __init__(self, folder: str | Path | None = None, device: str = "cpu") -> None:
        from transformers import AutoModelForSeq2SeqLM, BatchEncoding

        super().__init__(folder)
        self._batch = BatchEncoding
        self.model = AutoModelForSeq2SeqLM.from_pretrained(self.folder).to(device).eval()
        if self.facts["columns"]:
            # The softmax runs over the ids that an output can hold, as it did in training: all
            # others get -inf ahead of it. Masked behind it, they would keep their probability.
            head = self.model.lm_head
            mask = head.weight.new_full((head.weight.shape[0],), -math.inf)
            mask[self.facts["columns"]] = 0
            head.register_forward_hook(lambda module, inputs, logits: logits + mask.to(logits))

    def search(self, sentences: Sequence[Sentence], beams: int) -> list[Found]:
        """See `Words.search`."""
        facts, beams = self.facts, max(beams, 2)  # With one beam there are no scores.
        width = max(len(sentence.source) for sentence in sentences)
        pad = [[facts["pad"]] * (width - len(sentence.source)) for sentence in sentences]
        rows = zip(sentences, pad, strict=True)
        batch = self._batch(
            {
                "input_ids": [[*s.source, *fill] for s, fill in rows],
                "attention_mask": [
                    [1] * len(s.source) + [0] * len(fill)
                    for s, fill in zip(sentences, pad, strict=True)
                ],
            },
            tensor_type="pt",
        ).to(self.model.device)
        # A prefix is one of the last step's with one more id.
        states: dict[tuple[int, ...], State | None] = {(row,): State() for row in range(len(pad))}

        def allowed(row: int, prefix: Any) -> list[int]:
            template, ids = sentences[row].template, tuple(prefix.tolist()[1:])
            key = (row, *ids)
            if key not in states:
                before = states.get((row, *ids[:-1]))
                states[key] = self.grammar.after(template, before, ids[-1]) if before else None
            state = states[key]
            # Where nothing can follow, the beam has ended, or is one that nobody chose.
            return (self.grammar.allowed(template, state) if state else []) or [facts["eos"]]

        found = self.model.generate(
            **batch,
            do_sample=False,
            num_beams=beams,
            num_return_sequences=beams,
            early_stopping="never",
            length_penalty=facts["length_penalty"],
            max_new_tokens=max(sentence.longest for sentence in sentences),
            prefix_allowed_tokens_fn=allowed,
            return_dict_in_generate=True,
            output_scores=True,
        )
        outputs = [ids[1:] for ids in found.sequences.tolist()]
        scores = found.sequences_scores.tolist()
        listed: list[Found] = [[] for _ in sentences]
        for place, (ids, score) in enumerate(zip(outputs, scores, strict=True)):
            if facts["eos"] in ids:
                length = ids.index(facts["eos"]) + 1
                total = score * length ** facts["length_penalty"]
                listed[place // beams].append((ids[:length], total))
        return listed


if __name__ == "__main__":
    command_line(Labeler)
