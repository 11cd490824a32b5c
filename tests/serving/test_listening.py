"""How a server ends: nothing that was asked stays without its answer."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.serving.support import Client

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def process(seconds: float, drain: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "tests.serving.support", str(seconds), str(drain)]
    env = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        try:
            yield server, port
        finally:
            server.kill()


def test_at_sigterm_every_request_is_answered_and_the_end_is_a_good_one() -> None:
    answered: list[int] = []
    told: list[str] = []
    lost: list[Exception] = []

    def ask(port: int, number: int) -> None:
        client = Client(port)
        for turn in range(1000):
            try:
                status, headers, answer = client.ask("POST", "/label", {"words": [f"w{number}"]})
            except ConnectionRefusedError:
                return  # A new connection after the end: never taken.
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)
                return
            assert answer["words"] == [f"w{number}"], turn
            answered.append(status)
            # Half of the clients go away when they are told to, half ask again on new connections.
            if headers.get("connection") == "close":
                told.append(headers["connection"])
                if number % 2:
                    return

    with process(seconds=0.02, drain=0.6) as (server, port):
        clients = [threading.Thread(target=ask, args=(port, i)) for i in range(12)]
        for one in clients:
            one.start()
        while len(answered) < 60:
            time.sleep(0.01)
        before = len(answered)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        status, _, answer = Client(port).ask("GET", "/health")
        assert (status, answer["status"]) == (503, "draining")
        for one in clients:
            one.join(60)
        assert lost == []
        assert {*answered} == {200} and len(answered) > before and len(told) >= 12
        assert server.wait(60) == 0
        assert server.stdout and server.stdout.read() == "ended\n"


def test_who_has_connected_at_the_end_may_still_ask() -> None:
    with process(seconds=0.0, drain=0.5) as (server, port):
        server.send_signal(signal.SIGTERM)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.connect()
        time.sleep(0.8)  # The port is closed by now.
        connection.request("GET", "/health")
        assert connection.getresponse().status == 503
        connection.close()
        assert server.wait(30) == 0


def test_ctrl_c_takes_no_more_and_answers_what_it_has() -> None:
    answers: list[int] = []
    with process(seconds=0.7, drain=60) as (server, port):
        asking = threading.Thread(target=lambda: answers.append(Client(port).label(b"red")[0]))
        asking.start()
        time.sleep(0.35)
        server.send_signal(signal.SIGINT)
        asking.join(60)
        assert answers == [200]
        assert server.wait(60) == 0


def test_another_signal_ends_at_once_and_the_same_one_twice_does_not() -> None:
    with process(seconds=0.0, drain=60) as (server, port):
        server.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        server.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert server.poll() is None and Client(port).ask("GET", "/health")[0] == 503
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
