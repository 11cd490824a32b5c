"""Prediction job: label new text with a checkpoint, ranked top k with scores.

    echo "black levi jeans for men" | python -m groot_jax.predict --workdir=runs/retail -k 5 -

Plain text in, one sentence a line, or JSON lines with "words" (or "text"); JSON lines out.
docs/serving.md tells what each key means.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below, which take seconds.

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

from groot_jax import config as configs
from groot_jax.data.incoming import INPUTS, BadLine, Incoming, LineParser, open_input, read_blocks
from groot_jax.errors import UserError, exit_on_user_error, told_as
from groot_jax.evaluation.decisions import BY_REWARD, RULES
from groot_jax.evaluation.evaluator import open_oracle
from groot_jax.labeler import Labeler, Prediction
from groot_jax.runtime.hosts import Hosts
from groot_jax.training.setup import device_setup

_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")
# Shows a line with its answer, or why there is none.
Show = Callable[[Incoming, Prediction], None]
ShowBad = Callable[[BadLine], None]


def main(argv: list[str] | None = None) -> None:
    """Runs the job. Raises UserError for what the user can mend, and at the end where lines could
    not be labeled."""
    args = _arguments(argv)
    config = args.config
    if args.reward:
        config.reward.name = args.reward
    hosts = device_setup(config)
    with ExitStack() as stack:
        # One process reads; the others hear of each chunk below.
        source = stack.enter_context(open_input(args.file)) if hosts.main else -1
        labeler, rule = open_labeler(args, hosts, stack)
        labeler.hurried = True  # Many lines come many at a time.
        if hosts.main and os.isatty(source):
            print("type a sentence a line, Ctrl-D ends", file=sys.stderr)
        if args.pretty and rule != "map" and hosts.main:
            print(f"decided by {rule}, reward {config.reward.name}")
        size = config.evaluate.batch_size
        apart = labeler.punctuation_apart
        parse = LineParser(config.text.split, args.input, _say, apart)
        # Lines of a file come in blocks of `size`; who types one gets its answer before the next.
        read: Iterator[list[Incoming | BadLine]] = iter(())
        if hosts.main:
            read = read_blocks(source, args.file, labeler.check, size, parse, args.strict)
        show, show_bad = _pretty_printer() if args.pretty else _json_printer(args.spans_only)
        bad = _label(read, labeler, hosts, args.k, rule, size, show, show_bad)
    hosts.close()
    if bad:
        first, count = bad
        more = f"; {count} lines could not be labeled, this is the first" if count > 1 else ""
        raise UserError(f"{first}{more}")


def open_labeler(args: argparse.Namespace, hosts: Hosts, stack: ExitStack) -> tuple[Labeler, str]:
    """The labeler and the decision rule that the flags ask for. Its oracle, made when it is needed,
    ends with `stack`. Raises UserError."""
    config = args.config
    oracle = cache(lambda: stack.enter_context(open_oracle(config)))
    # Opened before the model is read where it is asked for, so that a mistake in it comes soon.
    if args.reward or args.decide in BY_REWARD:
        with told_as("config.reward.name", "--reward" if args.reward else "config.reward.name"):
            oracle()
    labeler = Labeler.load(
        args.workdir,
        system=args.system,
        checkpoint=args.checkpoint,
        config=config,
        score=lambda triples: oracle().score(triples),
        hosts=hosts,
    )
    rule = labeler.rule(args.decide)
    if rule in BY_REWARD:  # Or dev has chosen it.
        oracle()
    width = max(args.k or 0, labeler.beam_width)
    if width < labeler.chosen_with and hosts.main:
        _say(
            f"dev chose rule, temperature and confidences with beams of {labeler.chosen_with}; a "
            f"beam of {width} is surer of its spans than it should be"
        )
    return labeler, rule


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = configs.job_parser("groot_jax.predict", "Label text: ranked labelings as JSON lines.")
    parser.add_argument("file", nargs="?", default="-", help="text or JSON lines; - reads stdin")
    parser.add_argument("-k", type=int, help="labelings of each sentence (5)")
    parser.add_argument(
        "--decide",
        choices=("auto", *RULES),
        default="auto",
        help="the rule of rank 1; auto: the one that dev chose: docs/decisions.md",
    )
    parser.add_argument("--reward", help="of mbr and consensus; without: the training reward")
    parser.add_argument("--checkpoint", default="best", metavar="STEP|best|latest")
    parser.add_argument("--system", help="groot, nll, ...; without: the last one trained")
    parser.add_argument(
        "--input",
        choices=INPUTS,
        default="auto",
        help="what lines are; auto: JSON where they parse as an object with words or text",
    )
    parser.add_argument(
        "--strict", action="store_true", help="end at the first bad line; without: answer its error"
    )
    parser.add_argument("--pretty", action="store_true", help="spans in color instead of JSON")
    parser.add_argument(
        "--spans-only", action="store_true", help="the spans of rank 1 alone, as JSON lines"
    )
    args = configs.parse_job(parser, argv)
    if args.k is not None and args.k < 1:
        raise UserError(f"-k={args.k}: ask for 1 labeling or more")
    if args.spans_only and (args.pretty or args.k not in (None, 1)):
        other = "--pretty" if args.pretty else f"-k={args.k}"
        raise UserError(f"--spans-only prints the spans of rank 1 as JSON: leave {other} out")
    if args.reward and args.decide not in BY_REWARD:
        raise UserError(
            f"--reward={args.reward} is for --decide=consensus or mbr: add that, or leave it out"
        )
    if sys.stdout is None:
        raise UserError("stdout is closed; give the answers a place to go to")
    args.k = args.k or (1 if args.spans_only else 5)
    return args


def _label(
    read: Iterator[list[Incoming | BadLine]],
    labeler: Labeler,
    hosts: Hosts,
    k: int,
    rule: str,
    size: int,
    show: Show,
    show_bad: ShowBad,
) -> tuple[str, int] | None:
    """Answers all lines, in all processes together; of those that could not be labeled the error
    of the first, and their number."""
    bad, first = 0, ""
    begun: deque[tuple[list[Incoming | BadLine], Callable[[], list[Prediction]]]] = deque()

    def answer() -> None:
        nonlocal bad, first
        block, wait = begun.popleft()
        found = iter(wait())
        for line in block:
            if isinstance(line, BadLine):
                bad, first = bad + 1, first or line.error
                show_bad(line)
            else:
                show(line, replace(next(found), text=line.text, offsets=line.offsets))

    while True:
        try:
            block = next(read, None)
        except UserError:  # A bad line, where that ends the job: what comes before it is answered.
            while begun:
                answer()
            raise
        words = None if block is None else [x.words for x in block if isinstance(x, Incoming)]
        sentences: Sequence[Sequence[str]] | None = hosts.broadcast(words)
        if sentences is None:
            break
        # Two sizes of batch, so that few programs are compiled.
        rows = 1 if len(sentences) == 1 else size
        # The first process alone has read lines, and has answers.
        wait = labeler.begin(sentences, k, rule, batch_size=rows) if sentences else list
        begun.append((block or [], wait))
        # While one block is decided and printed the next is searched. Several processes do all in
        # one order; and where the next lines are to be waited for nobody waits for answers.
        while len(begun) > (1 if sentences and hosts.count == 1 else 0):
            answer()
    while begun:
        answer()
    return (first, bad) if bad else None


def _say(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


def _json_printer(spans_only: bool) -> tuple[Show, ShowBad]:
    # JSON has an escape for what another encoding lacks: \u00e9 for an accented e in ASCII.
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"

    def show(echoed: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        # What was echoed stands first: {"id": 7, "words": ...}. A key of both is the answer's.
        line = json.dumps({**echoed, **answer}, ensure_ascii=not utf8)
        print(line, flush=True)

    return (
        lambda line, found: show(line.echoed, found.to_spans() if spans_only else found.to_json()),
        lambda line: show(line.echoed, {"error": line.error, "line": line.number}),
    )


def _pretty_printer() -> tuple[Show, ShowBad]:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    # A type keeps the color of its first turn, through all lines; the ninth shares the first's.
    colors: dict[str, str] = {}

    def show(_: Incoming, prediction: Prediction) -> None:
        if not prediction.labelings:
            console.print("(empty line)")
        for rank, scored in enumerate(prediction.labelings, 1):
            line = Text(f"{rank:>2}  {scored.probability:6.1%}  {scored.score:8.3f}  ", "dim")
            at = 0  # The first word that is not on the line yet.
            for start, end, type_ in scored.labeling:
                color = colors.setdefault(type_, _COLORS[len(colors) % len(_COLORS)])
                line.append("".join(word + " " for word in prediction.words[at:start]))
                # A span of two words shows where it begins without its color, too: in a file, or
                # to who does not see colors.
                line.append("[", color)
                line.append(" ".join(prediction.words[start:end]), f"bold {color}")
                line.append(f"/{type_}]", color)
                line.append(" ")
                at = end
            line.append(" ".join(prediction.words[at:]))
            line.rstrip()
            console.print(line, soft_wrap=True)
        console.print()

    def show_bad(line: BadLine) -> None:
        console.print(f"(error: {line.error})", markup=False, soft_wrap=True)
        console.print()

    return show, show_bad


if __name__ == "__main__":
    exit_on_user_error(main)
