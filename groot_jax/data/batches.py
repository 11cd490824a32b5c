"""Sentences as arrays: encoded once, grouped by length, served in a seeded order.

Order is a pure function of (seed, step): a run that continues asks for batch `step` and gets the
very batch that it would have got. Lengths are rounded up to a few buckets, so that the number of
compiled programs is known. May not know a model or a reward.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groot_jax.data.augment import Augmenter
from groot_jax.data.format import Format
from groot_jax.data.labeling import Sentence
from groot_jax.data.ladder import Ladder, Size, holds


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence as ids; `target` (EOS last) is empty where the gold labeling is not known."""

    index: int
    sentence: Sentence
    source: tuple[int, ...]
    fused_source: tuple[tuple[int, ...], ...]  # of each source position F ids, then 0
    template: tuple[int, ...]
    fused_target: tuple[int, ...]
    aligned: tuple[int, ...] | None  # as `Format.aligned` has it
    target: tuple[int, ...]
    cap: int  # tokens of the longest output, EOS included
    unlabeled: bool = False  # nobody has labeled it: its labeling is empty, and no gold

    @property
    def need(self) -> Size:
        """Source and target tokens that a batch has to hold for it."""
        # In generation an output may be as long as `cap`, whatever gold is.
        return len(self.source), max(self.cap, len(self.target))


class Batch(NamedTuple):
    """Arrays of one batch, padded to its bucket; padding rows have index -1 and cap 0.

    `examples`: what each row holds, None where it is padding, or a row that another process fills.
    """

    examples: list[Example | None]
    index_B: np.ndarray
    source_BxS: np.ndarray
    fused_source_BxSxF: np.ndarray
    template_BxL: np.ndarray
    fused_target_BxT: np.ndarray
    aligned_BxT: np.ndarray | None  # None: the format aligns nothing
    target_BxT: np.ndarray
    cap_B: np.ndarray


def encode(sentences: Sequence[Sentence], format_: Format, gold: bool = True) -> list[Example]:
    """Encodes sentences for a format; `gold=False` leaves the targets empty.

    Raises UserError for a sentence that the format cannot hold.
    """
    examples = []
    width = format_.fused_width
    for index, sentence in enumerate(sentences):
        words = sentence.words
        source = format_.source(words)
        # Types that training did not have cannot be written, so such a sentence has no target.
        known = gold and all(span.type in format_.types for span in sentence.labeling)
        examples.append(
            Example(
                index=index,
                sentence=sentence,
                source=source.ids,
                # Width 2: () (7,) (7, 8) -> (0, 0) (7, 0) (7, 8); id 0 adds nothing.
                fused_source=tuple((*ids, *(0,) * (width - len(ids))) for ids in source.fused),
                template=format_.template(words),
                fused_target=format_.fused_target(len(words)),
                aligned=format_.aligned(len(words)),
                target=format_.target(sentence.labeling, words) if known else (),
                cap=format_.max_target_length(words),
            )
        )
    return examples


def collate(
    examples: Sequence[Example],
    batch_size: int,
    size: Size,
    own_B: np.ndarray | None = None,
) -> Batch:
    """Pads examples to `batch_size` rows and to the bucket `size` = (S, T).

    Rows outside of `own_B`, which other processes fill, are left as padding.

    A template is no longer than the longest output, so its width L is T; it is padded by repeating
    EOS, its last item.
    """
    S, T = size
    F, eos = len(examples[0].fused_source[0]), examples[0].template[-1]
    batch = Batch(
        examples=[None] * batch_size,
        index_B=np.full(batch_size, -1, np.int32),
        source_BxS=np.zeros((batch_size, S), np.int32),
        fused_source_BxSxF=np.zeros((batch_size, S, F), np.int32),
        template_BxL=np.full((batch_size, T), eos, np.int32),
        fused_target_BxT=np.zeros((batch_size, T), np.int32),
        aligned_BxT=None if examples[0].aligned is None else np.zeros((batch_size, T), np.int32),
        target_BxT=np.zeros((batch_size, T), np.int32),
        cap_B=np.zeros(batch_size, np.int32),
    )
    # Source 17 9 1 with S = 5 -> 17 9 1 0 0; template TAG EOS with T = 4 -> TAG EOS EOS EOS.
    for row, e in enumerate(examples):
        if own_B is not None and not own_B[row]:
            continue
        batch.examples[row] = e
        batch.index_B[row] = e.index
        batch.source_BxS[row, : len(e.source)] = e.source
        batch.fused_source_BxSxF[row, : len(e.fused_source)] = e.fused_source
        batch.template_BxL[row, : len(e.template)] = e.template
        batch.fused_target_BxT[row, : len(e.fused_target)] = e.fused_target
        if batch.aligned_BxT is not None and e.aligned is not None:
            batch.aligned_BxT[row, : len(e.aligned)] = e.aligned
        batch.target_BxT[row, : len(e.target)] = e.target
        batch.cap_B[row] = e.cap
    return batch


_Plan = list[tuple[Size, list[int]]]  # Of each batch, its size and the places of its examples.


class Hide(NamedTuple):
    """Which source ids are hidden while training, and how often."""

    chance: float
    unknown: int  # the id that stands for a hidden one
    kept: tuple[int, ...]  # ids that are never hidden: padding and EOS


def _plan(
    sizes: Sequence[Size],
    batch_size: int,
    order: Sequence[int],
    rungs: Sequence[Size] = (),
) -> _Plan:
    """Cuts examples, taken in `order`, into batches of one size.

    What does not fill a batch climbs to the cheapest size in use that holds it, so that few batches
    are partial. The number of batches depends on the sizes alone, not on the order; and not on them
    either where `rungs`, which count as in use, has one that holds all: then one batch is partial.
    """
    # Ten examples need (8, 4), five (16, 8); batches of four: two full batches of (8, 4), its last
    # two climb to (16, 8), which then has seven: one full batch and one of three.
    groups: dict[Size, list[int]] = {rung: [] for rung in rungs}
    for i in order:
        groups.setdefault(sizes[i], []).append(i)
    ascending = sorted(groups, key=lambda size: (sum(size), size))
    batches = []
    for at, size in enumerate(ascending):
        members = groups[size]
        full = len(members) - len(members) % batch_size
        batches += [(size, members[i : i + batch_size]) for i in range(0, full, batch_size)]
        if left := members[full:]:
            larger = next((other for other in ascending[at + 1 :] if holds(other, size)), None)
            if larger is None:
                batches.append((size, left))
            else:
                # In front, so that they are in a full batch of the larger size if there is one.
                groups[larger] = left + groups[larger]
    return batches


class TrainingBatches:
    """Random access to the batches of many epochs: `self[step]` for any step, in a seeded order.

    Each epoch shows every example once, shuffled anew; batches of unlike lengths come in random
    turn. A Grain data source (it has `__len__` and `__getitem__`).

    With an augmenter each epoch shows the examples with mentions drawn anew. One that no rung of
    the ladder holds then, or that has more words than the format takes, is shown as it is. Epochs
    have equally many batches whatever is drawn, so that a step always falls into the same epoch.

    Where words are hidden, a source position gets the unknown id instead of its own with that
    chance, drawn anew in each step: what is fused to it has to do.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        ladder: Ladder,
        seed: int,
        own_B: np.ndarray | None = None,
        augmenter: Augmenter | None = None,
        hide: Hide | None = None,
    ) -> None:
        """`own_B`: rows that this process fills, as many as a batch shall have: padding beyond
        `batch_size`. `augmenter`: made of the sentences of `examples`, in their order."""
        self._hide = hide
        self._examples = examples
        self._batch_size = batch_size
        self._ladder = ladder
        self._sizes = [ladder.of(e.need) for e in examples]
        self._seed = seed
        self._own_B = np.ones(batch_size, bool) if own_B is None else own_B
        self._augmenter = augmenter
        self._length_Nx3 = np.array([(*e.need, len(e.sentence.words)) for e in examples])
        # The epoch that was asked for last. Threads that ask for batches of two epochs at once make
        # one of them twice, and each gets the same.
        self._epoch = (0, *self._make_epoch(0))
        self.per_epoch = len(self._epoch[1])

    def __len__(self) -> int:
        # Grain wants a number. Training ends by its own count, far below this one.
        return 1 << 30

    def __getitem__(self, step: int) -> Batch:
        # 7 batches an epoch: step 16 is batch 2 of epoch 2.
        epoch, at = divmod(int(step), self.per_epoch)
        known, plan, mention_P = self._epoch
        if known != epoch:
            plan, mention_P = self._make_epoch(epoch)
            self._epoch = (epoch, plan, mention_P)
        size, members = plan[at]
        # Rows of other processes are planned and not encoded: a sentence of theirs costs nothing.
        rows = [
            self._augmented(i, mention_P) if own else self._examples[i]
            for i, own in zip(members, self._own_B.tolist(), strict=False)
        ]
        batch = collate(rows, len(self._own_B), size, self._own_B)
        if self._hide is not None:
            # Drawn for all rows, those of other processes too: what a row gets does not depend on
            # how many processes there are.
            draws_BxS = np.random.default_rng([self._seed, int(step), 2]).random(
                batch.source_BxS.shape
            )
            words_BxS = ~np.isin(batch.source_BxS, self._hide.kept)
            batch.source_BxS[words_BxS & (draws_BxS < self._hide.chance)] = self._hide.unknown
        return batch

    def _make_epoch(self, epoch: int) -> tuple[_Plan, np.ndarray]:
        """The batches of an epoch, and the mentions that the augmenter has drawn for it."""
        # Seeds of one generator each: (seed, epoch) for the order, (seed, epoch, 1) for mentions,
        # (seed, step, 2) for hidden words. Nothing drawn for one moves the others.
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._examples)).tolist()
        if self._augmenter is None:
            plan, mention_P = _plan(self._sizes, self._batch_size, order), np.zeros(0, int)
        else:
            sizes, mention_P = self._draw(self._augmenter, epoch)
            plan = _plan(sizes, self._batch_size, order, self._ladder.rungs)
        return [plan[i] for i in rng.permutation(len(plan))], mention_P

    def _draw(self, augmenter: Augmenter, epoch: int) -> tuple[list[Size], np.ndarray]:
        """The sizes that examples need in an epoch, and their mentions."""
        mention_P = augmenter.draw(np.random.default_rng([self._seed, epoch, 1]))
        length_Nx3 = self._length_Nx3 + augmenter.growth(mention_P)
        # Where new mentions make a sentence too long for its batch, all of its own stay.
        rung_N = self._ladder.rungs_of(length_Nx3[:, :2])
        fits_N = (rung_N >= 0) & (length_Nx3[:, 2] <= augmenter.format.max_words)
        sizes = [
            self._ladder.rungs[rung] if fits else own
            for rung, fits, own in zip(rung_N.tolist(), fits_N.tolist(), self._sizes, strict=True)
        ]
        return sizes, augmenter.only(fits_N, mention_P)

    def _augmented(self, i: int, mention_P: np.ndarray) -> Example:
        """Example `i` as an epoch shows it; encoded now, so that the cost, 0.5 ms for a batch of
        16, is spread over the background threads' batches."""
        example = self._examples[i]
        if self._augmenter is None:
            return example
        sentence = self._augmenter.sentence(i, mention_P)
        if sentence is example.sentence:
            return example
        return dataclasses.replace(*encode([sentence], self._augmenter.format), index=i)

    def blanks(self, start: int, stop: int) -> list[Batch]:
        """An empty batch of each size that batches `start` to `stop` - 1 have, in the order in
        which sizes come; of the epoch of `start` alone, as the others have hardly any other."""
        epoch, at = divmod(start, self.per_epoch)
        known, plan, _ = self._epoch
        if known != epoch:
            plan, _ = self._make_epoch(epoch)
        sizes = dict.fromkeys(size for size, _ in plan[at : at + stop - start])
        rows = len(self._own_B)
        return [collate(self._examples[:1], rows, size, np.zeros(rows, bool)) for size in sizes]

    def from_step(self, step: int, threads: int = 2) -> Iterator[Batch]:
        """Batches `step`, `step` + 1, ... up to the last, made ahead in background threads."""
        return _ahead(self, step, threads)


class MixedBatches:
    """Batches of labeled sentences and, for a share of the steps, of unlabeled ones. A Grain data
    source like those that it takes in turns; each is asked for its own batches 0, 1, 2, ... .

    With a share of .5 every second step is unlabeled, from step 1 on, with .25 steps 3, 7, 11.
    """

    def __init__(
        self, labeled: TrainingBatches, unlabeled: TrainingBatches | None, share: float
    ) -> None:
        """Without `unlabeled` the share counts as 0."""
        self._labeled, self._unlabeled = labeled, unlabeled
        self._share = share if unlabeled is not None else 0.0
        # An epoch is one of the labeled sentences, however many updates it shares.
        self.per_epoch = labeled.per_epoch

    def __len__(self) -> int:
        return len(self._labeled)

    def __getitem__(self, step: int) -> Batch:
        before = self._count(int(step))
        if self._unlabeled is not None and self.is_unlabeled(int(step)):
            return self._unlabeled[before]
        return self._labeled[int(step) - before]

    def is_unlabeled(self, step: int) -> bool:
        """Whether batch `step` is one of unlabeled sentences."""
        return self._count(step + 1) > self._count(step)

    def _count(self, step: int) -> int:
        """How many of the first `step` steps are unlabeled."""
        # .1 * 30 is 3.0000000000000004 and .29 * 100 is 28.999999999999996: both mean 3 and 29.
        return math.floor(round(self._share * step, 6))

    def blanks(self, start: int, stop: int) -> list[Batch]:
        """As `TrainingBatches.blanks`, of the labeled batches alone."""
        return self._labeled.blanks(start - self._count(start), stop - self._count(stop))

    def from_step(self, step: int, threads: int = 2) -> Iterator[Batch]:
        """As `TrainingBatches.from_step`."""
        return _ahead(self, step, threads)


def _ahead(source: TrainingBatches | MixedBatches, step: int, threads: int) -> Iterator[Batch]:
    # Here and not above: predict makes its batches without it, and it takes a while to import.
    import grain

    dataset = grain.MapDataset.source(source)[step:]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8)
    return iter(dataset.to_iter_dataset(options))


def evaluation_batches(
    examples: Sequence[Example],
    batch_size: int,
    ladder: Ladder,
    own_B: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Every example once, by bucket, padded with empty rows where a bucket is not full; `own_B`:
    the rows that this process fills."""
    sizes = [ladder.of(e.need) for e in examples]
    for size, members in _plan(sizes, batch_size, range(len(examples))):
        yield collate([examples[i] for i in members], batch_size, size, own_B)
