"""Rewards: how good a candidate labeling is against gold, in [0, 1], built in or a user's function.

A reward sees labelings and words only. This room knows no model, no ids and no pool, and imports
nothing of JAX.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from groot_jax.data.labeling import Labeling, word_tags
from groot_jax.errors import UserError
from groot_jax.reward.user_function import Board, guard, guard_batch, import_function

Words = Sequence[str]
Reward = Callable[[Labeling, Labeling, Words], float]
BatchReward = Callable[[Sequence[Labeling], Sequence[Labeling], Sequence[Words]], list[float]]

# f1, f0.5, f.5 and f2., but not f-1 or f1e3.
# f05 is a mistyped f0.5, and not an F5.
_F_BETA = re.compile(r"f((?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)")


@dataclass(frozen=True)
class RewardSpec:
    """Which reward, and how it is called: `RewardSpec(**config.reward)`, whose ranges
    config/checks.py knows."""

    name: str = "f1"
    type_weights: str = ""
    wrong_cost: float = 2.0
    malformed_penalty: float = 0.1
    batch: bool = False
    deadline: float = 10.0
    workers: int = -1
    retries: int = 2
    on_error: str = "stop"
    timeout_s: float = 60.0
    max_dropped: float = 0.1


def make_reward(spec: RewardSpec, board: Board | None = None) -> Reward:
    """The reward that `spec.name` asks for, as (candidate, gold, words) -> float in [0, 1].

    Names: f1, f0.5, f<beta>, exact, precision, recall, utility, token_accuracy, a weighted sum such
    as "0.7*f0.5 + 0.3*exact", or `package.module:function`. A name that cannot be had raises a
    UserError here; a user's function that raises, hangs past `spec.deadline` (seen here in the main
    thread only) or returns no number of [0, 1] raises one when called; it
    is NaN where `user_function.guard` says so. `board`: see `user_function.Board`.
    """
    board = board or Board()
    if is_batched(spec):
        score = make_batch_reward(spec, board)
        return lambda candidate, gold, words: score([candidate], [gold], [words])[0]
    if not term_names(spec):
        return _single(spec.name.rpartition("*")[2].strip(), spec, board)
    score_terms = make_terms(spec, board)
    return lambda candidate, gold, words: score_terms(candidate, gold, words)[0]


def term_names(spec: RewardSpec) -> list[str]:
    """The terms of a weighted sum, in its order; empty for a reward that is none."""
    names = [name for _, name in _parse(spec.name)]
    return names if len(names) > 1 else []


def make_terms(
    spec: RewardSpec, board: Board
) -> Callable[[Labeling, Labeling, Words], list[float]]:
    """As `make_reward`, not in batch form: the reward, and behind it, for a weighted sum, each of
    its terms before it is weighted."""
    weighted = [(weight, _single(name, spec, board)) for weight, name in _parse(spec.name)]

    def score(candidate: Labeling, gold: Labeling, words: Words) -> list[float]:
        terms = [reward(candidate, gold, words) for _, reward in weighted]
        if len(terms) == 1:
            return terms
        total = 0.0
        for (weight, _), term in zip(weighted, terms, strict=True):
            total += weight * term
        return [min(total, 1.0), *terms]  # In floats 0.33 + 0.56 + 0.11 is 1.0000000000000002.

    return score


def make_batch_reward(spec: RewardSpec, board: Board) -> BatchReward:
    """As `make_reward`, over lists, where `is_batched(spec)`: one reward for each (candidate, gold,
    words)."""
    if len(_parse(spec.name)) > 1:
        raise UserError(
            f"config.reward.name {spec.name!r} sums a Python function in batch form, which only "
            "works alone: name the function alone and sum inside it, or set config.reward.batch "
            "to False"
        )
    return guard_batch(spec.name, import_function(spec.name), spec, board)


def calls_python(spec: RewardSpec) -> bool:
    """Whether a user's Python function takes part in the reward."""
    return num_functions(spec) > 0


def num_functions(spec: RewardSpec) -> int:
    """How many terms of the reward are users' functions."""
    return sum(":" in name for _, name in _parse(spec.name))


def may_run_in_job(spec: RewardSpec) -> bool:
    """Whether each Python function of the reward says, by an attribute `in_job = True`, that it can
    do the job no harm. Imports them; raises a UserError where that fails."""
    functions = [import_function(name) for _, name in _parse(spec.name) if ":" in name]
    return all(getattr(function, "in_job", False) is True for function in functions)


def is_batched(spec: RewardSpec) -> bool:
    """Whether the reward is a user's function that takes and returns lists."""
    return spec.batch and calls_python(spec)


def _parse(text: str) -> list[tuple[float, str]]:
    """The terms of a name: "0.7*f0.5 + 0.3*exact" is [(0.7, "f0.5"), (0.3, "exact")], and "f1" is
    [(1.0, "f1")]. Raises a UserError where the weights do not sum to 1."""
    terms = []
    for part in text.split("+"):
        # From the right: of "0.5*0.5*f1" the weight is then "0.5*0.5", which is no number.
        weight_text, star, name = part.rpartition("*")
        try:
            weight = float(weight_text) if star else 1.0
        except ValueError:
            weight = math.nan
        if not weight >= 0 or not name.strip():  # `weight < 0` would let nan pass.
            raise UserError(
                f"config.reward.name {text!r} has the term {part.strip()!r}, which is not of the "
                "form weight*name with a weight of at least 0"
            )
        terms.append((weight, name.strip()))
    total = sum(weight for weight, _ in terms)
    if abs(total - 1.0) > 1e-6:
        raise UserError(
            f"config.reward.name {text!r} has weights that sum to {total:g}, but a reward lies in "
            "[0, 1]: make them sum to 1"
        )
    return terms


def _single(name: str, spec: RewardSpec, board: Board) -> Reward:
    if ":" in name:
        return guard(name, import_function(name), spec, board)
    if match := _F_BETA.fullmatch(name):
        return f_beta(float(match[1]), parse_type_weights(spec.type_weights))
    # Near misses of a name are looked for among these, so they are listed and not matched.
    builtin: dict[str, Reward] = {
        "exact": exact,
        "precision": precision,
        "recall": recall,
        "utility": utility(spec.wrong_cost),
        "token_accuracy": token_accuracy,
    }
    if name in builtin:
        return builtin[name]
    known = ["f1", "f0.5", "f2", *builtin]
    near = difflib.get_close_matches(name.lower(), known, n=1)
    raise UserError(
        f"config.reward.name: there is no reward {name!r}"
        + (f" (did you mean {near[0]!r}?)" if near else "")
        + f"; known are f<beta> (f1, f0.5, f2, ...), {', '.join(builtin)}, a weighted sum of "
        "these, and a Python function as package.module:function"
    )


# Built-in rewards. TP, FP, FN count spans of the candidate against gold on (start, end, type): a
# span with a wrong boundary or type is both an FP and, since gold's is missed, an FN. With gold
# {a, b} and the candidate {a, c, d}: TP 1, FP 2, FN 1, so precision 1/3, recall 1/2, F1 2/5.
# A labeling holds no span twice, hence TP + FP = |candidate| and TP + FN = |gold|.


def exact(candidate: Labeling, gold: Labeling, words: Words) -> float:
    """1 if the candidate is gold, else 0."""
    return 1.0 if candidate == gold else 0.0


def precision(candidate: Labeling, gold: Labeling, words: Words) -> float:
    """TP / (TP + FP). A candidate without spans: 1 if gold has none either, else 0."""
    # 0/0. As 1 it would reward the empty labeling of every sentence that has spans.
    if not candidate:
        return 0.0 if gold else 1.0
    return len(set(candidate).intersection(gold)) / len(candidate)


def recall(candidate: Labeling, gold: Labeling, words: Words) -> float:
    """TP / (TP + FN). Gold without spans: 1 if the candidate has none either, else 0, so that
    inventing spans never pays (the limit of F-beta for a large beta)."""
    return precision(gold, candidate, words)


def f_beta(beta: float, weights: dict[str, float] | None = None) -> Reward:
    """(1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP), each span counted with its type's weight (van
    Rijsbergen, Information Retrieval, 1979: recall counts b times as much as precision).

    Where nothing counts on either side (both empty, or all weights 0) it is 1.
    """
    b2 = beta * beta
    # Two functions, as every candidate of every sentence is scored: most have no weights to add up.

    def plain(candidate: Labeling, gold: Labeling, words: Words) -> float:
        if candidate == gold:
            return 1.0
        true = len(set(candidate).intersection(gold))
        # b^2 (TP + FN) + (TP + FP) is b^2 |gold| + |candidate|, and not 0 where there is a TP.
        return (1.0 + b2) * true / (b2 * len(gold) + len(candidate)) if true else 0.0

    def weighted(candidate: Labeling, gold: Labeling, words: Words) -> float:
        assert weights is not None
        # With gold {A, B}, the candidate {A, C} and B=3: TP 1, FP 1, FN 3, so F1 2 / (2 + 3 + 1).
        shared = set(candidate).intersection(gold)
        true = sum([weights.get(span.type, 1.0) for span in shared])
        wrong = sum([weights.get(span.type, 1.0) for span in candidate if span not in shared])
        missed = sum([weights.get(span.type, 1.0) for span in gold if span not in shared])
        if not true:
            return 0.0 if wrong or missed else 1.0
        return (1.0 + b2) * true / ((1.0 + b2) * true + b2 * missed + wrong)

    return weighted if weights else plain


def utility(wrong_cost: float) -> Reward:
    """clip((TP - c FP) / |gold|, 0, 1): a wrong span costs c times a missed one. For c = 2, four
    gold spans, three found and one wrong: (3 - 2) / 4.

    Gold without spans: 1 if the candidate has none either, else 0.
    """

    def reward(candidate: Labeling, gold: Labeling, words: Words) -> float:
        if not gold:
            return 0.0 if candidate else 1.0
        true = len(set(candidate).intersection(gold))
        return max(0.0, (true - wrong_cost * (len(candidate) - true)) / len(gold))

    return reward


def token_accuracy(candidate: Labeling, gold: Labeling, words: Words) -> float:
    """Share of words whose simplified-inside tags (`data.labeling.word_tags`) agree; 1 for a
    sentence without words."""
    if not words or candidate == gold:
        return 1.0
    tags = zip(word_tags(candidate, len(words)), word_tags(gold, len(words)), strict=True)
    return sum([a == b for a, b in tags]) / len(words)


def parse_type_weights(text: str) -> dict[str, float]:
    """Reads "brand=2, color=0.5" as {"brand": 2.0, "color": 0.5}. A type may hold `=`: the last one
    counts. Raises a UserError that names the part which is no weight, or a type's second one."""
    weights: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        type_, equals, value = part.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not (equals and type_.strip() and 0 <= weight < math.inf):
            raise UserError(
                f"config.reward.type_weights has the part {part!r}, which is not of the form "
                "type=weight with a weight of at least 0"
            )
        if type_.strip() in weights:
            raise UserError(
                f"config.reward.type_weights weighs the type {type_.strip()!r} twice: leave one out"
            )
        weights[type_.strip()] = weight
    return weights
