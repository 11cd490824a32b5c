"""Consensus against brute force, temperatures against beams made with one, and what is kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_jax.config import load
from groot_jax.data.labeling import Candidate, Labeling, Sentence, Span, make_labeling
from groot_jax.errors import UserError
from groot_jax.evaluation.confidence import (
    BINS,
    TEMPERATURES,
    calibration_error,
    choose_curve,
    choose_temperature,
    reliability,
    span_confidences,
)
from groot_jax.evaluation.decisions import (
    RULES,
    Tuning,
    choose_rule,
    consensus,
    decide,
    mbr,
    tune,
)
from groot_jax.evaluation.metrics import Beam, one_by_one
from groot_jax.evaluation.records import read_tuning, write_tuning
from groot_jax.reward.rewards import RewardSpec, make_reward
from groot_jax.reward.space import hypotheses, labeling_probabilities

WORDS = ("black", "levi", "jeans", "for", "men")
COLOR, BRAND, PRODUCT = Span(0, 1, "color"), Span(1, 2, "brand"), Span(2, 3, "product")
WIDE = Span(1, 3, "product")


def candidate(labeling: Sequence[Span], score: float) -> Candidate:
    return Candidate(tuple(labeling), score, True, 0)


def labelings(num_words: int) -> st.SearchStrategy[Labeling]:
    """Valid segmentations of a few words."""

    def build(choices: list[tuple[int, int, str]]) -> Labeling:
        spans, at = [], 0
        for gap, length, type_ in choices:
            start = at + gap
            end = min(start + length, num_words)
            if start < end:
                spans.append(Span(start, end, type_))
            at = max(at, end)
        return tuple(spans)

    one = st.tuples(st.integers(0, 2), st.integers(1, 2), st.sampled_from(["color", "brand"]))
    return st.lists(one, max_size=4).map(build)


BEAMS = st.lists(
    st.builds(candidate, labelings(len(WORDS)), st.floats(-12, 0)), min_size=1, max_size=6
).map(lambda beam: sorted(beam, key=lambda c: -c.score))
REWARDS = {
    name: one_by_one(make_reward(RewardSpec(name))) for name in ("f1", "f0.5", "f2", "utility")
}


@given(BEAMS, st.integers(1, 40))
def test_hypotheses_are_distinct_valid_and_begin_with_the_beam(beam: Beam, limit: int) -> None:
    chances = labeling_probabilities(beam)
    found = hypotheses(chances, limit)
    assert len(found) == len(set(found)) <= limit
    assert found[: len(chances)] == [*chances][:limit]
    spans = {span for labeling in chances for span in labeling}
    for labeling in found:
        assert make_labeling(labeling, len(WORDS)) == labeling
        assert spans.issuperset(labeling)
    if limit == 40 and beam[0].labeling:
        assert () in found  # Without all of its spans.


def test_hypotheses_of_a_small_beam() -> None:
    chances = {(COLOR, WIDE): 0.5, (COLOR, BRAND, PRODUCT): 0.3, (BRAND,): 0.2}
    # COLOR .8, WIDE .5, BRAND .5, PRODUCT .3
    assert hypotheses(chances, 64) == [
        *chances,
        (COLOR,),  # the first without WIDE
        (),
        (COLOR, BRAND),  # the second without PRODUCT
    ]


@settings(max_examples=60)
@given(BEAMS, st.sampled_from(sorted(REWARDS)), st.sampled_from([0.5, 1.0, 2.0]))
def test_consensus_is_the_best_of_its_hypotheses(beam: Beam, name: str, temperature: float) -> None:
    score = REWARDS[name]
    sentence = Sentence(WORDS, ())
    (decided,) = consensus([sentence], [beam], score, temperature)
    # All subsets of the beam's spans that overlap nowhere hold the hypotheses, and perhaps more.
    scores = np.array([c.score for c in beam]) / temperature
    p = np.exp(scores - np.logaddexp.reduce(scores))

    def expected(labeling: Labeling) -> float:
        values = score([(labeling, c.labeling, WORDS) for c in beam])
        return float(np.dot(p, values))

    space = hypotheses(labeling_probabilities(beam, temperature), 64)
    assert expected(decided[0].labeling) == pytest.approx(max(map(expected, space)), abs=1e-9)
    assert len(decided) == len(beam)
    (ordered,) = mbr([sentence], [beam], score)
    assert expected(decided[0].labeling) >= expected(ordered[0].labeling) - 1e-9
    held = [c for c in beam if c.labeling == decided[0].labeling]
    if held:
        assert decided[0] in held  # With its score.
        assert Counter(decided) == Counter(beam)
    else:
        assert math.isnan(decided[0].score) and decided[0].slot == -1


def test_a_doubtful_span_is_left_out_where_wrong_ones_cost() -> None:
    beam = [
        candidate((COLOR, WIDE), math.log(0.4)),
        candidate((COLOR, BRAND), math.log(0.35)),
        candidate((COLOR, Span(1, 2, "color")), math.log(0.25)),
    ]
    sentence = Sentence(WORDS, ())
    # COLOR alone gets half of all gold; with WIDE it gets all of .4, and nothing else.
    (decided,) = decide("consensus", [sentence], [beam], REWARDS["utility"])
    assert decided[0].labeling == (COLOR,)
    assert decided[1:] == mbr([sentence], [beam], REWARDS["utility"])[0][:2]
    # With one hypothesis there is nothing to choose.
    (plain,) = decide("consensus", [sentence], [beam], REWARDS["utility"], limit=1)
    assert plain[0].labeling == beam[0].labeling


def test_dev_chooses_the_rule_with_the_best_first_answers() -> None:
    # Gold has COLOR and something else: under utility WIDE costs more than it brings.
    beam = [
        candidate((COLOR, WIDE), math.log(0.4)),
        candidate((COLOR, BRAND), math.log(0.35)),
        candidate((COLOR, Span(1, 2, "color")), math.log(0.25)),
    ]
    gold, score = [Sentence(WORDS, (COLOR, BRAND))], REWARDS["utility"]

    def chosen(beam, confidence=0.0, rules=RULES):
        tuning = Tuning(threshold=confidence)
        decided = {rule: decide(rule, gold, [beam], score, tuning) for rule in rules}
        return choose_rule(gold, decided, score)

    assert chosen(beam) == "consensus"
    assert chosen(beam, rules=("threshold", "map")) == "map"
    # A threshold of .5 leaves (COLOR,), as consensus does, and has no say beside it.
    assert chosen(beam, 0.5) == "consensus"
    assert chosen(beam, 0.5, ("map", "threshold")) == "threshold"
    assert tune(gold, [beam], score)[0].rule == "consensus"
    tuning, decided = tune(gold, [beam], score, ("map", "consensus"))
    assert tuning.rule == "consensus"
    # What dev was decided to be is there to be used again, and not with another tuning.
    assert decided == {
        rule: decide(rule, gold, [beam], score, tuning) for rule in ("map", "consensus")
    }
    tuning, decided = tune(gold, [beam], score, ("mbr",))
    assert (tuning.rule, decided) == ("mbr", {})
    # Where the likeliest labeling is gold nothing is better; where there is no beam all are alike.
    for sure in ([candidate((COLOR, BRAND), -0.01), candidate((COLOR,), -5.0)], []):
        assert chosen(sure) == "map"


def test_a_threshold_is_held_against_map_on_sentences_that_have_not_chosen_it() -> None:
    score = REWARDS["utility"]

    def dev(*pairs: tuple[float, Labeling]) -> tuple[list[Sentence], list[Beam]]:
        """BRAND with some confidence, or nothing; and what is gold."""
        beams: list[Beam] = [
            [candidate((COLOR, BRAND), math.log(p)), candidate((COLOR,), math.log(1 - p))]
            for p, _ in pairs
        ]
        return [Sentence(WORDS, gold) for _, gold in pairs], beams

    def chosen(sentences: list[Sentence], beams: list[Beam]) -> str:
        return tune(sentences, beams, score, ("map", "threshold"))[0].rule

    # BRAND is wrong wherever it is doubtful: so it is on the sentences that are held out.
    assert chosen(*dev(*[(0.6, (COLOR,)), (0.9, (COLOR, BRAND))] * 4)) == "threshold"
    # Right at .55 in three quarters and wrong in one: all four together are best off without a
    # threshold, and so is each of them by the others.
    right, wrong = (0.55, (COLOR, BRAND)), (0.55, (COLOR,))
    assert chosen(*dev(right, right, right, wrong)) == "map"
    # One wrong span at .6, one right one at .8: a threshold between them is best for both, but each
    # alone says otherwise about the other: none at all, or one above both.
    assert tune(*dev((0.6, (COLOR,)), (0.8, (COLOR, BRAND))), score)[0].threshold == 0.65
    assert chosen(*dev((0.6, (COLOR,)), (0.8, (COLOR, BRAND)))) == "map"
    # A single sentence leaves no other to choose by.
    assert chosen(*dev((0.6, (COLOR,)))) == "map"


def test_all_sentences_are_scored_in_one_call() -> None:
    beam = [candidate((COLOR,), -0.2), candidate((), -1.8)]
    calls = []

    def score(triples: Sequence[tuple[Labeling, Labeling, Sequence[str]]]) -> list[float]:
        calls.append(len(triples))
        return [0.0] * len(triples)

    consensus([Sentence(WORDS, ())] * 3, [beam] * 3, score)
    assert len(calls) == 1


def test_a_reward_that_returns_too_few_values_is_named() -> None:
    beam = [candidate((COLOR,), -0.2), candidate((), -1.8)]
    with pytest.raises(UserError, match=r"returned 1 values for 4 candidates"):
        decide("mbr", [Sentence(WORDS, ())], [beam], lambda triples: [0.5])


def drawn(temperature: float, count: int) -> tuple[list[Sentence], list[Beam]]:
    """Beams whose gold is drawn from softmax(s / temperature)."""
    rng = np.random.default_rng(0)
    sentences: list[Sentence] = []
    beams: list[Beam] = []
    for _ in range(count):
        s = np.sort(rng.normal(0, 3, 3))[::-1]
        beam = [candidate(y, x) for y, x in zip([(COLOR,), (BRAND,), (PRODUCT,)], s, strict=True)]
        p = np.exp(s / temperature - np.logaddexp.reduce(s / temperature))
        sentences.append(Sentence(WORDS, beam[rng.choice(3, p=p)].labeling))
        beams.append(beam)
    return sentences, beams


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_the_temperature_that_gold_was_drawn_with_is_found(temperature: float) -> None:
    sentences, beams = drawn(temperature, 4000)
    chosen = choose_temperature(sentences, beams)
    assert chosen in TEMPERATURES and abs(math.log(chosen / temperature)) < 0.2
    before = calibration_error(reliability(sentences, beams))
    after = calibration_error(reliability(sentences, beams, chosen))
    assert after < 0.02
    if temperature != 1:
        assert after < before / 2


def test_no_span_leaves_the_temperature_at_one() -> None:
    assert choose_temperature([Sentence(WORDS, (COLOR,))], [[candidate((), 0.0)]]) == 1.0
    assert choose_temperature([], []) == 1.0
    assert choose_curve([], []) == ()


def sure(count: int, truth: Callable[[float], float]) -> tuple[list[Sentence], list[Beam]]:
    """Sentences whose one span has a confidence c, drawn evenly, and is gold with `truth(c)`."""
    rng = np.random.default_rng(count)
    sentences: list[Sentence] = []
    beams: list[Beam] = []
    for c in rng.uniform(0.01, 0.99, count):
        beams.append([candidate((COLOR,), math.log(c)), candidate((), math.log(1 - c))])
        sentences.append(Sentence(WORDS, (COLOR,) if rng.random() < truth(c) else ()))
    return sentences, beams


def test_a_curve_mends_what_no_temperature_can() -> None:
    """Too sure in the middle and not sure enough at both ends, on sentences that dev lacks."""

    def truth(c: float) -> float:
        return 0.0 if c < 0.2 else 0.5 if c < 0.8 else 1.0

    dev, test = sure(4000, truth), sure(4001, truth)
    temperature = choose_temperature(*dev)
    curve = choose_curve(*dev, temperature)
    stretched = calibration_error(reliability(*test, temperature))
    mended = calibration_error(reliability(*test, temperature, curve))
    assert mended < 0.05 and mended < stretched / 2
    # Which of two spans is the surer one, it does not turn round.
    assert [*curve] == sorted(curve)
    assert all(a[1] <= b[1] for a, b in pairwise(curve)) and curve[0][1] > 0 and curve[-1][1] < 1


def test_a_curve_of_few_or_equal_confidences() -> None:
    """Equal confidences are one step, however many there are; one step tells nothing."""
    beam = [candidate((COLOR, BRAND), 0.0)]  # Both are certain.
    gold = [Sentence(WORDS, (COLOR,))] * 300 + [Sentence(WORDS, (COLOR, BRAND))] * 100
    assert choose_curve(gold, [beam] * 400) == ()
    less = [candidate((COLOR,), math.log(0.5)), candidate((), math.log(0.5))]
    none = [Sentence(WORDS, ())] * 200
    curve = choose_curve([*gold, *none], [*[beam] * 400, *[less] * 200])
    # None of 200, and 400 of color and 100 of brand, of 800.
    assert curve == ((0.5, round(0.5 / 201, 6)), (1.0, round(500.5 / 801, 6)))
    assert choose_curve(gold[:20], [less] * 20) == ()
    # Beyond its ends it stays as it is, and between two points it is a straight line.
    curve = ((0.2, 0.1), (0.6, 0.5))
    for c, worth in ((0.01, 0.1), (0.4, 0.3), (0.99, 0.5)):
        beam = [candidate((COLOR,), math.log(c)), candidate((), math.log(1 - c))]
        assert span_confidences(beam, 1.0, curve)[COLOR] == pytest.approx(worth)


@given(BEAMS)
def test_bins_hold_every_span_once(beam: Beam) -> None:
    sentence = Sentence(WORDS, beam[-1].labeling)
    bins = reliability([sentence], [beam])
    assert len(bins) == BINS
    confidences = span_confidences(beam)
    assert sum(count for count, _, _ in bins) == len(confidences)
    total = sum(count * mean for count, mean, _ in bins)
    assert total == pytest.approx(sum(confidences.values()), abs=1e-4)
    right = sum(count * share for count, _, share in bins)
    assert right == pytest.approx(len(sentence.labeling), abs=1e-4)
    assert 0 <= calibration_error(bins) <= 1


def test_what_dev_chose_is_kept_by_checkpoint_and_reward(tmp_path: Path) -> None:
    assert read_tuning(tmp_path, "groot", 7, "f1") == Tuning()
    write_tuning(tmp_path, "groot", 7, "f1", Tuning(1.5, 0.35), 100)
    write_tuning(tmp_path, "nll", 9, "f1", Tuning(0.9, 0.0), 100)
    assert read_tuning(tmp_path, "groot", 7, "f1") == Tuning(1.5, 0.35)
    assert read_tuning(tmp_path, "groot", 7, "f2") == Tuning(1.5, None)
    assert read_tuning(tmp_path, "groot", 8, "f1") == Tuning()
    assert read_tuning(tmp_path, "nll", 9, "f1") == Tuning(0.9, 0.0)
    write_tuning(tmp_path, "groot", 7, "f0.5", Tuning(1.5, 0.35, "consensus"), 100)
    assert read_tuning(tmp_path, "groot", 7, "f0.5") == Tuning(1.5, 0.35, "consensus")
    curved = Tuning(1.5, 0.35, "mbr", ((0.1, 0.0), (0.9, 0.75)), k=10)
    write_tuning(tmp_path, "groot", 8, "f1", curved, 100)
    assert read_tuning(tmp_path, "groot", 8, "f1") == curved
    # It is of confidences, whatever the reward is.
    assert read_tuning(tmp_path, "groot", 8, "f2") == Tuning(1.5, curve=curved.curve, k=10)
    # For another reward nobody has chosen a rule.
    assert read_tuning(tmp_path, "groot", 7, "f1") == Tuning(1.5, None, "map")


def test_a_file_of_before_there_was_a_choice_means_map(tmp_path: Path) -> None:
    (tmp_path / "decisions").mkdir()
    text = '{"temperature": 1.5, "threshold": 0.35, "reward": "f1", "dev_sentences": 100}'
    (tmp_path / "decisions" / "groot-7.json").write_text(text)
    assert read_tuning(tmp_path, "groot", 7, "f1") == Tuning(1.5, 0.35, "map")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"temperature": 1}', '{"temperature": 0, "threshold": 0.5, "reward": "f1"}'),
        '{"temperature": 1, "threshold": 0.5, "reward": "f1", "rule": "best"}',
        *(
            f'{{"temperature": 1, "threshold": {threshold}, "reward": "f1", "rule": "threshold"}}'
            for threshold in ("NaN", "2", "-0.1", "null", "true", "Infinity")
        ),
        f'{{"temperature": 1{"0" * 400}, "threshold": 0.5, "reward": "f1"}}',
        *(
            f'{{"temperature": 1, "threshold": 0.5, "reward": "f1", "curve": {curve}}}'
            for curve in (
                "[[0.5, NaN]]",
                "[[0.5, 2]]",
                "[[0.9, 0.1], [0.1, 0.5]]",
                "[[0.1]]",
                "[0.1]",
                "1",
            )
        ),
    ],
)
def test_a_file_that_nobody_wrote_is_named(tmp_path: Path, text: str) -> None:
    write_tuning(tmp_path, "groot", 7, "f1", Tuning(1.5, 0.35), 100)
    (tmp_path / "decisions" / "groot-7.json").write_text(text)
    with pytest.raises(UserError, match=r"groot-7\.json: cannot be read .* remove it"):
        read_tuning(tmp_path, "groot", 7, "f1")


@pytest.mark.chaos
@pytest.mark.always
def test_a_flipped_bit_in_what_dev_chose_is_noticed(tmp_path: Path) -> None:
    chosen = Tuning(1.5, 0.35, "consensus", ((0.004, 0.01), (0.09, 0.2)))
    write_tuning(tmp_path, "groot", 7, "f1", chosen, 100)
    path = tmp_path / "decisions" / "groot-7.json"
    whole = path.read_bytes()
    silent = 0
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            # In the name of the sum, or between values: what was chosen is read as it was.
            assert read_tuning(tmp_path, "groot", 7, "f1") == chosen
            silent += 1
        except UserError:
            pass
    assert silent < len(whole)  # Of eight times as many.


def test_the_rules_of_the_config_are_those_there_are() -> None:
    assert set(RULES) == set(load("configs/retail.py").evaluate.decide)
    for rule in RULES:
        load("configs/retail.py", [("evaluate.decide", rule)])


def test_what_consensus_adds_is_well_formed() -> None:
    beam = [
        Candidate((COLOR, WIDE), math.log(0.4), False, 0),
        Candidate((COLOR, BRAND), math.log(0.35), False, 1),
        Candidate((COLOR, Span(1, 2, "color")), math.log(0.25), False, 2),
    ]
    (decided,) = decide("consensus", [Sentence(WORDS, ())], [beam], REWARDS["utility"])
    assert decided[0].labeling == (COLOR,) and decided[0].well_formed
