"""Objects of JSON and of Parquet files as sentences: words or text, with spans or tags.

Other keys of an object are left alone; one that lacks these, or has two that may disagree, is
reported by whoever has its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

from groot_jax.data.labeling import Sentence, half_character, make_labeling
from groot_jax.data.readers.reading import Read
from groot_jax.data.schemes import Tagged
from groot_jax.data.splitting import (
    SPLITS,
    SplitText,
    spans_of_words,
    split_text,
    words_of_tokens,
)
from groot_jax.data.tags import check_type

FORM = (
    '{"words": [...], "spans": [[start, end, "type"], ...]}, {"words": [...], "tags": [...]}, '
    '{"tokens": [...], "ner_tags": [...]} or {"text": "...", "spans" or "label": [...]}'
)
_TAG_KEYS = ("tags", "ner_tags")
# Prodigy and spaCy say spans or entities, doccano label or labels.
_SPAN_KEYS = ("spans", "label", "labels", "entities")
LABEL_KEYS = (*_TAG_KEYS, *_SPAN_KEYS)
_WORD_KEYS = ("words", "tokens")
# What a span that is an object calls its ends and its type.
_STARTS, _ENDS = ("start", "start_offset", "start_char"), ("end", "end_offset", "end_char")
_TYPES = ("type", "label")


class Objects(NamedTuple):
    """`tag_names`: the tag of each number; `split`: how text becomes words (config.text.split)."""

    tag_names: Sequence[str] = ()
    split: str = "spaces"


class Found:
    """The sentences of the objects of a file, and what they were made of."""

    def __init__(self) -> None:
        self._sentences: list[Tagged | Sentence] = []
        self._forms: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def add(self, item: object, where: tuple[str, int], objects: Objects) -> None:
        """Adds the sentence of one object, or counts why it is left out; raises as
        `sentence_of`."""
        sentence, form = sentence_of(item, where, objects)
        if sentence is None:
            self._left_out[form] += 1
        else:
            self._forms[form] += 1
            self._sentences.append(sentence)

    def read(self, what: str) -> Read:
        """All of them, laid out as `JSON lines, text and label; left out: 3 of answer reject`."""
        said = ", ".join((what, *(form for form, _ in self._forms.most_common())))
        if left_out := ", ".join(f"{n} of {why}" for why, n in self._left_out.most_common()):
            said += f"; left out: {left_out}"
        return Read(self._sentences, said)


def sentence_of(
    item: object, where: tuple[str, int], objects: Objects
) -> tuple[Tagged | Sentence | None, str]:
    """The sentence of one object, read as `where` (file, line), and which keys it was made of.

    None for an example that was rejected in Prodigy or has no annotation in Label Studio, and for
    predict's answer to an empty line. Raises ValueError that says what is wrong with it.
    """
    if isinstance(item, list) and len(item) == 2 and isinstance(item[1], Mapping):
        # spaCy 2 has ["in Rome", {"entities": [[3, 7, "LOC"]]}].
        item = {**item[1], "text": item[0]}
    if isinstance(item, Mapping) and isinstance(item.get("annotations"), list) and "data" in item:
        return _of_label_studio(item["data"], item["annotations"], where, objects.split)
    if not isinstance(item, Mapping):
        raise ValueError(f"not an object of the form {FORM}")
    if "error" in item and "labelings" not in item:
        raise ValueError(f"an error, no sentence: {str(item['error'])[:200]}")
    if item.get("answer", "accept") != "accept":
        return None, f"answer {item['answer']}"
    if "labelings" in item:
        return _predicted(item, where)
    # One of them: both might disagree. And a sentence that names nothing has `"spans": []`; one
    # without any such key is more likely one that nobody labeled.
    labels = [key for key in LABEL_KEYS if key in item]
    if len(labels) > 1:
        labels = [key for key in labels if not _of_sentence(key, item[key])]
    # Prodigy's tokens are objects, and its spans count the characters of its text.
    words = [key for key in _WORD_KEYS if key in item and not _is_objects(item[key])]
    if "text" in item and words == ["tokens"] and {*labels} & {*_SPAN_KEYS}:
        raise ValueError(
            "it has tokens and a text, and its spans may count either: leave one of the two out"
        )
    sources = words or [key for key in ("text",) if key in item]
    if len(labels) != 1 or len(sources) != 1:
        raise ValueError(f"its keys are {', '.join(map(str, item)) or 'none'}; wanted is {FORM}")
    label, source = labels[0], sources[0]
    form = f"{source} and {label}"
    if source == "text" and label in _TAG_KEYS:
        raise ValueError(f"`{label}` are of words, and it has a text; give it `words` instead")
    if source == "text":
        text = item["text"]
        if not isinstance(text, str):
            raise ValueError("`text` must be a string")
        # Whoever says how text becomes words has predict part it so, too; else the words are those
        # that were annotated.
        given = words_of_tokens(text, item.get("tokens")) if objects.split == "spaces" else None
        form = f"text, its tokens and {label}" if given else form
        return _of_text(text, _spans(item[label], label), where, objects.split, given), form
    known = _words(item[source], source)
    if label in _TAG_KEYS or (label in ("label", "labels") and not _is_spans(item[label])):
        tags = _tags(item[label], label, len(known), objects.tag_names)
        return Tagged(known, tags, where[0], (where[1],) * len(known)), form
    return _sentence(known, _spans(item[label], label), where), form


def _sentence(
    words: tuple[str, ...], spans: Sequence[tuple[int, int, str]], where: tuple[str, int]
) -> Sentence:
    for one, other in pairwise(sorted(spans)):
        if other[0] < one[1] <= len(words):
            shown = (f"{' '.join(words[a:b])!r} ({type_})" for a, b, type_ in (one, other))
            raise ValueError(f"the spans {' and '.join(shown)} overlap: keep one of them")
    labeling = make_labeling(spans, len(words))
    for span in labeling:
        if complaint := check_type(span.type):
            raise ValueError(complaint)
    return Sentence(words, labeling, f"{where[0]}:{where[1]}")


def _of_text(
    text: str,
    spans: Sequence[tuple[int, int, str]],
    where: tuple[str, int],
    split: str,
    given: SplitText | None = None,
) -> Sentence:
    """`given`: the words of the text where its tokens say them; else it is parted by `split`."""
    # Line breaks part words as spaces do; one for one, so that characters keep their places.
    plain = text.replace("\r", " ").replace("\n", " ")
    words, offsets = given or split_text(plain, split)
    if not words:
        raise ValueError("`text` holds no word")
    try:
        found = spans_of_words(spans, plain, offsets)
    except ValueError as error:
        if given or "cuts the word" not in str(error):
            raise
        finer = _finer_split(spans, plain, split)
        raise ValueError(f"{error}; move its end{finer}") from None
    return _sentence(_words(list(words), "text"), found, where)


def _finer_split(spans: Sequence[tuple[int, int, str]], text: str, split: str) -> str:
    """What to say of the settings of text.split after `split` under which no span cuts a word."""
    for finer in SPLITS[SPLITS.index(split) + 1 :]:
        try:
            spans_of_words(spans, text, split_text(text, finer).offsets)
        except ValueError:
            continue
        return f", or have punctuation stand apart: --config.text.split={finer}"
    return ""


def _of_label_studio(
    data: object, annotations: list, where: tuple[str, int], split: str
) -> tuple[Sentence | None, str]:
    """A task as Label Studio exports it (JSON): {"data": {"text": ...}, "annotations": [{"result":
    [{"value": {"start": ..., "end": ..., "labels": [type]}}]}]}, ends of spans exclusive."""
    form = "Label Studio's text and annotations"
    values = data if _is_map(data) else {}
    texts = [value for value in values.values() if isinstance(value, str)]
    text = values.get("text", texts[0] if len(texts) == 1 else None)
    if not isinstance(text, str):
        raise ValueError("`data` has no `text`, which would be the sentence, and no single string")
    kept = [a for a in annotations if _is_map(a) and not a.get("was_cancelled")]
    if not kept:
        return None, "no annotation"
    if len(kept) > 1:
        raise ValueError(f"it has {len(kept)} annotations, which may differ: leave one of them")
    results = kept[0].get("result") or []
    # Relations and choices of the whole text have no `labels` with places.
    marked = [r["value"] for r in results if _is_map(r) and _is_map(r.get("value"))]
    spans = [value for value in marked if "labels" in value]
    return _of_text(text, _spans(spans, "annotations"), where, split), form


def _predicted(item: Mapping, where: tuple[str, int]) -> tuple[Sentence | None, str]:
    """What groot_jax.predict printed, corrected or not: its first labeling is gold."""
    form = "words and the first of labelings"
    words, labelings = item.get("words"), item["labelings"]
    if not isinstance(labelings, list) or not all(isinstance(y, Mapping) for y in labelings):
        raise ValueError("`labelings` must be a list of objects with `spans`, as predict prints it")
    if words == [] and labelings == []:
        return None, "empty line"
    if not labelings or "spans" not in labelings[0]:
        raise ValueError("`labelings` has no first labeling with `spans`, which would be gold")
    spans = _spans(labelings[0]["spans"], "spans", ("start",), ("end",))
    return _sentence(_words(words, "words"), spans, where), form


def _words(value: Any, key: str) -> tuple[str, ...]:
    if not _is_strings(value) or not value or not all(value):
        raise ValueError(f"`{key}` must be a list of one or more strings, none of them empty")
    # JSON can spell "\ud800", half of a pair of UTF-16, and no file in UTF-8 can hold it.
    if half := half_character(value):
        raise ValueError(f"the word {half!r} holds a lone surrogate, half of a character")
    return tuple(value)


def _tags(value: Any, key: str, count: int, names: Sequence[str]) -> tuple[str, ...]:
    numbers = isinstance(value, list) and bool(value) and all(type(tag) is int for tag in value)
    if not (numbers or _is_strings(value)) or len(value) != count:
        raise ValueError(
            f"`{key}` must be a list of {count} strings (or numbers), one for each word"
        )
    if not numbers:
        return tuple(value)
    low, high = min(value), max(value)
    if not names:
        raise ValueError(
            f"`{key}` are numbers: name the tags from 0 to {high} or more, in their order, with "
            "--config.data.tag_names=O,B-type,I-type,..."
        )
    if low < 0 or high >= len(names):
        raise ValueError(
            f"`{key}` has the number {low if low < 0 else high}, and the tags are named from 0 to "
            f"{len(names) - 1} (config.data.tag_names)"
        )
    return tuple(names[tag] for tag in value)


def _of_sentence(key: str, value: object) -> bool:
    """Whether what may be labels of words is said of the whole sentence: its intent, by name or by
    number, or WikiANN's `"spans": ["LOC: Rome"]`, which say no place."""
    if key in ("label", "labels"):
        return isinstance(value, str | int)
    return key in _SPAN_KEYS and _is_strings(value) and value != []


def _is_map(value: object) -> TypeGuard[Mapping]:
    return isinstance(value, Mapping)


def _is_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _is_spans(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, list | Mapping) for item in value)


def _spans(
    value: object,
    key: str,
    starts: Sequence[str] = _STARTS,
    ends: Sequence[str] = _ENDS,
) -> list[tuple[int, int, str]]:
    """[start, end, "type"] or objects with these, as tuples."""
    spans = []
    for item in value if isinstance(value, list) else [None]:
        if isinstance(item, Mapping):
            types = item.get("labels")  # Label Studio's, a list.
            if isinstance(types, list) and len(types) == 1:
                item = {"type": types[0], **item}
            item = [
                next((item[name] for name in names if item.get(name) is not None), None)
                for names in (starts, ends, _TYPES)
            ]
        # `type(...)`, for to `isinstance` true and false are whole numbers.
        if not isinstance(item, list) or [type(part) for part in item] != [int, int, str]:
            raise ValueError(
                f'`{key}` must be a list of [start, end, "type"] with whole numbers, or of objects '
                "with start, end and label"
            )
        spans.append((item[0], item[1], item[2]))
    return spans


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
