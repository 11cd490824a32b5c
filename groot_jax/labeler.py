"""A trained labeler as a Python object: sentences in, ranked labelings out.

Labeler.load("runs/retail").label(["black", "levi", "jeans"], k=5)
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from numbers import Integral
from operator import itemgetter
from pathlib import Path

import jax
from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.contrast.update import Params
from groot_jax.data.batches import Example, encode, evaluation_batches
from groot_jax.data.labeling import Candidate, Labeling, Sentence, Span, half_character
from groot_jax.errors import UserError
from groot_jax.evaluate import choose_step, home_of, trained_systems
from groot_jax.evaluation.decisions import decide, labeling_probabilities, span_confidences
from groot_jax.evaluation.evaluator import gather_beams
from groot_jax.evaluation.metrics import Beam, TripleReward, deduplicated
from groot_jax.evaluation.records import Json
from groot_jax.generate.generator import Generator
from groot_jax.runtime.hosts import Hosts
from groot_jax.task import Task, load_task
from groot_jax.training.checkpoints import Checkpoints
from groot_jax.training.setup import Partitioning, keep_programs, make_partitioning

# Encoded sentences that are kept: 16 blocks of the job's 64, or some blocks of long sentences, of
# each of which several pieces are tried.
_KEPT = 1024


@dataclass(frozen=True)
class ScoredLabeling:
    """One labeling of a sentence: its log probability s(y), and its share, 0 to 1, of the beam's
    probability."""

    labeling: Labeling
    score: float
    probability: float
    well_formed: bool


@dataclass(frozen=True)
class Prediction:
    """The labelings of a sentence, best first, and how sure the beam is of each of their spans.

    `confidence` of a span: the sum of the probabilities of the beam's labelings that hold it.
    """

    words: tuple[str, ...]
    labelings: tuple[ScoredLabeling, ...]
    confidence: dict[Span, float]

    def to_json(self) -> Json:
        """What the job prints: figures rounded to six digits, spans with their words."""
        return {
            "words": list(self.words),
            "labelings": [
                {
                    "spans": [
                        {
                            "start": span.start,
                            "end": span.end,
                            "type": span.type,
                            "text": " ".join(self.words[span.start : span.end]),
                            "confidence": round(self.confidence[span], 6),
                        }
                        for span in scored.labeling
                    ],
                    "score": round(scored.score, 6),
                    "probability": round(scored.probability, 6),
                    "well_formed": scored.well_formed,
                }
                for scored in self.labelings
            ],
        }


class Labeler:
    """A trained labeler. `load` reads one, `label` uses it; not tied to any training data."""

    def __init__(
        self,
        task: Task,
        partitioning: Partitioning,
        params: Params,
        score: TripleReward | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self._task = task
        self._partitioning = partitioning
        self._params = params
        self._score = score
        self._hosts = hosts or Hosts()
        self._generators: dict[int, Generator] = {}
        # A sentence is checked, by the job even twice, before it is searched: three times the same
        # encoding. (On the function of one labeler: a cache on the class would keep it alive.)
        self._encoded = lru_cache(_KEPT)(self._encode)

    @classmethod
    def load(
        cls,
        workdir: str | Path,
        *,
        system: str | None = None,
        checkpoint: str = "best",
        config: ConfigDict | None = None,
        score: TripleReward | None = None,
        hosts: Hosts | None = None,
    ) -> Labeler:
        """Loads a checkpoint of a work directory.

        Args:
          system: `groot`, `nll`, ...; without: the last of `config.systems` that was trained.
          checkpoint: best (on dev), latest, or a step.
          config: where given, replaces W/config.json.
          score: rewards of (candidate, gold, words) triples, for `decide="mbr"`.
          hosts: the processes that label together, where there are several.

        Raises UserError where there is nothing to load.
        """
        workdir = Path(workdir)
        config = config or configs.load_dumped(workdir / configs.CONFIG_FILE)
        if not jax.config.values["jax_compilation_cache_dir"]:  # Whoever calls may have chosen one.
            keep_programs(config.compilation_cache)
        task = load_task(workdir, config)
        found = trained_systems(workdir, config, [system] if system else ())
        # The last of `config.systems` is the one that the run was for. Checkpoints of systems that
        # the config has no more do not count, unless there is nothing else.
        trained = [name for name in ("nll", *config.systems) if name in found]
        system = system or (trained or found)[-1]
        with Checkpoints(
            home_of(workdir, config, system), system, tie=config.checkpoint.tie, read_only=True
        ) as checkpoints:
            step = choose_step(checkpoints, checkpoint)
            partitioning = make_partitioning(config, task.model_config)
            params = checkpoints.restore_params(step, partitioning.param_shapes)
        return cls(task, partitioning, params, score, hosts)

    def label(self, words: Sequence[str], k: int = 5, decide: str = "map") -> Prediction:
        """Labels one sentence, given as its words; `k`, `decide` and errors as in `label_all`."""
        return self.label_all([words], k, decide)[0]

    def label_all(
        self,
        sentences: Sequence[Sequence[str]],
        k: int = 5,
        decide: str = "map",
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """Labels many sentences; `k` labelings each, fewer where fewer exist.

        `decide`: `map` or `mbr`. `batch_size`: sentences searched at once; without:
        `evaluate.batch_size`, or fewer where there are fewer. The beam is at least as wide as in
        training, so that probabilities mean the same for any k. Of several processes, which all
        give the same sentences, the first alone gets the answers.

        Raises UserError for what is no sentence, for one that is too long, unless
        `text.long_sentences` is `window`, and for a `k` or `decide` that will not do.
        """
        if not _is_count(k):
            raise UserError(f"k={k!r}: ask for a whole number of labelings, 1 or more")
        if decide not in ("map", "mbr"):
            raise UserError(f"decide={decide!r} is not known; use map or mbr")
        if decide == "mbr" and self._score is None:
            raise UserError("decide='mbr' needs a reward; load the labeler with score=...")
        checked = [self.check(words) for words in sentences]
        beams = self._beams(checked, max(k, self._task.config.generate.k), batch_size)
        if beams is None:
            return []
        return [
            _prediction(words, beam, k, decide, self._score)
            for words, beam in zip(checked, beams, strict=True)
        ]

    @property
    def max_words(self) -> int:
        """Words of the longest sentence, or window, that is labeled in one piece."""
        return min(self._task.config.text.max_words, self._task.format.max_words)

    def check(self, words: Iterable[str], where: str = "") -> tuple[str, ...]:
        """The words, if they can be labeled; otherwise a UserError that begins with `where`."""
        try:
            return self._checked(words)
        except UserError as error:
            raise UserError(f"{where}: {error}" if where else str(error)) from None

    def _checked(self, words: Iterable[str]) -> tuple[str, ...]:
        # A string is an iterable of strings too: "red jeans" would be labeled letter by letter.
        listed = isinstance(words, Iterable) and not isinstance(words, str)
        known = tuple(words) if listed else ()
        if not listed or not all(isinstance(word, str) and word for word in known):
            shown = reprlib.repr(words)
            raise UserError(f"words have to be a list of strings, none empty: {shown}")
        if half := half_character(known):
            raise UserError(
                f"the word {half!r} holds a lone surrogate, half of a character; mend it"
            )
        refused = self._task.config.text.long_sentences == "refuse"
        advice = "set --config.text.long_sentences=window"
        if len(known) > self.max_words and refused:
            raise UserError(
                f"a sentence of {len(known)} words ('{' '.join(known[:6])} ...') is over the limit "
                f"of {self.max_words}; shorten it, or {advice}"
            )
        try:
            for window in self._windows(known):
                self._size(window)
        except UserError as error:
            hint = f", or {advice}" if refused and len(known) > 1 else ""
            raise UserError(f"{error}{hint}") from None
        return known

    def _size(self, words: tuple[str, ...]) -> tuple[int, int]:
        """The size of batch that the words need. UserError where there is none."""
        return self._task.ladder.of(self._encoded(words).need)

    def _encode(self, words: tuple[str, ...]) -> Example:
        (example,) = encode([Sentence(words, ())], self._task.format, gold=False)
        return example

    def _windows(self, words: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The words in pieces, each as long as the limits of words and of batches allow."""
        if self._task.config.text.long_sentences == "refuse":
            return [words] if words else []
        windows = []
        while words:
            most = words[: self.max_words]
            fitting = len(most)
            # How many tokens words need is known once they are encoded. Most sentences fit whole;
            # of others bisection finds the longest prefix that has a size of batch, among 100
            # words after 7 tries.
            if self._is_over(most, fitting - 1):
                over = partial(self._is_over, most)
                # A single word that has no size is a window all the same, and refused by `_size`.
                fitting = max(1, bisect.bisect_left(range(fitting), True, key=over))
            windows.append(words[:fitting])
            words = words[fitting:]
        return windows

    def _is_over(self, words: tuple[str, ...], last: int) -> bool:
        """Whether the words up to number `last`, that one included, are too many for a batch."""
        try:
            self._size(words[: last + 1])
        except UserError:
            return True
        return False

    def _beams(
        self, sentences: Sequence[tuple[str, ...]], width: int, batch_size: int | None
    ) -> Iterator[Beam] | None:
        # Sentences [[a b c d], [e]] in windows of three words: cut [[abc, d], [e]], pieces [abc, d,
        # e]. An empty sentence has no window.
        cut = [self._windows(words) for words in sentences]
        pieces = [window for windows in cut for window in windows]
        found = self._search(pieces, width, batch_size)
        return None if found is None else self._whole(cut, iter(found), width)

    def _whole(
        self, cut: list[list[tuple[str, ...]]], found: Iterator[Beam], width: int
    ) -> Iterator[Beam]:
        """The beams of sentences, of those of their windows."""
        for windows in cut:
            # What an empty sentence gets: nothing found, for certain.
            beam: Beam = [Candidate((), 0.0, True, -1)]
            offset = 0
            for index, window in enumerate(windows):
                piece = next(found)
                # A beam that stands alone keeps its order, by s only without a length penalty.
                beam = piece if index == 0 else _joined(beam, piece, offset, width)
                offset += len(window)
            yield beam

    def _search(
        self, pieces: Sequence[tuple[str, ...]], width: int, batch_size: int | None
    ) -> list[Beam] | None:
        # The index says where a beam belongs: batches are by length, in another order.
        examples = [
            dataclasses.replace(self._encoded(words), index=index)
            for index, words in enumerate(pieces)
        ]
        if not examples:
            return []
        # A width is another program: each is kept, so that k=5 and k=20 in turn compile once each.
        generator = self._generators.get(width)
        if generator is None:
            generator = self._generators[width] = self._task.generator(
                k=width, layout=self._partitioning.layout
            )
        size = batch_size or min(len(examples), self._task.config.evaluate.batch_size)
        own_B = generator.own_rows(size)
        batches = evaluation_batches(examples, len(own_B), self._task.ladder, own_B)
        found = generator.label(self._params, batches)
        return gather_beams(found, len(examples), self._hosts)


def _is_count(value: object) -> bool:
    # An integer of numpy counts, 2.0 does not.
    return isinstance(value, Integral) and int(value) >= 1


def _joined(left: Beam, right: Beam, offset: int, width: int) -> Beam:
    """The best pairs of two windows: scores add up, spans of the right one move by `offset`."""
    # s is a log probability, and windows are labeled one without the other: p(a) p(b) is s(a) +
    # s(b). The best `width` pairs are all among those of the two beams of `width`.
    pairs = heapq.nlargest(
        width, ((a.score + b.score, a, b) for a in left for b in right), itemgetter(0)
    )
    return [
        Candidate(
            a.labeling + tuple(Span(s + offset, e + offset, t) for s, e, t in b.labeling),
            score,
            a.well_formed and b.well_formed,
            -1,
        )
        for score, a, b in pairs
    ]


def _prediction(
    words: tuple[str, ...], beam: Beam, k: int, rule: str, score: TripleReward | None
) -> Prediction:
    if not words:
        return Prediction(words, (), {})
    # Of the whole beam, before it is cut to k: an answer's figures do not depend on how many more
    # are asked for.
    chances = labeling_probabilities(beam)
    confidence = span_confidences(beam)
    if score is not None:
        beam = decide(rule, [Sentence(words, ())], [beam], score)[0]
    labelings = tuple(
        ScoredLabeling(c.labeling, c.score, chances[c.labeling], c.well_formed)
        for c in deduplicated(beam)[:k]
    )
    return Prediction(words, labelings, confidence)
