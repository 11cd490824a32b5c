"""Whether a training still gets anywhere: losses and states that are no numbers, and collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from groot_jax.contrast.update import TrainState
from groot_jax.errors import UserError
from groot_jax.evaluation.metrics import Totals
from groot_jax.training.evaluations import Evaluation, Meta

_FEW = 20  # Updates that a mean is to be of before it says anything of a system.
_NAMED = 16  # Sentences that a message names.


class Health:
    """Watches one system; what it finds is the same in all processes of a run."""

    def __init__(
        self, system: str, optimizer: ConfigDict, name_sentence: Callable[[int], str]
    ) -> None:
        """`name_sentence`: where the training sentence of an index stands."""
        self._system, self._optimizer, self._name = system, optimizer, name_sentence
        self.failed = False  # Whether a state is no longer worth a checkpoint.
        self._skipped = 0  # Updates that were left out, one after the other.

    def check(self, step: int, meta: Meta, metrics: Totals, index_B: np.ndarray | None) -> None:
        """Of an update that is done; notes gold's probability in `meta`. Raises UserError where its
        loss or gradient is not finite, unless such updates are skipped and there were few in a
        row."""
        if _finite(metrics):
            self._skipped = 0
            total, count = metrics["gold_score"]
            if meta.gold is None:
                meta.gold = total / count
            before = meta.gold_since or [0.0, 0.0]
            meta.gold_since = [before[0] + total, before[1] + count]
            return
        self._skipped += 1
        limit = self._optimizer.max_skipped
        if self._optimizer.nonfinite == "skip" and self._skipped <= limit:
            return
        self.failed = True
        found = [] if index_B is None else [self._name(i) for i in index_B.tolist() if i >= 0]
        which = ", ".join(found[:_NAMED]) + (" and others" if len(found) > _NAMED else "")
        loss, norm = (metrics[key][0] / metrics[key][1] for key in ("loss", "grad_norm"))
        many = f" and {limit} updates before it, one after the other, were skipped"
        raise UserError(
            f"{self._system}: in update {step} the loss is {loss} and the gradient's norm {norm}"
            f"{many if self._skipped > 1 else ''} (its sentences: {which or 'none of this process'}"
            "); the checkpoint before it is kept: take a lower learning_rate, look at these "
            "sentences and their rewards, or set config.optimizer.nonfinite=skip"
        )

    def check_state(self, step: int, state: TrainState) -> None:
        """Before a save. Raises UserError where a parameter or a moment is not finite."""
        if not self.failed and bool(_all_finite(state)):
            return
        self.failed = True
        raise UserError(
            f"{self._system}: after update {step} not all parameters are finite numbers, so that "
            "nothing is saved; the checkpoint before it is kept: take a lower learning_rate"
        )

    def falling(self, meta: Meta, step: int) -> bool:
        """Whether dev is to be asked at once if a system has collapsed: gold's mean
        log-probability since the last evaluation is more than `optimizer.max_gold_drop` nats below
        that of the first update, or of where dev was asked so."""
        limit = self._optimizer.max_gold_drop
        if not limit or meta.gold is None or step - meta.evaluated < _FEW:
            return False
        return _gold(meta) < float(meta.gold - limit)

    def collapsed(self, meta: Meta, falling: bool) -> str:
        """After an evaluation: why a system whose gold was `falling` is to end, or nothing. Its
        reward is less than half of the best that it had, or, where dev tells a loss, that has
        doubled."""
        gold, meta.gold_since = _gold(meta), []
        if not falling:
            return ""
        was, meta.gold = meta.gold, gold  # Below that it is looked at again.
        # By gold alone nothing ends: a contrast without config.groot.nll_weight may spread what is
        # likely over more labelings, and rank them well.
        *before, last = meta.evaluations
        start = [] if meta.start is None else [meta.start]
        if "reward@1" in last.metrics:
            key, known = "reward@1", max([*start, *_all(before, "reward@1")], default=0.0)
            lost = last.metrics[key] < known / 2
        else:
            key, known = "loss", min(_all(before, "loss"), default=math.inf)
            lost = last.metrics[key] > 2 * known
        if not lost:
            return ""
        found = last.metrics[key]
        return (
            f"as it has collapsed: on dev its {key} is {found:.3f} and was {known:.3f}, and gold's "
            f"mean log-probability has fallen from {was:.1f} to {gold:.1f}: the "
            "learning_rate may be too high"
        )


def _gold(meta: Meta) -> float:
    total, count = meta.gold_since or (0.0, 0.0)
    return total / max(count, 1.0)


def _all(evaluations: Sequence[Evaluation], key: str) -> list[float]:
    return [one.metrics[key] for one in evaluations]


def _finite(metrics: Totals) -> bool:
    return all(math.isfinite(metrics[key][0]) for key in ("loss", "grad_norm") if key in metrics)


@jax.jit
def _all_finite(state: TrainState) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all() if leaves else jnp.bool_(True)
