"""spaCy's NER trained from scratch with its own settings, and the confidences that it has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from benchmarks.peer import bio_tags, require, span_f1
from groot_jax.data.corpus import Corpus
from groot_jax.data.labeling import Labeling, Sentence, Span

# The model is evaluated on dev after each epoch; the training ends after so many evaluations
# without a better one. On MIT Restaurant the best was the eighth (F1 .784), and the seven after it
# were all worse.
SPACY_PATIENCE = 5
SPACY_EPOCHS = 20
# As spaCy's own examples of beam_parse have them. Parses below a share `density` of the best one's
# probability are cut off.
BEAM_WIDTH = 16
BEAM_DENSITY = 1e-4
# Docs parsed at a time: a beam keeps 16 parser states for each.
BEAM_DOCS = 64


class SpacyNer:
    """spaCy's transition-based NER with its own tokenizer out of the way: words are given."""

    def __init__(self, types: Sequence[str]):
        self.facts: dict[str, float] = {}
        self.nlp = require("spacy", "spacy").blank("en")
        self.ner = self.nlp.add_pipe("ner")
        for type_ in types:
            self.ner.add_label(type_)

    def doc(self, words: Sequence[str], labeling: Labeling | None = None) -> Any:
        """A Doc of these words, with gold spans where a labeling is given.

        spaCy lets no span begin with a word of white space alone, such as a no-break space, and so
        would never find one that does: such words become a dash.
        """
        texts = ["-" if word.isspace() else word for word in words]
        tags = None if labeling is None else bio_tags(labeling, len(words))
        doc_type = require("spacy", "spacy.tokens").Doc
        return doc_type(self.nlp.vocab, words=texts, ents=tags)

    def tag(self, sentences: Sequence[Sentence]) -> list[Labeling]:
        docs = self.ner.pipe(self.doc(sentence.words) for sentence in sentences)
        return [tuple(Span(ent.start, ent.end, ent.label_) for ent in doc.ents) for doc in docs]

    def confidences(
        self, sentences: Sequence[Sentence], labelings: Sequence[Labeling]
    ) -> list[tuple[float, ...]]:
        """The share of a beam of parses that holds the span, by the parses' probabilities; 0 where
        none does, which happens, as the greedy parse need not be in the beam.

        The pipe is trained greedily, so that a parse's score, a sum over its transitions, was never
        asked to be a probability: these are the confidences that spaCy has, not good ones.
        """
        found: list[tuple[float, ...]] = []
        for at in range(0, len(sentences), BEAM_DOCS):
            docs = [self.doc(sentence.words) for sentence in sentences[at : at + BEAM_DOCS]]
            beams = self.ner.beam_parse(docs, beam_width=BEAM_WIDTH, beam_density=BEAM_DENSITY)
            scores = self.ner.scored_ents(beams)
            for labeling, by_span in zip(labelings[at : at + BEAM_DOCS], scores, strict=True):
                found.append(tuple(float(by_span.get(tuple(span), 0.0)) for span in labeling))
        return found


def train_spacy(
    corpus: Corpus, seed: int, epochs: int = SPACY_EPOCHS, patience: int = SPACY_PATIENCE
) -> SpacyNer:
    """Trains with the batches, dropout and optimizer of spaCy's default config; the weights with
    the best span F1 on dev are kept.

    spaCy's own loop evaluates on dev every 200 updates and gives up after 1,600 without a better
    one. At the 1,000 words a batch that it reaches after 2,300 updates those are 14 to 32 epochs of
    the five built-in configs' sets, which take 5 minutes and more; hence the shorter patience.
    """
    spacy, training = require("spacy", "spacy"), require("spacy", "spacy.training")
    spacy.util.fix_random_seed(seed)
    peer = SpacyNer(corpus.types)
    examples = [
        training.Example(peer.doc(s.words), peer.doc(s.words, s.labeling)) for s in corpus.train
    ]
    # The weights' shapes come from the labels; a few examples let it check them.
    optimizer = peer.nlp.initialize(lambda: examples[:10])
    settings = peer.nlp.config["training"]
    make_batches = spacy.util.registry.resolve({"batcher": settings["batcher"]})["batcher"]
    order = random.Random(seed)
    best_f1, best_epoch, best = -1.0, 0, b""
    for epoch in range(1, epochs + 1):
        order.shuffle(examples)
        for batch in make_batches(examples):
            peer.nlp.update(batch, drop=settings["dropout"], sgd=optimizer)
        f1 = span_f1(corpus.dev, peer.tag(corpus.dev))
        if f1 > best_f1:
            best_f1, best_epoch, best = f1, epoch, peer.ner.model.to_bytes()
        if epoch - best_epoch >= patience:
            break
    peer.ner.model.from_bytes(best)
    peer.facts = {"best_epoch": best_epoch, "epochs": epoch, "dev_span_f1": best_f1}
    return peer
