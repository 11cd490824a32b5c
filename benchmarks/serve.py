"""Requests a second of `groot serve`, how long they take, and whether any is lost at SIGTERM.

    python benchmarks/serve.py --workdir=FOLDER [--clients=1,8,64] [--seconds=10] [-- --FLAG ...]

Starts the server in a process of its own, on this machine's loopback, and sends it the sentences of
the work directory's dev split. Each client sends a sentence, waits for the answer and sends the
next, on a connection of its own that stays open. What stands behind -- are flags of the server.

`requests/s`; `p50 ms` and `p99 ms` of a request; `cpu ms` of the server's process, a request, which
other jobs change less than they change times; `sentences` of a search, on average. The line `alone`
is the same labeler in this process without HTTP, in full batches of sentences of alike length,
measured before, between and after.

Then the largest number of clients goes on, with a new connection where the server closes theirs,
and the server gets SIGTERM. `lost`: requests that a connection took and nobody answered;
`refused`: connections that were asked for after the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import measure
import numpy as np

from groot_jax import Labeler
from groot_jax.config import CONFIG_FILE, load_dumped
from groot_jax.data.corpus import read_corpus

ROOT = Path(__file__).resolve().parent.parent
Words = Sequence[str]


@dataclass
class Load:
    """What some clients saw in some seconds."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)  # of answered requests, in seconds
    bad: int = 0  # answers that are not 200
    lost: int = 0
    refused: int = 0


class Client:
    """One connection, kept open while the server keeps it. HTTP as far as this server needs it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, words: Words) -> int:
        """The status. Raises ConnectionRefusedError where nobody listens, and another OSError or
        IncompleteReadError where the answer does not come."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        body = json.dumps({"words": list(words)}).encode()
        head = f"POST /label HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n"
        writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", answer)
        assert length is not None
        await reader.readexactly(int(length[1]))
        if b"connection: close" in answer:
            self.close()
        return int(answer.split(b" ", 2)[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def load(port: int, sentences: Sequence[Words], clients: int, seconds: float) -> Load:
    """Closed loops of so many clients; infinite `seconds`: until the server is gone."""
    found = Load()
    begun = time.perf_counter()

    async def one(number: int) -> None:
        client, turn = Client(port), number
        while time.perf_counter() - begun < seconds:
            asked = time.perf_counter()
            try:
                status = await client.ask(sentences[turn % len(sentences)])
            except ConnectionRefusedError:
                found.refused += 1
                break
            except (OSError, asyncio.IncompleteReadError):
                found.lost += 1
                break
            found.times.append(time.perf_counter() - asked)
            found.bad += status != 200
            turn += clients
        client.close()

    await asyncio.gather(*(one(number) for number in range(clients)))
    found.seconds = time.perf_counter() - begun
    return found


def start(workdir: Path, flags: Sequence[str]) -> tuple[subprocess.Popen[str], int]:
    """The server and its port, when it listens and has answered."""
    command = [sys.executable, "-m", "groot_jax.serve", f"--workdir={workdir}", "--port=0", *flags]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    server = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        print(line, end="", file=sys.stderr)
        if listening := re.search(r" on http://.*:(\d+)$", line):
            return server, int(listening[1])
    raise SystemExit(f"the server ended with status {server.wait()}")


def counters(port: int) -> dict[str, float]:
    """The server's metrics that have no labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def in_process(
    labeler: Labeler, sentences: Sequence[Words], size: int, seconds: float
) -> tuple[float, float]:
    """Sentences a second without HTTP, and seconds of CPU of each.

    They are sorted by length first, so that a batch is padded as little as it can be: no server
    knows so much of what comes.
    """
    ordered = sorted(sentences, key=lambda words: labeler.batch_shape(tuple(words)))
    done, begun, used = 0, time.perf_counter(), time.process_time()
    while True:
        for at in range(0, len(ordered) - size + 1, size):
            labeler.label_all(ordered[at : at + size], k=5, decide="map", batch_size=size)
            done += size
            if (spent := time.perf_counter() - begun) > seconds:
                return done / spent, (time.process_time() - used) / done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--clients", default="1,8,64", help="numbers of clients (1,8,64)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each number (10)")
    parser.add_argument("--batch-size", type=int, default=16, help="as that of serve (16)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line")
    parser.add_argument("flags", nargs="*", help="of groot_jax.serve, behind --")
    args = parser.parse_args()
    config = load_dumped(args.workdir / CONFIG_FILE)
    sentences = [sentence.words for sentence in read_corpus(config).dev if sentence.words]
    flags = (f"--batch-size={args.batch_size}", "--decide=map", *args.flags)
    server, port = start(args.workdir, flags)
    labeler = Labeler.load(args.workdir)
    in_process(labeler, sentences, args.batch_size, 0.0)  # Compiles, or reads what was compiled.
    labeler.compile(5, args.batch_size)
    print(f"{len(sentences)} sentences of dev", file=sys.stderr)
    rows: list[measure.Row] = []
    alone = [in_process(labeler, sentences, args.batch_size, args.seconds / 2)]
    numbers = [int(number) for number in args.clients.split(",")]
    asyncio.run(load(port, sentences, max(numbers), min(args.seconds, 2.0)))  # Not measured.
    for clients in numbers:
        before = counters(port)
        found = asyncio.run(load(port, sentences, clients, args.seconds))
        after = counters(port)
        alone.append(in_process(labeler, sentences, args.batch_size, args.seconds / 2))
        searches = after["groot_batch_sentences_count"] - before["groot_batch_sentences_count"]
        cpu = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
        p50, p99 = np.percentile(np.array(found.times) * 1e3, (50, 99))
        rows.append(
            {
                "clients": clients,
                "requests/s": round(len(found.times) / found.seconds, 1),
                "p50 ms": round(float(p50), 1),
                "p99 ms": round(float(p99), 1),
                "cpu ms": round(cpu / len(found.times) * 1e3, 2),
                "sentences": round(len(found.times) / searches, 1),
                "failed": found.bad + found.lost + found.refused,
            }
        )
    rate, cpu = (statistics.median(values) for values in zip(*alone, strict=True))
    rows.append(
        {
            "clients": "alone",
            "requests/s": round(rate, 1),
            "cpu ms": round(cpu * 1e3, 2),
            "sentences": args.batch_size,
        }
    )
    measure.show(rows)

    async def ended() -> Load:
        going = asyncio.create_task(load(port, sentences, max(numbers), float("inf")))
        await asyncio.sleep(min(args.seconds, 2.0))
        server.send_signal(signal.SIGTERM)
        return await going

    last = asyncio.run(ended())
    end = {
        "clients": max(numbers),
        "answered": len(last.times),
        "lost": last.lost + last.bad,
        "refused": last.refused,
        "exit status": server.wait(),
    }
    print("\nSIGTERM:")
    measure.show([end])
    result = {"rows": rows, "sigterm": end}
    measure.finish(result | measure.device(), args.json)


if __name__ == "__main__":
    main()
