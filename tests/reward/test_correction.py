"""The facts of error groups and partial corrections, as properties over random labelings."""

from __future__ import annotations

import random
from itertools import islice, product

from hypothesis import given
from hypothesis import strategies as st

from groot_jax.data.labeling import Labeling, Span, labeling_of_word_tags, make_labeling
from groot_jax.reward.correction import corrections, error_groups
from groot_jax.reward.rewards import f_beta

TAGS = st.sampled_from(["O", "I", "I", "A", "B", "C"])
labelings = st.lists(TAGS, max_size=12).map(lambda tags: labeling_of_word_tags(tags)[0])


def overlap(a: Span, b: Span) -> bool:
    return a.start < b.end and b.start < a.end


def fix(labeling: Labeling, wrong, missed) -> Labeling:
    return make_labeling((set(labeling) - set(wrong)) | set(missed), 12)


def every(candidate: Labeling, gold: Labeling, seed: int = 0) -> list[Labeling]:
    return list(corrections(candidate, gold, random.Random(seed)))


@given(labelings, labelings)
def test_groups_are_the_connected_components_of_word_overlap(candidate, gold):
    groups = error_groups(candidate, gold)
    assert sorted(s for g in groups for s in g.wrong) == sorted(set(candidate) - set(gold))
    assert sorted(s for g in groups for s in g.missed) == sorted(set(gold) - set(candidate))
    for i, a in enumerate(groups):
        spans = [*a.wrong, *a.missed]
        reached, frontier = {spans[0]}, [spans[0]]
        while frontier:
            span = frontier.pop()
            new = {other for other in spans if overlap(span, other)} - reached
            reached |= new
            frontier += new
        assert reached == set(spans)
        for b in groups[i + 1 :]:
            assert not any(overlap(s, t) for s in spans for t in [*b.wrong, *b.missed])


def test_a_boundary_error_a_type_error_and_lone_spans_group_as_the_method_says():
    gold = (Span(0, 2, "A"), Span(3, 4, "B"), Span(5, 6, "C"))
    candidate = (Span(0, 1, "A"), Span(3, 4, "C"), Span(7, 8, "A"))
    assert [(len(g.wrong), len(g.missed)) for g in error_groups(candidate, gold)] == [
        (1, 1),
        (1, 1),
        (0, 1),
        (1, 0),
    ]
    two_in_one = (Span(0, 2, "A"), Span(2, 4, "A"))
    assert len(error_groups(two_in_one, (Span(1, 3, "A"),))) == 1
    one_over_three = (Span(0, 9, "A"),)
    assert (
        len(error_groups(one_over_three, (Span(1, 2, "A"), Span(3, 4, "A"), Span(8, 9, "A")))) == 1
    )


@given(labelings, labelings, st.integers(0, 5))
def test_every_correction_is_a_valid_segmentation_unlike_candidate_gold_and_the_others(
    candidate, gold, seed
):
    found = every(candidate, gold, seed)
    for labeling in found:
        assert make_labeling(labeling, 12) == labeling
        assert all(isinstance(span, Span) for span in labeling)
    assert len({*found, candidate, gold}) == len(found) + len({candidate, gold})


@given(labelings, labelings)
def test_a_correction_holds_no_new_error_and_keeps_every_shared_span(candidate, gold):
    for labeling in every(candidate, gold):
        assert set(labeling) <= set(candidate) | set(gold)
        assert set(candidate) & set(gold) <= set(labeling)


@given(labelings, labelings)
def test_each_group_of_a_correction_is_untouched_fixed_or_dropped(candidate, gold):
    groups = error_groups(candidate, gold)
    for labeling in every(candidate, gold):
        for group in groups:
            left = set(labeling) & {*group.wrong, *group.missed}
            assert left in (set(group.wrong), set(group.missed), set())


@given(labelings, labelings, st.sampled_from([0.0, 0.5, 1.0, 2.0, 9.0]), st.booleans())
def test_fix_never_lowers_any_f_beta(candidate, gold, beta, weighted):
    reward = f_beta(beta, {"A": 3.0, "B": 0.0, "C": 0.25} if weighted else None)
    words = ("w",) * 12
    before = reward(candidate, gold, words)
    for group in error_groups(candidate, gold):
        assert reward(fix(candidate, *group), gold, words) >= before - 1e-12


@given(labelings, labelings, st.randoms(use_true_random=False))
def test_fixing_all_groups_in_any_order_gives_gold(candidate, gold, rng):
    groups = error_groups(candidate, gold)
    rng.shuffle(groups)
    for group in groups:
        candidate = fix(candidate, *group)
    assert candidate == gold


@given(labelings, labelings)
def test_single_fixes_come_first_then_all_but_one_then_single_drops(candidate, gold):
    groups = error_groups(candidate, gold)
    wanted: list[Labeling] = [fix(candidate, *group) for group in groups]
    for kept in groups:
        labeling = candidate
        for group in groups:
            labeling = labeling if group is kept else fix(labeling, *group)
        wanted.append(labeling)
    wanted += [fix(candidate, g.wrong, ()) for g in groups if g.wrong and g.missed]
    wanted = [labeling for labeling in dict.fromkeys(wanted) if labeling not in (candidate, gold)]
    assert every(candidate, gold)[: len(wanted)] == wanted


@given(labelings, labelings, st.integers(0, 9))
def test_few_groups_are_mended_in_every_way_whatever_the_seed(candidate, gold, seed):
    groups = error_groups(candidate, gold)
    choices = [
        {g.wrong, g.missed, ()} if g.wrong and g.missed else {g.wrong, g.missed} for g in groups
    ]
    ways = set()
    if len(groups) <= 4:
        for choice in product(*choices):
            spans = (set(candidate) & set(gold)).union(*choice)
            ways.add(tuple(sorted(spans)))
        assert set(every(candidate, gold, seed)) == ways - {candidate, gold}


@given(labelings, labelings, st.integers(0, 9), st.integers(0, 30))
def test_the_seed_and_nothing_else_decides(candidate, gold, seed, limit):
    first = list(islice(corrections(candidate, gold, random.Random(seed)), limit))
    assert first == every(candidate, gold, seed)[:limit]


def test_gold_and_a_candidate_with_one_lone_error_have_no_corrections():
    gold = (Span(0, 1, "A"),)
    assert every(gold, gold) == []
    assert every((), gold) == []
    assert every((*gold, Span(3, 4, "B")), gold) == []
    assert every((Span(0, 2, "A"),), gold) == [()]


def test_a_hundred_errors_are_mended_at_random_and_in_bounded_time():
    gold = tuple(Span(i, i + 1, "A") for i in range(100))
    candidate = tuple(Span(i, i + 1, "B") for i in range(100))
    found = every(candidate, gold)
    assert 300 < len(found) <= 300 + 256
    assert len(set(found)) == len(found)
