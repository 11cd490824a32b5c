"""A tag as a file writes it: its prefix and type, and what is wrong with its characters.

Knows nothing of sentences or schemes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

# Prefixes of all schemes; M is the inside of BMES, L and U are the end and the single word of
# BILOU, W is the single word of BMEWO.
PREFIXES = "BIESLUMW"
BARE_TYPE = "span"  # The type of spans whose tags are B, I and O alone.

# Letters of other scripts that look like Latin ones, those first that types and prefixes are made
# of; then dashes and minus signs. Full-width forms are found by NFKC.
_CYRILLIC = "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0405"
_CYRILLIC += "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455"
_GREEK = (
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf"
)
_DASHES = "\u00ad\u02d7\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
LOOK_ALIKES = {
    **dict(zip(_CYRILLIC, "ABEKMHOPCTYXISaeopcyxijs", strict=True)),
    **dict(zip(_GREEK, "ABEZHIKMNOPTYXo", strict=True)),
    **dict.fromkeys(_DASHES, "-"),
}


class Tag(NamedTuple):
    """`B-PER` -> B, PER; `O` has neither prefix nor type, a bare `B` no type, and a plain `PER` no
    prefix. `complaint` says what is wrong, and is empty where nothing is."""

    prefix: str
    type: str
    complaint: str


def looks_like_tag(text: str) -> bool:
    """Whether `text` has the form of a tag of any scheme with prefixes: `O`, a prefix alone, or a
    prefix, a hyphen and a type."""
    return text in ("O", *PREFIXES) or (len(text) > 2 and text[0] in PREFIXES and text[1] == "-")


def check_type(type_: str) -> str | None:
    """What is wrong with the name of a type, or None."""
    if not type_ or type_ != type_.strip() or not type_.isprintable():
        shown = f" ({named(type_)})" if type_.strip() else ""
        return (
            f"the type {type_!r} is empty, or has spaces around it or characters without a shape"
            f"{shown}"
        )
    if type_ in ("I", "O"):
        return f"a type cannot be called {type_!r}, which the tag of that name needs; rename it"
    for part in re.findall(r"[^\W\d_]+", type_):
        # P E R with a Cyrillic E is a slip; a type that is Cyrillic from end to end is none.
        if any(c.isascii() for c in part) and any(c in LOOK_ALIKES for c in part):
            return f"the type {type_!r} mixes letters that look alike ({named(part)}); mend it"
    return None


# Asked for at every word, and there are few different tags: 120 in the train split of ATIS.
@lru_cache(maxsize=4096)
def split_tag(tag: str) -> Tag:
    """Parts `tag` at its first hyphen: B-creative-work is B and creative-work."""
    if tag == "O":
        return Tag("", "", "")
    if tag and tag in PREFIXES:
        return Tag(tag, "", "")
    prefix, hyphen, type_ = tag.partition("-")
    if hyphen and len(prefix) == 1 and prefix in PREFIXES:
        return Tag(prefix, type_, check_type(type_) or "")
    return Tag("", tag, _form_complaint(tag) or check_type(tag) or "")


def _form_complaint(tag: str) -> str:
    """What a text that has no prefix would have to be changed in to be a tag with one."""
    meant = resembling(tag)
    if meant != tag and looks_like_tag(meant):
        return f"the tag {tag!r} looks like {meant!r} but is not ({named(tag)}); write it so"
    if tag in ("o", "0"):
        return f"the tag {tag!r} is not the capital letter O, which outside words have; mend it"
    if len(tag) > 2 and tag[0].upper() in PREFIXES and tag[1] in "-_:./+=|":
        meant = f"{tag[0].upper()}-{tag[2:]}"
        return f"the tag {tag!r} is no tag; where {meant!r} is meant, write it so"
    if tag[1:2] == "-" and tag[:1].isalpha() and tag[0] not in PREFIXES:
        return f"the tag {tag!r} has a prefix that no scheme knows ({PREFIXES}); mend it"
    return ""


def resembling(text: str) -> str:
    """The text with Latin letters and hyphens in the place of what looks like them."""
    plain = unicodedata.normalize("NFKC", "".join(LOOK_ALIKES.get(c, c) for c in text))
    return "".join(LOOK_ALIKES.get(c, c) for c in plain if c.isprintable() and c != "\ufeff")


def look_alikes(types: Iterable[str]) -> tuple[str, str, str] | None:
    """The first two types that look the same and are not, with the characters that differ."""
    first: dict[str, str] = {}
    for type_ in types:
        other = first.setdefault(resembling(type_), type_)
        if other != type_:
            return other, type_, named(type_) or named(other)
    return None


def named(text: str) -> str:
    """The characters of a text beyond ASCII by code point and name, at most three."""
    odd = [c for c in dict.fromkeys(text) if not c.isascii() or not c.isprintable()]
    names = (f"U+{ord(c):04X} {unicodedata.name(c, 'without a name')}" for c in odd[:3])
    return ", ".join(names)
