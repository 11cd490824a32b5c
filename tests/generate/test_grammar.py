"""The grammar takes the serialisations of all labelings and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groot_jax.data.format import TAG, Format
from groot_jax.data.formats import FORMATS, make_format
from groot_jax.data.labeling import Sentence, labeling_of_word_tags
from groot_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from groot_jax.errors import UserError
from groot_jax.generate.grammar import Grammar, make_grammar
from tests.generate.toy import Letters, toy

WORDS = ("w", "v", "w")


def grammar_of(format_: Format, normalise: str = "legal") -> Grammar:
    return make_grammar(format_, normalise, format_.tokenizer.vocab_size)


def accepts(grammar: Grammar, template: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether the walk that `Grammar` describes takes `ids` and ends with the template."""
    left = list(ids)
    pointer = phase = 0
    while left:
        id_ = left.pop(0)
        column = grammar.column_of_V[id_]
        if pointer == len(template) or column < 0:
            return False
        if template[pointer] != TAG:
            if id_ != template[pointer]:
                return False
            pointer += 1
        elif grammar.allowed_GxC[phase, column]:
            for forced in grammar.forced_GxCxP[phase, column].tolist():
                if forced >= 0 and (not left or left.pop(0) != forced):
                    return False
            pointer += int(grammar.done_GxC[phase, column])
            phase = int(grammar.next_GxC[phase, column])
        elif grammar.terminal_G[phase] and id_ == template[pointer + 1]:
            pointer += 2
            phase = int(grammar.end_phase_G[phase])
        else:
            return False
    return pointer == len(template)


def all_targets(format_: Format, words) -> set[tuple[int, ...]]:
    """Targets of all labelings, by way of all tag strings."""
    found = set()
    for tags in product(("O", "I", *format_.types), repeat=len(words)):
        labeling, no_orphan = labeling_of_word_tags(tags)
        if no_orphan:
            found.add(format_.target(labeling, words))
    return found


@pytest.mark.parametrize("normalise", ["legal", "full"])
@pytest.mark.parametrize(
    ("name", "types", "num_words"),
    [
        # "a" is a prefix of "ab" and "aba"; "b" is what may follow it, and a tag too.
        ("sentinel_tag", ("a", "ab", "aba", "b"), 1),
        # A type that goes on with what reads like `I`.
        ("sentinel_tag", ("a", "aI"), 2),
        ("fused_sentinel", ("a", "ab"), 3),
        ("tag_only", ("a", "ab"), 2),
        ("tag_only", ("a", "b"), 3),
        ("input_tag", ("a", "ab"), 1),
        # `I` is a prefix of a type: legal inside that type where `I` itself is not.
        ("tag_only", ("Ia", "b"), 2),
    ],
)
def test_what_is_accepted_is_exactly_the_serialisations(name, types, num_words, normalise):
    format_, words = toy(name, types), WORDS[:num_words]
    grammar, template = grammar_of(format_, normalise), format_.template(words)
    targets = all_targets(format_, words)
    # Ids that no target holds are tried one by one below, to keep the enumeration small.
    alphabet = sorted({id_ for target in targets for id_ in target})
    lengths = range(max(map(len, targets)) + 1)
    accepted = {
        ids
        for length in lengths
        for ids in product(alphabet, repeat=length)
        if accepts(grammar, template, ids)
    }
    assert accepted == targets
    for target in targets:
        assert not accepts(grammar, template, (*target, format_.tokenizer.eos_id))
        for i in range(len(target)):
            for other in set(range(format_.tokenizer.vocab_size)) - set(alphabet):
                assert not accepts(grammar, template, (*target[:i], other, *target[i + 1 :]))


@lru_cache
def trained() -> Tokenizer:
    sentence = Sentence(("add", "kent", "to", "the", "list"), ())
    return train_tokenizer([sentence], ("object", "object_type", "x"), 40)


@lru_cache
def cached(name: str, kind: str, data_dir=None) -> tuple[Format, Grammar, Grammar]:
    if kind == "t5":
        tokenizer = load_tokenizer(data_dir / "t5_vocab" / "spiece.model")
    else:
        tokenizer = trained() if kind == "trained" else Tokenizer(Letters())
    types = ("a", "ab", "Ib", "bab") if kind == "letters" else ("object", "object_type", "x")
    format_ = make_format(name, tokenizer, types)
    return format_, grammar_of(format_), grammar_of(format_, "full")


def check_that_it_is_accepted(data, format_, grammars):
    words = data.draw(
        st.lists(st.sampled_from([*WORDS, "]", "<extra_id_0>"]), min_size=1, max_size=3)
    )
    tags = [data.draw(st.sampled_from(["O", "I", "I", *format_.types])) for _ in words]
    labeling, _ = labeling_of_word_tags(tags)
    template, target = format_.template(words), format_.target(labeling, words)
    for grammar in grammars:
        assert set(target) <= set(grammar.columns_C.tolist())
        assert accepts(grammar, template, target)
        assert not accepts(grammar, template, target[:-1])
        for i in range(len(target)):
            other = (*target[:i], data.draw(st.sampled_from(sorted(set(target)))), *target[i + 1 :])
            if accepts(grammar, template, other):
                read, well_formed = format_.read(other, words)
                assert well_formed
                assert format_.target(read, words) == other


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("kind", ["letters", "trained"])
@settings(deadline=None)
@given(data=st.data())
def test_every_target_is_accepted_and_every_accepted_output_is_a_target(kind, name, data):
    format_, *grammars = cached(name, kind)
    check_that_it_is_accepted(data, format_, grammars)


@pytest.mark.parametrize("name", list(FORMATS))
@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_every_target_in_t5s_pieces_is_accepted(data_dir, name, data):
    format_, grammar, _ = cached(name, "t5", data_dir)
    check_that_it_is_accepted(data, format_, [grammar])


def test_an_inside_tag_needs_a_span_before_it():
    format_ = toy("fused_sentinel", ("a",))
    grammar = grammar_of(format_)
    (column_of_i,) = np.flatnonzero(grammar.columns_C == format_.tags["I"][0])
    (column_of_o,) = np.flatnonzero(grammar.columns_C == format_.tags["O"][0])
    assert not grammar.allowed_GxC[0, column_of_i]
    assert grammar.allowed_GxC[1, column_of_i]
    assert grammar.next_GxC[1, column_of_i] == 1
    assert grammar.next_GxC[1, column_of_o] == 0
    assert not grammar.terminal_G.any()


def test_the_phases_of_a_and_aba():
    """Those that the docstring of `Grammar` shows."""
    format_ = toy("sentinel_tag", ("a", "aba"))
    grammar = grammar_of(format_)
    column = {tag: grammar.column_of_V[format_.tags[tag][0]] for tag in ("O", "I", "a")}
    a, b = format_.tags["aba"][:2]
    column["b"] = grammar.column_of_V[b]
    wanted = {
        (0, "O"): (0, True, []),
        (0, "a"): (2, False, []),
        (1, "O"): (0, True, []),
        (1, "a"): (2, False, []),
        (1, "I"): (1, True, []),
        (2, "b"): (1, True, [a]),
        (3, "a"): (1, True, []),
    }
    assert grammar.allowed_GxC.sum() == len(wanted)
    for (phase, tag), (after, done, forced) in wanted.items():
        at = phase, column[tag]
        assert grammar.allowed_GxC[at]
        assert (grammar.next_GxC[at], grammar.done_GxC[at]) == (after, done)
        assert [id_ for id_ in grammar.forced_GxCxP[at] if id_ >= 0] == forced
    assert grammar.terminal_G.tolist() == [False, False, True, False]
    assert grammar.end_phase_G[2] == 1


def test_phases_are_as_few_as_can_be():
    # After "a" in either start phase the same may follow, so one phase serves both.
    assert len(grammar_of(toy("sentinel_tag", ("a", "ab"))).terminal_G) == 3
    assert len(grammar_of(toy("sentinel_tag", ("a", "b"))).terminal_G) == 2


def test_columns_are_the_formats_own_or_the_whole_vocabulary():
    format_ = toy("sentinel_tag", ("a",))
    assert grammar_of(format_).columns_C is format_.columns_C
    full = make_grammar(format_, "full", 40)
    assert full.columns_C.tolist() == list(range(40))
    assert full.allowed_GxC.shape == full.next_GxC.shape == full.done_GxC.shape
    assert full.allowed_GxC.sum() == grammar_of(format_).allowed_GxC.sum()
    assert make_grammar(toy("input_tag", ("a",)), "legal", 40).columns_C.tolist() == list(range(40))


def test_tables_have_the_types_that_the_search_carries():
    grammar = grammar_of(toy("sentinel_tag", ("a", "ab")))
    for table in (grammar.columns_C, grammar.next_GxC, grammar.end_phase_G):
        assert table.dtype == np.int32
    for table in (grammar.allowed_GxC, grammar.done_GxC, grammar.terminal_G):
        assert table.dtype == bool
    assert (grammar.allowed_GxC | ~grammar.done_GxC).all()


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(UserError, match=r"model\.normalise"):
        make_grammar(toy("sentinel_tag", ("a",)), "some", 40)
