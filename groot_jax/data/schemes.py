"""Tag schemes of files to labelings: BIO, IOB1, BIOES, BILOU, BMES, IOE1, IOE2 and IO.

Reading is strict: a tag that the scheme does not allow is an error at its position, never repaired
in silence. Lenient reading of model output is elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from groot_jax.data.labeling import Labeling, Span
from groot_jax.data.tags import BARE_TYPE, check_type, split_tag
from groot_jax.errors import UserError

# Shares below 1 / _RARE of the evidence are taken for mistakes of a file, not for its scheme.
_RARE = 20


class _Rules(NamedTuple):
    """`letters`: a file's prefixes -> those of the scheme that `reads` names: bio, iob1 or bioes.
    `mirrored`: read from the end of the sentence on, where E- begins a span as B- does."""

    letters: dict[str, str]
    reads: str
    mirrored: bool = False


# The same two spans, of two words and of one, in the schemes:
#   bio    B-x I-x B-x O        bioes  B-x E-x S-x O        ioe1   I-x E-x I-x O
#   iob1   I-x I-x B-x O        bilou  B-x L-x U-x O        ioe2   I-x E-x E-x O
#   io     x   x   x   O        bmes   B-x E-x S-x O (M- inside, W- for S- in BMEWO)
# In IOB1 a span begins with B- only where one of its type touches it from before, in IOE1 it ends
# with E- only where one touches it from behind. IO cannot part two such spans, and reads one.
_BI = {"B": "B", "I": "I"}
_RULES = {
    "bio": _Rules(_BI, "bio"),
    "iob1": _Rules(_BI, "iob1"),
    "bioes": _Rules(_BI | {"E": "E", "S": "S"}, "bioes"),
    "bilou": _Rules(_BI | {"L": "E", "U": "S"}, "bioes"),
    "bmes": _Rules({"B": "B", "M": "I", "E": "E", "S": "S", "W": "S"}, "bioes"),
    "ioe1": _Rules({"E": "B", "I": "I"}, "iob1", True),
    "ioe2": _Rules({"E": "B", "I": "I"}, "bio", True),
    "io": _Rules({"I": "I"}, "iob1"),
}
SCHEMES = tuple(_RULES)
ALIASES = {
    "iob2": "bio",
    "bio2": "bio",
    "iob": "iob1",
    "bio1": "iob1",
    "iobes": "bioes",
    "biluo": "bilou",
    "biolu": "bilou",
    "bmeso": "bmes",
    "bmewo": "bmes",
}


class Scheme(NamedTuple):
    """`name`: one of SCHEMES. `bare`: tags are prefixes without a type, which is `span` then."""

    name: str
    bare: bool = False

    def __str__(self) -> str:
        return f"{self.name} without types" if self.bare else self.name


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


def scheme_setting(setting: str, split: str) -> str:
    """What config.data.scheme says of a split: a name of SCHEMES, or `auto`.

    `IOB2` -> bio for every split; `train=bio,dev=iob1` -> iob1 for dev, auto for test.
    """
    by_split = dict.fromkeys((split,), "auto" if "=" in setting else setting)
    for part in setting.split(",") if "=" in setting else ():
        name, _, scheme = part.partition("=")
        by_split[name.strip()] = scheme
    scheme = by_split[split].strip().lower()
    return ALIASES.get(scheme, scheme)


# ---- Reading ----------------------------------------------------------------------------------


def labeling_of_tags(tags: Sequence[str], scheme: Scheme) -> Labeling:
    """Reads `tags` strictly.

    Raises TagError at a tag that the scheme does not allow. IOB1 has no stray `I-`: one without a
    span of its type before it begins a span, as for conlleval.
    """
    rules = _RULES[scheme.name]
    known = []
    for i, tag in enumerate(tags):
        prefix, type_, complaint = _parts(tag, scheme)
        if complaint:
            raise TagError(i, complaint)
        if prefix and prefix not in rules.letters:
            raise TagError(
                i,
                f"the tag {tag!r} is not one of scheme {scheme.name}; mend it, or say which scheme "
                f"the file has: --config.data.scheme={_schemes_with(prefix)}",
            )
        known.append((rules.letters[prefix] if prefix else "", type_))
    spans, faults = _walk(known[::-1] if rules.mirrored else known, rules.reads)
    for at, fault in faults:
        if fault != "needless":
            position = len(tags) - 1 - at if rules.mirrored else at
            raise TagError(position, _complaint(tags, position, fault, scheme))
    if rules.mirrored:
        last = len(tags)
        spans = [Span(last - end, last - start, type_) for start, end, type_ in reversed(spans)]
    return tuple(spans)


def _parts(tag: str, scheme: Scheme) -> tuple[str, str, str]:
    """Prefix, type and complaint of a tag under a scheme."""
    prefix, type_, complaint = split_tag(tag)
    if scheme.name == "io" and tag != "O" and prefix != "I":
        # E-MAIL is a type of IO; with a B- before it, it would be another scheme.
        if prefix == "B" and type_:
            return "I", tag, f"the tag {tag!r} has a prefix, and scheme io has none; mend it"
        return "I", tag, check_type(tag) or ""
    if complaint or tag == "O":
        return prefix, type_, complaint
    if scheme.bare:
        complaint = "" if prefix and not type_ else f"the tag {tag!r} is none of B, I, O; mend it"
        return prefix, BARE_TYPE, complaint
    if not prefix:
        complaint = f"the tag {tag!r} is neither O nor a prefix, a hyphen and a type; mend it"
    elif not type_:
        complaint = f"the tag {tag!r} names no type: the type '' is empty; mend it"
    return prefix, type_, complaint


def _walk(tags: Sequence[tuple[str, str]], reads: str) -> tuple[list[Span], list[tuple[int, str]]]:
    """The spans of (prefix, type) pairs, and (position, fault) where they break bio, iob1 or bioes:
    a `stray` I- or E-, a span left `open`, or B- where IOB1 has I- (`needless`)."""
    spans: list[Span] = []
    faults: list[tuple[int, str]] = []
    start, open_type = 0, ""
    # The `O` at the end closes a span that the sentence ends with.
    for i, (prefix, type_) in enumerate([*tags, ("", "")]):
        continues = prefix in ("I", "E") and type_ == open_type
        if reads == "iob1":
            if prefix == "B" and type_ != open_type:
                faults.append((i, "needless"))
        elif prefix in ("I", "E") and not continues:
            faults.append((i, "stray"))
        if open_type and not continues:
            # A span of BIOES closes itself, below: one that is still open has no E-.
            if reads == "bioes":
                faults.append((i - 1, "open"))
            spans.append(Span(start, i, open_type))
            open_type = ""
        if prefix and not continues:
            start, open_type = i, type_
        if prefix in ("E", "S"):
            spans.append(Span(start, i + 1, type_))
            open_type = ""
    return spans, faults


def _complaint(tags: Sequence[str], position: int, fault: str, scheme: Scheme) -> str:
    tag, rules = tags[position], _RULES[scheme.name]
    if fault == "open" or rules.mirrored:
        ends = [letter for letter, role in rules.letters.items() if role in ("E", "S")] or ["E"]
        wanted = " or ".join(f"{letter}-" for letter in ends[:2])
        return f"the span that ends with {tag!r} wants {wanted} on its last word"
    before = repr(tags[position - 1]) if position else "the start of the sentence"
    begin = "B" if scheme.bare else f"B-{split_tag(tag).type}"
    said = f"stray {tag!r} after {before}: no span of its type goes on; make it {begin}"
    if scheme.name != "bio":
        return said
    return (
        f"{said}, or read such tags as conlleval does, as the beginning of a span: "
        "--config.data.scheme=iob1"
    )


def _schemes_with(prefix: str) -> str:
    return " or ".join(name for name, rules in _RULES.items() if prefix in rules.letters)


# ---- Detection --------------------------------------------------------------------------------


def detect_scheme(sentences: Iterable[Tagged]) -> Scheme:
    """The scheme of a file: the one that the fewest of its tags break.

    A tag of the rarer kind among twenty is left to be reported as a mistake at its line. Raises
    UserError where two schemes fit about as well, and where no scheme does.
    """
    sentences = list(sentences)
    form = _form(sentences)
    if form == "plain":
        return Scheme("io")
    bare = form == "bare"
    letters = {split_tag(tag).prefix for item in sentences for tag in item.tags}
    names = ["bio", "iob1"]
    if letters & {"E", "S", "M", "W"}:
        names += ["bioes", "bmes"] if not letters & {"M", "W"} else ["bmes", "bioes"]
    if letters & {"L", "U"}:
        names.append("bilou")
    if "E" in letters and "B" not in letters:
        names += ["ioe1", "ioe2"]
    # B-x E-x O and nothing else -> bioes. B-x I-x O -> bio. I-x I-x O -> iob1. O O -> bio, which no
    # tag breaks, and the first named of those is taken.
    broken = {name: _faults(sentences, Scheme(name, bare)) for name in names}
    best = min(names, key=lambda name: len(broken[name]))
    rivals = [name for name in names if broken[name] != broken[best]]
    if rivals:
        second = min(rivals, key=lambda name: len(broken[name]))
        if not _rare(len(broken[best]), len(broken[second])):
            one, other = (
                f"{sentences[n].place(i)} ({sentences[n].tags[i]} breaks {name})"
                for name in (best, second)
                for n, i in broken[name][:1]
            )
            raise _mixture(one, other, best, second)
    return Scheme(best, bare)


def fits(sentences: Iterable[Tagged], scheme: Scheme) -> bool:
    """Whether every tag can be read under the scheme."""
    try:
        for item in sentences:
            labeling_of_tags(item.tags, scheme)
    except TagError:
        return False
    return True


def written_bare(sentences: Iterable[Tagged]) -> bool:
    """Whether most tags are prefixes without a type."""
    forms = _counts(sentences)
    return forms["bare"] * 2 > sum(forms.values())


def _counts(sentences: Iterable[Tagged]) -> Counter[str]:
    """How many tags beside O are `prefixed`, `bare` prefixes, or `plain` types."""
    forms: Counter[str] = Counter()
    for tag, times in Counter(tag for item in sentences for tag in item.tags).items():
        prefix, type_, _ = split_tag(tag)
        if tag != "O":
            forms["plain" if not prefix else "prefixed" if type_ else "bare"] += times
    return forms


def _form(sentences: Sequence[Tagged]) -> str:
    """What the tags of a file are: `prefixed`, `bare` or `plain`. Raises UserError for a mixture,
    and where every word has a plain tag or their form is that of no scheme."""
    forms = _counts(sentences)
    if not forms:
        return "prefixed"
    (form, many), *others = forms.most_common()
    if others and not _rare(sum(count for _, count in others), many):
        one, other = (_first(sentences, name) for name in (form, others[0][0]))
        raise _mixture(f"{one} ({form})", f"{other} ({others[0][0]})", "bio", "io")
    if form == "plain":
        for item in sentences:
            for at, tag in enumerate(item.tags):
                if complaint := split_tag(tag).complaint:
                    raise UserError(f"{item.place(at)}: {complaint}")
        item, at = _first_of(sentences, "plain")
        if not any("O" in other.tags for other in sentences):
            raise UserError(
                f"{item.place(at)}: the tag {item.tags[at]!r} has no prefix, and no word of the "
                "file has the tag O: name the column that holds the tags of spans "
                "(--config.data.tag_column), or say that each run of a tag is a span: "
                "--config.data.scheme=io"
            )
    return form


def _first_of(sentences: Sequence[Tagged], form: str) -> tuple[Tagged, int]:
    return next(
        (item, i)
        for item in sentences
        for i, tag in enumerate(item.tags)
        if tag != "O" and [*_counts([Tagged(("",), (tag,), "", (0,))])] == [form]
    )


def _first(sentences: Sequence[Tagged], form: str) -> str:
    item, at = _first_of(sentences, form)
    return f"{item.place(at)}: {item.tags[at]}"


def _faults(sentences: Sequence[Tagged], scheme: Scheme) -> list[tuple[int, int]]:
    """(sentence, word) of every tag that breaks the scheme, in order; what is no tag at all breaks
    none."""
    rules, found = _RULES[scheme.name], []
    for n, item in enumerate(sentences):
        known, here = [], set()
        for i, tag in enumerate(item.tags):
            prefix, type_, _ = split_tag(tag)
            if prefix and prefix not in rules.letters:
                here.add(i)
            inside = prefix in rules.letters and bool(type_) != scheme.bare
            known.append((rules.letters[prefix], type_ or BARE_TYPE) if inside else ("", ""))
        _, faults = _walk(known[::-1] if rules.mirrored else known, rules.reads)
        here |= {len(known) - 1 - at if rules.mirrored else at for at, _ in faults}
        found += [(n, i) for i in sorted(here)]
    return found


def _rare(few: int, many: int) -> bool:
    # 2 among 40 are rare, 3 are not.
    return few * _RARE <= many


def _mixture(one: str, other: str, best: str, second: str) -> UserError:
    return UserError(
        f"{one} and {other} follow different tag schemes: mend them, or say which scheme the file "
        f"has with --config.data.scheme={best} or --config.data.scheme={second}"
    )
