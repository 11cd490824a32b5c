"""A training with one idea that is no setting: what benchmarks/contrast.py tries beside settings.

    python benchmarks/ideas.py barrier --config=configs/retail.py --workdir=runs/barrier

The flags behind the idea's name are those of groot_jax.train. An idea replaces a function or two of
the package for this process alone. What helps moves into the package, as a setting; what does not
stays here, so that its figures can be made again.

Of stage 1:
- `half_negatives`, `half_positives`: in a pair of the hinge, the gradient of the score that is to
  fall, or of the one that is to rise, counts half (asymmetric weights, after arXiv 2506.01347).
- `barrier`: gold tokens below a probability of .5 cost what they lack of its logarithm (after
  TAB-PO, arXiv 2603.00025).
- `crossed`: candidates come from models that did not see the sentence (cross-fitting):
  GROOT_IDEA names their two work directories, comma separated, trained by `fold_0` and `fold_1`.

Of stage 0:
- `fold_0`, `fold_1`: every second training sentence, from the first or from the second on.
- `sam`: the gradient at the worst point within .05 (Foret et al., arXiv 2010.01412).

`average` trains nothing: its flags are those of groot_jax.evaluate, which then takes the mean of
the parameters of --workdir and of the work directory that GROOT_IDEA names.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from groot_jax import evaluate, train
from groot_jax.contrast import losses, update
from groot_jax.data.augment import Augmenter
from groot_jax.data.batches import Batch, TrainingBatches
from groot_jax.errors import exit_on_user_error
from groot_jax.mesh.rows import own_rows
from groot_jax.training import groot
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.run import Run
from groot_jax.training.systems import choose_step

_FLOOR = 0.5  # probability of a gold token below which `barrier` adds to the loss
_RADIUS = 0.05  # of `sam`, in the norm of all parameters
_best = partial(choose_step, wanted="best")


def _put(owner: object, **functions: Callable[..., Any]) -> None:
    """Puts functions in the place of those of their names in a module or class."""
    for name, function in functions.items():
        assert hasattr(owner, name)
        setattr(owner, name, function)


def _asymmetric(rising: float, falling: float) -> None:
    def violation(pools: losses.ScoredPools, tau: losses.Scalar) -> Any:
        def weighted(share: float) -> Any:
            s_BxM = pools.scores_BxM
            return share * s_BxM + (1 - share) * jax.lax.stop_gradient(s_BxM)

        # Candidate i, of the higher reward, in rows, j in columns.
        gap_BxMxM = weighted(rising)[:, :, None] - weighted(falling)[:, None, :]
        return losses._differences(pools.rewards_BxM) / tau - gap_BxMxM

    _put(losses, _violation=violation)


def half_negatives() -> None:
    _asymmetric(1.0, 0.5)


def half_positives() -> None:
    _asymmetric(0.5, 1.0)


def barrier() -> None:
    token_log_probs, pool_sums = update.token_log_probs, update._pool_sums
    # Log p of each edge of the token trees, in the trace that a thread is at.
    trace = threading.local()

    def noting(*args: Any) -> Any:
        found = token_log_probs(*args)
        trace.logp = found[0]
        return found

    def sums(params: Any, batch: Any, shared: Any, **settings: Any) -> Any:
        loss, parts = pool_sums(params, batch, shared, **settings)
        logp_BxE = trace.logp.reshape(batch.gold_BxM.shape[0], -1)
        on_gold_BxE = (batch.forest.path_BxMxE * batch.gold_BxM[:, :, None]).sum(1)
        lacking_BxE = jax.nn.relu(np.log(_FLOOR) - logp_BxE)
        return loss + (lacking_BxE * on_gold_BxE).sum() / shared.denominators[0], parts

    _put(update, token_log_probs=noting, _pool_sums=sums)


def crossed() -> None:
    folds = [Path(name) for name in os.environ["GROOT_IDEA"].split(",")]
    loaded: list[Any] = []

    def params_of(run: Run, folder: Path) -> Any:
        tie = run.config.checkpoint.tie
        with Checkpoints(folder, "nll", tie=tie, read_only=True, hosts=run.hosts) as checkpoints:
            return checkpoints.read_params(_best, run.partitioning.param_shapes)[1]

    def generate(stage: groot.GrootStage, params: Any, batch: Batch, step: int) -> Any:
        if not stage._generates(step):
            return None
        if not loaded:
            loaded.extend(params_of(stage._run, folder) for folder in folds)
        first, second = (stage._run.generator(fold, batch) for fold in loaded)
        # Sentence 5 was seen by the second fold, so the first one writes its candidates.
        odd_B = batch.index_B % 2 == 1

        def choose(a: Any, b: Any) -> Any:
            return jnp.where(odd_B.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

        return jax.tree.map(choose, first, second)

    _put(groot.GrootStage, generate=generate)


def _fold(which: int) -> None:
    def batches(run: Run, batch_size: int, seed: int, parts: int = 1) -> TrainingBatches:
        kept = [example for example in run._examples if example.index % 2 == which]
        sentences = [example.sentence for example in kept]
        return TrainingBatches(
            kept,
            batch_size,
            run.task.ladder,
            seed,
            own_B=own_rows(run.partitioning.layout, batch_size, parts),
            augmenter=Augmenter(sentences, run.task.format, run.config.data.augment),
            hide=run._hidden_words(),
        )

    _put(Run, batches=batches)


def fold_0() -> None:
    _fold(0)


def fold_1() -> None:
    _fold(1)


def sam() -> None:
    summed = update.summed

    def twice(graded: Callable[..., Any], params: Any, *rest: Any) -> Any:
        found, grads = summed(graded, params, *rest)
        if getattr(graded, "__name__", "") == "accumulated":  # Stage 1 is as it was.
            return found, grads
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
        there = jax.tree.map(lambda p, g: p + _RADIUS * g / (norm + 1e-12), params, grads)
        return found, summed(graded, there, *rest)[1]

    _put(update, summed=twice)


def average() -> None:
    read_params, other = Checkpoints.read_params, Path(os.environ["GROOT_IDEA"])

    def mean(checkpoints: Checkpoints, choose: Any, shapes: Any) -> Any:
        step, params = read_params(checkpoints, choose, shapes)
        system, tie = checkpoints.folder.name, checkpoints._tie
        with Checkpoints(other, system, tie=tie, read_only=True) as beside:
            its = read_params(beside, _best, shapes)[1]
        return step, jax.tree.map(lambda a, b: (a + b) / 2, params, its)

    _put(Checkpoints, read_params=mean)


IDEAS: dict[str, Callable[[], None]] = {
    idea.__name__: idea
    for idea in (
        half_negatives,
        half_positives,
        barrier,
        crossed,
        fold_0,
        fold_1,
        sam,
        average,
    )
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in IDEAS:
        raise SystemExit(f"{__doc__}\nideas: {', '.join(IDEAS)}")
    IDEAS[sys.argv[1]]()
    (evaluate if sys.argv[1] == "average" else train).main(sys.argv[2:])


if __name__ == "__main__":
    exit_on_user_error(main)
