"""Runs a command as several processes of one machine: a rehearsal for many hosts.

    python launch/local.py --processes 2 --devices 2 -- python -m groot_jax.train --config=... ...

Each process gets so many virtual CPU devices and finds the others by its environment, as on a pod.
Their output is shown line by line behind [0], [1], ...; when one fails, all end.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

_GRACE = 20.0  # Seconds that the others have to say why they end, before they are killed.


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="launch/local.py", description="Run a command as several processes of this machine."
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="processes (2)")
    parser.add_argument(
        "--devices", type=int, default=1, metavar="M", help="virtual CPU devices of each (1)"
    )
    parser.add_argument("--port", type=int, help="of process 0; without: a free one")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run")
    parser.add_argument("command", nargs="+", help="after --: the command, the same for all")
    args = parser.parse_args(argv)
    for name in ("processes", "devices"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)}: ask for 1 or more")
    # One port for all: process 0 listens there, the others call it.
    port = args.port or free_port()
    places = [
        environment(index, args.processes, args.devices, port, os.environ)
        for index in range(args.processes)
    ]
    if args.dry_run:
        for place in places:
            shown = [f"{key}={shlex.quote(value)}" for key, value in place.items()]
            print(" ".join([*shown, shlex.join(args.command)]))
        return 0
    return run(args.command, places)


def environment(
    index: int, processes: int, devices: int, port: int, env: Mapping[str, str]
) -> dict[str, str]:
    """What process `index` has in its environment beyond that of this one."""
    # The user's own flags stay, but for the number of devices, which is told here.
    flags = env.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if "host_platform_device_count" not in flag]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PROCESS_ID": str(index),
        "XLA_FLAGS": " ".join(flags),
        # The size of XLA's thread pool: with fewer threads than two a device, devices that wait for
        # each other in a collective can wait for ever. As many whatever the number of processes:
        # how XLA splits, and so sums, a large matrix product depends on it.
        "NPROC": str(max(2 * processes * devices, os.cpu_count() or 1)),
        "PYTHONUNBUFFERED": "1",
    }


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    # Port 0 asks the system for one. It is free again from here on, until process 0 takes it: in
    # this moment another program could, which --port avoids.
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def run(command: Sequence[str], places: Sequence[Mapping[str, str]]) -> int:
    """Runs all until the last has ended; the exit status of the first that failed, else 0."""
    children: list[subprocess.Popen[bytes]] = []
    asked = [0]  # The signal that this process was ended with; a list, since a handler sets it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # As nohup has it with SIGHUP.
            signal.signal(number, lambda number, _: _pass_on(number, asked, children))
    for place in places:
        try:
            child = subprocess.Popen(
                command,
                env={**os.environ, **place},
                # The first alone reads what is typed: it can be no more than one.
                stdin=subprocess.DEVNULL if children else None,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Ctrl-C comes to all through this process, once.
                start_new_session=True,
            )
        except OSError as error:
            _end(children, signal.SIGKILL)
            print(f"error: {command[0]} cannot be run: {error.strerror}", file=sys.stderr)
            return 127
        children.append(child)
    threads = [
        threading.Thread(target=_relay, args=(index, pipe, sink), daemon=True)
        for index, child in enumerate(children)
        for pipe, sink in ((child.stdout, sys.stdout), (child.stderr, sys.stderr))
    ]
    for thread in threads:
        thread.start()
    status = _wait(children, asked)
    # A grandchild that outlives its parent may hold the pipe open for ever.
    for thread in threads:
        thread.join(timeout=5.0)
    return status


def _pass_on(number: int, asked: list[int], children: Sequence[subprocess.Popen[bytes]]) -> None:
    asked[0] = number
    _end(children, number)


def _wait(children: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> int:
    """Until the last has ended. Once one has failed the others have `_GRACE` seconds: they notice
    by themselves, and say what they miss, which is what a rehearsal is for."""
    failed, status = -1, 0
    deadline = float("inf")
    while any(child.poll() is None for child in children):
        if failed < 0:
            codes = [child.poll() for child in children]
            failed = next((i for i, code in enumerate(codes) if code), -1)
            if failed >= 0:
                status = _status(codes[failed])
                deadline = time.monotonic() + _GRACE
                if not asked[0]:
                    how = _how(codes[failed] or 0)
                    print(f"process {failed} {how}: ending the others", file=sys.stderr)
        if time.monotonic() > deadline:
            _end(children, signal.SIGKILL)
        time.sleep(0.05)
    return status or next((_status(c.returncode) for c in children if c.returncode), 0)


def _status(code: int | None) -> int:
    """As a shell has it: 3 -> 3, and killed by SIGTERM, which Python calls -15 -> 143."""
    return 128 - code if code is not None and code < 0 else int(code or 0)


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed ({code})"


def _end(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        # Its session and so its group are its own: this reaches what it has started, too.
        if child.poll() is None:
            os.killpg(child.pid, number)


def _relay(index: int, pipe: IO[bytes] | None, sink: IO[str]) -> None:
    assert pipe is not None
    for line in pipe:
        # In one piece, so that lines of different processes do not mix.
        sink.write(f"[{index}] {line.decode(errors='replace').rstrip()}\n")
        sink.flush()


if __name__ == "__main__":
    sys.exit(main())
