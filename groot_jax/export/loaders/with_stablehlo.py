"""The search as StableHLO, for `labeling.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groot_jax.export.loaders.words import Found, Sentence, Words, command_line

# ---- The search ------------------------------------------------------------------------------


class Labeler(Words):
    """A labeler by the search of groot_jax itself, as programs: ids in, ids and scores out."""

    def __init__(self, folder: str | Path | None = None) -> None:
        import jax
        import numpy as np
        from jax import export

        super().__init__(folder)
        self._np = np
        with np.load(self.folder / "weights.npz", allow_pickle=False) as weights:
            self._weights = {name: jax.numpy.asarray(weights[name]) for name in weights.files}
        self._programs: dict[int, Any] = {}
        for path in (self.folder / "programs").glob("*.stablehlo"):
            program = export.deserialize(bytearray(path.read_bytes()))
            self._programs[int(path.stem)] = jax.jit(program.call)

    def search(self, sentences: Sequence[Sentence], beams: int) -> list[Found]:
        """See `Words.search`."""
        np, facts = self._np, self.facts
        if beams > facts["beams"]:
            raise ValueError(
                f"k={beams}: the programs find {facts['beams']} labelings; export them with "
                f"--config.generate.k={beams}"
            )
        # Each size is compiled once: rows are rounded up to powers of two, sources to eights.
        rows = 1 << (len(sentences) - 1).bit_length()
        width = -(-max(len(s.source) for s in sentences) // 8) * 8
        need = max(sentence.longest for sentence in sentences)
        lengths = sorted(length for length in self._programs if length >= need)
        if not lengths:
            raise ValueError(
                f"a sentence needs {need} target tokens, over the longest program, "
                f"{max(self._programs)}: split it"
            )
        length, fused = lengths[0], facts["fused_width"]
        arrays = {
            "source": np.zeros((rows, width), np.int32),
            "template": np.full((rows, length), facts["eos"], np.int32),
            "cap": np.zeros(rows, np.int32),
        }
        if fused:
            arrays["fused_source"] = np.zeros((rows, width, fused), np.int32)
        if facts["format"] == "fused_sentinel":
            arrays["fused_target"] = np.zeros((rows, length), np.int32)
        if facts["format"] == "aligned":
            arrays["aligned"] = np.zeros((rows, length), np.int32)
        for row, sentence in enumerate(sentences):
            count = len(sentence.words)
            arrays["source"][row, : len(sentence.source)] = sentence.source
            arrays["template"][row, : len(sentence.template)] = sentence.template
            arrays["cap"][row] = sentence.longest
            if fused:
                for place, ids in enumerate(sentence.fused):
                    arrays["fused_source"][row, place, : len(ids)] = ids
            if "fused_target" in arrays:
                arrays["fused_target"][row, :count] = facts["sentinels"][:count]
            if "aligned" in arrays:  # The last step, which writes EOS, reads the source's EOS.
                arrays["aligned"][row, : count + 1] = range(count + 1)
        tokens, scores = (np.asarray(x) for x in self._programs[length](self._weights, arrays))
        return [
            [
                (ids, score)
                for ids, score in zip(tokens[row].tolist(), scores[row].tolist(), strict=True)
                if math.isfinite(score)
            ]
            for row in range(len(sentences))
        ]


if __name__ == "__main__":
    command_line(Labeler)
