"""Which ids may follow in an output, as numpy tables that the beam search carries on the device.

Made from a format's tags alone; a sentence's literals come in its template. May not know of
models, scores or words. numpy only, no JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groot_jax.data.format import Format
from groot_jax.data.formats import TAG as TAG
from groot_jax.errors import UserError

# What may still come in a tag slot: (pieces left, start phase after the tag).
_Rest = frozenset[tuple[tuple[int, ...], int]]


@dataclass(frozen=True)
class Grammar:
    """A deterministic automaton over the pieces of one tag; G phases, C output columns.

    Phase 0 starts a tag where no span is open (`I` is illegal), phase 1 where one is; the others
    are inside a tag of several pieces. At a literal of the template only that id is legal. In a tag
    slot, `allowed` says which columns are; a column with `done` ends the tag for certain and the
    walk moves past the slot; otherwise it stays in the slot. `next` is the phase afterwards. In a
    `terminal` phase the tag may be complete already: then the literal after the slot is legal too,
    the walk moves past both, and goes on in `end_phase`.

    columns_C: int32 vocabulary ids, ascending. allowed_GxC, done_GxC: bool. next_GxC: int32, 0
    where not allowed. terminal_G: bool. end_phase_G: int32, 0 where not terminal.
    """

    format: Format
    columns_C: np.ndarray
    allowed_GxC: np.ndarray
    next_GxC: np.ndarray
    done_GxC: np.ndarray
    terminal_G: np.ndarray
    end_phase_G: np.ndarray


class Runs(NamedTuple):
    """What is forced after a choice inside a tag slot, so that the search need not stop for it.

    Taking column c in phase g is followed by the pieces run_GxCxP[g, c] (-1 = no more of them), for
    the tag has no other way to go on; `next` and `done` are those of `Grammar` after the run.
    """

    run_GxCxP: np.ndarray
    next_GxC: np.ndarray
    done_GxC: np.ndarray


class Chunks(NamedTuple):
    """How a search cuts outputs into steps: each feeds a chosen token and what it forces."""

    width: int  # tokens of the longest chunk
    steps: int  # steps of the longest output, the one that chooses EOS included
    even: bool  # all chunks are `width` long but each sentence's last


def make_grammar(format_: Format, normalise: str, vocab_size: int) -> Grammar:
    """The grammar of a format's outputs.

    normalise: "legal" for the format's own columns, "full" for all `vocab_size` (that of the model,
    padding included). A format without a closed set of ids has all of them in either case.
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
    allowed_GxC, done_GxC = np.zeros((G, C), bool), np.zeros((G, C), bool)
    next_GxC = np.zeros((G, C), np.int32)
    terminal_G, end_phase_G = np.zeros(G, bool), np.zeros(G, np.int32)
    for rest, phase in phases.items():
        for pieces, end in rest:
            if not pieces:
                terminal_G[phase], end_phase_G[phase] = True, end
        for piece, after in _steps(rest).items():
            column = int(np.searchsorted(columns_C, piece))
            leaf = _leaf(after)
            allowed_GxC[phase, column] = True
            done_GxC[phase, column] = leaf is not None
            next_GxC[phase, column] = phases[after] if leaf is None else leaf
    return Grammar(format_, columns_C, allowed_GxC, next_GxC, done_GxC, terminal_G, end_phase_G)


def _phases(tags: dict[str, tuple[int, ...]]) -> dict[_Rest, int]:
    """All phases, numbered; equal rests are one phase, so the automaton is minimal."""
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
    """Piece -> what may come after it, by ascending piece."""
    steps: dict[int, set[tuple[tuple[int, ...], int]]] = {}
    for pieces, end in rest:
        if pieces:
            steps.setdefault(pieces[0], set()).add((pieces[1:], end))
    return {piece: frozenset(steps[piece]) for piece in sorted(steps)}


def _leaf(rest: _Rest) -> int | None:
    """The start phase after a tag that is certainly complete, else None."""
    (pieces, end), *others = rest
    return None if pieces or others else end


def forced_runs(grammar: Grammar) -> Runs:
    """Follows every choice to the next place where there is more than one way to go on."""
    next_GxC, done_GxC = grammar.next_GxC.copy(), grammar.done_GxC.copy()
    options_G = grammar.allowed_GxC.sum(1) + grammar.terminal_G
    runs: dict[tuple[int, int], list[int]] = {}
    for phase, column in np.argwhere(grammar.allowed_GxC & ~grammar.done_GxC).tolist():
        run = runs[phase, column] = []
        at = int(next_GxC[phase, column])
        while options_G[at] == 1 and not done_GxC[phase, column]:
            (only,) = np.flatnonzero(grammar.allowed_GxC[at])
            run.append(int(grammar.columns_C[only]))
            done_GxC[phase, column] = grammar.done_GxC[at, only]
            at = next_GxC[phase, column] = int(grammar.next_GxC[at, only])
    run_GxCxP = np.full((*next_GxC.shape, max(map(len, runs.values()), default=0)), -1, np.int32)
    for (phase, column), run in runs.items():
        run_GxCxP[phase, column, : len(run)] = run
    return Runs(run_GxCxP, next_GxC, done_GxC)


def chunks(grammar: Grammar, runs: Runs, length: int) -> Chunks:
    """The chunks of outputs of up to `length` ids.

    A chunk holds a chosen piece, the forced pieces after it, and up to `_LITERALS` literals.
    """
    format_ = grammar.format
    literals = min(format_.literals_per_word, _LITERALS)
    forced = runs.run_GxCxP.shape[2]
    width = 1 + forced + literals
    # Steps for the tags, for literals beyond what a chunk takes along, and for EOS.
    steps = format_.words_in(length) * _choices(grammar, runs) + 1
    if format_.columns_C is None:
        steps += length // width
    leading = int(format_.template(("w",))[0] != TAG)
    return Chunks(width, min(steps, length), not forced and literals == leading)


# Literals that one step takes along; a word's pieces, which `input_tag` repeats, may be more.
_LITERALS = 4


def _choices(grammar: Grammar, runs: Runs) -> int:
    """Choices in a tag slot, at most."""

    def from_phase(phase: int) -> int:
        after = grammar.allowed_GxC[phase] & ~runs.done_GxC[phase]
        return 1 + max((from_phase(int(g)) for g in set(runs.next_GxC[phase, after])), default=0)

    return max(from_phase(0), from_phase(1))


def accepts(grammar: Grammar, template: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether the walk that `Grammar` describes takes `ids` and ends with the template. Slow."""
    column_of = {int(id_): column for column, id_ in enumerate(grammar.columns_C)}
    pointer = phase = 0
    for id_ in ids:
        if pointer == len(template) or id_ not in column_of:
            return False
        column = column_of[id_]
        if template[pointer] != TAG:
            if id_ != template[pointer]:
                return False
            pointer += 1
        elif grammar.allowed_GxC[phase, column]:
            pointer += int(grammar.done_GxC[phase, column])
            phase = int(grammar.next_GxC[phase, column])
        elif grammar.terminal_G[phase] and id_ == template[pointer + 1]:
            pointer += 2
            phase = int(grammar.end_phase_G[phase])
        else:
            return False
    return pointer == len(template)
