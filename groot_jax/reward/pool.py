"""Pools: the distinct labelings of one sentence that are contrasted, ranked by the reward.

This room chooses and ranks; it asks the reward it is given and never looks inside. It knows no ids:
beam slots are carried through for whoever does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from groot_jax.data.labeling import Candidate, Labeling
from groot_jax.reward.correction import corrections
from groot_jax.reward.rewards import Words

Origin = Literal["gold", "beam", "correction"]
Triple = tuple[Labeling, Labeling, Words]  # candidate, gold, words
# Rewards of triples; beside each triple, the number of the item (of a chunk) that it belongs to.
Score = Callable[[Sequence[Triple], Sequence[int]], list[float]]


class PoolEntry(NamedTuple):
    """One labeling of a pool.

    `reward` is nan until it was asked for; `score` is s where the beam knows it, else nan; `slot`
    the beam slot of that output, else -1; `parent` the index in the pool of the candidate that a
    correction was made from, else -1; `terms` those of a reward that is a weighted sum, before they
    are weighted and without the penalty of a malformed output.
    """

    labeling: Labeling
    reward: float
    score: float
    origin: Origin
    parent: int
    slot: int
    well_formed: bool = True
    terms: tuple[float, ...] = ()


Pool = tuple[PoolEntry, ...]


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The fields of `config.groot.pool`, whose ranges config/checks.py knows: at most `size`
    entries, at most `beams` non-gold beam ones."""

    size: int = 16
    gold: bool = True
    beams: int = 8
    corrections: bool = True


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """A sentence to make a pool for. `key` seeds its random corrections: the same key, the same
    pool, wherever and whenever it is made."""

    words: tuple[str, ...]
    gold: Labeling
    candidates: Sequence[Candidate]
    key: int = 0


def build_pools(
    tasks: Sequence[ScoringTask], score: Score, settings: PoolSettings, penalty: float, seed: int
) -> list[Pool]:
    """The pool of each sentence: gold, then beam candidates by s, then corrections of those, ranked
    by reward and then by s, both descending (unknown s last). `score` is called once.

    A malformed candidate has the reward of its lenient parse minus `penalty`, at least 0. With
    `settings.gold` off, gold is in the pool only where the beam found it, as one of its candidates.
    """
    # Each sentence has a generator of random numbers of its own, so that its pool does not depend
    # on which others are made beside it. The shift keeps (seed, key) pairs apart: keys are indices
    # of sentences, far below 2^64.
    unranked = [propose(task, settings, (seed << 64) ^ task.key) for task in tasks]
    # Flat, for rewards that take lists: pools of 2 and 3 are 5 triples of the items 0, 0, 1, 1, 1.
    triples = [
        (entry.labeling, task.gold, task.words)
        for task, pool in zip(tasks, unranked, strict=True)
        for entry in pool
    ]
    items = [item for item, pool in enumerate(unranked) for _ in pool]
    rewards = iter(score(triples, items))
    return [rank(pool, list(islice(rewards, len(pool))), penalty) for pool in unranked]


def propose(task: ScoringTask, settings: PoolSettings, seed: int) -> list[PoolEntry]:
    """The distinct labelings of a pool, gold first, unranked and without their rewards."""
    beam = _best_copies(task.candidates)
    pool: list[PoolEntry] = []
    seen: set[Labeling] = set()
    if settings.gold:
        # A malformed output that is read as gold is no spelling of it: its s is not gold's.
        own = next((c for c in beam if c.well_formed and c.labeling == task.gold), None)
        score, slot = (own.score, own.slot) if own else (math.nan, -1)
        pool.append(PoolEntry(task.gold, math.nan, score, "gold", -1, slot))
        seen.add(task.gold)
    first = len(pool)
    last = min(settings.size, first + settings.beams)
    for c in beam:
        if len(pool) >= last:
            break
        if c.labeling not in seen:
            seen.add(c.labeling)
            entry = PoolEntry(c.labeling, math.nan, c.score, "beam", -1, c.slot, c.well_formed)
            pool.append(entry)
    if not settings.corrections or len(pool) >= settings.size:
        return pool
    rng = random.Random(seed)
    # The likeliest candidate is mended in every way before the next is: where there is room for
    # two, both corrections mend rank 1, whose errors are the ones that the model would show.
    for parent in range(first, len(pool)):
        for labeling in corrections(pool[parent].labeling, task.gold, rng):
            if labeling not in seen:
                seen.add(labeling)
                pool.append(PoolEntry(labeling, math.nan, math.nan, "correction", parent, -1))
                if len(pool) >= settings.size:
                    return pool
    return pool


def _best_copies(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One candidate a labeling, by s, unknown s last. Of several copies a well-formed one is kept,
    then the one of the highest s."""
    best: dict[Labeling, Candidate] = {}
    for c in candidates:
        old = best.get(c.labeling)
        if old is None or (c.well_formed, _known(c)) > (old.well_formed, _known(old)):
            best[c.labeling] = c
    return sorted(best.values(), key=_known, reverse=True)


def rank(entries: Sequence[PoolEntry], rewards: Sequence[float], penalty: float) -> Pool:
    """Sorts entries with their rewards into a pool; parents follow."""
    final = [
        reward if entry.well_formed else max(0.0, reward - penalty)
        for entry, reward in zip(entries, rewards, strict=True)
    ]
    order = sorted(range(len(entries)), key=lambda i: (final[i], _known(entries[i])), reverse=True)
    # A parent is an index before the sort and becomes its place after it: in the order [2, 0, 1],
    # parent 0 becomes 1. Who has no parent (-1) keeps having none.
    place = {-1: -1} | {i: position for position, i in enumerate(order)}
    return tuple(
        entries[i]._replace(reward=final[i], parent=place[entries[i].parent]) for i in order
    )


def _known(item: Candidate | PoolEntry) -> float:
    """s to sort by. A nan compares false with everything, which would leave any order behind."""
    return -math.inf if math.isnan(item.score) else item.score
