"""Batches: each example once an epoch, in an order that depends on seed and step alone."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from groot_jax.config import load
from groot_jax.data.batches import (
    Batch,
    Example,
    Hide,
    MixedBatches,
    TrainingBatches,
    encode,
    evaluation_batches,
)
from groot_jax.data.corpus import read_corpus
from groot_jax.data.labeling import Sentence
from groot_jax.data.ladder import Ladder, fit_ladder
from groot_jax.errors import UserError
from groot_jax.task import make_task

SOURCE, TARGET = (8, 16, 32), (4, 8, 16)


def example(index: int, source: int, target: int) -> Example:
    return Example(
        index=index,
        sentence=Sentence(("w",) * (target - 1), ()),
        source=tuple(range(2, source + 2)),
        fused_source=((0,),) * source,
        template=(-1,) * (target - 1) + (1,),
        fused_target=(5,) * target,
        aligned=None,
        target=(7,) * (target - 1) + (1,),
        cap=target,
    )


def padding_share(batches: list[Batch]) -> float:
    """Share of source and target positions that hold padding."""
    used = sum(int((b.source_BxS != 0).sum() + b.cap_B.sum()) for b in batches)
    return 1 - used / sum(b.source_BxS.size + b.target_BxT.size for b in batches)


def loader(padding: float, rungs: int) -> ConfigDict:
    buckets = {"source_buckets": SOURCE, "target_buckets": TARGET}
    return ConfigDict({**buckets, "padding": padding, "rungs": rungs})


sizes = st.lists(st.tuples(st.integers(1, 32), st.integers(1, 16)), min_size=1, max_size=40)


def make(lengths) -> tuple[list[Example], Ladder]:
    examples = [example(i, s, t) for i, (s, t) in enumerate(lengths)]
    return examples, fit_ladder([e.need for e in examples], loader(0.1, 4))


@settings(deadline=None)
@given(sizes, st.integers(1, 7), st.integers(0, 3))
def test_an_epoch_shows_every_example_once(lengths, batch_size, seed):
    examples, ladder = make(lengths)
    batches = TrainingBatches(examples, batch_size, ladder, seed)
    for epoch in range(2):
        start = epoch * batches.per_epoch
        shown = [batches[step].index_B for step in range(start, start + batches.per_epoch)]
        counts = Counter(np.concatenate(shown).tolist())
        counts.pop(-1, None)
        assert counts == dict.fromkeys(range(len(examples)), 1)


@settings(deadline=None)
@given(sizes, st.integers(1, 7), st.integers(0, 50), st.integers(0, 50))
def test_blanks_have_the_sizes_of_the_batches_to_come(lengths, batch_size, start, count):
    examples, ladder = make(lengths)
    batches = TrainingBatches(examples, batch_size, ladder, 3)
    end = (start // batches.per_epoch + 1) * batches.per_epoch

    def sizes_of(found: list[Batch]) -> list[tuple[tuple[int, ...], ...]]:
        return [tuple(x.shape for x in batch if isinstance(x, np.ndarray)) for batch in found]

    blanks = batches.blanks(start, start + count)
    coming = [batches[step] for step in range(start, min(start + count, end))]
    assert sizes_of(blanks) == list(dict.fromkeys(sizes_of(coming)))
    for blank in blanks:
        assert blank.examples == [None] * batch_size and not blank.source_BxS.any()
    # With a share of .5 every second step is unlabeled: half as many labeled ones come.
    mixed = MixedBatches(batches, TrainingBatches(examples, batch_size, ladder, 4), 0.5)
    assert sizes_of(mixed.blanks(0, 4)) == sizes_of(batches.blanks(0, 2))


@settings(deadline=None)
@given(sizes, st.integers(1, 7))
def test_batches_have_the_ladders_sizes_and_are_full_where_a_larger_one_follows(
    lengths, batch_size
):
    examples, ladder = make(lengths)
    assert len(ladder.rungs) <= 4
    batches = list(evaluation_batches(examples, batch_size, ladder))
    sizes = [(b.source_BxS.shape[1], b.target_BxT.shape[1]) for b in batches]
    assert set(sizes) <= set(ladder.rungs)
    used = {ladder.of(e.need) for e in examples}
    for batch, (s, t) in zip(batches, sizes, strict=True):
        if (batch.index_B < 0).any():
            assert not any(other != (s, t) and other[0] >= s and other[1] >= t for other in used)


@settings(deadline=None)
@given(sizes)
def test_a_rung_holds_every_example_and_more_rungs_mean_less_padding(lengths):
    needs = [e.need for e in make(lengths)[0]]
    totals = []
    for max_rungs in (1, 2, 4):
        ladder = fit_ladder(needs, loader(0.0, max_rungs))
        assert 1 <= len(ladder.rungs) <= max_rungs
        assert all(size in ladder.rungs for size in map(ladder.of, needs))
        totals.append(sum(map(sum, map(ladder.of, needs))))
    assert totals == sorted(totals, reverse=True)
    assert len(fit_ladder(needs, loader(1.0, 4)).rungs) == 1


@pytest.mark.parametrize("name", ["mit_restaurant", "snips"])
def test_at_most_15_percent_of_the_positions_of_published_sets_is_padding(data_dir, name):
    config = load(f"configs/{name}.py")
    config.data.dir = str(data_dir)
    corpus = read_corpus(config)
    task = make_task(config, corpus)
    examples = encode(corpus.train, task.format)
    for batch_size in (config.groot.batch_size, config.nll.batch_size):
        batches = TrainingBatches(examples, batch_size, task.ladder, 0)
        epoch = [batches[step] for step in range(batches.per_epoch)]
        assert padding_share(epoch) <= 0.15


@settings(deadline=None)
@given(sizes, st.integers(1, 7))
def test_a_row_holds_its_example_and_then_padding(lengths, batch_size):
    examples, ladder = make(lengths)
    for batch in evaluation_batches(examples, batch_size, ladder):
        for row, index in enumerate(batch.index_B.tolist()):
            if index < 0:
                assert batch.cap_B[row] == 0 and not batch.source_BxS[row].any()
                continue
            e = examples[index]
            assert tuple(batch.source_BxS[row, : len(e.source)]) == e.source
            assert not batch.source_BxS[row, len(e.source) :].any()
            assert tuple(batch.target_BxT[row, : len(e.target)]) == e.target
            assert (batch.template_BxL[row, len(e.template) :] == 1).all()


def test_a_batch_depends_on_seed_and_step_alone():
    examples, ladder = make([(s % 30 + 1, s % 15 + 1) for s in range(50)])
    a, b = (TrainingBatches(examples, 4, ladder, 3) for _ in range(2))
    for step in (0, 40, 7, 13, 40):
        np.testing.assert_array_equal(a[step].index_B, b[step].index_B)
    other = TrainingBatches(examples, 4, ladder, 4)
    assert any((a[i].index_B != other[i].index_B).any() for i in range(10))
    epochs = [[tuple(a[i + e * a.per_epoch].index_B) for i in range(a.per_epoch)] for e in (0, 1)]
    assert epochs[0] != epochs[1]


def test_reading_from_a_step_gives_what_random_access_gives():
    examples, ladder = make([(s % 30 + 1, s % 15 + 1) for s in range(50)])
    batches = TrainingBatches(examples, 4, ladder, 3)
    stream = batches.from_step(9)
    for step in range(9, 9 + 2 * batches.per_epoch):
        np.testing.assert_array_equal(next(stream).index_B, batches[step].index_B)


@pytest.mark.parametrize(
    ("share", "unlabeled"),
    [(0.0, []), (0.25, [3, 7, 11]), (0.5, [1, 3, 5, 7, 9, 11]), (0.1, [9]), (1.0, [*range(12)])],
)
def test_a_share_of_the_batches_is_unlabeled_and_both_kinds_come_in_their_own_order(
    share, unlabeled
):
    examples, ladder = make([(5, 4)] * 7)
    gold = TrainingBatches(examples, 2, ladder, 3)
    none = TrainingBatches([dataclasses.replace(e, unlabeled=True) for e in examples], 2, ladder, 3)
    mixed = MixedBatches(gold, none, share)
    assert [step for step in range(12) if mixed.is_unlabeled(step)] == unlabeled
    turns = {False: 0, True: 0}
    for step in range(12):
        kind = step in unlabeled
        want = (none if kind else gold)[turns[kind]]
        turns[kind] += 1
        assert mixed[step].index_B.tolist() == want.index_B.tolist()
        assert {e.unlabeled for e in mixed[step].examples if e} == {kind}
    later = mixed.from_step(5, threads=1)
    assert [next(later).index_B.tolist() for _ in range(3)] == [
        mixed[step].index_B.tolist() for step in (5, 6, 7)
    ]
    assert mixed.per_epoch == gold.per_epoch


@pytest.mark.parametrize("share", [0.01, 0.07, 0.29, 0.3, 0.7, 0.9, 0.99])
def test_of_a_hundred_batches_the_share_is_unlabeled(share):
    examples, ladder = make([(5, 4)] * 3)
    batches = TrainingBatches(examples, 2, ladder, 0)
    mixed = MixedBatches(batches, batches, share)
    assert sum(map(mixed.is_unlabeled, range(100))) == round(100 * share)


def test_hidden_words_are_drawn_anew_in_each_step_and_padding_is_never_hidden():
    examples, ladder = make([(7, 5), (8, 6), (6, 4), (8, 8)])
    plain = TrainingBatches(examples, 4, ladder, 0)
    hide = Hide(0.4, unknown=99, kept=(0, 9))  # Of 8 source ids, 2 .. 9, the last stands for EOS.
    shown = [TrainingBatches(examples, 4, ladder, 0, hide=hide)[step] for step in range(40)]
    again = TrainingBatches(examples, 4, ladder, 0, hide=hide)[39]
    np.testing.assert_array_equal(again.source_BxS, shown[39].source_BxS)
    hidden = words = 0
    for step, batch in enumerate(shown):
        before = plain[step].source_BxS
        kept = np.isin(before, hide.kept)
        np.testing.assert_array_equal(batch.source_BxS[kept], before[kept])
        changed = batch.source_BxS != before
        assert (batch.source_BxS[changed] == 99).all()
        hidden, words = hidden + changed.sum(), words + (~kept).sum()
    assert 0.35 < hidden / words < 0.45
    assert len({batch.source_BxS.tobytes() for batch in shown}) > 30


def test_a_sentence_over_the_largest_bucket_names_the_key():
    with pytest.raises(UserError, match="loader.source_buckets"):
        Ladder(SOURCE, TARGET).of((33, 3))
