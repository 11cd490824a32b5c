"""A trained labeler as a Python object: sentences in, ranked labelings out.

Labeler.load("runs/retail").label(["black", "levi", "jeans"], k=5)
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, lru_cache, partial
from itertools import islice
from numbers import Integral
from pathlib import Path

from ml_collections import ConfigDict

from groot_jax.config import CONFIG_FILE, load_dumped
from groot_jax.data.batches import Example, collate, encode, evaluation_batches
from groot_jax.data.incoming import of_text
from groot_jax.data.labeling import Sentence, half_character
from groot_jax.data.splitting import warn_of_attached
from groot_jax.data.windows import Bounds, window_bounds
from groot_jax.errors import UserError, told_as
from groot_jax.evaluation.decisions import BY_REWARD, RULES, Tuning
from groot_jax.evaluation.decisions import decide as decide_by
from groot_jax.evaluation.evaluator import gather_beams
from groot_jax.evaluation.joining import join_windows
from groot_jax.evaluation.metrics import Beam, TripleReward, one_by_one
from groot_jax.model.param_tree import Params
from groot_jax.prediction import Prediction, make_prediction
from groot_jax.reward.rewards import RewardSpec, make_reward
from groot_jax.runtime.hosts import Hosts
from groot_jax.scoring import MissingScores
from groot_jax.task import Task
from groot_jax.trained import load_trained
from groot_jax.training.setup import Partitioning

_KEPT = 4096  # Encoded sentences, four of the job's largest blocks; of long ones several pieces.


class Labeler:
    """A trained labeler. `load` reads one, `label` uses it; not tied to any training data."""

    def __init__(
        self,
        task: Task,
        partitioning: Partitioning,
        params: Params,
        score: TripleReward | None = None,
        hosts: Hosts | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._task = task
        self._partitioning = partitioning
        self._params = params
        self._score = score
        self._tuning = tuning or Tuning()
        self._hosts = hosts or Hosts()
        # A width is another program: each is kept, so that k=5 and k=20 in turn compile once each.
        search = partial(task.generator, partitioning.layout, keep=True)
        self._generator = cache(lambda k: search(k=k, hurried=self.hurried))
        self.hurried = False  # Whether the first answer is to come soon, not later ones fast.
        # Where its parameters come from, and how training had punctuation, if `load` has read them.
        self.system, self.step, self.punctuation_apart = "", 0, False
        # A sentence is checked, by the job even twice, before it is searched: three times the same
        # encoding. (On the function of one labeler: a cache on the class would keep it alive.)
        self._encoded = lru_cache(_KEPT)(self._encode)
        self._scores = MissingScores(task, partitioning.layout, params, self._hosts)

    @classmethod
    def load(
        cls,
        workdir: str | Path,
        *,
        system: str | None = None,
        checkpoint: str = "best",
        config: ConfigDict | None = None,
        reward: str | None = None,
        score: TripleReward | None = None,
        hosts: Hosts | None = None,
    ) -> Labeler:
        """Loads a checkpoint of a work directory.

        Args:
          system: `groot`, `nll`, ...; without: the last of `config.systems` that was trained.
          checkpoint: best (on dev), latest, or a step.
          config: where given, replaces W/config.json.
          reward: of the rules `mbr` and `consensus`, by its name: `f0.5`, `module:function`, as
            config.reward.name; without: the training reward. Dev has chosen a rule and a threshold
            for the training reward alone.
          score: in its place, a function of a list of (candidate, gold, words) that returns their
            rewards.
          hosts: the processes that label together, where there are several.

        Raises UserError where there is nothing to load.
        """
        if score is not None and not callable(score):
            raise UserError(
                f"score={score!r} has to be a function of a list of (candidate, gold, words) that "
                "returns a list of rewards: docs/decisions.md shows one"
            )
        if reward is not None:
            if score is not None:
                raise UserError("Labeler.load: reward and score are two rewards: leave one out")
            config = (
                config or load_dumped(Path(workdir) / CONFIG_FILE)
            ).copy_and_resolve_references()
            config.reward.name = reward
            with told_as("config.reward.name", "reward"):
                score = one_by_one(make_reward(RewardSpec(**config.reward)))
        trained = load_trained(Path(workdir), config, system, checkpoint, hosts)
        labeler = cls(
            trained.task, trained.partitioning, trained.params, score, hosts, trained.tuning()
        )
        labeler.system, labeler.step = trained.system, trained.step
        labeler.punctuation_apart = trained.punctuation_apart()
        return labeler

    def label(self, words: Sequence[str], k: int = 5, decide: str = "auto") -> Prediction:
        """Labels one sentence, given as its words, in a process of its own; `k`, `decide` and
        errors as in `label_all`."""
        return self.label_all([words], k, decide)[0]

    def label_text(self, text: str, k: int = 5, decide: str = "auto") -> Prediction:
        """Labels one sentence of text, parted into words by config.text.split. The prediction knows
        the text and the places of its words in it; otherwise as `label`. Warns where it is parted
        at spaces and punctuation stood apart in training."""
        found = of_text(text, split := self._task.config.text.split)
        warn_of_attached(found.words, split, self.punctuation_apart)
        prediction = self.label(found.words, k, decide)
        return dataclasses.replace(prediction, text=text, offsets=found.offsets)

    def label_all(
        self,
        sentences: Sequence[Sequence[str]],
        k: int = 5,
        decide: str = "auto",
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """Labels many sentences; `k` labelings each, fewer where fewer exist.

        `decide`: `map`, `mbr`, `threshold` or `consensus`, of which docs/decisions.md tells, or
        `auto`, the one that dev chose for this checkpoint and its training reward.
        `batch_size`: sentences searched at once; without: `evaluate.batch_size`, or fewer where
        there are fewer. The beam is at least as wide as in training, so that probabilities mean the
        same for any k. Of several processes, which all give the same sentences, the first alone
        gets the answers.

        Raises UserError for what is no sentence, for one that is too long, unless
        `text.long_sentences` is `window`, and for a `k` or `decide` that will not do.
        """
        checked, k, decide = self._asked(sentences, k, decide)
        found = self._beams(checked, max(k, self.beam_width), batch_size)
        return self._answers(checked, found, k, decide, batch_size)

    def begin(
        self,
        sentences: Sequence[Sequence[str]],
        k: int = 5,
        decide: str = "auto",
        batch_size: int | None = None,
    ) -> Callable[[], list[Prediction]]:
        """As `label_all`, by two calls: this one begins the search, in a thread of its own, and the
        function that it returns waits for it, decides and answers. Meanwhile the next search may
        begin: they run in turn. (Several processes search in the second call.)"""
        checked, k, decide = self._asked(sentences, k, decide)
        search = partial(self._beams, checked, max(k, self.beam_width), batch_size)
        found = self._aside.submit(search).result if self._hosts.count == 1 else search
        return lambda: self._answers(checked, found(), k, decide, batch_size)

    @cached_property
    def _aside(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "label")

    def _asked(
        self, sentences: Sequence[Sequence[str]], k: int, decide: str
    ) -> tuple[list[tuple[str, ...]], int, str]:
        """The sentences, `k` and the rule, if all of them will do."""
        if not _is_count(k):
            raise UserError(f"k={k!r}: ask for a whole number of labelings, 1 or more")
        rule = self.rule(decide)
        return [self.check(words) for words in sentences], k, rule

    def _answers(
        self,
        checked: list[tuple[str, ...]],
        found: list[tuple[Beam, list[int]]] | None,
        k: int,
        rule: str,
        batch_size: int | None,
    ) -> list[Prediction]:
        """What the rule makes of the beams that were found, in the first of several processes."""
        beams = None if found is None else [beam for beam, _ in found]
        cuts = None if found is None else [cuts for _, cuts in found]
        decided = self._decided(checked, beams, rule)
        if rule in ("threshold", "consensus"):  # The rules that add labelings.
            # `checked` is the same in all processes, and so is the size.
            size = batch_size or min(len(checked), self._task.config.evaluate.batch_size)
            decided = self._scores(checked, decided, cuts, size)
        if beams is None or decided is None:
            return []
        return [
            make_prediction(words, beam, ordered, k, rule, self._tuning)
            for words, beam, ordered in zip(checked, beams, decided, strict=True)
        ]

    def rule(self, decide: str) -> str:
        """The rule that `decide` names. UserError where there is none of that name, and where it
        needs what dev has not chosen."""
        if decide not in ("auto", *RULES):
            raise UserError(f"decide={decide!r} is not known; use auto, {', '.join(RULES)}")
        if decide == "threshold" and self._tuning.threshold is None:
            raise UserError(
                "decide='threshold' needs a confidence that dev has chosen for this checkpoint "
                f"and the reward {self._task.config.reward.name}: there is one for the reward of "
                "training alone, once groot_jax.evaluate has scored the checkpoint with threshold "
                "in config.evaluate.decide; take that reward, or consensus, which needs none"
            )
        return self._tuning.rule if decide == "auto" else decide

    def _rewards(self) -> TripleReward:
        """Of the rules that need them. UserError where the training reward cannot be had."""
        if self._score is None:
            self._score = one_by_one(make_reward(RewardSpec(**self._task.config.reward)))
        return self._score

    def _decided(
        self, checked: list[tuple[str, ...]], beams: list[Beam] | None, rule: str
    ) -> list[Beam] | None:
        """The beams in the order of a rule, in one call of the reward."""
        if beams is None or rule == "map":
            return beams
        # An empty sentence has nothing to be decided.
        some = [i for i, words in enumerate(checked) if words]
        decided = decide_by(
            rule,
            [Sentence(checked[i], ()) for i in some],
            [beams[i] for i in some],
            self._rewards() if rule in BY_REWARD else (lambda triples: []),
            self._tuning,
            self._task.config.decide.hypotheses,
        )
        in_order = list(beams)
        for i, beam in zip(some, decided, strict=True):
            in_order[i] = beam
        return in_order

    def batch_shape(self, words: Sequence[str]) -> tuple[int, int]:
        """Source and target tokens that a batch of such a sentence, or of its first window, is
        padded to: those of the same shape are best labeled together. `words`: what `check` gave."""
        windows = self._windows(tuple(words))
        return self._size(tuple(words[slice(*windows[0])])) if windows else (0, 0)

    def compile(self, k: int, batch_size: int) -> frozenset[tuple[int, int]]:
        """Compiles the search of `label_all` for this `k` and `batch_size`, for each `batch_shape`
        that training had, which it returns. Programs are kept as config.compilation_cache says."""
        generator = self._generator(max(k, self.beam_width))
        own_B = generator.own_rows(batch_size)
        example = self._encoded(("a",))
        for rung in self._task.ladder.rungs:
            generator.label(self._params, [collate([example], len(own_B), rung, own_B)])
        return frozenset(self._task.ladder.rungs)

    @property
    def beam_width(self) -> int:
        """Labelings that are searched for at least, however few are asked for."""
        return int(self._task.config.generate.k)

    @property
    def chosen_with(self) -> int:
        """Labelings of the beams with which dev has chosen how to decide; 0: it has not."""
        return self._tuning.k

    @property
    def types(self) -> tuple[str, ...]:
        """The types that spans may have."""
        return tuple(self._task.format.types)

    @property
    def max_words(self) -> int:
        """Words of the longest sentence, or window, that is labeled in one piece."""
        return self._task.max_words

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
            shown = reprlib.repr(words) + "; of text, take label_text" * isinstance(words, str)
            raise UserError(f"words have to be a list of strings, none empty: {shown}")
        if half := half_character(known):
            raise UserError(
                f"the word {half!r} holds a lone surrogate, half of a character; mend it"
            )
        refused = self._task.config.text.long_sentences == "refuse"
        advice = "set --config.text.long_sentences=window"
        if len(known) > self.max_words and refused:
            begins = " ".join(known[:6])[:80]  # Six words may have millions of letters.
            raise UserError(
                f"a sentence of {len(known)} words ('{begins} ...') is over the limit "
                f"of {self.max_words}; shorten it, or {advice}"
            )
        try:
            for start, end in self._windows(known):
                self._size(known[start:end])
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

    def _windows(self, words: tuple[str, ...]) -> list[Bounds]:
        """The words in windows, each as long as the limits of words and of batches allow."""
        if self._task.config.text.long_sentences == "refuse":
            return [(0, len(words))] if words else []

        def fits(start: int, end: int) -> bool:
            # A single word that has no size is a window all the same, and refused by `_size`.
            try:
                self._size(words[start:end])
            except UserError:
                return False
            return True

        return window_bounds(len(words), self.max_words, self._task.config.text.overlap, fits)

    def _beams(
        self, sentences: Sequence[tuple[str, ...]], width: int, batch_size: int | None
    ) -> list[tuple[Beam, list[int]]] | None:
        """The beam of each sentence, and the cuts between its windows."""
        # Sentences [[a b c d], [e]] in windows of three words that share one: [[abc, cd], [e]],
        # pieces [abc, cd, e]. An empty sentence has no window.
        cut = [self._windows(words) for words in sentences]
        pieces = [
            words[start:end]
            for words, windows in zip(sentences, cut, strict=True)
            for start, end in windows
        ]
        found = self._search(pieces, width, batch_size)
        if found is None:
            return None
        beams = iter(found)
        return [join_windows(windows, list(islice(beams, len(windows))), width) for windows in cut]

    def _search(
        self, pieces: Sequence[tuple[str, ...]], width: int, batch_size: int | None
    ) -> list[Beam] | None:
        # The index says where a beam belongs: batches are by length, in another order.
        examples = [
            dataclasses.replace(self._encoded(words), index=index)
            for index, words in enumerate(pieces)
        ]
        if not examples:
            return [] if self._hosts.main else None
        generator = self._generator(width)
        size = batch_size or min(len(examples), self._task.config.evaluate.batch_size)
        own_B = generator.own_rows(size)
        batches = evaluation_batches(examples, len(own_B), self._task.ladder, own_B)
        found = generator.label(self._params, batches)
        return gather_beams(found, len(examples), self._hosts)


def _is_count(value: object) -> bool:
    # An integer of numpy counts, 2.0 does not.
    return isinstance(value, Integral) and int(value) >= 1
