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
from operator import mul
from typing import Literal, NamedTuple

from groot_jax.data.labeling import Candidate, Labeling
from groot_jax.reward.correction import corrections
from groot_jax.reward.rewards import Words
from groot_jax.reward.space import DIGITS, HYPOTHESES, hypotheses, labeling_probabilities

Origin = Literal["gold", "beam", "consensus", "correction"]
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
    entries, at most `beams` non-gold beam ones and `consensus` ones that no beam holds. `expected`
    and `temperature` are those of `config.groot`: see `build_pools`."""

    size: int = 16
    gold: bool = True
    beams: int = 8
    corrections: bool = True
    consensus: int = 0
    expected: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """A sentence to make a pool for; `gold` is None where nobody has labeled it. `key` seeds its
    random corrections: the same key, the same pool, wherever and whenever it is made."""

    words: tuple[str, ...]
    gold: Labeling | None
    candidates: Sequence[Candidate]
    key: int = 0


class _Draft(NamedTuple):
    """A pool before its rewards are known: who may join it, gold first, and the beam's say."""

    entries: list[PoolEntry]
    chances: dict[Labeling, float]  # of the beam's labelings

    def asks(self, entry: PoolEntry, task: ScoringTask, settings: PoolSettings) -> list[Labeling]:
        """What the entry is to be scored against: gold, and all that the beam takes for possible
        where the expected reward counts."""
        gold = [] if task.gold is None else [task.gold]
        counts = task.gold is None or settings.expected > 0 or entry.origin == "consensus"
        return [*gold, *self.chances] if counts else gold


def build_pools(
    tasks: Sequence[ScoringTask], score: Score, settings: PoolSettings, penalty: float, seed: int
) -> list[Pool]:
    """The pool of each sentence: gold, then beam candidates by s, then what the beam lacks, then
    corrections of its candidates, ranked by reward and then by s, both descending (unknown s last).
    `score` is called once.

    With a = `settings.expected` and p the beam's probabilities at `settings.temperature`, the
    reward of y is (1 - a) R(y, gold) + a * sum over u of p(u) R(y, u). A malformed candidate has
    the reward of its lenient parse minus `penalty`, at least 0. With `settings.gold` off, gold is
    in the pool only where the beam found it, as one of its candidates.

    `settings.consensus` labelings that the beam lacks join: of the `hypotheses` made of its spans
    those of the highest expected reward, whatever a is. Where there is no gold, a is 1, and the
    first entry, the consensus, is what `decide=consensus` would choose: it is in the pool wherever
    it comes from, and more hypotheses fill the pool in place of corrections.
    """
    # Each sentence has a generator of random numbers of its own, so that its pool does not depend
    # on which others are made beside it. The shift keeps (seed, key) pairs apart: keys are indices
    # of sentences, far below 2^64.
    drafts = [propose(task, settings, (seed << 64) ^ task.key) for task in tasks]
    # Flat, for rewards that take lists: pools of 2 and 3 are 5 triples of the items 0, 0, 1, 1, 1.
    triples: list[Triple] = []
    items: list[int] = []
    for item, (task, draft) in enumerate(zip(tasks, drafts, strict=True)):
        for entry in draft.entries:
            asked = draft.asks(entry, task, settings)
            triples += [(entry.labeling, against, task.words) for against in asked]
            items += [item] * len(asked)
    rewards = iter(score(triples, items))
    pools = []
    for task, draft in zip(tasks, drafts, strict=True):
        a = 1.0 if task.gold is None else settings.expected
        mixed, expected = [], []
        for entry in draft.entries:
            asked = draft.asks(entry, task, settings)
            values = list(islice(rewards, len(asked)))
            by_gold = 0.0 if task.gold is None else values.pop(0)
            chances = draft.chances.values()
            # The digits of `decide=consensus`, so that both choose alike where two are equal.
            hoped = round(sum(map(mul, chances, values)), DIGITS) if values else 0.0
            expected.append(hoped)
            mixed.append((1 - a) * by_gold + a * hoped if a else by_gold)
        chosen = _joined if task.gold is not None else _joined_without_gold
        joined = chosen(draft.entries, expected, settings, penalty)
        pools.append(rank([draft.entries[i] for i in joined], [mixed[i] for i in joined], penalty))
    return pools


def propose(task: ScoringTask, settings: PoolSettings, seed: int) -> _Draft:
    """The labelings that may join a pool, without their rewards: gold first, then the beam's, then
    all hypotheses that the beam lacks, since only rewards tell which of them join."""
    beam = _best_copies(task.candidates)
    uncertain = task.gold is None or settings.consensus > 0 or settings.expected > 0
    chances = labeling_probabilities(task.candidates, settings.temperature) if uncertain else {}
    pool: list[PoolEntry] = []
    seen: set[Labeling] = set()
    if settings.gold and task.gold is not None:
        # A malformed output that is read as gold is no spelling of it: its s is not gold's.
        own = next((c for c in beam if c.well_formed and c.labeling == task.gold), None)
        score, slot = (own.score, own.slot) if own else (math.nan, -1)
        pool.append(PoolEntry(task.gold, math.nan, score, "gold", -1, slot))
        seen.add(task.gold)
    first = len(pool)
    # Without gold each of the beam may be the consensus, which has its place beside the others.
    last = min(settings.size, first + settings.beams) if task.gold is not None else len(beam)
    for c in beam:
        if len(pool) >= last:
            break
        if c.labeling not in seen:
            seen.add(c.labeling)
            entry = PoolEntry(c.labeling, math.nan, c.score, "beam", -1, c.slot, c.well_formed)
            pool.append(entry)
    parents = range(first, len(pool))
    if task.gold is None or settings.consensus:
        # What the beam holds joins as such or not at all, and gold as gold.
        beyond = [y for y in hypotheses(chances, HYPOTHESES) if y not in {*chances, task.gold}]
        pool += [PoolEntry(y, math.nan, math.nan, "consensus", -1, -1) for y in beyond]
    if task.gold is None or not settings.corrections:
        return _Draft(pool, chances)
    # A correction may be a hypothesis as well, of which it is not known yet whether it joins.
    twice = {entry.labeling for entry in pool[parents.stop :]}
    rng = random.Random(seed)
    room = settings.size - parents.stop
    # The likeliest candidate is mended in every way before the next is: where there is room for
    # two, both corrections mend rank 1, whose errors are the ones that the model would show.
    for parent in parents:
        for labeling in corrections(pool[parent].labeling, task.gold, rng):
            if room <= 0:
                return _Draft(pool, chances)
            if labeling not in seen:
                seen.add(labeling)
                pool.append(PoolEntry(labeling, math.nan, math.nan, "correction", parent, -1))
                room -= labeling not in twice
    return _Draft(pool, chances)


def _joined(
    entries: Sequence[PoolEntry],
    expected: Sequence[float],
    settings: PoolSettings,
    penalty: float,
) -> list[int]:
    """Which entries of a draft join the pool: gold and the beam's, the best hypotheses, and as many
    corrections as there is room for."""
    # Parents are of the beam, all of which keep their places: those of corrections stay right.
    joined = [i for i, entry in enumerate(entries) if entry.origin in ("gold", "beam")]
    joined += _best_hypotheses(entries, expected, settings.consensus)
    seen = {entries[i].labeling for i in joined}
    corrected = [i for i, entry in enumerate(entries) if entry.origin == "correction"]
    joined += [i for i in corrected if entries[i].labeling not in seen]
    return joined[: settings.size]


def _joined_without_gold(
    entries: Sequence[PoolEntry],
    expected: Sequence[float],
    settings: PoolSettings,
    penalty: float,
) -> list[int]:
    """The same where the consensus stands for gold: it, the beam's best, the best hypotheses."""
    if not entries:
        return []
    ranked = rank(entries, expected, penalty)
    if not ranked:  # Each was dropped, or has no reward.
        return []
    best = next(i for i, entry in enumerate(entries) if entry.labeling == ranked[0].labeling)
    beam = [i for i, entry in enumerate(entries) if entry.origin == "beam" and i != best]
    others = [i for i in _best_hypotheses(entries, expected, settings.size) if i != best]
    return [best, *beam[: settings.beams], *others][: settings.size]


def _best_hypotheses(
    entries: Sequence[PoolEntry], expected: Sequence[float], count: int
) -> list[int]:
    found = [i for i, entry in enumerate(entries) if entry.origin == "consensus"]
    return sorted(found, key=lambda i: -expected[i])[:count]


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
    """Sorts entries with their rewards into a pool; parents follow. Who has no reward (NaN) is left
    out, and its corrections have no parent."""
    final = [
        reward if entry.well_formed else max(0.0, reward - penalty)
        for entry, reward in zip(entries, rewards, strict=True)
    ]
    ranked = [i for i, reward in enumerate(rewards) if not math.isnan(reward)]
    order = sorted(ranked, key=lambda i: (final[i], _known(entries[i])), reverse=True)
    # A parent is an index before the sort and becomes its place after it: in the order [2, 0, 1],
    # parent 0 becomes 1. Who has no parent (-1) keeps having none.
    place = {-1: -1} | {i: position for position, i in enumerate(order)}
    return tuple(
        entries[i]._replace(reward=final[i], parent=place.get(entries[i].parent, -1)) for i in order
    )


def _known(item: Candidate | PoolEntry) -> float:
    """s to sort by. A nan compares false with everything, which would leave any order behind."""
    return -math.inf if math.isnan(item.score) else item.score
