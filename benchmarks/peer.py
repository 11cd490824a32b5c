"""What every peer has in common: tags of its spans, our metrics of its labelings, its package.

May know of no peer in particular but the names of their packages.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from groot_jax.data.labeling import Candidate, Labeling, Sentence, Span
from groot_jax.errors import UserError
from groot_jax.evaluation.metrics import one_by_one, score_beams, summarise, totals
from groot_jax.reward.rewards import Reward, RewardSpec, make_reward

PEERS = {"crf": "python-crfsuite", "spacy": "spacy"}


class Peer(Protocol):
    """A trained labeler that gives one labeling a sentence."""

    facts: dict[str, float]  # How its training went, for --json.

    def tag(self, sentences: Sequence[Sentence]) -> list[Labeling]:
        """The labeling of each sentence; gold is not looked at."""

    def confidences(
        self, sentences: Sequence[Sentence], labelings: Sequence[Labeling]
    ) -> list[tuple[float, ...]]:
        """The probability that the peer gives to each span of what it tagged, in their order."""


def bio_tags(labeling: Labeling, num_words: int) -> list[str]:
    """`B-type` on the first word of a span, `I-type` on its others, `O` elsewhere."""
    # (0, 2, "brand") of 3 words: B-brand I-brand O.
    tags = ["O"] * num_words
    for start, end, type_ in labeling:
        tags[start:end] = ["B-" + type_] + ["I-" + type_] * (end - start - 1)
    return tags


def labeling_of_bio(tags: Sequence[str]) -> Labeling:
    """Inverse of `bio_tags`, leniently as conlleval: an `I-` with no span of its type before it
    begins one, so that `O I-a I-b` has the spans (1, 2, a) and (2, 3, b)."""
    spans: list[Span] = []
    for i, tag in enumerate(tags):
        prefix, _, type_ = tag.partition("-")
        last = spans[-1] if spans else None
        if prefix == "I" and last and (last.end, last.type) == (i, type_):
            spans[-1] = last._replace(end=i + 1)
        elif prefix != "O":
            spans.append(Span(i, i + 1, type_))
    return tuple(spans)


def score(
    sentences: Sequence[Sentence], labelings: Sequence[Labeling], rewards: Mapping[str, Reward]
) -> dict[str, Any]:
    """Our metrics of lists that hold one labeling each."""
    beams = [[Candidate(labeling)] for labeling in labelings]
    given = {name: one_by_one(reward) for name, reward in rewards.items()}
    return summarise(totals(score_beams(sentences, beams, given), "f1", ks=()), "f1")


def span_f1(sentences: Sequence[Sentence], labelings: Sequence[Labeling]) -> float:
    metrics = score(sentences, labelings, {"f1": make_reward(RewardSpec("f1"))})
    return float(metrics["span_f1"])


def require(kind: str, module: str) -> Any:
    """A module of a peer's package; raises UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that is there and misses one of its own is another mistake.
        if error.name and error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise UserError(
            f"the peer {kind} needs {PEERS[kind]}, which is not installed: "
            "pip install -e '.[peers]' -c constraints.txt"
        ) from None
