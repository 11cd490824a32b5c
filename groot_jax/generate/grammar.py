"""Which ids may follow in an output, as numpy tables that the beam search carries to the device.

Made from a format's tags alone; a sentence's literals come in its template. May not know of
models, scores or words. numpy only, no JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from groot_jax.data.format import TAG, Format
from groot_jax.errors import UserError

if TYPE_CHECKING:  # Only the name of a type: this file loads without JAX.
    from groot_jax.mesh.arrays import AnyArray

# What may still come in a tag slot: (pieces left, start phase after the tag).
_Rest = frozenset[tuple[tuple[int, ...], int]]

# Literals that one step takes along; a word's pieces, which `input_tag` repeats, may be more.
_LITERALS = 4


class Grammar(NamedTuple):
    """A deterministic automaton over the pieces of one tag; G phases, C output columns.

    Phase 0 starts a tag where no span is open (`I` is illegal), phase 1 where one is; the others
    are inside a tag of several pieces. At a literal of the template only that id is legal. In a tag
    slot, `allowed` says which columns are. Pieces that a column leaves no choice about are `forced`
    after it. A column with `done` ends the tag for certain, those pieces included, and the walk
    moves past the slot; otherwise it stays in the slot. `next` is the phase afterwards. In a
    `terminal` phase the tag may be complete already: then the literal after the slot is legal too,
    the walk moves past both, and goes on in `end_phase`.

    With a piece for each letter, the types `a` and `aba` make these phases:

        0  no span is open      O -> 0, done    a -> 2
        1  a span is open       O -> 0, done    a -> 2    I -> 1, done
        2  `a` was taken        b -> 1, done, a is forced after it    terminal, end phase 1
        3  `a b` was taken      a -> 1, done (no search stops here: this `a` was forced)
    """

    columns_C: AnyArray  # int32 vocabulary ids that the softmax runs over, ascending
    column_of_V: AnyArray  # int32, the way back; -1: no output column
    allowed_GxC: AnyArray  # bool
    forced_GxCxP: AnyArray  # int32 vocabulary ids, then -1; P: the most of them after any column
    next_GxC: AnyArray  # int32, 0 where not allowed
    done_GxC: AnyArray  # bool
    terminal_G: AnyArray  # bool
    end_phase_G: AnyArray  # int32, 0 where not terminal


class StepPlan(NamedTuple):
    """How a search cuts outputs into steps: each feeds a chunk, a chosen token and what it
    forces."""

    use_grammar: bool  # False: any column may follow
    width: int  # tokens of the longest chunk
    steps: int  # steps of the longest output, the one that chooses EOS included
    even: bool  # all chunks are `width` long but each sentence's last


def make_grammar(format_: Format, normalise: str, vocab_size: int) -> Grammar:
    """The grammar of a format's outputs.

    normalise: "legal" for the format's own columns, "full" for all `vocab_size` (that of the model,
    padding included). A format without a closed set of ids has all of them in either case. Raises
    UserError for any other `normalise`, and ValueError where the tokenizer has more ids.
    """
    if normalise not in ("legal", "full"):
        raise UserError(f"model.normalise: {normalise!r} is neither legal nor full")
    if vocab_size < format_.tokenizer.vocab_size:
        raise ValueError(f"{vocab_size=} lacks ids of the tokenizer's vocabulary")
    columns_C = format_.columns_C
    if normalise == "full" or columns_C is None:
        columns_C = np.arange(vocab_size, dtype=np.int32)
    phases = _phases(format_.tags)
    G, C = len(phases), len(columns_C)
    column_of_V = np.full(vocab_size, -1, np.int32)
    column_of_V[columns_C] = np.arange(C)
    allowed_GxC, done_GxC = np.zeros((G, C), bool), np.zeros((G, C), bool)
    next_GxC = np.zeros((G, C), np.int32)
    terminal_G, end_phase_G = np.zeros(G, bool), np.zeros(G, np.int32)
    forced: dict[tuple[int, int], list[int]] = {}
    for rest, phase in phases.items():
        for pieces, end in rest:
            if not pieces:
                terminal_G[phase], end_phase_G[phase] = True, end
        for piece, after in _steps(rest).items():
            at = phase, int(column_of_V[piece])
            forced[at], after = _follow(after)
            leaf = _leaf(after)
            allowed_GxC[at] = True
            done_GxC[at] = leaf is not None
            next_GxC[at] = phases[after] if leaf is None else leaf
    forced_GxCxP = np.full((G, C, max(map(len, forced.values()))), -1, np.int32)
    for at, ids in forced.items():
        forced_GxCxP[at][: len(ids)] = ids
    return Grammar(
        columns_C,
        column_of_V,
        allowed_GxC,
        forced_GxCxP,
        next_GxC,
        done_GxC,
        terminal_G,
        end_phase_G,
    )


def _phases(tags: dict[str, tuple[int, ...]]) -> dict[_Rest, int]:
    """All phases, numbered; equal rests are one phase, so the automaton is minimal."""
    # After a tag, a span is open unless it was `O`: an `I` may follow a type or another `I`.
    outside: _Rest = frozenset((p, int(tag != "O")) for tag, p in tags.items() if tag != "I")
    phases = {outside: 0, outside | {(tags["I"], 1)}: 1}
    todo = list(phases)
    while todo:
        for after in _steps(todo.pop()).values():
            if _leaf(after) is None and after not in phases:
                phases[after] = len(phases)
                todo.append(after)
    return phases


def _steps(rest: _Rest) -> dict[int, _Rest]:
    """Piece -> what may come after it, by ascending piece.

    {(a, b) then 1, (a) then 1, (O) then 0} -> {a: {(b) then 1, () then 1}, O: {() then 0}}
    """
    steps: dict[int, set[tuple[tuple[int, ...], int]]] = {}
    for pieces, end in rest:
        if pieces:
            steps.setdefault(pieces[0], set()).add((pieces[1:], end))
    return {piece: frozenset(steps[piece]) for piece in sorted(steps)}


def _leaf(rest: _Rest) -> int | None:
    """The start phase after a tag that is certainly complete, else None."""
    (pieces, end), *others = rest
    return None if pieces or others else end


def _follow(rest: _Rest) -> tuple[list[int], _Rest]:
    """The pieces that come next for certain, and what may come after them.

    {(b, a) then 1} -> [b, a], {() then 1}; but {(b, a) then 1, () then 1} -> [], itself: the tag
    may end here or go on with b.
    """
    forced = []
    while all(pieces for pieces, _ in rest):
        steps = _steps(rest)
        if len(steps) > 1:
            break
        ((piece, rest),) = steps.items()
        forced.append(piece)
    return forced, rest


def plan_steps(format_: Format, grammar: Grammar, length: int, use_grammar: bool) -> StepPlan:
    """The steps of outputs of up to `length` ids, EOS included.

    A chunk holds a chosen piece, the forced pieces after it, and up to `_LITERALS` literals.
    """
    if not use_grammar:
        return StepPlan(use_grammar, width=1, steps=length, even=True)  # Nothing is forced.
    literals = min(format_.literals_per_word, _LITERALS)
    forced = grammar.forced_GxCxP.shape[2]
    width = 1 + forced + literals
    # Steps for the tags, for literals beyond what a chunk takes along, and for EOS. 21 ids in
    # sentinel_tag with tags of one piece are 10 words: 11 steps of 2 tokens.
    steps = format_.words_in(length) * _choices(grammar) + 1
    if format_.columns_C is None:
        steps += length // width
    # The first chunk is the start token with the literals before the first tag, a later one a tag
    # with those behind it: `start <0>`, `O <1>`, `brand <2>` are even, `start`, `O ;` are not.
    leading = int(format_.template(("w",))[0] != TAG)
    return StepPlan(use_grammar, width, min(steps, length), not forced and literals == leading)


def _choices(grammar: Grammar) -> int:
    """Choices in a tag slot, at most: 1 where each first piece settles the tag."""

    def from_phase(phase: int) -> int:
        after_C = grammar.allowed_GxC[phase] & ~grammar.done_GxC[phase]
        phases = set(grammar.next_GxC[phase, after_C])
        return 1 + max((from_phase(int(g)) for g in phases), default=0)

    return max(from_phase(0), from_phase(1))
