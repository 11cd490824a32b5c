"""What is reported of a system: rewards at rank 1, over the top k and by rank, span F1, and more.

One pass scores every sentence (`score_beams`), sums travel as (sum, denominator) (`totals`, merged
by `merge_totals`), `summarise` divides once at the end. Pure numpy: it may not see an array of JAX.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from groot_jax.data.labeling import Candidate, Labeling, Sentence
from groot_jax.reward.rewards import Reward

# The candidates of one sentence, best first.
Beam: TypeAlias = Sequence[Candidate]
# The rewards of many (candidate, gold, words) in one call: `Oracle.score`, or what `one_by_one`
# makes of a reward. Many at once, since a pool of worker processes shares them out.
TripleReward: TypeAlias = Callable[
    [Sequence[tuple[Labeling, Labeling, Sequence[str]]]], Sequence[float]
]
# Name -> (sum, denominator), to be added over batches and hosts. Means would not add up: three
# sentences of reward 1 on one host and one of 0 on another have mean .75, their means have .5.
Totals: TypeAlias = dict[str, tuple[float, float]]
# What `summarise` gives, ready for JSON.
Summary: TypeAlias = dict[str, Any]

# Rewards that differ by less are equal: weighted sums of the same parts may differ in the last bit,
# as .1 + .2 and .3 do, and Kendall's tau would count that as a difference.
REWARD_DECIMALS = 9


@dataclass(frozen=True)
class BeamScores:
    """The per-sentence pass: N sentences, R rewards, K ranks, NaN where a sentence lacks a rank.

    Ranks of rewards and scores count distinct labelings; those of `malformed` count raw outputs.
    `spans_Nx3` holds TP, predicted and gold spans of rank 1; `by_type` the same [3], summed over
    sentences, for each type.
    """

    names: tuple[str, ...]
    rewards_RxNxK: np.ndarray
    scores_NxK: np.ndarray
    malformed_NxK: np.ndarray
    exact_N: np.ndarray
    spans_Nx3: np.ndarray
    by_type: dict[str, np.ndarray]


def one_by_one(reward: Reward) -> TripleReward:
    """Calls a reward for one item at a time, in this process."""
    return lambda triples: [reward(candidate, gold, words) for candidate, gold, words in triples]


def remembering(score: TripleReward) -> TripleReward:
    """Asks for each (candidate, gold, words) once, and keeps what it was told."""
    known: dict[tuple[Labeling, Labeling, Sequence[str]], float] = {}

    def asked(triples: Sequence[tuple[Labeling, Labeling, Sequence[str]]]) -> list[float]:
        new = list(dict.fromkeys(triple for triple in triples if triple not in known))
        if new:
            known.update(zip(new, score(new), strict=True))
        return [known[triple] for triple in triples]

    return asked


def deduplicated(beam: Beam) -> list[Candidate]:
    """The first candidate of each labeling, in the beam's order: its copies take no rank.

    Unlike the pool of an update, which prefers a well-formed copy: here the model is judged by
    what it said first.
    """
    # Two outputs may parse alike: of the labelings A, A, B the second A is left out.
    first: dict[Labeling, Candidate] = {}
    for candidate in beam:
        first.setdefault(candidate.labeling, candidate)
    return list(first.values())


def score_beams(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    rewards: Mapping[str, TripleReward],
    malformed_penalty: float = 0.0,
) -> BeamScores:
    """Scores every distinct candidate of every sentence under every reward, in one call each.

    A malformed candidate gets its lenient parse's reward minus `malformed_penalty`, at least 0. An
    empty beam counts as one malformed empty labeling, never as a sentence that was not asked.
    """
    unanswered = Candidate(labeling=(), score=float("nan"), well_formed=False, slot=-1)
    beams = [beam if len(beam) else [unanswered] for beam in beams]
    ranked = [deduplicated(beam) for beam in beams]
    filled_NxK = _filled(ranked)
    malformed_NxK = _padded(ranked, lambda c: float(not c.well_formed))
    # Row by row, as a boolean index of [N, K] goes: rewards come back in this order.
    triples = [
        (candidate.labeling, sentence.labeling, sentence.words)
        for sentence, candidates in zip(sentences, ranked, strict=True)
        for candidate in candidates
    ]
    rewards_RxNxK = np.full((len(rewards), *filled_NxK.shape), np.nan)
    for rewards_NxK, reward in zip(rewards_RxNxK, rewards.values(), strict=True):
        rewards_NxK[filled_NxK] = reward(triples)
        # .75 becomes .65 under a penalty of .1, and .05 becomes 0: rewards stay in [0, 1].
        penalised_NxK = np.maximum(rewards_NxK - malformed_penalty, 0.0)
        rewards_NxK[:] = np.where(malformed_NxK == 1.0, penalised_NxK, rewards_NxK)

    # Spans count as in seqeval: one is right when both ends and its type are gold's.
    by_type: dict[str, np.ndarray] = {}
    spans_Nx3 = np.zeros((len(sentences), 3), np.int64)
    for n, (sentence, candidates) in enumerate(zip(sentences, ranked, strict=True)):
        gold, best = set(sentence.labeling), set(candidates[0].labeling)
        for column, spans in enumerate((gold & best, best, gold)):
            spans_Nx3[n, column] = len(spans)
            for type_, count in Counter(span.type for span in spans).items():
                by_type.setdefault(type_, np.zeros(3, np.int64))[column] += count
    return BeamScores(
        names=tuple(rewards),
        rewards_RxNxK=rewards_RxNxK,
        scores_NxK=_padded(ranked, lambda c: c.score),
        # Of raw outputs, copies too: each is one that the model could have written well.
        malformed_NxK=_padded(beams, lambda c: float(not c.well_formed)),
        exact_N=np.array(
            [c[0].labeling == s.labeling for s, c in zip(sentences, ranked, strict=True)], bool
        ),
        spans_Nx3=spans_Nx3,
        by_type=by_type,
    )


def _filled(beams: Sequence[Beam]) -> np.ndarray:
    """bool [N, K], K the longest beam: beams of 2 and 1 give [[True, True], [True, False]]."""
    counts_N = np.array([len(beam) for beam in beams], np.int64)
    return np.arange(max(counts_N, default=0)) < counts_N[:, None]


def _padded(beams: Sequence[Beam], value: Callable[[Candidate], float]) -> np.ndarray:
    """[N, K] of one number a candidate, NaN where a beam has no such rank."""
    filled_NxK = _filled(beams)
    values_NxK = np.full(filled_NxK.shape, np.nan)
    values_NxK[filled_NxK] = [value(candidate) for beam in beams for candidate in beam]
    return values_NxK


def per_sentence(
    scores: BeamScores, name: str, ks: Sequence[int] = (5, 10)
) -> dict[str, np.ndarray]:
    """[N] arrays over sentences of one reward: what a paired bootstrap resamples.

    `reward@1`, and `mean_reward@k` and `max_reward@k` over a sentence's top k distinct labelings,
    or over as many as it has.
    """
    rewards_NxK = scores.rewards_RxNxK[scores.names.index(name)]
    # `[:, 0]` would fail where a host has no sentence, and so K is 0.
    arrays = {"reward@1": rewards_NxK[:, :1].sum(axis=1)}
    for k in ks:
        arrays[f"mean_reward@{k}"] = np.nanmean(rewards_NxK[:, :k], axis=1)
        arrays[f"max_reward@{k}"] = np.nanmax(rewards_NxK[:, :k], axis=1, initial=-np.inf)
    return arrays


def kendall_tau(scores_NxK: np.ndarray, rewards_NxK: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of s with R inside each beam, [N]; NaN where s or R does not vary.

    tau-b = (concordant - discordant) / sqrt(pairs untied in s * pairs untied in R), Kendall 1945.
    Pairs with an unknown score or reward do not count.
    """
    # s of 3, 2, 1 with R of 1, .5, .75: pairs (1, 2) and (1, 3) agree, (2, 3) does not, so tau is
    # (2 - 1) / sqrt(3 * 3) = 1/3. scipy's kendalltau takes one beam a call; this takes all N.
    # Each pair counts once: those above the diagonal.
    upper_KxK = np.triu(np.ones((scores_NxK.shape[1],) * 2, bool), 1)

    def signs(values_NxK: np.ndarray) -> np.ndarray:
        # [N, K] -> [N, K, K]: 1 where the first of a pair is higher, 0 at a tie, NaN if unknown.
        difference_NxKxK = values_NxK[:, :, None] - values_NxK[:, None, :]
        return np.sign(difference_NxKxK)

    s = signs(np.where(np.isfinite(scores_NxK), scores_NxK, np.nan))
    r = signs(np.round(rewards_NxK, REWARD_DECIMALS))
    known = upper_KxK & ~np.isnan(s) & ~np.isnan(r)
    s, r = np.where(known, s, 0.0), np.where(known, r, 0.0)
    untied_N = np.abs(s).sum(axis=(1, 2)) * np.abs(r).sum(axis=(1, 2))
    tau_N = np.full(len(scores_NxK), np.nan)
    np.divide((s * r).sum(axis=(1, 2)), np.sqrt(untied_N), out=tau_N, where=untied_N > 0)
    return tau_N


def totals(scores: BeamScores, train_reward: str, ks: Sequence[int] = (5, 10)) -> Totals:
    """Every reported number as (sum, denominator)."""
    sums: Totals = {}

    def add(key: str, values: np.ndarray) -> None:
        known = values[~np.isnan(values)]
        sums[key] = (float(known.sum()), float(known.size))

    for name, rewards_NxK in zip(scores.names, scores.rewards_RxNxK, strict=True):
        for key, values_N in per_sentence(scores, name, ks).items():
            add(f"reward/{name}/{key}", values_N)
        for rank, rewards_N in enumerate(rewards_NxK.T, start=1):
            add(f"reward/{name}/rank@{rank}", rewards_N)
    add("exact_match", scores.exact_N.astype(float))
    for k in (1, *ks):
        add(f"malformed@{k}", scores.malformed_NxK[:, :k])
    ranks_NxK = scores.rewards_RxNxK[scores.names.index(train_reward)]
    add("distinct", (~np.isnan(ranks_NxK)).sum(axis=1).astype(float))
    add("kendall_tau", kendall_tau(scores.scores_NxK, ranks_NxK))
    # F1 = 2PR / (P + R) with P = hit / predicted and R = hit / gold is 2 hit / (predicted + gold):
    # 2 of 3 gold spans found by 2 predictions give 4 / 5.
    for prefix, (hit, predicted, gold) in [
        ("span", scores.spans_Nx3.sum(axis=0)),
        *((f"type/{type_}", counts) for type_, counts in scores.by_type.items()),
    ]:
        sums[f"{prefix}/precision"] = (float(hit), float(predicted))
        sums[f"{prefix}/recall"] = (float(hit), float(gold))
        sums[f"{prefix}/f1"] = (float(2 * hit), float(predicted + gold))
    return sums


def merge_totals(parts: Iterable[Totals]) -> Totals:
    """The totals of all parts together: batches of one host, or hosts.

    A key that some part lacks, a type that one host has not seen, counts as 0 there.
    """
    merged: Totals = {}
    for part in parts:
        for key, (value, denominator) in part.items():
            old = merged.get(key, (0.0, 0.0))
            merged[key] = (old[0] + value, old[1] + denominator)
    return merged


def summarise(sums: Totals, train_reward: str) -> Summary:
    """Divides totals into the metrics of one system on one split, JSON-able, None where undefined.

    `reward_by_rank[r - 1]` is the mean over the `rank_counts[r - 1]` sentences whose beam holds at
    least r distinct labelings; `mean_reward@k` averages what each sentence has, then sentences.
    Span figures are 0 where nothing was predicted or is gold, as in seqeval and conlleval.
    """

    def mean(key: str) -> float | None:
        value, denominator = sums.get(key, (0.0, 0.0))
        return value / denominator if denominator else None

    rewards: dict[str, Summary] = {}
    rank_counts: list[int] = []
    types: dict[str, Summary] = {}
    for key in sorted(sums, key=_rank_of):
        # "reward/f1/rank@2" -> "reward", "f1", "rank@2". A reward's name may hold a slash itself.
        kind, _, rest = key.partition("/")
        name, _, metric = rest.rpartition("/")
        if kind == "reward":
            of_reward = rewards.setdefault(name, {})
            if metric.startswith("rank@"):
                of_reward.setdefault("reward_by_rank", []).append(mean(key))
                if name == train_reward:
                    rank_counts.append(int(sums[key][1]))
            else:
                of_reward[metric] = mean(key)
        elif kind == "type":
            of_type = types.setdefault(name, {})
            of_type[metric] = mean(key) or 0.0
            # The denominators are the counts that a reader wants beside the figures.
            if metric in ("precision", "recall"):
                of_type["predicted" if metric == "precision" else "gold"] = int(sums[key][1])
    # The training reward's figures are the main ones; those of all rewards are under `rewards`.
    metrics: Summary = dict(rewards[train_reward])
    metrics["rank_counts"] = rank_counts
    for metric in ("precision", "recall", "f1"):
        metrics[f"span_{metric}"] = mean(f"span/{metric}") or 0.0
    for key in sums:
        if key.startswith("malformed@") or key in ("exact_match", "distinct", "kendall_tau"):
            metrics[key] = mean(key)
    metrics["kendall_sentences"] = int(sums["kendall_tau"][1])
    metrics["num_sentences"] = int(sums["exact_match"][1])
    metrics["by_type"] = dict(sorted(types.items()))
    metrics["rewards"] = rewards
    return metrics


def _rank_of(key: str) -> int:
    """Puts `rank@10` after `rank@9`; everything else keeps its place."""
    # As strings "rank@10" comes first, and `reward_by_rank` is filled in the order of the keys.
    metric = key.rsplit("/", 1)[-1]
    return int(metric.removeprefix("rank@")) if metric.startswith("rank@") else 0
