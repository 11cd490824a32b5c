"""The HTTP side of a labeler: what is asked, what is refused, what is answered.

    POST /label     a sentence or a list of them, as predict reads and prints them
    GET  /health    200 while it labels; which labeler it is
    GET  /metrics   for Prometheus
    GET  /          a page to type sentences into

Knows nothing of models: it is given what labels.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groot_jax.data.incoming import Incoming, LineParser, parse_json, sentence_of
from groot_jax.errors import UserError
from groot_jax.prediction import Prediction
from groot_jax.serving.batching import Batcher, Labels, Overloaded
from groot_jax.serving.metrics import CONTENT_TYPE, Metrics

Json = dict[str, Any]
_PAGE = Path(__file__).with_name("page.html")
_AT_ONCE = 1 << 12  # Bytes of a body that are read in the event loop, which then stands still.
_SETTINGS = ("k", "decide", "spans_only")


@dataclass(frozen=True)
class Settings:
    """What a server does. `k` and `decide` hold where a request says nothing; `max_k` is the
    largest that it may ask for; `max_bytes` of a body, `max_sentences` of a list, `max_waiting`
    of all requests together; `timeout` in seconds, for all that a request takes; `delay` in
    seconds, see `Batcher`; `widths` and `sizes`, see there, too."""

    split: str = "spaces"
    k: int = 5
    decide: str = "auto"
    max_k: int = 10
    widths: tuple[int, ...] = (10,)
    sizes: tuple[int, ...] = (1, 4, 16)
    delay: float = 0.002
    timeout: float = 30.0
    max_bytes: int = 1 << 20
    max_sentences: int = 256
    max_waiting: int = 1024


@dataclass
class State:
    """What changes while a server runs: whether it ends, which whoever asks is to hear of."""

    draining: bool = False


@dataclass(frozen=True)
class _Asked:
    """A sentence and how it is to be labeled, or why it is not."""

    sentence: Incoming
    k: int = 0
    rule: str = ""
    spans_only: bool = False
    error: str = ""


class _Refused(Exception):
    """A request that is not answered as it wishes: its status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Server:
    """The handlers of one server. `about` is what /health says of the labeler."""

    labeler: Labels
    settings: Settings
    state: State
    about: Mapping[str, Any]
    batcher: Batcher
    metrics: Metrics
    page: tuple[bytes, str] = field(default_factory=lambda: read_page(_PAGE))

    async def label(self, request: Request) -> Response:
        """POST /label."""
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(self.settings.timeout):
                body = await self._body(request)
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                query = dict(request.query_params)
                # A megabyte of JSON takes tens of milliseconds, in which others wait.
                read = lambda: self._read(body, kind, query)  # noqa: E731
                asked = read() if len(body) <= _AT_ONCE else await asyncio.to_thread(read)
                answer = await self._answer(asked)
        except TimeoutError:
            late = f"no answer within {self.settings.timeout:g} seconds (--timeout); try again"
            raise _Refused(503, late) from None
        except ClientDisconnect:
            return Response(status_code=400)  # To nobody.
        self.metrics.seconds.observe(time.perf_counter() - begun)
        return answer

    async def health(self, request: Request) -> Response:
        """GET /health."""
        failure, draining = self.batcher.failure, self.state.draining
        status = "draining" if draining else "failing" if failure else "ok"
        why = {"error": failure} if failure else {}
        return _json({"status": status, **why, **self.about}, 200 if status == "ok" else 503)

    async def show_metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def show_page(self, request: Request) -> Response:
        """GET /."""
        page, policy = self.page
        headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    async def _body(self, request: Request) -> bytes:
        most = self.settings.max_bytes
        too_long = _Refused(
            413, f"the body is over {most:,} bytes (--max-bytes); send less at once"
        )
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise too_long
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise too_long
        return bytes(body)

    def _read(self, body: bytes, kind: str, query: Mapping[str, str]) -> _Asked | list[_Asked]:
        """What a request asks for. `kind`: its content type; a body that says neither that it is
        JSON nor that it is text is what it looks like, as a line of predict is. Raises _Refused."""
        for key in query:
            if key not in _SETTINGS:
                raise _Refused(400, f"there is no setting {key!r}; use {', '.join(_SETTINGS)}")
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Refused(400, f"the body is not UTF-8 ({error.reason}); convert it") from None
        given = {**query}
        value: object = None
        if kind != "text/plain":
            try:
                value = parse_json(text)
            except (ValueError, RecursionError) as error:
                if kind == "application/json":
                    raise _Refused(400, f"the body is not JSON ({error}); mend it") from None
        looks = isinstance(value, dict) and {"words", "tokens", "text"} & {*value}
        if kind != "application/json" and not (looks or _are_objects(value)):
            asked = self._asked(
                LineParser(self.settings.split, "text")(text, "body"), given, "body"
            )
        elif isinstance(value, dict):
            asked = self._of_object(value, given, "body")
        elif isinstance(value, list):
            if len(value) > self.settings.max_sentences:
                most = f"over {self.settings.max_sentences} (--max-sentences)"
                raise _Refused(413, f"the list has {len(value)} sentences, {most}; send fewer")
            return [
                self._of_object(item, given, f"body[{index}]") for index, item in enumerate(value)
            ]
        else:
            form = '{"text": "..."}, {"words": [...]} or a list of such objects'
            raise _Refused(400, f"the body is JSON, but not {form}; mend it")
        if asked.error:
            raise _Refused(400, asked.error)
        return asked

    def _of_object(self, value: object, query: Mapping[str, str], where: str) -> _Asked:
        """A sentence of JSON. A setting of the object goes before one of the query, which is for
        those that say nothing."""
        if not isinstance(value, dict):
            return _Asked(
                Incoming(()), error=f'{where}: is not an object such as {{"text": "..."}}'
            )
        own = {key: value[key] for key in _SETTINGS if key in value}
        rest = {key: item for key, item in value.items() if key not in own}
        try:
            sentence = sentence_of(rest, where, self.settings.split)
        except UserError as error:
            return _Asked(Incoming((), echoed=_echoed(rest)), error=str(error))
        return self._asked(sentence, {**query, **own}, where)

    def _asked(self, sentence: Incoming, given: Mapping[str, Any], where: str) -> _Asked:
        try:
            k = _whole(given.get("k", self.settings.k), where)
            if k > self.settings.max_k:
                raise UserError(f"{where}: k={k} is over {self.settings.max_k} (--max-k)")
            rule = self.labeler.rule(given.get("decide", self.settings.decide))
            spans_only = _truth(given.get("spans_only", False), where)
            words = self.labeler.check(sentence.words, where)
        except UserError as error:
            return _Asked(sentence, error=str(error))
        return _Asked(sentence._replace(words=words), k, rule, spans_only)

    async def _answer(self, asked: _Asked | list[_Asked]) -> Response:
        several = asked if isinstance(asked, list) else [asked]
        good = [one for one in several if not one.error]
        try:
            self.batcher.room(len(good))
            found = await asyncio.gather(
                *(self.batcher.label(one.sentence.words, one.k, one.rule) for one in good)
            )
        except Overloaded:
            most = f"over {self.settings.max_waiting} sentences wait (--max-waiting)"
            raise _Refused(503, f"{most}; try again") from None
        except (
            UserError
        ) as error:  # A user's reward that failed, say: not of this request's making.
            raise _Refused(500, str(error)) from error
        self.metrics.sentences.labels("labeled").inc(len(good))
        self.metrics.sentences.labels("bad").inc(len(several) - len(good))
        answers = iter(found)
        made: list[Json] = [
            {**one.sentence.echoed, "error": one.error, "index": index}
            if one.error
            else _told(one, next(answers))
            for index, one in enumerate(several)
        ]
        return _json(made if isinstance(asked, list) else made[0])


def make_app(
    labeler: Labels, settings: Settings, state: State, about: Mapping[str, Any]
) -> Starlette:
    """The application of one server, as ASGI servers take it."""
    # The gauge asks for a batcher that is made after it.
    metrics = Metrics(lambda: batcher.waiting)
    batcher = Batcher(
        labeler,
        settings.sizes,
        settings.widths,
        settings.delay,
        settings.max_waiting,
        metrics.count,
    )
    server = Server(labeler, settings, state, about, batcher, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.close()

    routes = {
        "/label": ("POST", server.label),
        "/health": ("GET", server.health),
        "/metrics": ("GET", server.show_metrics),
        "/": ("GET", server.show_page),
    }
    app = Starlette(
        routes=[Route(path, handler, methods=[way]) for path, (way, handler) in routes.items()],
        exception_handlers={_Refused: _refused, HTTPException: _http, Exception: _bug},
        lifespan=lifespan,
    )
    app.add_middleware(_Counted, metrics=metrics, state=state, paths={*routes})
    return app


class _Counted:
    """Counts requests, and tells who asks while the server ends to ask on a new connection."""

    def __init__(self, app: ASGIApp, metrics: Metrics, state: State, paths: set[str]) -> None:
        self._app, self._metrics, self._state, self._paths = app, metrics, state, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Of paths that do not exist there are as many as somebody likes to try.
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, str(message["status"])).inc()
                # What is left of a body that was refused need not be read.
                if self._state.draining or message["status"] == 413:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, sending)


def read_page(path: Path) -> tuple[bytes, str]:
    """The page, and the content security policy under which a browser runs its script, applies its
    style, lets it ask this server, and nothing else."""
    page = path.read_text(encoding="utf-8")

    def hashed(tag: str) -> str:
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = hashlib.sha256(inside.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    policy = (
        f"default-src 'none'; script-src {hashed('script')}; style-src {hashed('style')}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page.encode(), policy


def _told(one: _Asked, prediction: Prediction) -> Json:
    placed = dataclasses.replace(prediction, text=one.sentence.text, offsets=one.sentence.offsets)
    answer = placed.to_spans() if one.spans_only else placed.to_json()
    return {**one.sentence.echoed, **answer}


def _echoed(value: Mapping[str, Any]) -> Json:
    return {key: item for key, item in value.items() if key not in ("words", "tokens", "text")}


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, dict) for x in value)


def _whole(value: object, where: str) -> int:
    """A number of labelings, of JSON or of a query."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise UserError(f"{where}: k={value!r}: ask for a whole number of labelings, 1 or more")
    return int(text)


def _truth(value: object, where: str) -> bool:
    known: dict[object, bool] = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in known:
        raise UserError(f"{where}: spans_only={value!r} is neither true nor false")
    return known[value.lower()]


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # What JSON spelled as half a character is spelled so again.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(text, status, headers, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    headers = {"retry-after": "1"} if error.status == 503 else None
    if error.status == 500:
        print(f"error: {error}", file=sys.stderr, flush=True)
    return _json({"error": str(error)}, error.status, headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = "POST /label, GET /health, GET /metrics and GET / are what there is"
    sentence = f"{request.method} {request.url.path}: {error.detail}; {known}"
    return _json({"error": sentence}, error.status_code, error.headers)


async def _bug(request: Request, error: Exception) -> Response:
    # uvicorn logs it with its traceback.
    return _json({"error": f"{type(error).__name__}: {error}; see the server's log"}, 500)
