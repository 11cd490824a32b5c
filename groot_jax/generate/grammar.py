"""Which ids may follow in an output, as numpy tables that the beam search carries on the device.

Made from a format's tags alone; a sentence's literals come in its template. May not know of
models, scores or words. numpy only, no JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groot_jax.data.formats import TAG as TAG
from groot_jax.data.formats import Format
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

    columns_C: np.ndarray
    allowed_GxC: np.ndarray
    next_GxC: np.ndarray
    done_GxC: np.ndarray
    terminal_G: np.ndarray
    end_phase_G: np.ndarray


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
    return Grammar(columns_C, allowed_GxC, next_GxC, done_GxC, terminal_G, end_phase_G)


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
