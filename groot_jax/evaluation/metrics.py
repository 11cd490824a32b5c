"""What is reported of a system: rewards at rank 1, over the top k and by rank, span F1, and more.

One pass scores every sentence (`score_beams`), sums travel as (sum, denominator) (`totals`, merged
by `merge_totals`), `summarise` divides once at the end. Pure numpy: it may not see an array of JAX.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from groot_jax.data.labeling import Candidate, Labeling, Sentence
from groot_jax.reward.rewards import Reward

# The candidates of one sentence, best first.
Beam = Sequence[Candidate]
# Rewards of many (candidate, gold, words) at once: a pool of worker processes, or `scorer(reward)`.
Scorer = Callable[[Sequence[tuple[Labeling, Labeling, Sequence[str]]]], Sequence[float]]
# Name -> (sum, denominator), to be added over batches and hosts.
Totals = dict[str, tuple[float, float]]

# Rewards that differ by less are equal: weighted sums of the same parts may differ in the last bit.
REWARD_DECIMALS = 9


@dataclass(frozen=True)
class BeamScores:
    """The per-sentence pass: N sentences, R rewards, K ranks, NaN where a sentence lacks a rank.

    Ranks of rewards and scores count distinct labelings; those of `malformed` count raw outputs.
    `spans_Nx3` holds TP, predicted and gold spans of rank 1; `by_type` the same, summed, per type.
    """

    names: tuple[str, ...]
    rewards_RxNxK: np.ndarray
    scores_NxK: np.ndarray
    malformed_NxK: np.ndarray
    exact_N: np.ndarray
    spans_Nx3: np.ndarray
    by_type: dict[str, tuple[int, int, int]]


def scorer(reward: Reward) -> Scorer:
    """Calls a reward for one item at a time, in this process."""
    return lambda items: [reward(candidate, gold, words) for candidate, gold, words in items]


def distinct(beam: Beam) -> list[Candidate]:
    """The first candidate of each labeling, in the beam's order."""
    first: dict[Labeling, Candidate] = {}
    for candidate in beam:
        first.setdefault(candidate.labeling, candidate)
    return list(first.values())


def score_beams(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    rewards: Mapping[str, Reward],
    *,
    scorers: Mapping[str, Scorer] | None = None,
    malformed_penalty: float = 0.0,
) -> BeamScores:
    """Scores every distinct candidate of every sentence under every reward.

    A malformed candidate gets its lenient parse's reward minus `malformed_penalty`, at least 0. An
    empty beam counts as one malformed empty labeling, never as a sentence that was not asked. A
    name in `scorers` is scored by that in one call, instead of by its reward one call an item.
    """
    if len(sentences) != len(beams):
        raise ValueError(f"{len(sentences)} sentences but {len(beams)} beams")
    unanswered = Candidate(labeling=(), score=float("nan"), well_formed=False, slot=-1)
    beams = [beam if len(beam) else [unanswered] for beam in beams]
    ranked = [distinct(beam) for beam in beams]
    filled_NxK = _filled(ranked)
    malformed_NxK = _padded(ranked, lambda c: float(not c.well_formed))
    items = [
        (candidate.labeling, sentence.labeling, sentence.words)
        for sentence, candidates in zip(sentences, ranked, strict=True)
        for candidate in candidates
    ]
    scorers = dict(scorers or {})
    names = tuple(dict.fromkeys([*rewards, *scorers]))
    rewards_RxNxK = np.full((len(names), *filled_NxK.shape), np.nan)
    for rewards_NxK, name in zip(rewards_RxNxK, names, strict=True):
        score = scorers[name] if name in scorers else scorer(rewards[name])
        rewards_NxK[filled_NxK] = score(items)
        penalised_NxK = np.maximum(rewards_NxK - malformed_penalty, 0.0)
        rewards_NxK[:] = np.where(malformed_NxK == 1.0, penalised_NxK, rewards_NxK)

    by_type: dict[str, np.ndarray] = {}
    spans_Nx3 = np.zeros((len(sentences), 3), np.int64)
    for n, (sentence, candidates) in enumerate(zip(sentences, ranked, strict=True)):
        gold, best = set(sentence.labeling), set(candidates[0].labeling)
        for column, spans in enumerate((gold & best, best, gold)):
            spans_Nx3[n, column] = len(spans)
            for type_, count in Counter(span.type for span in spans).items():
                by_type.setdefault(type_, np.zeros(3, np.int64))[column] += count
    return BeamScores(
        names=names,
        rewards_RxNxK=rewards_RxNxK,
        scores_NxK=_padded(ranked, lambda c: c.score),
        malformed_NxK=_padded(beams, lambda c: float(not c.well_formed)),
        exact_N=np.array(
            [c[0].labeling == s.labeling for s, c in zip(sentences, ranked, strict=True)], bool
        ),
        spans_Nx3=spans_Nx3,
        by_type={t: (int(c[0]), int(c[1]), int(c[2])) for t, c in sorted(by_type.items())},
    )


def _filled(beams: Sequence[Beam]) -> np.ndarray:
    counts_N = np.array([len(beam) for beam in beams], np.int64)
    return np.arange(max(counts_N, default=0)) < counts_N[:, None]


def _padded(beams: Sequence[Beam], value: Callable[[Candidate], float]) -> np.ndarray:
    """[N, K] of one number a candidate, NaN where a beam has no such rank."""
    filled_NxK = _filled(beams)
    values_NxK = np.full(filled_NxK.shape, np.nan)
    values_NxK[filled_NxK] = [value(candidate) for beam in beams for candidate in beam]
    return values_NxK


def per_sentence(scores: BeamScores, name: str, ks: Sequence[int] = (5, 10)) -> dict[str, Any]:
    """Arrays over sentences of one reward: what a paired bootstrap resamples.

    `reward@1`, and `mean_reward@k` and `max_reward@k` over a sentence's top k distinct labelings,
    or over as many as it has.
    """
    rewards_NxK = scores.rewards_RxNxK[scores.names.index(name)]
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
    upper_KxK = np.triu(np.ones((scores_NxK.shape[1],) * 2, bool), 1)

    def signs(values_NxK: np.ndarray) -> np.ndarray:
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
    for prefix, (hit, predicted, gold) in [
        ("span", scores.spans_Nx3.sum(axis=0)),
        *((f"type/{type_}", counts) for type_, counts in scores.by_type.items()),
    ]:
        sums[f"{prefix}/precision"] = (float(hit), float(predicted))
        sums[f"{prefix}/recall"] = (float(hit), float(gold))
        sums[f"{prefix}/f1"] = (2.0 * hit, float(predicted + gold))
    return sums


def merge_totals(parts: Iterable[Totals]) -> Totals:
    """The totals of all parts together: batches of one host, or hosts."""
    merged: Totals = {}
    for part in parts:
        for key, (value, denominator) in part.items():
            old = merged.get(key, (0.0, 0.0))
            merged[key] = (old[0] + value, old[1] + denominator)
    return merged


def summarise(sums: Totals, train_reward: str) -> dict[str, Any]:
    """Divides totals into the metrics of one system on one split, JSON-able, None where undefined.

    `reward_by_rank[r - 1]` is the mean over the `rank_counts[r - 1]` sentences whose beam holds at
    least r distinct labelings; `mean_reward@k` averages what each sentence has, then sentences.
    Span figures are 0 where nothing was predicted or is gold, as in seqeval and conlleval.
    """

    def mean(key: str) -> float | None:
        value, denominator = sums.get(key, (0.0, 0.0))
        return value / denominator if denominator else None

    rewards: dict[str, dict[str, Any]] = {}
    counts: dict[str, list[int]] = {}
    types: dict[str, dict[str, Any]] = {}
    for key in sorted(sums, key=_rank_of):
        if key.startswith("reward/"):
            name, metric = key.removeprefix("reward/").rsplit("/", 1)
            of_reward = rewards.setdefault(name, {})
            if metric.startswith("rank@"):
                of_reward.setdefault("reward_by_rank", []).append(mean(key))
                counts.setdefault(name, []).append(int(sums[key][1]))
            else:
                of_reward[metric] = mean(key)
        elif key.startswith("type/"):
            name, metric = key.removeprefix("type/").rsplit("/", 1)
            of_type = types.setdefault(name, {})
            of_type[metric] = mean(key) or 0.0
            if metric in ("precision", "recall"):
                of_type["predicted" if metric == "precision" else "gold"] = int(sums[key][1])
    metrics: dict[str, Any] = dict(rewards[train_reward])
    metrics["rank_counts"] = counts.get(train_reward, [])
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
    metric = key.rsplit("/", 1)[-1]
    return int(metric.removeprefix("rank@")) if metric.startswith("rank@") else 0


def evaluate_beams(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    rewards: Mapping[str, Reward],
    train_reward: str,
    ks: Sequence[int] = (5, 10),
    *,
    scorers: Mapping[str, Scorer] | None = None,
    malformed_penalty: float = 0.0,
) -> dict[str, Any]:
    """Every metric of one system on one split (see `summarise`), from its beams.

    `train_reward` is a name in `rewards` or `scorers`; its figures are the main ones, those of all
    rewards are under `rewards`.
    """
    scores = score_beams(
        sentences, beams, rewards, scorers=scorers, malformed_penalty=malformed_penalty
    )
    return summarise(totals(scores, train_reward, ks), train_reward)
