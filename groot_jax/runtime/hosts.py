"""The processes of one run: how they find each other, what they tell each other, how they end.

A run over several hosts is the same command on each, with JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID in its environment, or with GROOT_DISTRIBUTED=auto where JAX
finds these out by itself (a TPU pod, Slurm). What processes say to each other here is a few numbers
in JSON, by way of JAX's coordination service and never through the devices. Knows nothing of
models or data.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import jax
from jax._src.lib import _jax

from groot_jax import errors
from groot_jax.errors import RUN_AGAIN, RunAgain, UserError, exit_status
from groot_jax.runtime.joining import place_from_environment, reach, roll_call
from groot_jax.runtime.store import Message, client, get, put

_BEAT = 1.0  # Seconds between signs of life.
# Keys of the store, which JAX writes to as well. Of three processes, after one `merge`:
#   groot_jax/1/0/head, groot_jax/1/1/head, groot_jax/1/2/head    turn 1: what each has sent
#   groot_jax/2/all/head                                           turn 2: what process 0 answered
#   groot_jax/beat/0, groot_jax/beat/1, groot_jax/beat/2           signs of life, counted up
#   groot_jax/stop     once the run is over, status and why: "75 process 1 of 3 (host7, ..."
_ROOT = "groot_jax/"

_FAILED = "failed"  # {"failed": true} in the place of a message: see `Hosts.fail`.


class PeerFailed(RunAgain):
    """Another process of the run has failed, and says why."""


def of_a_connection(error: BaseException | None) -> bool:
    """Whether processes could not reach each other, which the watch over them explains."""
    while error is not None:
        words = ("Gloo", "Connection", "connection", "barrier", "coordination", "heartbeat")
        if isinstance(error, jax.errors.JaxRuntimeError | TimeoutError) or (
            isinstance(error, ValueError | RuntimeError)
            and any(word in str(error) for word in words)
        ):
            return True
        error = error.__cause__
    return False


class Hosts:
    """What the processes of a run do together; every one has to make the same calls in turn.

    Calls are told apart by their number alone (`turn`), so that a process which left one out
    would read another call's messages from there on.
    """

    def __init__(self, index: int = 0, names: tuple[str, ...] = ("",), root: str = _ROOT) -> None:
        self.index, self.names, self._root = index, names, root
        self.count = len(names)
        self.turn = 0
        self._stale: list[str] = []  # Keys that all have read once process 0 hears from all again.
        self._watch: _Watch | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes what all have found."""
        return self.index == 0

    def collect(self, value: Message) -> list[Message] | None:
        """The values of all processes in order, for process 0; None for the others."""
        if self.count == 1:
            return [value]
        key = self._next()
        put(f"{key}/{self.index}", value)
        if not self.main:
            return None
        values = [_received(f"{key}/{index}") for index in range(self.count)]
        # Whoever has sent this message has read all that was sent to it before.
        for stale in self._stale:
            client().key_value_delete(stale)
        self._stale = [key]
        return values

    def broadcast(self, value: Message) -> Message:
        """Process 0's value, for all."""
        if self.count == 1:
            return value
        key = f"{self._next()}/all"
        if self.main:
            put(key, value)
            self._stale.append(key)
            return value
        return _received(key)

    def fail(self) -> None:
        """Lets the others fail, too, at the call that they wait in, or at the next one."""
        # Process 1 does not know whether that is one in which it is heard, or two further on:
        # process 0 does not wait in a `broadcast`, and a `merge` counts as two.
        for turn in range(self.turn + 1, self.turn + 5):
            put(f"{self._root}{turn}/{'all' if self.main else self.index}", {_FAILED: True})
        self.turn += 10

    def merge(self, value: Message, join: Callable[[list[Message]], Message]) -> Message:
        """`join` of the values of all processes, worked out once and the same for all."""
        values = self.collect(value)
        return self.broadcast(join(values) if values is not None else None)

    def aside(self, name: str) -> Hosts:
        """The same processes in calls of their own, for threads beside the main one."""
        return Hosts(self.index, self.names, f"{self._root}{name}/")

    def barrier(self) -> None:
        """Until all processes are here."""
        self.merge(None, lambda _: None)

    def close(self) -> None:
        """Leaves the run, once all are ready to."""
        if self.count == 1:
            return
        self.barrier()
        assert self._watch is not None
        self._watch.stop()
        errors.at_failure.clear()
        jax.distributed.shutdown()

    def _next(self) -> str:
        self.turn += 1
        return f"{self._root}{self.turn}"


def _received(key: str) -> Message:
    value = get(key)
    if value == {_FAILED: True}:
        raise PeerFailed("another process of the run has failed; its own output says why")
    return value


# ---- Coming together --------------------------------------------------------------------------


def connect(start_timeout: float, timeout: float) -> Hosts:
    """Joins the run that the environment names; alone where it names none.

    Args:
      start_timeout: seconds until all processes have to be there.
      timeout: seconds without a sign of life after which a process counts as dead. It ends all.

    Raises UserError where the environment is wrong, or where processes do not arrive.
    """
    place = place_from_environment(os.environ)
    if place is None:
        return Hosts()
    if place.count == 1:
        if place.devices:  # As `jax.distributed.initialize` does, which a run of one is spared.
            visible = ",".join(map(str, place.devices))
            jax.config.update("jax_cuda_visible_devices", visible)
            jax.config.update("jax_rocm_visible_devices", visible)
        return Hosts()
    names = roll_call(place, start_timeout)
    hosts = Hosts(place.index, names)
    # Without this, SIGTERM only sets a flag.
    jax.config.update("jax_enable_preemption_service", False)
    _say_when_aborted(hosts, place.coordinator)
    with _losses_without_a_stack(hosts, place.coordinator):
        try:
            jax.distributed.initialize(
                place.coordinator,
                place.count,
                place.index,
                local_device_ids=place.devices,
                # All have answered the roll a moment ago: who does not come now has died since.
                initialization_timeout=int(timeout),
                # The watch is faster and says more; this, 130 s by default, is for when it can't.
                heartbeat_timeout_seconds=int(2 * timeout) + 10,
                shutdown_timeout_seconds=int(timeout),
            )
        except RuntimeError as error:  # One of C++'s comes as bad_cast, too.
            if not isinstance(error, jax.errors.JaxRuntimeError) and "bad_cast" not in str(error):
                raise
            raise RunAgain(
                f"one of {', '.join(names)} was there and did not go on within {timeout:.0f} s: it "
                "ended, or its host or network failed; run the same command again to continue"
            ) from error
    hosts._watch = _Watch(hosts, timeout)
    errors.at_failure.append(hosts._watch.failed)
    jax.devices()  # Processes wait for each other here.
    return hosts


# ---- Ending together --------------------------------------------------------------------------


class _Watch:
    """A thread that shows signs of life and ends this process when the run is over for another.

    Process 0 hears them all and passes sentence; the others ask it. With a beat a second and a
    timeout of 60 s the others end some 62 s after one fell silent, and in about 3 s after one that
    could still say why it ends.
    """

    def __init__(self, hosts: Hosts, timeout: float) -> None:
        self._hosts, self._timeout = hosts, timeout
        # By process its last beat, and when this process first saw that one: by its own clock, as
        # those of two hosts may differ by more than the timeout.
        self._heard: dict[str, tuple[bytes, float]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hosts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch: all processes have said that they are done."""
        self._end.set()
        self._thread.join()

    def failed(self, error: BaseException) -> None:
        """Tells the others what ends this process."""
        if not isinstance(error, UserError) and of_a_connection(error):
            # Most likely to a process that died: the watch is about to say which.
            self._thread.join(self._timeout + 5 * _BEAT)
        status = exit_status(error)
        said = " ".join(str(error).splitlines())
        if status > 128:  # A signal, which ends them all; the same command continues.
            said, status = signal.Signals(status - 128).name, RUN_AGAIN
        elif not isinstance(error, UserError):
            said = f"{type(error).__name__}: {said}"
        me = _name(self._hosts, self._hosts.index)
        self._stop(f"process {me} stopped: {said[:1000]}", status)
        if self._hosts.main:
            time.sleep(2 * _BEAT)  # The others hear it from here.
        self._end.set()

    def _stop(self, sentence: str, status: int = RUN_AGAIN) -> None:
        """Says why the run is over, and with which status the others end."""
        with suppress(jax.errors.JaxRuntimeError):  # Somebody was first.
            client().key_value_set_bytes(f"{_ROOT}stop", f"{status} {sentence}".encode())

    def _run(self) -> None:
        beat = 0
        refused = 0.0  # Since when process 0 has not answered; 0.0: it does.
        while not self._end.wait(_BEAT):
            beat += 1
            now = time.monotonic()
            try:
                own = f"{_ROOT}beat/{self._hosts.index}"
                client().key_value_set_bytes(own, str(beat).encode(), allow_overwrite=True)
                if self._hosts.main:
                    beats = dict(client().key_value_dir_get_bytes(f"{_ROOT}beat/"))
                    if silent := self._silent(beats, now):
                        self._stop(silent)
                if found := _sentence():
                    status, _, sentence = found.partition(" ")
                    self._leave(sentence, int(status))
                refused = 0.0
            except jax.errors.JaxRuntimeError:
                refused = refused or now
                if now - refused > self._timeout:
                    self._leave(_lost(self._hosts))

    def _silent(self, beats: dict[str, bytes], now: float) -> str:
        """A sentence about a process whose beat has not changed for too long; else nothing."""
        for index in range(1, self._hosts.count):
            key = f"{_ROOT}beat/{index}"
            beat = beats.get(key, b"")
            known, since = self._heard.get(key, (None, now))
            if beat != known:
                self._heard[key] = (beat, now)
            elif now - since > self._timeout:
                return (
                    f"process {_name(self._hosts, index)} has given no sign of life for "
                    f"{self._timeout:.0f} s: it was killed, or its host or network failed; run the "
                    "same command again to continue"
                )
        return ""

    def _leave(self, sentence: str, status: int = RUN_AGAIN) -> None:
        if self._end.is_set():
            return
        # In a thread of its own: a file server that hangs must not keep this process.
        last_words = threading.Thread(target=_last_words, daemon=True)
        last_words.start()
        if self._hosts.main:
            time.sleep(2 * _BEAT)  # The others hear it from here.
        last_words.join(2 * _BEAT)
        _end_process(sentence, status)


def _last_words() -> None:
    for say in errors.at_peer_failure:
        say()


def _sentence() -> str:
    """Status and sentence with which the run is over; empty while it goes on."""
    try:
        said: bytes = client().key_value_try_get_bytes(f"{_ROOT}stop")
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" not in str(error):
            raise
        return ""
    return said.decode()


def _name(hosts: Hosts, index: int) -> str:
    return f"{index} of {hosts.count} ({hosts.names[index]})"


def _lost(hosts: Hosts) -> str:
    return (
        f"process {_name(hosts, 0)}, which coordinates the run, can no longer be reached: it "
        "ended, or its host or network failed; run the same command again to continue"
    )


def _end_process(sentence: str, status: int) -> None:
    """At once, from a thread that is not the main one: that may be in C++ for as long as it takes,
    waiting for an array of the process that is gone."""
    os.write(2, f"error: {sentence}\n".encode())
    with suppress(OSError, ValueError):  # Whoever read it may be gone, the disk full.
        sys.stdout.flush()
    os._exit(status)


def _say_when_aborted(hosts: Hosts, coordinator: str) -> None:
    """One sentence beside the stack trace with which C++ ends a process: whether it lost process 0,
    upon which JAX aborts, or failed itself, as when a check of XLA does."""

    def aborted(_: int) -> None:
        if not hosts.main and not _answers(coordinator):
            os.write(2, f"error: {_lost(hosts)}\n".encode())
            os._exit(RUN_AGAIN)
        sentence = (
            f"process {_name(hosts, hosts.index)} was aborted by JAX or XLA, which is no mistake "
            "of yours: what stands above says where; run the same command again to continue"
        )
        os.write(2, f"error: {sentence}\n".encode())
        os._exit(128 + signal.SIGABRT)

    # abort() returns to no one: Python's own handlers only leave a note for later.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    _KEPT.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


@contextmanager
def _losses_without_a_stack(hosts: Hosts, coordinator: str) -> Iterator[None]:
    """In this block JAX's client is made such that the loss of process 0 is a sentence. By default
    it prints forty lines, a C++ stack among them, and aborts."""

    def lost(*_: object) -> None:
        if not hosts.main and not _answers(coordinator):
            os.write(2, f"error: {_lost(hosts)}\n".encode())
            os._exit(RUN_AGAIN)

    def terminated() -> None:
        lost()
        # Something else: what C++ would have done.
        ctypes.CFUNCTYPE(None)(before)() if before else os.abort()

    # jaxlib 0.10 takes a callback, but ends in std::terminate instead of calling it, since it has
    # no Python for its argument. Both ways are taken.
    before = None
    with suppress(OSError, AttributeError):
        set_terminate = ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE
        set_terminate.restype, set_terminate.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        handler = ctypes.CFUNCTYPE(None)(terminated)
        _KEPT.append(handler)
        before = set_terminate(ctypes.cast(handler, ctypes.c_void_p))
    make = _jax.get_distributed_runtime_client
    if before is not None:
        _jax.get_distributed_runtime_client = partial(make, missed_heartbeat_callback=lost)
    try:
        yield
    finally:
        _jax.get_distributed_runtime_client = make


def _answers(coordinator: str) -> bool:
    """Whether process 0 still listens, now and a moment later.

    The sockets of a process that is killed are closed one by one: this process's connection may be
    gone while the one that takes new ones is still there.
    """
    for wait in (0.0, 0.5):
        time.sleep(wait)
        try:
            reach(coordinator, timeout=_BEAT).close()
        except OSError:
            return False
    return True


_KEPT: list[object] = []  # What C holds on to, and Python would free.
