"""Server: a labeler behind HTTP, with a page to try it.

    python -m groot_jax.serve --workdir=runs/retail --port=8000
    curl -d 'black levi jeans for men' localhost:8000/label

docs/serving.md tells what may be asked, and how it ends. It needs the extra `serve`.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below, which take seconds.

import argparse
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec

import jax

import groot_jax
from groot_jax import config as configs
from groot_jax.data.splitting import APART
from groot_jax.errors import LEAVE_WITHIN, UserError, exit_on_user_error
from groot_jax.evaluation.decisions import RULES
from groot_jax.labeler import Labeler
from groot_jax.predict import open_labeler
from groot_jax.training.setup import device_setup

_NEEDED = ("starlette", "uvicorn", "prometheus_client")


def main(argv: list[str] | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C. Raises UserError for what the user can mend."""
    args = _arguments(argv)
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UserError(
            f"groot_jax.serve needs {' and '.join(missing)}: pip install 'groot_jax[serve]'"
        )
    from groot_jax.serving.app import Settings, State, make_app
    from groot_jax.serving.batching import batch_sizes
    from groot_jax.serving.listening import address_of, bind, make_server

    config = args.config
    if args.reward:
        config.reward.name = args.reward
    hosts = device_setup(config)
    if jax.process_count() > 1:
        raise UserError("groot_jax.serve runs in one process: start it once, without a launcher")
    with ExitStack() as stack:
        # Bound first: that a port is taken is said before the minutes that compiling may take.
        listener = stack.enter_context(bind(args.host, args.port))
        labeler, rule = open_labeler(args, hosts, stack)
        if labeler.punctuation_apart and config.text.split == "spaces":
            _say(f"note: {APART.format('Rome.')}")
        width = config.generate.k
        max_k = args.max_k or width
        widths = (width,) if max_k <= width else (width, max_k)
        sizes = batch_sizes(args.batch_size)
        shapes = _compile(labeler, widths, sizes)
        settings = Settings(
            split=config.text.split,
            k=min(args.k, max_k),
            decide=rule,
            max_k=max_k,
            widths=widths,
            sizes=sizes,
            shapes=shapes,
            delay=args.delay / 1000,
            timeout=args.timeout,
            max_bytes=args.max_bytes,
            max_sentences=args.max_sentences,
            max_waiting=args.max_waiting,
        )
        about = {
            "system": labeler.system,
            "step": labeler.step,
            "types": labeler.types,
            "decide": rule,
            "rules": [rule for rule in RULES if _usable(labeler, rule)],
            "k": settings.k,
            "max_k": max_k,
            "version": groot_jax.__version__,
        }
        state = State()
        app = make_app(labeler, settings, state, about)
        place = f"{labeler.system}, step {labeler.step}, on {address_of(listener)}"
        server = make_server(app, state, args.drain, args.timeout, lambda: _say(place))
        server.run([listener])
    _say("ended at once" if server.force_exit else "ended, all requests answered")
    hosts.close()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = configs.job_parser("groot_jax.serve", "Label text over HTTP: docs/serving.md.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all that reach it")
    parser.add_argument("--port", type=int, default=8000, help="8000; 0: any that is free")
    parser.add_argument("-k", type=int, default=5, help="labelings of a sentence (5)")
    parser.add_argument(
        "--max-k", type=int, help="that a request may ask for; without: config.generate.k"
    )
    parser.add_argument("--decide", choices=("auto", *RULES), default="auto", help="as in predict")
    parser.add_argument("--reward", help="of mbr and consensus; without: the training reward")
    parser.add_argument("--checkpoint", default="best", metavar="STEP|best|latest")
    parser.add_argument("--system", help="groot, nll, ...; without: the last one trained")
    numbers = {
        "--batch-size": (16, "sentences that are searched at once, at most"),
        "--max-bytes": (1 << 20, "of a request's body"),
        "--max-sentences": (256, "of a request"),
        "--max-waiting": (1024, "sentences that wait; more are told to come again"),
    }
    for flag, (default, text) in numbers.items():
        parser.add_argument(flag, type=int, default=default, help=f"{text} ({default})")
    seconds = {
        "--delay": (2.0, "milliseconds that a sentence waits for others, to be searched together"),
        "--timeout": (30.0, "seconds that a request may take"),
        "--drain": (2.0, "seconds at SIGTERM in which connections are still taken"),
    }
    for flag, (standard, text) in seconds.items():
        parser.add_argument(flag, type=float, default=standard, help=f"{text} ({standard:g})")
    args = configs.parse_job(parser, argv)
    for name in ("k", "max_k", "batch_size", "max_bytes", "max_sentences", "max_waiting"):
        value = getattr(args, name)
        if value is not None and value < 1:
            flag = "-k" if name == "k" else f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}={value}: has to be 1 or more")
    for name in ("delay", "timeout", "drain"):
        value = getattr(args, name)
        if not 0 <= value < 86400 or (name == "timeout" and not value):
            raise UserError(f"--{name}={value:g}: has to be between 0 and a day")
    if args.drain + args.timeout > LEAVE_WITHIN:
        raise UserError(
            f"--drain={args.drain:g} and --timeout={args.timeout:g} come to over "
            f"{LEAVE_WITHIN:g} seconds, in which every job ends after a signal: lower one"
        )
    if args.reward and args.decide == "map":
        raise UserError(f"--reward={args.reward} is for other rules than --decide=map")
    return args


def _compile(
    labeler: Labeler, widths: tuple[int, ...], sizes: tuple[int, ...]
) -> frozenset[tuple[int, int]]:
    """All programs that the lengths of training need, so that no request waits for one; the shapes
    of their batches."""
    begun = time.monotonic()
    _say(f"compiling {len(widths) * len(sizes)} searches for each length of sentence")
    shapes = [labeler.compile(width, size) for width in widths for size in sizes]
    _say(f"compiled in {time.monotonic() - begun:.0f} s")
    return shapes[0]


def _usable(labeler: Labeler, rule: str) -> bool:
    """Whether dev has chosen what a rule needs."""
    try:
        labeler.rule(rule)
    except UserError:
        return False
    return True


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    exit_on_user_error(main)
