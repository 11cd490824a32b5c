"""How the processes of a run meet once more when one of them has failed: to save one step, say.

Whoever fails says so in the place of its next messages (`Hosts.fail`), where the others wait for
them or come to them soon; each of these then fails too. All meet under keys of their own.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

import jax

from groot_jax.runtime.hosts import Hosts, PeerFailed
from groot_jax.runtime.store import get, put

_MEET_WITHIN = 30.0  # Seconds; a process that waits for the device, of which one is gone, does not.


def meet_after_failure(hosts: Hosts, value: Any) -> list[Any] | None:
    """As `meet`, in a process that has failed: it makes the others come; says if one does not."""
    if hosts.count > 1:
        with suppress(jax.errors.JaxRuntimeError):
            hosts.fail()
    values = meet(hosts, "failed", value)
    if values is None:
        missing = f"another process did not come within {_MEET_WITHIN:.0f} s to save what was done"
        print(f"note: {missing}: what is left is the last checkpoint", file=sys.stderr, flush=True)
    return values


def meet(hosts: Hosts, place: str, value: Any) -> list[Any] | None:
    """The values of all processes, in all that come to this `place` of the code; None where one
    does not come in time."""
    if hosts.count == 1:
        return [value]
    values: list[Any] = []
    until = time.monotonic() + _MEET_WITHIN
    with suppress(jax.errors.JaxRuntimeError):
        put(f"groot_jax/{place}/{hosts.index}", [hosts.turn, value])
        for index in range(hosts.count):
            found = get(f"groot_jax/{place}/{index}", max(until - time.monotonic(), 0.1))
            if found is None:
                return None
            values.append(found)
        # Where one failed between two calls the others have made more of them.
        hosts.turn = max(turn for turn, _ in values)
        return [value for _, value in values]
    return None


def part(hosts: Hosts, error: BaseException) -> None:
    """Once all is done that could be: whoever failed because another did lets that one say why."""
    if isinstance(error, PeerFailed):
        time.sleep(_MEET_WITHIN)  # The watch ends this process meanwhile.
