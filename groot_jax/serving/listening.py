"""A server on a socket: it ends when it is told to, after it has answered.

At SIGTERM or SIGHUP it goes on as before for some seconds, in which a load balancer hears from
/health that it ends, and each answer closes its connection; then it takes no more connections, and
ends when all requests are answered. Ctrl-C leaves out those seconds, and another signal all that is
left.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from groot_jax.errors import UserError
from groot_jax.serving.app import State

_BACKLOG = 2048  # Connections that wait to be taken.
# Seconds that a connection stays open unused. Load balancers keep theirs for 60; were it closed
# here first, they might be about to ask on it.
_KEPT_OPEN = 75
_MAY_ASK = 1.0  # Seconds that a new connection has at the end to ask what it was made for.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_WISH = 2.0  # Seconds in which the same signal means the same wish.


def bind(host: str, port: int) -> socket.socket:
    """A socket of this address, which refuses connections until `serve`; port 0 is any that is
    free. Raises UserError."""
    try:
        if not 0 <= port < 1 << 16:  # getaddrinfo takes 131072 for 0.
            raise OverflowError("a port is a number from 0 to 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--host={host} --port={port}: cannot be used ({why}); name others"
        ) from None
    found.setblocking(False)
    return found


def address_of(listener: socket.socket) -> str:
    """The address to ask, as a browser takes it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_server(
    app: Starlette,
    state: State,
    drain: float,
    grace: float,
    listening: Callable[[], None] = lambda: None,
) -> uvicorn.Server:
    """A server whose `run([socket])` ends `drain` seconds after SIGTERM, or at once after Ctrl-C,
    when what was asked is answered, but within `grace` seconds. `listening` is called when it takes
    connections."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http="h11",  # Whatever else is installed: see `_expects`.
        ws="none",
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEPT_OPEN,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    return _Server(config, state, drain, listening)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, state: State, drain: float, listening: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._state, self._drain, self._listening = state, drain, listening
        self._ends = float("inf")  # When it takes no more connections.
        self._signal, self._since = 0, 0.0  # What ends it, and since when.

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        # Who starts it by `&` in a script has it ignore Ctrl-C, and nohup SIGHUP.
        mine = [number for number in before if before[number] is not signal.SIG_IGN]
        for number in mine:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number in mine:
                signal.signal(number, before[number])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A signal is not kept for later, as uvicorn does to end by it: this end is a good one.
        now = time.monotonic()
        if not self._state.draining:
            self._state.draining = True
            self._signal, self._since = sig, now
            self._ends = now + (0.0 if sig == signal.SIGINT else self._drain)
        # Slurm sends SIGTERM twice for one wish; Ctrl-C after it is another.
        elif sig != self._signal or now - self._since > _ONE_WISH:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        ends = await super().on_tick(counter)
        return ends or time.monotonic() >= self._ends

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Who closes a socket resets the connections that wait in its queue, with what they have
        # asked: they are taken first.
        taken: list[socket.socket] = []
        for listener in sockets or []:
            with suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in taken:
            await loop.connect_accepted_socket(self._protocol, connection)
        # Who has connected is about to ask, and may come late on a busy machine.
        until = time.monotonic() + _MAY_ASK
        while self._expects() and time.monotonic() < until:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _expects(self) -> bool:
        """Whether a connection is open on which nothing has been asked yet."""
        return any(
            one.cycle is None and not one.transport.is_closing()
            for one in self.server_state.connections
            if isinstance(one, H11Protocol)
        )

    def _protocol(self) -> asyncio.Protocol:
        return H11Protocol(self.config, self.server_state, self.lifespan.state)
