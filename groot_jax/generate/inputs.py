"""What goes into a search and what comes out of it, as arrays; without the model and Flax."""

from __future__ import annotations

from typing import NamedTuple

import jax

from groot_jax.data.batches import Batch
from groot_jax.mesh.arrays import AnyArray


class SearchInput(NamedTuple):
    """One batch of sentences as the search reads it; int32."""

    source_BxS: AnyArray  # vocabulary ids, pad 0
    fused_source_BxSxF: AnyArray  # ids of embeddings added on the source side, 0 = none
    template_BxL: AnyArray  # literal ids and TAG slots, EOS last; padded with EOS
    fused_target_BxT: AnyArray  # ids of embeddings added at each decoder step, 0 = none
    aligned_BxT: AnyArray | None  # source position whose encoder output is added; None: none is
    cap_B: AnyArray  # longest output in tokens, EOS included; 0 = a padding row


def search_input(batch: Batch) -> SearchInput:
    """What the search reads of a batch."""
    return SearchInput._make(getattr(batch, name) for name in SearchInput._fields)


class Beams(NamedTuple):
    """Candidates of each sentence, best first."""

    tokens_BxKxT: jax.Array  # vocabulary ids, EOS included, pad after it
    scores_BxK: jax.Array  # s(y): log-probability summed over tokens, EOS included
    valid_BxK: jax.Array  # False: the slot never finished; its score is -inf, its tokens pad
