"""Tag schemes of files: BIO (IOB2), IOB1 and BIOES, to labelings.

Reading is strict: a tag that the scheme does not allow is an error at its position, never repaired
in silence. Lenient reading of model output is elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from groot_jax.data.labeling import Labeling, Span
from groot_jax.errors import UserError

_PREFIXES = {"bio": "BI", "iob1": "BI", "bioes": "BIES"}
# Shares below 1 / _RARE of the evidence are taken for mistakes of a file, not for its scheme.
_RARE = 20


class TagError(ValueError):
    """The tag at `position` of a sentence breaks its scheme; `str` says how, without a place."""

    def __init__(self, position: int, message: str):
        super().__init__(message)
        self.position = position


@dataclass(frozen=True, slots=True)
class Tagged:
    """A sentence as a file holds it, its tags not yet read. `lines` has the line of each word."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    file: str
    lines: Sequence[int]

    def place(self, position: int = 0) -> str:
        """`file:line` of a word, the first one without `position`."""
        return f"{self.file}:{self.lines[position]}"


def looks_like_tag(text: str) -> bool:
    """Whether `text` has the form of a tag of any scheme: `O`, or a prefix, a hyphen and a type."""
    return text == "O" or (len(text) > 2 and text[0] in "BIES" and text[1] == "-")


def check_type(type_: str) -> str | None:
    """What is wrong with the name of a type, or None."""
    if not type_ or type_ != type_.strip() or not type_.isprintable():
        return f"the type {type_!r} is empty, or has spaces around it or characters without a shape"
    if type_ in ("I", "O"):
        return f"a type cannot be called {type_!r}, which the tag of that name needs; rename it"
    return None


# Asked for at every word, and there are few different tags: 120 in the train split of ATIS.
@lru_cache(maxsize=4096)
def _split(tag: str) -> tuple[str, str, str]:
    """Prefix, type and complaint of a tag; `O` has neither prefix nor type."""
    if tag == "O":
        return "", "", ""
    # B-creative-work -> B, creative-work: the first hyphen parts them.
    prefix, hyphen, type_ = tag.partition("-")
    if not hyphen or len(prefix) != 1 or prefix not in "BIES":
        return "", "", f"the tag {tag!r} is neither O nor a prefix, a hyphen and a type; mend it"
    return prefix, type_, check_type(type_) or ""


def labeling_of_tags(tags: Sequence[str], scheme: str) -> Labeling:
    """Reads `tags` strictly under `scheme`: bio | iob1 | bioes.

    Raises TagError at the first tag that the scheme does not allow. IOB1 has no stray `I-`: one
    without a span of its type before it begins a span.
    """
    spans: list[Span] = []
    start, open_type = 0, ""
    # The same two spans, of two words and of one, in the three schemes:
    #   bio    B-x I-x B-x O        iob1   I-x I-x B-x O        bioes  B-x E-x S-x O
    # In IOB1 a span begins with B- only where one of its type touches it from before. The `O` at
    # the end closes a span that the sentence ends with.
    for i, tag in enumerate([*tags, "O"]):
        prefix, type_, complaint = _split(tag)
        if complaint:
            raise TagError(i, complaint)
        if prefix and prefix not in _PREFIXES[scheme]:
            raise TagError(
                i, f"the tag {tag!r} is not one of scheme {scheme}; set config.data.scheme"
            )
        continues = prefix in ("I", "E") and type_ == open_type
        if prefix in ("I", "E") and not continues and scheme != "iob1":
            before = repr(tags[i - 1]) if i else "the start of the sentence"
            raise TagError(
                i, f"stray {tag!r} after {before}: no span of its type goes on; make it B-{type_}"
            )
        if open_type and not continues:
            # A span of BIOES closes itself, below: one that is still open has no E-.
            if scheme == "bioes":
                raise TagError(
                    i - 1,
                    f"the span that ends with {tags[i - 1]!r} wants E- or S- on its last word",
                )
            spans.append(Span(start, i, open_type))
            open_type = ""
        if prefix and not continues:
            start, open_type = i, type_
        if prefix in ("E", "S"):
            spans.append(Span(start, i + 1, type_))
            open_type = ""
    return tuple(spans)


def detect_scheme(sentences: Iterable[Tagged]) -> str:
    """The scheme of a file, from the tags that only one scheme has.

    E- and S- speak for BIOES, a span that ends without one against it. Then I- that begins a span
    speaks for IOB1, B- that begins one where IOB1 has I- for BIO. A few of the rarer kind are left
    to be reported as mistakes at their lines. Raises UserError where both are common.
    """
    # Each list holds the places that speak for a scheme, with words for the message; lists and not
    # counts, for a message names the first of each.
    bioes: list[str] = []
    others: list[str] = []
    iob1: list[str] = []
    bio: list[str] = []
    for sentence in sentences:
        prefix = before = ""
        for i, tag in enumerate([*sentence.tags, "O"]):
            last, (prefix, type_, complaint) = prefix, _split(tag)
            if prefix in ("E", "S") and not complaint:
                bioes.append(f"{sentence.place(i)} ({tag} ends a span, as in BIOES)")
            elif last in ("B", "I") and (prefix not in ("I", "E") or type_ != before):
                others.append(f"{sentence.place(i - 1)} ({last}-{before} ends a span, as in BIO)")
            if prefix == "I" and type_ != before:
                iob1.append(f"{sentence.place(i)} ({tag} begins a span, as in IOB1)")
            if prefix == "B" and type_ != before:
                bio.append(f"{sentence.place(i)} ({tag} begins a span, as in BIO)")
            before = type_
    # B-x E-x O and nothing else -> bioes. B-x I-x O -> bio. I-x I-x O -> iob1. O O -> bio, for
    # nothing speaks for any and 0 is rare among 0.
    if bioes and _rare(others, bioes):
        return "bioes"
    if not _rare(bioes, others):
        raise _mixture(bioes[0], others[0], "bioes or config.data.scheme=bio")
    if _rare(iob1, bio):
        return "bio"
    if _rare(bio, iob1):
        return "iob1"
    raise _mixture(iob1[0], bio[0], "bio or config.data.scheme=iob1")


def _rare(few: Sequence[str], many: Sequence[str]) -> bool:
    # 2 among 40 are rare, 3 are not.
    return len(few) * _RARE <= len(many)


def _mixture(one: str, other: str, schemes: str) -> UserError:
    return UserError(
        f"{one} and {other} follow different tag schemes: mend them, or say which scheme the "
        f"files have with config.data.scheme={schemes}"
    )
