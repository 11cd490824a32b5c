"""Sums of what updates tell, for means over many of them."""

from __future__ import annotations

import math
from typing import Any

import jax

from groot_jax.contrast.update import Metrics
from groot_jax.evaluation.metrics import Totals, merge_totals
from groot_jax.runtime.hosts import Hosts


class Sums:
    """Sums of (sum, denominator) over the updates since the last line of metrics.jsonl.

    Not a mean of the updates' means, since not every batch is full: .5 a sentence of 16 and 1.1 of
    4 are (8 + 4.4) / 20 = .62 a sentence, and not .8.
    """

    def __init__(self) -> None:
        self._metrics: Totals = {}  # of all sentences
        self._figures: Totals = {}  # of this process's
        self._skipped = 0  # updates that were left out, for a loss or gradient that is not finite
        self.last: Totals = {}  # of the last update

    def to_json(self, hosts: Hosts) -> dict[str, Any]:
        """For a checkpoint between two lines: what `from_json` takes, in all processes."""
        figures = hosts.merge(self._figures, lambda parts: parts)
        return {"metrics": self._metrics, "figures": figures, "skipped": self._skipped}

    @classmethod
    def from_json(cls, value: dict[str, Any] | None, hosts: Hosts) -> Sums:
        """Goes on where the save was; with another number of processes, the first has all."""
        sums = cls()
        if value is not None:
            own = value["figures"][hosts.index :: hosts.count]
            sums._metrics = {key: tuple(pair) for key, pair in value["metrics"].items()}
            sums._skipped = int(value["skipped"])
            sums._figures = merge_totals(own)
        return sums

    @property
    def empty(self) -> bool:
        """Whether no update has been added."""
        return not self._metrics and not self._skipped

    def add(self, metrics: Metrics, figures: Totals) -> int:
        """Waits for what is still on the device; the sentences of the update that it is of."""
        # Python's numbers: a sum in float32 stands still from 16,777,216 tokens on.
        self.last = jax.tree.map(float, jax.device_get(metrics))
        if all(math.isfinite(total) for total, _ in self.last.values()):
            self._metrics = merge_totals([self._metrics, self.last])
            self._figures = merge_totals([self._figures, figures])
        else:  # One NaN would leave nothing of the means of fifty updates.
            self._skipped += 1
        return int(self.last["gold_score"][1])  # Its denominator is the number of sentences.

    def means(self, hosts: Hosts | None = None) -> dict[str, float]:
        """Of this process's sentences, or of all processes together."""
        figures = self._figures
        # The device has summed `_metrics` over all processes already.
        if hosts is not None:
            figures = hosts.merge(figures, merge_totals)
        both = {**self._metrics, **figures}
        # Where no beam of any sentence finished there is no rank 1 to be counted.
        means = {
            key: float(total) / max(float(count), 1e-9) for key, (total, count) in both.items()
        }
        return means | ({"skipped_updates": float(self._skipped)} if self._skipped else {})

    def shown(self) -> dict[str, float]:
        """For the progress bar: this update's loss, and rewards as a mean since the last line of
        metrics.jsonl."""
        means = self.means()
        names = {"reward@1": "reward@1", "beam_reward": "beams"}
        loss, count = self.last["loss"]
        shown = {"loss": loss / count}
        return shown | {label: means[key] for key, label in names.items() if key in means}
