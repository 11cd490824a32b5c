"""The key-value store of a run, that of JAX's coordination service: messages in JSON."""

from __future__ import annotations

import json
import math
import time
import zlib
from typing import Any

import jax
from jax._src import distributed  # No public way leads to the key-value store.

_PART = 1 << 20  # Bytes of one entry of the store; longer messages take several.

Message = Any  # What JSON can hold; a tuple arrives as a list.


def client() -> Any:
    return distributed.global_state.client


def put(key: str, value: Message) -> None:
    data = zlib.compress(json.dumps(value).encode(), 1)
    parts = [data[at : at + _PART] for at in range(0, len(data), _PART)]
    for number, part in enumerate(parts[1:], 1):
        client().key_value_set_bytes(f"{key}/part/{number}", part)
    # Last, since it says that all are there: 4 bytes, how many parts, then the first of them.
    client().key_value_set_bytes(f"{key}/head", len(parts).to_bytes(4, "big") + parts[0])


def get(key: str, seconds: float = math.inf) -> Message:
    """Waits as long as it takes: whether the sender still lives is the watch's business. None
    where nothing came in so many seconds."""
    until = time.monotonic() + seconds
    # In turns of ten seconds: a wait in C++ hears no Ctrl-C.
    while (left := until - time.monotonic()) > 0:
        try:
            turn = int(1000 * min(left, 10.0)) + 1
            head = client().blocking_key_value_get_bytes(f"{key}/head", turn)
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
    else:
        return None
    data = head[4:]
    for number in range(1, int.from_bytes(head[:4], "big")):
        data += client().blocking_key_value_get_bytes(f"{key}/part/{number}", 60_000)
    return json.loads(zlib.decompress(data))
