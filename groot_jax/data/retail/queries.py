"""The corpus `retail`: shop queries and their spans, generated from a seed in a second.

Words belong to several types, names are invented with a long tail and some are kept for dev and
test, words get mistyped. The same seed gives the same sentences on every platform.
"""

from __future__ import annotations

import argparse
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from random import Random
from typing import TypeVar

from groot_jax.data.labeling import Sentence, Span
from groot_jax.data.retail.departments import DEPARTMENTS, Department
from groot_jax.data.retail.words import LINKS, NAMES, QUERIES, SHARED, read_chances

# Of random.Random only `random()` and `randrange` are used: what others draw may change.

SIZES = {"train": 12_000, "dev": 1_500, "test": 1_500}
_MIN_WORDS, _MAX_WORDS = 3, 14
_BRANDS = 160  # Brands of a department, known ones included.
_RESERVED = 0.12  # Share of the invented brands, and of the rarer products, that train lacks.
_TYPO = 0.16  # Share of the queries with a mistyped word.

_Item = TypeVar("_Item")
Piece = tuple[str, str]  # Type ("" = unlabeled) and words.

_PARTS = frozenset(QUERIES["part"])
# How likely unlabeled words lead in a slot that follows the product.
_LINKED = read_chances(QUERIES["linked"])
# How likely a slot stands before the product in a query that is no mere list of words.
_BEFORE = read_chances(QUERIES["before"])
_AMOUNTS = ("10", "20", "25", "30", "40", "50", "60", "75", "100", "150", "200")
_COUNTS = ("2", "3", "4", "5", "6", "8", "10", "12", "24")


class _Ranked:
    """Items drawn by rank: the r-th has weight 1 / (r + 6), a Zipf tail."""

    # Of 160 brands the first gets 4.4 % of the draws, the first ten 29 %, and the last half 20 %.
    def __init__(self, items: Sequence[str]):
        self.items = items
        self.sums = list(accumulate(1.0 / (rank + 6) for rank in range(1, len(items) + 1)))

    def draw(self, rng: Random) -> str:
        """One item, from one number of `rng`."""
        return self.items[bisect(self.sums, rng.random() * self.sums[-1])]


def _pick(rng: Random, items: Sequence[str]) -> str:
    """`rng.choice`, whose draws are not promised to stay."""
    return items[rng.randrange(len(items))]


def _shuffle(rng: Random, items: Sequence[_Item]) -> list[_Item]:
    """`rng.shuffle`, likewise: by a number drawn for each, .7 .2 .5 -> second, third, first."""
    draws = [rng.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=draws.__getitem__)]


def _invent_brand(rng: Random) -> str:
    """One name: syllables, words of the language, or a person, perhaps with a line of products."""
    kind = rng.random()
    if kind < 0.4:
        name = _pick(rng, NAMES["onset"]) + _pick(rng, NAMES["vowel"])
        if rng.random() < 0.6:
            name += _pick(rng, NAMES["onset"]) + _pick(rng, NAMES["vowel"])
        name += _pick(rng, NAMES["coda"])
    elif kind < 0.72:
        name = f"{_pick(rng, NAMES['first word'])} {_pick(rng, NAMES['second word'])}"
    elif kind < 0.82:
        name = f"{_pick(rng, NAMES['first name'])} {_pick(rng, NAMES['last name'])}"
    elif kind < 0.9:
        name = f"{_pick(rng, NAMES['first word'])} and {_pick(rng, NAMES['second word'])}"
    else:
        name = _pick(rng, NAMES["single word"])
    return f"{name} {_pick(rng, NAMES['line'])}" if rng.random() < 0.14 else name


class _Shop:
    """One department, ready to draw from: names invented, tables ranked, some names reserved."""

    def __init__(self, department: Department, rng: Random):
        self.chances = department.chances
        invented: list[str] = []
        while len(invented) < _BRANDS - len(department.brands):
            brand = _invent_brand(rng)
            if brand not in invented and brand not in department.brands:
                invented.append(brand)
        # Of each department 12 to 27 brands and products are kept from train (seed 0): a labeler
        # has to know them by their place in the query, as in a shop that takes on new ones.
        # Known names stand among the first half of the ranks, invented ones everywhere.
        brands = list(invented)
        for brand in department.brands:
            brands.insert(rng.randrange(_BRANDS // 2), brand)
        products = department.tables["product"]
        rarer = (*invented, *products[len(products) // 2 :])
        self.reserved = {name for name in rarer if rng.random() < _RESERVED}
        tables = {**SHARED, **department.tables, "brand": tuple(brands)}
        self.tables = {type_: _Ranked(items) for type_, items in tables.items()}

    def draw(self, rng: Random, type_: str, train: bool) -> str:
        """A phrase of a type; for train again and again until it is none that train lacks."""
        words = self.tables[type_].draw(rng)
        while train and words in self.reserved:
            words = self.tables[type_].draw(rng)
        # under {n} dollars -> under 50 dollars; between {n} and {m} -> between 50 and 100.
        if "{" in words:
            low = _pick(rng, _AMOUNTS)
            words = words.format(n=low, m=2 * int(low), q=_pick(rng, _COUNTS))
        return words


def _product(rng: Random, shop: _Shop, fine: bool, train: bool) -> list[Piece]:
    """The product, as one piece or, read finely, with its modifier as a piece of its own."""
    # leather:material jacket -> `leather` a material and `jacket` a product, or both one product.
    modifier, colon, rest = shop.draw(rng, "product", train).partition(":")
    if not colon:
        return [("product", modifier)]
    type_, head = rest.split(" ", 1)
    # Habit, not law: now and then a fine reader takes the compound whole, and the reverse.
    if fine != (rng.random() < 0.1):
        return [(type_, modifier), ("product", head)]
    return [("product", f"{modifier} {head}")]


def _pieces(rng: Random, shop: _Shop, train: bool) -> list[Piece]:
    """One query as typed pieces in order."""
    salad = rng.random() < 0.22
    natural = not salad and rng.random() < 0.4
    # What a searcher means by `leather jacket` cannot be read off the query, only guessed from how
    # it is put: lists of words come from people who filter by attribute.
    fine = rng.random() < (0.65 if salad else 0.22 if natural else 0.4)
    product = _product(rng, shop, fine, train)
    taken = {type_ for type_, _ in product}
    slots = [
        (type_, shop.draw(rng, type_, train))
        for type_, chance in shop.chances.items()
        if rng.random() < chance and type_ not in taken
    ]
    # At most two to five of them: nobody asks for everything at once.
    slots = _shuffle(rng, slots)[: 2 + rng.randrange(4)]
    # `levi black` names no product, and is a query all the same.
    if rng.random() < 0.1 and any(type_ == "brand" for type_, _ in slots):
        product = []
    # black / leather jacket / women in any order, but the pieces of a product stay together.
    if salad:
        groups = _shuffle(rng, [*([slot] for slot in slots), product])
        return [piece for group in groups for piece in group]
    before: list[Piece] = []
    after: list[Piece] = []
    for type_, words in slots:
        place = "part" if type_ == "feature" and words in _PARTS else type_
        if rng.random() < _BEFORE[place]:
            # Brands mostly come first: `levi black jeans` rather than `black levi jeans`.
            leads = type_ == "brand" and rng.random() < 0.8
            before.insert(0 if leads else len(before), (type_, words))
            continue
        if rng.random() < _LINKED.get(place, 0.0):
            after.append(("", _pick(rng, LINKS[place])))
        after.append((type_, words))
    opener: list[Piece] = []
    if rng.random() < (0.7 if natural else 0.12):
        opener = [("", _pick(rng, QUERIES["opener"]))]
    closer = [("", _pick(rng, QUERIES["closer"]))] if rng.random() < 0.07 else []
    return opener + before + product + after + closer


_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# Each key's neighbour to the right, the last one's to the left: q -> w, p -> o.
_NEIGHBOURS = {a: b for row in _ROWS for a, b in zip(row, row[1:] + row[-2], strict=True)}
# Each spoils a word at a letter that is not its last: jeans at 1 -> jaens, jans, jeeans, jrans.
_TYPOS: tuple[Callable[[str, int], str], ...] = (
    lambda word, i: word[:i] + word[i + 1] + word[i] + word[i + 2 :],
    lambda word, i: word[:i] + word[i + 1 :],
    lambda word, i: word[: i + 1] + word[i:],
    lambda word, i: word[:i] + _NEIGHBOURS.get(word[i], word[i]) + word[i + 1 :],
)


def _mistype(rng: Random, words: list[str], spans: list[Span]) -> tuple[list[str], list[Span]]:
    """Spoils one word, or writes the first two words of a span as one."""
    wide = [span.start for span in spans if span.end - span.start > 1]
    if wide and rng.random() < 0.3:
        # new york jeans with (0, 2, brand) -> newyork jeans with (0, 1, brand): all that begins or
        # ends after the first of the two words moves by one.
        at = wide[rng.randrange(len(wide))]
        words = [*words[:at], words[at] + words[at + 1], *words[at + 2 :]]
        return words, [Span(s - (s > at), e - (e > at), type_) for s, e, type_ in spans]
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if long:
        at = long[rng.randrange(len(long))]
        spoil = _TYPOS[rng.randrange(len(_TYPOS))]
        words = [*words[:at], spoil(words[at], rng.randrange(len(words[at]) - 1)), *words[at + 1 :]]
    return words, spans


def _query(rng: Random, shop: _Shop, train: bool) -> tuple[list[str], list[Span]]:
    words: list[str] = []
    spans: list[Span] = []
    for type_, text in _pieces(rng, shop, train):
        start = len(words)
        words += text.split(" ")
        # dress -> dress, for it ends in s; jacket -> now and then jackets.
        if type_ == "product" and words[-1][-1] not in "sy" and rng.random() < 0.12:
            words[-1] += "s"
        if type_:
            spans.append(Span(start, len(words), type_))
    return _mistype(rng, words, spans) if rng.random() < _TYPO else (words, spans)


def make_retail(seed: int) -> dict[str, list[Sentence]]:
    """Generates train, dev and test; no two sentences of them have the same words.

    Sentences have 3 to 14 words and at least one span.
    """
    return _draw_splits(Random(seed))[0]


def unlabeled_retail(seed: int, count: int) -> Iterator[tuple[str, ...]]:
    """Words of `count` more queries to the same shops, drawn where the splits of `seed` end.

    They are what a shop's log would hold: names that train is kept from are among them, as they
    are in dev and test, and queries come twice now and then. Queries of dev and test are left out.
    """
    rng = Random(seed)
    splits, shops = _draw_splits(rng)
    kept_out = {sentence.words for split in ("dev", "test") for sentence in splits[split]}
    queries = (words for words, _ in _queries(rng, shops, train=False) if words not in kept_out)
    return islice(queries, count)


def _draw_splits(rng: Random) -> tuple[dict[str, list[Sentence]], list[_Shop]]:
    shops = [_Shop(department, rng) for department in DEPARTMENTS]
    seen: set[tuple[str, ...]] = set()
    splits: dict[str, list[Sentence]] = {}
    # Test comes first, so that a change to the other splits cannot change it.
    for split in ("test", "dev", "train"):
        sentences = splits[split] = []
        queries = _queries(rng, shops, split == "train")
        while len(sentences) < SIZES[split]:
            words, spans = next(queries)
            if words in seen:
                continue
            seen.add(words)
            source = f"retail/{split}:{len(sentences) + 1}"
            sentences.append(Sentence(words, spans, source))
    return splits, shops


def _queries(
    rng: Random, shops: Sequence[_Shop], train: bool
) -> Iterator[tuple[tuple[str, ...], tuple[Span, ...]]]:
    """Queries of 3 to 14 words with a span or more, without end."""
    while True:
        words, spans = _query(rng, shops[rng.randrange(len(shops))], train)
        if _MIN_WORDS <= len(words) <= _MAX_WORDS and spans:
            yield tuple(words), tuple(spans)


def main() -> None:
    """Prints queries without labels, one a line."""
    parser = argparse.ArgumentParser(
        prog="python -m groot_jax.data.retail",
        description="Prints queries of the built-in corpus without labels, none of dev or test.",
    )
    parser.add_argument("--count", type=int, default=200_000, help="queries; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="as config.data.retail_seed")
    args = parser.parse_args()
    for words in unlabeled_retail(args.seed, max(args.count, 0)):
        print(" ".join(words))
