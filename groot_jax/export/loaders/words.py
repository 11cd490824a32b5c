"""Words in, ranked labelings out, from the folder that this file lies in; README.md tells of it.

    echo "black levi jeans" | python labeling.py -k 5

    from labeling import Labeler
    Labeler("FOLDER").label(["black", "levi", "jeans"], k=5)

groot_jax wrote it, and is not needed here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TAG = -1  # The item of a template that stands for a tag's pieces.
Found = list[tuple[Sequence[int], float]]  # Outputs of a sentence with their log probabilities.
# A log probability that no output has: what a search fills its list up with lies below.
_IMPOSSIBLE = -1e6


class State(NamedTuple):
    """Where an output stands: its place in the template, the pieces of an unfinished tag, and the
    tags so far."""

    place: int = 0
    part: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()


class Grammar:
    """Which ids may follow in the output for a sentence, and which labeling an output stands for.

    A tag is `O`, `I` (goes on with the span before it) or a type. `facts`: labeling.json.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.tags = {tag: tuple(pieces) for tag, pieces in facts["tags"].items()}
        # After O, and at the start, there is no span that an I could go on with.
        self._outside = {tag: pieces for tag, pieces in self.tags.items() if tag != "I"}

    def allowed(self, template: Sequence[int], state: State) -> list[int]:
        """The ids that may come next; none after the last."""
        if state.place == len(template):
            return []
        if template[state.place] != TAG:
            return [template[state.place]]
        found: dict[int, None] = {}
        length = len(state.part)
        for tag, pieces in self._possible(state).items():
            if len(pieces) > length:
                found[pieces[length]] = None
            else:  # The tag may end here: what comes behind it.
                found |= dict.fromkeys(self.allowed(template, self._done(state, tag)))
        return list(found)

    def after(self, template: Sequence[int], state: State, id_: int) -> State | None:
        """The state after one more id; None where that id may not follow."""
        if state.place == len(template):
            return None
        if template[state.place] != TAG:
            wanted = template[state.place] == id_
            return state._replace(place=state.place + 1) if wanted else None
        longer = state._replace(part=(*state.part, id_))
        possible = self._possible(longer)
        for tag, pieces in possible.items():
            if len(possible) == 1 and pieces == longer.part:
                return self._done(state, tag)
        if possible:
            return longer
        whole = [tag for tag, pieces in self._possible(state).items() if pieces == state.part]
        return self.after(template, self._done(state, whole[0]), id_) if whole else None

    def read(self, template: Sequence[int], ids: Iterable[int]) -> tuple[str, ...] | None:
        """The tags of a whole output, one a word; None where it is not well-formed."""
        state: State | None = State()
        for id_ in ids:
            if state is not None and state.place < len(template):
                state = self.after(template, state, id_)
        return state.tags if state is not None and state.place == len(template) else None

    def _possible(self, state: State) -> dict[str, tuple[int, ...]]:
        """The tags that may stand here and begin with the pieces at hand."""
        inside = state.tags and state.tags[-1] != "O"
        tags = self.tags if inside else self._outside
        length = len(state.part)
        return {tag: pieces for tag, pieces in tags.items() if pieces[:length] == state.part}

    def _done(self, state: State, tag: str) -> State:
        return State(state.place + 1, (), (*state.tags, tag))


class Sentence(NamedTuple):
    """A sentence as the model reads it: ids, those whose embeddings are added to each, the template
    of its outputs, and the tokens of its longest output."""

    words: tuple[str, ...]
    source: list[int]
    fused: list[list[int]]
    template: list[int]
    longest: int


class Words:
    """Sentences in, ranked labelings out; how outputs are searched for is a subclass's business."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else Path(__file__).resolve().parent
        self.facts = json.loads((self.folder / "labeling.json").read_text(encoding="utf-8"))
        self.grammar = Grammar(self.facts)
        self._special = {self.facts["pad"], self.facts["eos"], *self.facts["sentinels"]}
        self._encode = encoder(self.folder, self.facts)
        self._features = _features(self.folder, self.facts)

    def search(self, sentences: Sequence[Sentence], beams: int) -> list[Found]:
        """The likeliest outputs of each sentence, `beams` at most, in any order."""
        raise NotImplementedError

    def label(self, words: Sequence[str], k: int = 5) -> list[dict[str, Any]]:
        """The `k` likeliest labelings of one sentence, given as its words, best first."""
        return self.label_all([words], k)[0]

    def label_all(
        self, sentences: Sequence[Sequence[str]], k: int = 5, batch_size: int = 8
    ) -> list[list[dict[str, Any]]]:
        """As `label`, of many. A labeling has `spans` (`start`, `end`, exclusive, `type`, `text`),
        `score`, its log probability, and `probability`, its share of the list's.

        The beam is at least as wide as in training. Raises ValueError for what is no sentence, for
        one that is too long, and for a `k` below 1.
        """
        if k < 1:
            raise ValueError(f"k={k}: ask for 1 labeling or more")
        read = [self._sentence(words) for words in sentences]
        beams = max(k, self.facts["beams"])
        # Sentences of like length side by side, so that little is padded.
        order = sorted(range(len(read)), key=lambda i: len(read[i].source))
        answers: list[list[dict[str, Any]]] = [[] for _ in read]
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            found = self.search([read[i] for i in some], beams)
            for i, outputs in zip(some, found, strict=True):
                answers[i] = self._answer(read[i], outputs)[:k]
        return answers

    def _answer(self, sentence: Sentence, outputs: Found) -> list[dict[str, Any]]:
        """The well-formed outputs as labelings, best first."""
        ranked = []
        penalty = self.facts["length_penalty"]
        for ids, score in outputs:
            tags = self.grammar.read(sentence.template, ids)
            if tags is not None and score > _IMPOSSIBLE:
                length = list(ids).index(self.facts["eos"]) + 1
                ranked.append((score / length**penalty, score, tags))
        ranked.sort(key=lambda item: -item[0])
        temperature = self.facts["temperature"]
        # Less the highest: exp of a long sentence's -1000 is 0.
        top = max((score for _, score, _ in ranked), default=0.0)
        weights = [math.exp((score - top) / temperature) for _, score, _ in ranked]
        return [
            {
                "spans": _spans(sentence.words, tags),
                "score": score,
                "probability": weight / sum(weights),
            }
            for (_, score, tags), weight in zip(ranked, weights, strict=True)
        ]

    # ---- Words as the format has them ----

    def _sentence(self, words: Sequence[str]) -> Sentence:
        if isinstance(words, str):  # Or each of its letters would be a word.
            raise ValueError(f"words are a list of strings, not a text: give {words!r}.split()")
        facts, words = self.facts, tuple(words)
        if not words or not all(isinstance(word, str) and word for word in words):
            raise ValueError(f"words have to be a list of strings, none empty: {words!r}")
        if len(words) > facts["max_words"]:
            raise ValueError(
                f"a sentence of {len(words)} words is over the limit of {facts['max_words']}: "
                "split it"
            )
        bags = [self._bag(word) for word in words] if facts["bag"] else []
        pieces = [bag[:1] for bag in bags] or [self._pieces(word) for word in words]
        sentinels, eos = facts["sentinels"], facts["eos"]
        source: list[int] = []
        fused: list[list[int]] = []
        template: list[int] = []
        for i, ids in enumerate(pieces):
            extra = bags[i][1:] if bags else []
            tag = [TAG]
            if facts["format"] == "sentinel_tag":
                ids, tag = [sentinels[i], *ids], [sentinels[i], TAG]
            elif facts["format"] == "fused_sentinel":
                extra = [sentinels[i]]
            elif facts["format"] == "input_tag":
                tag = [*ids, facts["brackets"][0], TAG, facts["brackets"][1]]
            elif i:  # What stands between tags.
                tag = [*facts["separator"], TAG]
            source += ids
            fused += [extra, *[[] for _ in ids[1:]]]
            template += tag
        most = max(map(len, self.grammar.tags.values()))
        longest = len(template) + 1 + len(words) * (most - 1)
        return Sentence(words, [*source, eos], [*fused, []], [*template, eos], longest)

    def _bag(self, word: str) -> list[int]:
        """What is known of a word, its own id first, where a word is one position."""
        if self._features is None:
            return self._pieces(word)[: self.facts["bag"]]
        return self._features(word)

    def _pieces(self, word: str) -> list[int]:
        # JSON can hold half a character, and UTF-8 cannot.
        text = (word.lower() if self.facts["lowercase"] else word).encode("utf-8", "replace")
        ids = self._encode(text.decode())
        if not self._special.isdisjoint(ids):  # A word that looks like `</s>`, letter by letter.
            ids = [id_ for letter in text.decode() for id_ in self._encode(letter)]
            ids = [id_ for id_ in ids if id_ not in self._special]
        return ids or [self.facts["unknown"]]


def encoder(folder: Path, facts: dict[str, Any]) -> Callable[[str], list[int]]:
    """Text to ids, none of them special because a word looks like it."""
    if facts["pieces"] == "bytes":  # ByT5: three special ids, then the 256 bytes.
        return lambda text: [byte + 3 for byte in (facts["prefix"] + text).encode()]
    from tokenizers import Tokenizer

    file = json.loads((folder / facts["pieces"]).read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps(_without_names(file, facts)))
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(facts["prefix"] + text, add_special_tokens=False).ids


def _without_names(file: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """A unigram model in which special pieces have names that no text holds.

    Among the words they would be pieces like any others, and `</s>` in a sentence the end of it.
    """
    model = file["model"]
    if model.get("type") != "Unigram":
        return file
    added = file.get("added_tokens") or []
    special = {facts["pad"], facts["eos"], facts["unknown"]}
    special |= {token["id"] for token in added if token["special"]}
    vocabulary = [
        [f"\ue000{piece}" if id_ in special else piece, score]
        for id_, (piece, score) in enumerate(model["vocab"])
    ]
    # Renamed, not left out: what is not in the model has the next free id, in their order.
    renamed = [
        token | {"content": f"\ue000{token['content']}", "special": True}
        if token["id"] in special
        else token
        for token in added
    ]
    return file | {"model": model | {"vocab": vocabulary}, "added_tokens": renamed}


def _features(folder: Path, facts: dict[str, Any]) -> Callable[[str], list[int]] | None:
    """Ids of a word, its ends and its shape, where the vocabulary has such."""
    if not facts["features"]:
        return None
    spec = importlib.util.spec_from_file_location("features", folder / "features.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda word: list(module.feature_ids(word, facts["features"], facts["unknown"]))


def _spans(words: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """O brand I O -> one span of words 1 and 2."""
    starts = [i for i, tag in enumerate(tags) if tag not in ("O", "I")]
    spans = []
    for start in starts:
        end = start + 1
        while end < len(tags) and tags[end] == "I":
            end += 1
        text = " ".join(words[start:end])
        spans.append({"start": start, "end": end, "type": tags[start], "text": text})
    return spans


def _lines(path: str) -> Iterator[list[str]]:
    with sys.stdin if path == "-" else open(path, encoding="utf-8") as file:
        yield from (line.split() for line in file)


def command_line(make: Callable[[], Words]) -> None:
    """Labels a file of sentences, one a line, and prints JSON lines."""
    parser = argparse.ArgumentParser(description="Label text: ranked labelings as JSON lines.")
    parser.add_argument("file", nargs="?", default="-", help="a sentence a line; - reads stdin")
    parser.add_argument(
        "-k",
        type=int,
        help="labelings of each sentence (5, or the width of the beam if that is less)",
    )
    args = parser.parse_args()
    labeler = make()
    k = min(5, labeler.facts["beams"]) if args.k is None else args.k
    # JSON has an escape for what another encoding lacks.
    escaped = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
    number = 0
    try:
        for number, words in enumerate(_lines(args.file), 1):  # noqa: B007 (read below)
            found = labeler.label(words, k) if words else []
            answer = {"words": words, "labelings": found}
            print(json.dumps(answer, ensure_ascii=escaped), flush=True)
    except (OSError, UnicodeError) as error:
        sys.exit(f"labeling.py: {args.file}: {error}")
    except ValueError as error:  # Of a sentence.
        sys.exit(f"labeling.py: {args.file}, line {number}: {error}")
