"""Where threads beside the main one wait for those of other processes, as Orbax's do in a save.

A barrier of JAX's own ends for those who wait only when all have come or its time is up, 20 minutes
in Orbax: one process that has failed on its way would hold the others for as long.
"""

from __future__ import annotations

import threading

from groot_jax.runtime.hosts import Hosts, PeerFailed


class OutOfStep(Exception):
    """The processes came to different points of what they do together."""


class Barrier:
    """For one piece of work, such as the saves of one manager; `AsyncOptions.barrier_sync_fn` of
    Orbax. Once it has failed, it fails at each call.

    Orbax goes to its last barrier in a `finally`, so that a process in which a save fails comes to
    that one while the others wait at another, and nobody passes:

        process 0   ... wait("write_complete")      -> OutOfStep, instead of the commit
        process 1   ... OSError, wait("set_value")  -> OutOfStep, its __context__ is the OSError
    """

    def __init__(self, hosts: Hosts, name: str) -> None:
        """`name`: the same in all processes, and of no other barrier of the run."""
        self._hosts = hosts.aside(name)
        self._lock = threading.Lock()  # One thread may fail while another is still on its way.
        self.failed = False

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Until all processes have come to `key`. Raises OutOfStep where one comes to another."""
        # No time is up here: who is slow may be so for long, and who is gone is the watch's.
        del timeout_ms
        with self._lock:
            if not self.failed:
                self.failed = True  # Whatever comes now, a lost connection too.
                self.failed = not self._together(key)
            if self.failed:
                raise OutOfStep("another process of the run could not go on with it")

    def _together(self, key: str) -> bool:
        try:
            keys = self._hosts.collect(key)
            if keys is not None and {*keys} != {key}:
                self._hosts.fail()
                return False
            self._hosts.broadcast(None)
        except PeerFailed:
            return False
        return True
