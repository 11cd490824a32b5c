"""Pools: the distinct labelings of one sentence that are contrasted, ranked by the reward.

This room chooses and ranks; it asks the reward it is given and never looks inside. It knows no ids:
beam slots are carried through for whoever does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from groot_jax.data.labeling import Candidate, Labeling
from groot_jax.reward.correction import each_correction
from groot_jax.reward.rewards import Reward

Origin = Literal["gold", "beam", "correction"]


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """One labeling of a pool.

    `score` is s where the beam knows it, else nan; `slot` the beam slot of that output, else -1;
    `parent` the index in the pool of the candidate that a correction was made from, else -1.
    """

    labeling: Labeling
    reward: float
    score: float
    origin: Origin
    parent: int
    slot: int
    well_formed: bool = True


Pool = tuple[PoolEntry, ...]


@dataclass(frozen=True)
class PoolSettings:
    """The fields of `config.groot.pool`: at most `size` entries, at most `beams` non-gold beam
    ones."""

    size: int = 16
    gold: bool = True
    beams: int = 8
    corrections: bool = True

    @classmethod
    def from_config(cls, pool: Any) -> PoolSettings:
        """Takes `config.groot.pool`, or what a variant makes of it, whose ranges were checked."""
        return cls(pool.size, pool.gold, pool.beams, pool.corrections)


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """A sentence to make a pool for. `key` seeds its random corrections: the same key, the same
    pool, wherever and whenever it is made."""

    words: tuple[str, ...]
    gold: Labeling
    candidates: Sequence[Candidate]
    key: int = 0


class Proposal(NamedTuple):
    """A pool entry before the reward has seen it; `parent` indexes the list of proposals."""

    labeling: Labeling
    score: float
    origin: Origin
    parent: int
    slot: int
    well_formed: bool


def build_pool(
    words: Sequence[str],
    gold: Labeling,
    candidates: Sequence[Candidate],
    reward_fn: Reward,
    settings: PoolSettings,
    penalty: float,
    seed: int,
) -> Pool:
    """The pool of a sentence: gold, then beam candidates by s, then corrections of those, ranked by
    reward and then by s, both descending (unknown s last).

    A malformed candidate has the reward of its lenient parse minus `penalty`, at least 0. With
    `settings.gold` off, gold is in the pool only where the beam found it, as one of its candidates.
    """
    proposals = propose(gold, candidates, settings, seed)
    rewards = [reward_fn(proposal.labeling, gold, words) for proposal in proposals]
    return rank(proposals, rewards, penalty)


def propose(
    gold: Labeling, candidates: Iterable[Candidate], settings: PoolSettings, seed: int
) -> list[Proposal]:
    """The distinct labelings of a pool, gold first, unranked."""
    beam = distinct(candidates)
    proposals: list[Proposal] = []
    seen: set[Labeling] = set()
    if settings.gold:
        own = next((c for c in beam if c.well_formed and c.labeling == gold), None)
        score, slot = (own.score, own.slot) if own else (math.nan, -1)
        proposals.append(Proposal(gold, score, "gold", -1, slot, True))
        seen.add(gold)
    first = len(proposals)
    last = min(settings.size, first + settings.beams)
    for c in beam:
        if len(proposals) >= last:
            break
        if c.labeling not in seen:
            seen.add(c.labeling)
            proposals.append(Proposal(c.labeling, c.score, "beam", -1, c.slot, c.well_formed))
    if not settings.corrections or len(proposals) >= settings.size:
        return proposals
    rng = random.Random(seed)
    for parent in range(first, len(proposals)):
        for labeling in each_correction(proposals[parent].labeling, gold, rng):
            if labeling not in seen:
                seen.add(labeling)
                proposals.append(Proposal(labeling, math.nan, "correction", parent, -1, True))
                if len(proposals) >= settings.size:
                    return proposals
    return proposals


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """One candidate a labeling, by s, unknown s last. Of several copies a well-formed one is kept,
    then the one of the highest s."""
    best: dict[Labeling, Candidate] = {}
    for c in candidates:
        old = best.get(c.labeling)
        if old is None or (c.well_formed, _known(c)) > (old.well_formed, _known(old)):
            best[c.labeling] = c
    return sorted(best.values(), key=_known, reverse=True)


def rank(proposals: Sequence[Proposal], rewards: Sequence[float], penalty: float) -> Pool:
    """Sorts proposals with their rewards into a pool; parents follow."""
    final = [
        reward if proposal.well_formed else max(0.0, reward - penalty)
        for proposal, reward in zip(proposals, rewards, strict=True)
    ]
    order = sorted(
        range(len(proposals)), key=lambda i: (final[i], _known(proposals[i])), reverse=True
    )
    place = {-1: -1}
    for position, i in enumerate(order):
        place[i] = position
    entries = []
    for i in order:
        labeling, score, origin, parent, slot, well_formed = proposals[i]
        entries.append(
            PoolEntry(labeling, final[i], score, origin, place[parent], slot, well_formed)
        )
    return tuple(entries)


def _known(item: Candidate | Proposal) -> float:
    return item.score if item.score == item.score else -math.inf
