"""Prediction job: label new text with a checkpoint, ranked top k with scores.

    echo "black levi jeans for men" | python -m groot_jax.predict --workdir=runs/retail -k 5 -

Plain text in, one sentence a line, or JSON lines with "words" (or "text"); JSON lines out.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below, which take seconds.

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache

from groot_jax import config as configs
from groot_jax.data.incoming import open_input, read_blocks
from groot_jax.errors import UserError, exit_on_user_error, told_as
from groot_jax.evaluation.decisions import BY_REWARD, RULES
from groot_jax.evaluation.evaluator import open_oracle
from groot_jax.labeler import Labeler, Prediction
from groot_jax.training.setup import device_setup

_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")


def main(argv: list[str] | None = None) -> None:
    """Runs the job. Raises UserError for what the user can mend."""
    parser = configs.job_parser("groot_jax.predict", "Label text: ranked labelings as JSON lines.")
    parser.add_argument("file", nargs="?", default="-", help="text or JSON lines; - reads stdin")
    parser.add_argument("-k", type=int, default=5, help="labelings of each sentence (5)")
    parser.add_argument(
        "--decide",
        choices=("auto", *RULES),
        default="auto",
        help="the rule of rank 1; auto: the one that dev chose: docs/decisions.md",
    )
    parser.add_argument("--reward", help="of mbr and consensus; without: the training reward")
    parser.add_argument("--checkpoint", default="best", metavar="STEP|best|latest")
    parser.add_argument("--system", help="groot, nll, ...; without: the last one trained")
    parser.add_argument("--pretty", action="store_true", help="spans in color instead of JSON")
    args = configs.parse_job(parser, argv)
    if args.k < 1:
        raise UserError(f"-k={args.k}: ask for 1 labeling or more")
    config = args.config
    if args.reward and args.decide not in BY_REWARD:
        raise UserError(
            f"--reward={args.reward} is for --decide=consensus or mbr: add that, or leave it out"
        )
    if args.reward:
        config.reward.name = args.reward
    hosts = device_setup(config)
    with ExitStack() as stack:
        # One process reads; the others hear of each chunk below.
        source = stack.enter_context(open_input(args.file)) if hosts.main else -1
        # Opened before the model is read where it is asked for, so that a mistake in it comes soon.
        oracle = cache(lambda: stack.enter_context(open_oracle(config)))
        if args.decide in BY_REWARD:
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
        if hosts.main and os.isatty(source):
            print("type a sentence a line, Ctrl-D ends", file=sys.stderr)
        show = _pretty_printer() if args.pretty else _print_json
        if args.pretty and rule != "map" and hosts.main:
            print(f"decided by {rule}, reward {config.reward.name}")
        size = config.evaluate.batch_size
        # Lines of a file come in blocks of `size`; who types one gets its answer before the next.
        read = (
            read_blocks(source, args.file, labeler.check, size, config.text.split)
            if hosts.main
            else iter(())
        )
        while True:
            block = next(read, [])
            sentences = hosts.broadcast([sentence.words for sentence in block])
            if not sentences:
                break
            # Two sizes of batch, so that few programs are compiled.
            rows = 1 if len(sentences) == 1 else size
            found = labeler.label_all(sentences, args.k, rule, batch_size=rows)
            # The first process alone has read lines, and has answers.
            for line, prediction in zip(block, found, strict=True):
                show(replace(prediction, text=line.text, offsets=line.offsets))
    hosts.close()


def _print_json(prediction: Prediction) -> None:
    # JSON has an escape for what another encoding lacks: \u00e9 for an accented e in ASCII.
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    print(json.dumps(prediction.to_json(), ensure_ascii=not utf8), flush=True)


def _pretty_printer() -> Callable[[Prediction], None]:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    # A type keeps the color of its first turn, through all lines; the ninth shares the first's.
    colors: dict[str, str] = {}

    def show(prediction: Prediction) -> None:
        if not prediction.labelings:
            console.print("(empty line)")
        for rank, scored in enumerate(prediction.labelings, 1):
            line = Text(f"{rank:>2}  {scored.probability:6.1%}  {scored.score:8.3f}  ", "dim")
            at = 0  # The first word that is not on the line yet.
            for start, end, type_ in scored.labeling:
                color = colors.setdefault(type_, _COLORS[len(colors) % len(_COLORS)])
                line.append("".join(word + " " for word in prediction.words[at:start]))
                line.append(" ".join(prediction.words[start:end]), f"bold {color}")
                line.append(f"/{type_} ", color)
                at = end
            line.append(" ".join(prediction.words[at:]))
            line.rstrip()
            console.print(line, soft_wrap=True)
        console.print()

    return show


if __name__ == "__main__":
    exit_on_user_error(main)
