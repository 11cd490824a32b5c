"""The jitted beam search: top-k label sequences with their scores, best first.

Works on ids and scores alone and may not know what a word or a span is; the grammar comes in as
tables (`generate/grammar.py`), the model as the methods of `model/t5.py`.

How a step goes. Each of the K running beams of a sentence feeds a chunk of at most W tokens to the
decoder: the token chosen last, and those that the grammar forces after it (the next sentinel, the
other pieces of a tag). Their log-probabilities count, but nothing is there to choose, so a sentence
takes one step per word. The N = K*W new nodes of step i go to cache slots i*N .. i*N + N-1 and
never move again. `ancestor_BxKxI` says which beam of each earlier step lies on a beam's own path,
and attention is masked to those slots, so that choosing new beams reorders K*I small integers and
not the cache. Chunks and parent pointers are kept per step; one backtrack at the end spells the
sequences out. For K = 2 and a sentence of two words in sentinel_tag:

    step 0   feeds  start <0>                    chooses brand, O
    step 1   feeds  brand <1> | O <1>            chooses I, color      (both from `brand`)
    step 2   feeds  I | color                    chooses EOS twice: both end
    result   [<0> brand <1> I EOS], [<0> brand <1> color EOS]
"""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp

from groot_jax.generate.backtrack import spelled
from groot_jax.generate.grammar import Grammar, StepPlan
from groot_jax.generate.inputs import Beams, SearchInput
from groot_jax.generate.steps import SearchSteps, grown, read_before_the_loop
from groot_jax.model.layers import Params
from groot_jax.model.t5 import T5


def beam_search(
    model: T5,
    params: Params,
    grammar: Grammar,
    plan: StepPlan,
    inputs: SearchInput,
    *,
    k: int,
    length_penalty: float = 0.0,
    keep_unfinished: bool = False,
    dropout_key: jax.Array | None = None,
) -> Beams:
    """Top-k outputs of each sentence under the model, best first.

    Follows the rules of torch's search in transformers: of the 2K best continuations those that end
    among the first K are finished, the K best others run on, and a sentence is done when K have
    finished and no running beam can still beat the worst of them. `settled` is latched per
    sentence, so neighbours and padding change nothing. A continuation is a choice with all that it
    forces; beams are compared after equally many choices. Scores are normalised over the columns of
    the grammar, which forbids continuations but does not renormalise, so that a returned score
    equals the teacher-forced score of the same ids.

    Args:
      model: the Flax module; params: its parameters.
      grammar: of the format.
      plan: for outputs of T tokens, with the same grammar; where it does not use the grammar, any
        column may follow, one token a step.
      inputs: a batch; T is the width of `fused_target_BxT`, the tokens of an output at most.
      k: beams, and candidates returned.
      length_penalty: candidates are ranked by s(y) / tokens**length_penalty.
      keep_unfinished: running beams of a sentence that is out of steps count as candidates, without
        EOS. The grammar leaves none.
      dropout_key: where given, the encoder runs with its dropout on.
    """
    T = inputs.fused_target_BxT.shape[1]
    # A traced index needs jax arrays; in the compiled program they are constants.
    grammar = jax.tree.map(jnp.asarray, grammar)
    search = SearchSteps(
        model=model,
        inputs=inputs,
        grammar=grammar,
        plan=plan,
        k=k,
        length_penalty=length_penalty,
        keep_unfinished=keep_unfinished,
        read=read_before_the_loop(model, params, grammar, inputs, dropout_key),
    )
    ends = _segments(plan.steps)
    # The first step stands outside of the loop, whose state must keep its shape: it has one beam
    # a sentence, for all K would be one and the same.
    state = search.step(search.start(ends[0]))
    for end in ends:
        state = jax.lax.while_loop(
            search.running, search.step, grown(state, end, search.nodes_a_step)
        )
    valid_BxK = jnp.isfinite(state.finished.rank_BxK)
    tokens_BxKxT = spelled(state.trail, state.finished, T, model.config.eos_token_id)
    # The pad id fills what is not a token.
    return Beams(
        jnp.where(valid_BxK[..., None], tokens_BxKxT, 0), state.finished.score_BxK, valid_BxK
    )


def _segments(steps: int) -> list[int]:
    """Where the cache grows: all its slots are attended to, so early steps should have few.

    Each segment compiles the step again, which short outputs do not pay back. 7 steps -> [7],
    20 -> [10, 20], 33 -> [9, 17, 25, 33]: four segments at most.
    """
    count = min(max(steps // 8, 1), 4)
    return [-(-steps * i // count) for i in range(1, count + 1)]


def loop_trips(steps: int) -> tuple[int, ...]:
    """Turns that each of a search's loops takes at most, in their order: those of the segments,
    then the backtrack. 20 steps -> 9, 10, 21: the first step stands outside of the loops, and
    the backtrack reads a row for each step and one for the start."""
    ends = [1, *_segments(steps)]
    return (*(end - start for start, end in pairwise(ends)), steps + 1)
