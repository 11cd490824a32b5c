"""How a process finds the run that it belongs to: who it is, and whether all others are there.

The environment says the former, a roll call on the coordinator's port the latter, before JAX takes
that port. Imports JAX for what it knows of clusters alone.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from jax._src import clusters

from groot_jax.errors import UserError


@dataclass(frozen=True)
class Place:
    """Which process of a run this is."""

    coordinator: str  # host:port of process 0
    count: int
    index: int
    devices: tuple[int, ...] | None = None  # local ones that it may use; None: all


def place_from_environment(env: Mapping[str, str]) -> Place | None:
    """Which process this is, of which run. None: of none. UserError where that is half said.

    JAX_COORDINATOR_ADDRESS=node1:8476, JAX_NUM_PROCESSES=4 and JAX_PROCESS_ID=3 make
    Place("node1:8476", 4, 3).
    """
    mode = env.get("GROOT_DISTRIBUTED", "")
    if mode not in ("", "auto"):
        raise UserError(f"GROOT_DISTRIBUTED={mode}: only 'auto' is known; or leave it out")
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if env.get(name)]
    # What is written out goes before what JAX finds: a rehearsal inside a Slurm job has its own.
    if mode == "auto" and not given:
        # What is unset is found out: address, processes, index, devices, timeout (seconds).
        address, count, index, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, 60
        )
        if address is None or count is None or index is None:
            raise UserError(
                "GROOT_DISTRIBUTED=auto: this is no TPU pod, Slurm job or other cluster that JAX "
                f"knows; set {', '.join(names)} instead"
            )
        own = _local_devices(env)
        # Under Slurm JAX takes one device a process, also where a process has a node to itself.
        if own is None and devices is not None and not _alone_on_its_node(env):
            own = tuple(devices)
        return Place(address, count, index, own)
    if not given:
        return None
    if missing := [name for name in names if name not in given]:
        raise UserError(
            f"{given[0]} is set, but {missing[0]} is not; set all of {', '.join(names)}"
        )
    address = env[names[0]]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"{names[0]}={address}: write host:port of process 0")
    numbers = [env[name] for name in names[1:]]
    if not all(number.isdecimal() for number in numbers) or int(numbers[1]) >= int(numbers[0]):
        raise UserError(
            f"{names[1]}={numbers[0]}, {names[2]}={numbers[1]}: processes are counted from 0, and "
            "each has a number below their count"
        )
    return Place(address, int(numbers[0]), int(numbers[1]), _local_devices(env))


def _local_devices(env: Mapping[str, str]) -> tuple[int, ...] | None:
    """The devices of this host that the process may use, (0, 1) for "0,1"; None: nobody says."""
    text = env.get("JAX_LOCAL_DEVICE_IDS", "")
    if not text:
        return None
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise UserError(
            f"JAX_LOCAL_DEVICE_IDS={text}: write the numbers of this host's devices, counted from "
            "0, with commas between them"
        )
    return tuple(map(int, numbers))


def _alone_on_its_node(env: Mapping[str, str]) -> bool:
    """Whether Slurm runs one task on each node: `1(x4)` or `1` as opposed to `8(x4)` or `2,1`. It
    writes how many tasks the nodes have, in order: `2(x3),1` are 2, 2, 2, 1."""
    per_node = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", "")
    return bool(re.fullmatch(r"1(\(x\d+\))?(,1(\(x\d+\))?)*", per_node))


def roll_call(place: Place, timeout: float) -> tuple[str, ...]:
    """Waits until all processes are there; their names, by index.

    JAX itself does not say who is missing. Uses the coordinator's port before JAX does. Raises
    UserError, in every process that is there, naming those that are not.
    """
    deadline = time.monotonic() + timeout
    name = f"{socket.gethostname()}, pid {os.getpid()}"
    if place.index == 0:
        port = int(place.coordinator.rpartition(":")[2])
        return _call_roll(port, place.count, name, deadline, timeout)
    while True:
        try:
            with reach(place.coordinator, timeout=5.0) as line:
                # Longer than process 0 waits itself: it then says who else is missing.
                line.settimeout(max(deadline + 5.0 - time.monotonic(), 1.0))
                line.sendall(json.dumps([place.index, place.count, name]).encode() + b"\n")
                problem, names = json.loads(line.makefile().readline())
            break
        # Process 0 may not listen yet, or another program has the port and speaks otherwise.
        except (OSError, ValueError, TypeError) as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process 0 of {place.count}, at {place.coordinator}, did not answer process "
                    f"{place.index} within {timeout:.0f} s ({error}): look at its log, or raise "
                    "config.distributed.start_timeout"
                ) from None
            time.sleep(0.2)
    if problem:
        raise UserError(problem)
    return tuple(names)


def reach(coordinator: str, timeout: float) -> socket.socket:
    """A connection to process 0 at `host:port`; an IPv6 host stands in brackets, `[::1]:8476`.
    Raises OSError where there is none after `timeout` seconds."""
    host, _, port = coordinator.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)


def _call_roll(
    port: int, count: int, name: str, deadline: float, timeout: float
) -> tuple[str, ...]:
    """Process 0's side: a process connects, says `[1, 4, "host7, pid 512"]` (index, count, name) in
    one line, and gets `[problem, names]` in one line when all are there, or when one cannot be."""
    names: list[str | None] = [name] + [None] * (count - 1)
    lines: list[socket.socket] = []  # Kept open until there is an answer for all.
    problem = ""
    # One socket for both kinds of addresses where the system can: hosts may be named by either.
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        server = socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=count
        )
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of JAX_COORDINATOR_ADDRESS "
            f"({error.strerror}): choose another port"
        ) from error
    with server:
        while None in names and not problem:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                line, _ = server.accept()
                line.settimeout(5.0)
                index, theirs, who = json.loads(line.makefile().readline())
            except TimeoutError:  # Of the server, or of a line that is open and silent.
                if time.monotonic() < deadline:
                    continue
                missing = [str(i) for i, n in enumerate(names) if n is None]
                problem = (
                    f"process {', '.join(missing)} of {count} did not arrive within "
                    f"{timeout:.0f} s: look at its log, or raise config.distributed.start_timeout"
                )
                break
            except (OSError, ValueError, TypeError):
                continue  # Not one of ours.
            lines.append(line)
            # The same one may come twice, when its first connection broke; another may not.
            if theirs != count or not 0 < index < count or names[index] not in (None, who):
                problem = (
                    f"{who} says that it is process {index} of {theirs}, which does not go with "
                    f"{name}, process 0 of {count}: give each process a number of its own and all "
                    "the same count"
                )
            else:
                names[index] = who
        for line in lines:
            with suppress(OSError), line:  # Who is gone will be missed soon enough.
                line.sendall(json.dumps([problem, names]).encode() + b"\n")
    if problem:
        raise UserError(problem)
    return tuple(str(n) for n in names)
