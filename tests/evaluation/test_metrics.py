"""What is reported equals its definitions, and seqeval's and scipy's figures where those exist."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_jax.data.labeling import (
    Candidate,
    Labeling,
    Sentence,
    Span,
    labeling_of_word_tags,
    make_labeling,
)
from groot_jax.evaluation.bootstrap import paired_bootstrap, ratio_interval
from groot_jax.evaluation.confidence import (
    span_confidences,
)
from groot_jax.evaluation.decisions import Tuning, choose_threshold, decide, mbr, threshold
from groot_jax.evaluation.metrics import (
    Beam,
    BeamScores,
    Summary,
    TripleReward,
    kendall_tau,
    merge_totals,
    one_by_one,
    per_sentence,
    score_beams,
    summarise,
    totals,
)
from groot_jax.reward.rewards import RewardSpec, make_reward
from groot_jax.reward.space import labeling_probabilities, probabilities

WORDS = ("black", "levi", "jeans", "for", "men")
GOLD = make_labeling([(0, 1, "color"), (1, 3, "product"), (4, 5, "audience")], 5)
RIGHT_2_OF_3 = GOLD[:2]
WRONG = make_labeling([(0, 3, "product")], 5)


def rewards(*names: str) -> dict[str, TripleReward]:
    return {name: one_by_one(make_reward(RewardSpec(name=name))) for name in names}


def metrics_of(
    sentences: Sequence[Sentence],
    beams: Sequence[Beam],
    given_rewards: dict[str, TripleReward],
    ks: Sequence[int] = (5, 10),
    penalty: float = 0.0,
) -> Summary:
    """Every metric, as of a training under the first of the rewards."""
    main = next(iter(given_rewards))
    return summarise(totals(score_beams(sentences, beams, given_rewards, penalty), main, ks), main)


def candidate(labeling: Sequence, score: float = 0.0, well_formed: bool = True) -> Candidate:
    return Candidate(tuple(Span(*span) for span in labeling), score, well_formed, -1)


def one(beam: Sequence[Candidate], names: Sequence[str] = ("f1",), **options) -> dict:
    return metrics_of([Sentence(WORDS, GOLD)], [beam], rewards(*names), **options)


@st.composite
def labelings(draw, num_words: int) -> Labeling:
    tag = st.sampled_from(["O", "O", "I", "I", "a", "b", "c"])
    tags = draw(st.lists(tag, min_size=num_words, max_size=num_words))
    return labeling_of_word_tags(tags)[0]


@st.composite
def corpora(draw) -> tuple[list[Sentence], list[list[Candidate]]]:
    sentences, beams = [], []
    for _ in range(draw(st.integers(1, 5))):
        n = draw(st.integers(1, 6))
        sentences.append(Sentence(("w",) * n, draw(labelings(n))))
        scores = sorted(draw(st.lists(st.floats(-9, 0), min_size=1, max_size=4)), reverse=True)
        beams.append([candidate(draw(labelings(n)), s, draw(st.booleans())) for s in scores])
    return sentences, beams


def bio(labeling: Labeling, num_words: int) -> list[str]:
    tags = ["O"] * num_words
    for start, end, type_ in labeling:
        tags[start:end] = [f"B-{type_}"] + [f"I-{type_}"] * (end - start - 1)
    return tags


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None)
@given(corpora())
def test_corpus_precision_recall_and_f1_equal_seqeval_over_all_and_per_type(corpus):
    from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

    sentences, beams = corpus
    gold = [bio(s.labeling, len(s.words)) for s in sentences]
    best = [bio(b[0].labeling, len(s.words)) for s, b in zip(sentences, beams, strict=True)]
    metrics = metrics_of(sentences, beams, rewards("f1"))
    assert metrics["span_precision"] == pytest.approx(precision_score(gold, best))
    assert metrics["span_recall"] == pytest.approx(recall_score(gold, best))
    assert metrics["span_f1"] == pytest.approx(f1_score(gold, best))
    if not metrics["by_type"]:
        return
    report = classification_report(gold, best, output_dict=True)
    types = {key for key in report if not key.endswith("avg")}
    assert set(metrics["by_type"]) == types
    for type_ in types:
        ours = metrics["by_type"][type_]
        assert ours["f1"] == pytest.approx(report[type_]["f1-score"])
        assert ours["precision"] == pytest.approx(report[type_]["precision"])
        assert ours["recall"] == pytest.approx(report[type_]["recall"])
        assert ours["gold"] == report[type_]["support"]


@settings(deadline=None)
@given(corpora(), st.integers(0, 5))
def test_totals_of_two_parts_merge_into_the_metrics_of_the_whole(corpus, cut):
    sentences, beams = corpus
    given_rewards = rewards("f1", "f0.5")
    parts = [
        totals(score_beams(sentences[part], beams[part], given_rewards), "f1")
        for part in (slice(None, cut), slice(cut, None))
    ]
    whole = metrics_of(sentences, beams, given_rewards)
    _assert_close(summarise(merge_totals(parts), "f1"), whole)


def _assert_close(a, b):
    if isinstance(b, dict):
        assert a.keys() == b.keys()
        for key in b:
            _assert_close(a[key], b[key])
    elif isinstance(b, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _assert_close(x, y)
    else:
        assert a == pytest.approx(b)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([-3.0, -2.0, -1.0, -0.5, -math.inf]), st.sampled_from([0, 0.5, 1])
        ),
        min_size=1,
        max_size=6,
    )
)
def test_kendall_tau_equals_scipys_tau_b_over_the_known_scores(pairs):
    from scipy.stats import kendalltau

    s, r = np.array(pairs, float).T
    known = np.isfinite(s)
    expected = kendalltau(s[known], r[known]).statistic if known.sum() > 1 else math.nan
    (tau,) = kendall_tau(s[None], r[None])
    assert tau == pytest.approx(expected, nan_ok=True)


def test_sentences_without_variation_do_not_count_in_kendalls_tau():
    sentences = [Sentence(WORDS, GOLD)] * 2
    ordered = [candidate(GOLD, -1.0), candidate(WRONG, -2.0)]
    metrics = metrics_of(sentences, [ordered, [candidate(WRONG)]], rewards("f1"))
    assert (metrics["kendall_tau"], metrics["kendall_sentences"]) == (1.0, 1)
    assert one([candidate(GOLD)])["kendall_tau"] is None


def test_duplicates_of_a_labeling_do_not_take_a_rank():
    metrics = one([candidate(GOLD), candidate(GOLD), candidate(WRONG)])
    assert metrics["reward_by_rank"] == [1.0, 0.0]
    assert metrics["mean_reward@10"] == 0.5
    assert metrics["distinct"] == 2


def test_each_rank_averages_over_the_sentences_that_have_it():
    sentences = [Sentence(WORDS, GOLD)] * 2
    beams = [[candidate(GOLD)], [candidate(WRONG), candidate(RIGHT_2_OF_3)]]
    metrics = metrics_of(sentences, beams, rewards("recall"))
    assert metrics["reward_by_rank"] == pytest.approx([0.5, 2 / 3])
    assert metrics["rank_counts"] == [2, 1]
    assert metrics["mean_reward@10"] == pytest.approx((1 + 1 / 3) / 2)
    assert metrics["max_reward@10"] == pytest.approx((1 + 2 / 3) / 2)


def test_mean_and_max_over_the_top_k_see_k_candidates_only():
    beam = [candidate(WRONG), candidate(()), candidate(GOLD)]
    metrics = one(beam, ks=(2, 3))
    assert (metrics["max_reward@2"], metrics["max_reward@3"]) == (0.0, 1.0)
    assert metrics["mean_reward@3"] == pytest.approx(1 / 3)


def test_ranks_beyond_nine_stay_in_order():
    beam = [candidate([(0, i, "x")]) for i in range(1, 12)] + [candidate(GOLD)]
    assert one(beam)["reward_by_rank"] == [0.0] * 11 + [1.0]


def test_malformed_outputs_lose_the_penalty_down_to_zero_and_are_counted_with_their_duplicates():
    beam = [
        candidate(GOLD, well_formed=False),
        candidate(GOLD),
        candidate(WRONG, well_formed=False),
    ]
    metrics = one(beam, penalty=0.1)
    assert metrics["reward_by_rank"] == pytest.approx([0.9, 0.0])
    assert metrics["malformed@1"] == 1.0
    assert metrics["malformed@10"] == pytest.approx(2 / 3)


def test_an_empty_beam_counts_as_a_malformed_empty_labeling():
    metrics = one([])
    assert (metrics["reward@1"], metrics["malformed@1"], metrics["span_recall"]) == (0.0, 1.0, 0.0)


def test_every_reward_is_reported_and_the_training_reward_is_the_main_one():
    metrics = one([candidate(RIGHT_2_OF_3)], ("f1", "precision", "recall", "exact"))
    at_1 = {name: figures["reward@1"] for name, figures in metrics["rewards"].items()}
    assert at_1 == pytest.approx({"f1": 0.8, "precision": 1.0, "recall": 2 / 3, "exact": 0.0})
    assert metrics["reward@1"] == at_1["f1"]


def test_a_reward_is_called_once_for_all_candidates():
    calls = []

    def score(triples):
        calls.append(len(triples))
        return [0.25] * len(triples)

    beam = [candidate(GOLD), candidate(WRONG), candidate(GOLD)]
    metrics = metrics_of([Sentence(WORDS, GOLD)], [beam], {"f1": score})
    assert metrics["reward_by_rank"] == [0.25, 0.25]
    assert calls == [2]


def test_per_sentence_arrays_average_to_the_metrics():
    sentences = [Sentence(WORDS, GOLD)] * 3
    beams = [[candidate(GOLD)], [candidate(WRONG), candidate(RIGHT_2_OF_3)], []]
    scores = score_beams(sentences, beams, rewards("f1"))
    metrics = summarise(totals(scores, "f1"), "f1")
    for key, values in per_sentence(scores, "f1").items():
        assert len(values) == 3
        assert np.mean(values) == pytest.approx(metrics[key])


def test_an_empty_shard_has_totals_that_change_nothing():
    empty = totals(score_beams([], [], rewards("f1")), "f1")
    full = totals(score_beams([Sentence(WORDS, GOLD)], [[candidate(GOLD)]], rewards("f1")), "f1")
    assert merge_totals([empty, full]) == full
    assert isinstance(score_beams([], [], rewards("f1")), BeamScores)


def test_the_keys_are_those_of_the_results_file():
    wanted = {
        "reward@1",
        "mean_reward@10",
        "max_reward@10",
        "reward_by_rank",
        "span_precision",
        "span_recall",
        "span_f1",
        "exact_match",
        "malformed@1",
        "malformed@10",
    }
    assert wanted <= set(one([candidate(GOLD)]))


# Decision rules.


def test_the_beams_probabilities_are_the_softmax_of_s_and_duplicates_add_up():
    beam = [candidate(GOLD, math.log(0.2)), candidate(WRONG, math.log(0.1)), candidate(GOLD, -9e9)]
    assert probabilities(beam) == pytest.approx([2 / 3, 1 / 3, 0])
    beam[2] = candidate(GOLD, math.log(0.1))
    assert labeling_probabilities(beam) == pytest.approx({GOLD: 0.75, WRONG: 0.25})


def test_unknown_scores_have_no_probability_unless_all_are_unknown():
    assert probabilities([candidate(GOLD, math.nan), candidate(WRONG, -3.0)]) == [0, 1]
    assert probabilities([candidate(GOLD, math.nan)] * 2) == [0.5, 0.5]
    assert probabilities([]) == []


def test_mbr_ranks_by_the_reward_expected_under_the_beam():
    # WRONG is the likeliest, but two candidates that share spans with each other outvote it.
    beam = [
        candidate(WRONG, math.log(0.4)),
        candidate(RIGHT_2_OF_3, math.log(0.3)),
        candidate(GOLD, math.log(0.3)),
    ]
    (decided,) = mbr([Sentence(WORDS, ())], [beam], rewards("f1")["f1"])
    expected = {WRONG: 0.4, RIGHT_2_OF_3: 0.3 + 0.3 * 0.8, GOLD: 0.3 + 0.3 * 0.8}
    assert [c.labeling for c in decided] == [RIGHT_2_OF_3, GOLD, WRONG]
    assert max(expected, key=expected.__getitem__) == decided[0].labeling


@settings(deadline=None)
@given(corpora())
def test_mbr_under_exact_match_orders_by_probability(corpus):
    sentences, beams = corpus
    for beam, decided in zip(beams, mbr(sentences, beams, rewards("exact")["exact"]), strict=True):
        weights = labeling_probabilities(beam)
        ranked = [weights[c.labeling] for c in decided]
        assert ranked == pytest.approx(sorted(ranked, reverse=True))
        assert sorted(map(id, decided)) == sorted(map(id, beam))


def test_mbr_asks_nothing_of_gold():
    beam = [candidate(WRONG, -1.0), candidate(GOLD, -1.5)]
    score = rewards("f1")["f1"]
    assert mbr([Sentence(WORDS, GOLD)], [beam], score) == mbr([Sentence(WORDS, ())], [beam], score)


def test_a_spans_confidence_is_the_probability_of_the_labelings_that_hold_it():
    beam = [candidate(GOLD, math.log(0.5)), candidate(RIGHT_2_OF_3, math.log(0.5))]
    assert span_confidences(beam) == pytest.approx({GOLD[0]: 1, GOLD[1]: 1, GOLD[2]: 0.5})


def test_threshold_removes_unsure_spans_of_rank_1_only_and_keeps_the_beams_size():
    beam = [candidate(GOLD, math.log(0.6)), candidate(WRONG, math.log(0.4))]
    (kept,) = threshold([beam], 0.6)
    assert kept == beam
    (pruned,) = threshold([beam], 0.7)
    assert [c.labeling for c in pruned] == [(), GOLD]
    assert math.isnan(pruned[0].score)


def test_a_pruned_labeling_that_the_beam_holds_keeps_its_score():
    beam = [candidate(GOLD, math.log(0.6)), candidate(RIGHT_2_OF_3, math.log(0.4))]
    (pruned,) = threshold([beam], 0.7)
    assert pruned == [beam[1], beam[0]]


def test_certain_spans_survive_a_threshold_of_one():
    beam = [candidate(GOLD, s) for s in (-0.1, -0.7, -1.3)]
    assert threshold([beam], 1.0) == [beam]


def test_the_chosen_threshold_is_the_lowest_with_the_best_reward_on_dev():
    gold = GOLD[:2]
    sentences = [Sentence(WORDS, gold)]
    beam = [candidate(GOLD, math.log(0.6)), candidate(gold, math.log(0.4))]
    score = rewards("f1")["f1"]
    assert choose_threshold(sentences, [beam], score) == 0.65
    assert choose_threshold([Sentence(WORDS, GOLD)], [beam], score) == 0.0


def test_decide_knows_its_rules_by_name():
    sentences, beams = [Sentence(WORDS, GOLD)], [[candidate(GOLD, -1.0), candidate(WRONG, -2.0)]]
    score = rewards("f1")["f1"]
    assert decide("map", sentences, beams, score) == beams
    assert decide("mbr", sentences, beams, score) == mbr(sentences, beams, score)
    (pruned,) = decide("threshold", sentences, beams, score, Tuning(threshold=0.9))
    assert [c.labeling for c in pruned] == [(), GOLD]


# Bootstrap.


def test_the_bootstrap_is_sure_of_a_constant_difference_and_unsure_of_noise():
    rng = np.random.default_rng(0)
    b = rng.random(200)
    sure = paired_bootstrap(b + 0.1, b, 1000)
    assert sure["interval"] == pytest.approx([0.1, 0.1])
    assert sure["share_not_above"] == 0.0
    noise = paired_bootstrap(b, rng.permutation(b), 1000)
    assert noise["interval"][0] < 0 < noise["interval"][1]


def test_the_bootstraps_interval_covers_two_standard_errors():
    rng = np.random.default_rng(1)
    a = rng.normal(size=400)
    low, high = paired_bootstrap(a, np.zeros(400), resamples=4000)["interval"]
    error = a.std() / 20
    assert [low, high] == pytest.approx(
        [a.mean() - 1.96 * error, a.mean() + 1.96 * error], abs=0.02
    )


def test_the_bootstrap_gives_the_same_again_and_refuses_unpaired_figures():
    a, b = np.random.default_rng(2).random((2, 50))
    assert paired_bootstrap(a, b, 100) == paired_bootstrap(a, b, 100)
    with pytest.raises(ValueError):
        paired_bootstrap(a, b[1:], 100)


def test_the_interval_of_a_ratio_is_that_of_sums_over_sentences():
    rng = np.random.default_rng(3)
    right = rng.integers(0, 3, 50).astype(float)
    # Divided by one a sentence it is a mean.
    mean = paired_bootstrap(right, np.zeros(50), 500)["interval"]
    assert ratio_interval(right, np.ones(50), 500) == pytest.approx(mean)
    # A sentence without a span weighs nothing.
    low, high = ratio_interval(np.append(right, 0.0), np.append(right + 1, 0.0), 500)
    assert low < right.sum() / (right + 1).sum() < high
    assert ratio_interval(right, right, 500) == [1.0, 1.0]
    assert ratio_interval(np.zeros(3), np.zeros(3), 10) == [0.0, 0.0]
