"""A labeler without a model, and a server of it: in this process, or in one of its own.

python -m tests.serving.support SECONDS_A_SEARCH SECONDS_TO_DRAIN
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from groot_jax.data.labeling import Span
from groot_jax.errors import UserError
from groot_jax.prediction import Prediction, ScoredLabeling
from groot_jax.serving.app import Settings, State, make_app
from groot_jax.serving.listening import address_of, bind, make_server

ABOUT = {
    "system": "groot",
    "step": 3,
    "types": ["brand", "word"],
    "decide": "map",
    "rules": ["map", "mbr"],
    "k": 2,
    "max_k": 6,
}


class StandIn:
    """Every word is a span of the type `word`, or `brand` where it begins with a capital; the
    labeling at rank r lacks the last r spans. `bad` is refused, and `broken` breaks the search."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[tuple[list[tuple[str, ...]], int, str, int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def check(self, words: Sequence[str], where: str = "") -> tuple[str, ...]:
        if "bad" in words:
            raise UserError(f"{where}: a bad word")
        return tuple(words)

    def rule(self, decide: str) -> str:
        if decide not in ("auto", "map", "mbr"):
            raise UserError(f"decide={decide!r} is not known")
        return "map" if decide == "auto" else decide

    def batch_shape(self, words: tuple[str, ...]) -> tuple[int, int]:
        return (8, 8) if len(words) <= 4 else (32, 32)

    def label_all(
        self, sentences: Sequence[Sequence[str]], k: int, decide: str, batch_size: int
    ) -> list[Prediction]:
        self.calls.append(([tuple(s) for s in sentences], k, decide, batch_size))
        time.sleep(self.seconds)
        assert self.gate.wait(60)
        if any("broken" in words for words in sentences):
            raise UserError("the reward has failed")
        return [_labeled(tuple(words), k, decide) for words in sentences]


def _labeled(words: tuple[str, ...], k: int, decide: str) -> Prediction:
    spans = [Span(i, i + 1, "brand" if w[0].isupper() else "word") for i, w in enumerate(words)]
    ranked = [tuple(spans[: len(spans) - rank]) for rank in range(min(k, len(spans)))]
    labelings = tuple(
        ScoredLabeling(labeling, -float(rank), 1 / (2 + rank), True)
        for rank, labeling in enumerate(ranked)
    )
    return Prediction(words, labelings, dict.fromkeys(spans, 0.75), decide)


def settings_of(**changes: Any) -> Settings:
    defaults: dict[str, Any] = {"k": 2, "max_k": 6, "widths": (4, 6), "delay": 0.005}
    return Settings(**(defaults | changes))


class Client:
    """A connection that is kept. `ask` gives the status, the headers and what JSON says."""

    def __init__(self, port: int) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(
        self, way: str, path: str, body: object = None, kind: str = ""
    ) -> tuple[int, dict[str, str], Any]:
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = kind or ("" if isinstance(body, bytes | None) else "application/json")
        self.http.request(way, path, raw, {"content-type": kind} if kind else {})
        answer = self.http.getresponse()
        text = answer.read()
        headers = {key.lower(): value for key, value in answer.getheaders()}
        isjson = headers.get("content-type") == "application/json"
        return answer.status, headers, json.loads(text) if isjson else text.decode()

    def label(self, body: object, query: str = "", kind: str = "") -> tuple[int, Any]:
        status, _, answer = self.ask("POST", f"/label{query}", body, kind)
        return status, answer


@contextmanager
def serving(labeler: StandIn, drain: float = 0.0, **changes: Any) -> Iterator[int]:
    """A server in a thread; its port."""
    state = State()
    server = make_server(make_app(labeler, settings_of(**changes), state, ABOUT), state, drain, 30)
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield port
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join(60)
            assert not thread.is_alive()


def main() -> None:
    seconds, drain = map(float, sys.argv[1:])
    state = State()
    app = make_app(StandIn(seconds), settings_of(sizes=(1, 4)), state, ABOUT)
    with bind("127.0.0.1", 0) as listener:
        place = address_of(listener)
        make_server(app, state, drain, 30, lambda: print(place, flush=True)).run([listener])
    print("ended", flush=True)


if __name__ == "__main__":
    main()
