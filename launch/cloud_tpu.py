"""A TPU VM, or the queued resource that holds it: how it is rented, asked, reached and given back.

All through `gcloud compute tpus`, whose words for states stand here as Cloud TPU writes them.
"""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from groot_jax.errors import UserError
from groot_jax.scaling.chips import Slice
from launch.commands import CommandFailed, Runner, passed_on
from launch.slices import GENERATIONS, gcloud_flags

READY, MISSING = "READY", "MISSING"
GONE = ("PREEMPTED", "TERMINATED", "SUSPENDED")  # It never comes back by itself.
STUCK = ("STOPPED", "HIDDEN", "FAILED", "UNKNOWN")  # For the user to decide about.
WORKER_SCRIPT = "groot/source/launch/worker.sh"  # below the home folder on each worker


class NotCreated(CommandFailed):
    """No such slice could be had: no capacity, no quota, no permission."""


class TakenAway(CommandFailed):
    """The slice went as soon as it had come."""


@dataclass(frozen=True)
class Worker:
    """What one worker says of its job."""

    number: str
    state: str  # idle, running, finished, failed or interrupted
    detail: str  # the command where it is running


class TpuVm:
    """A TPU VM, or the queued resource that holds it, by its name."""

    def __init__(self, runner: Runner, args: argparse.Namespace, tpu_slice: Slice | None) -> None:
        self._runner, self._args, self._slice = runner, args, tpu_slice
        # In a dry run: there is nothing before `run` and `up`, and something before the others.
        self._assumed = MISSING if args.action in ("run", "up") else READY

    def state(self) -> str:
        """MISSING, READY, or what else Cloud TPU calls it. A queue's word counts until its node
        is there, whose own word counts then."""
        if self._args.queued:
            state = self._describe("queued-resources", "state.state", "ACTIVE")
            if state != "ACTIVE":
                return state
            # A queue may still call itself active when its node has been taken away.
            node = self._describe("tpu-vm", "state", READY)
            return "PREEMPTED" if node == MISSING else node
        return self._describe("tpu-vm", "state", READY)

    def _describe(self, kind: str, field: str, ready: str) -> str:
        try:
            # --format=value(state) prints the bare word, such as READY.
            answer = self._runner.read(
                *self._gcloud(kind, "describe", f"--format=value({field})"),
                assumed=MISSING if self._assumed == MISSING else ready,
            )
        except CommandFailed as error:
            if "NOT_FOUND" in str(error):
                return MISSING
            raise
        return answer.strip() or "UNKNOWN"

    def ensure(self) -> bool:
        """Waits until the slice is ready, creating it where need be; whether it was there.

        Raises NotCreated, TakenAway, and UserError where its state is for the user to end.
        """
        created, before = False, ""
        # READY: done.  STUCK: the user's.  GONE: deleted, and created.  MISSING: created.
        # CREATING, WAITING_FOR_RESOURCES and whatever else there is: asked again.
        while True:
            state = self.state()
            if state != before:
                self._runner.say(f"{self._args.name} is {state}")
            before = state
            if state == READY:
                return not created
            if state in STUCK:
                see = shlex.join(self._gcloud(self._kind, "describe"))
                raise UserError(f"{self._args.name} is {state}: see `{see}`; `down` deletes it")
            # Else a slice that goes as it comes would be created for ever, restarts or not.
            if created and (state in GONE or state == MISSING):
                raise TakenAway(f"{self._args.name} is {state} right after its creation")
            if state in GONE:
                self.delete()
            if state in GONE or state == MISSING:
                self._create()
                created = True
            else:
                self._runner.sleep(self._args.poll)

    def _create(self) -> None:
        args = self._args
        assert self._slice is not None
        version = args.runtime_version or GENERATIONS[self._slice.chip.name].runtime_version
        flags = [*gcloud_flags(self._slice)]
        # gcloud calls the same thing by two names.
        flags += [f"--runtime-version={version}" if args.queued else f"--version={version}"]
        flags += [f"--node-id={args.name}"] if args.queued else []
        flags += ["--spot"] if args.spot else []
        flags += passed_on(args, "network", "subnetwork")
        flags += ["--internal-ips"] if args.internal_ips else []
        flags += passed_on(args, "service-account")
        try:
            self._runner.run(*self._gcloud(self._kind, "create", *flags, *args.create_flag))
        except CommandFailed as error:
            raise NotCreated(str(error)) from error
        self._assumed = READY

    def delete(self) -> None:
        """Deletes it; that there is none is no mistake. Raises CommandFailed for any other."""
        # Without --force gcloud refuses to delete a queued resource whose node still stands.
        force = ["--force"] if self._args.queued else []
        try:
            self._runner.run(*self._gcloud(self._kind, "delete", *force))
        except CommandFailed as error:
            if "NOT_FOUND" not in str(error):
                raise
            self._runner.say(f"there is no {self._args.name}")

    def ssh(self, command: str) -> None:
        """Runs a shell command on all workers at once. Raises CommandFailed."""
        self._runner.run(*self._ssh(command))

    def copy(self, path: Path) -> None:
        """Copies a file to the home folder on every worker."""
        flags = ("--worker=all", *self._args.connect_flag)
        source = (str(path), f"{self._args.name}:{path.name}")
        self._runner.run(*self._gcloud("tpu-vm", "scp", *flags, names=source))

    def workers(self) -> list[Worker]:
        """What the workers say; nothing from those that were never installed.

        `worker 3: failed: exit status 1` -> Worker("3", "failed", "exit status 1")
        """
        text = self._runner.read(
            *self._ssh(f"test ! -e {WORKER_SCRIPT} || bash {WORKER_SCRIPT} status"), assumed=""
        )
        found = re.findall(r"^worker (\S+): (\w+)(?:: (.*))?$", text, re.MULTILINE)
        # By number, though numbers are text: worker 2 before worker 10.
        return [Worker(*parts) for parts in sorted(found, key=lambda parts: (len(parts[0]), parts))]

    def follow(self, lines: int) -> int:
        """Shows the logs of all workers until the job ends; 0 when it ended well on all."""
        return self._runner.status(*self._ssh(f"bash {WORKER_SCRIPT} follow {lines}"))

    @property
    def _kind(self) -> str:
        return "queued-resources" if self._args.queued else "tpu-vm"

    def _ssh(self, command: str) -> tuple[str, ...]:
        flags = ("--worker=all", f"--command={command}", *self._args.connect_flag)
        return self._gcloud("tpu-vm", "ssh", *flags)

    def _gcloud(
        self, kind: str, verb: str, *flags: str, names: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        args = self._args
        # gcloud compute tpus tpu-vm ssh groot --zone=us-west4-a --quiet --worker=all --command=...
        # scp has a file and NAME:file, `names`, where the others have NAME.
        return (
            "gcloud",
            *([args.track] if args.track else []),
            *("compute", "tpus", kind, verb),
            *(names or (args.name,)),
            f"--zone={args.zone}",
            *([f"--project={args.project}"] if args.project else []),
            "--quiet",  # Nobody is there to answer.
            *flags,
        )
