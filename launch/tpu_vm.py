"""Training on a Cloud TPU VM or a slice of many of them, from nothing to its end.

    python launch/tpu_vm.py run --name=groot --zone=us-west4-a --topology=v5e:4x4 --spot --queued \\
        --mount=10.0.0.2:/share:/mnt/share -- \\
        python -m groot_jax.train --config=configs/retail.py --workdir=/mnt/share/runs/demo

`run` creates the slice or takes the one that has the name, copies the last commit, installs it on
every worker, starts the same command on all, follows the logs, and after a preemption does all of
it again, so that the command continues from its checkpoints. Ctrl-C leaves the job running; the
same `run` follows it again. The other actions take the same flags: `up` (slice and installation
alone), `logs`, `status`, `stop` (ends the command), `down` (deletes the slice). `--dry-run` prints
what would be run and touches nothing. docs/launch.md says what each flag costs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.scaling.chips import Slice, parse_slice
from launch.cloud_tpu import READY, WORKER_SCRIPT, NotCreated, TakenAway, TpuVm
from launch.commands import CommandFailed, Parser, Runner, add_repeated, number, split_command
from launch.jobs import (
    Job,
    check_name,
    check_workdir,
    parse_command,
    parse_environment,
    parse_mount,
)
from launch.slices import chips_per_host

ROOT = Path(__file__).resolve().parent.parent
ACTIONS = ("run", "up", "logs", "status", "stop", "down")
_LOST_AFTER = 5  # times that the workers are asked in vain, one after the other
_DONE = ""  # what has interrupted a job that ended well


def make_parser() -> Parser:
    """The flags of all actions; what follows `--` is not for it."""
    parser = Parser("launch/tpu_vm.py", __doc__ or "")
    parser.add_argument("action", choices=ACTIONS, help="what to do; run is all of it")
    parser.add_argument("--name", required=True, help="of the TPU VM or queued resource")
    parser.add_argument("--zone", required=True, help="such as us-west4-a")
    parser.add_argument("--project", help="without: that of gcloud")
    parser.add_argument("--topology", metavar="v5e:4x4", help="the slice; for run and up")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")

    rent = parser.add_argument_group("how it is rented")
    rent.add_argument("--spot", action="store_true", help="cheaper, and taken away at any time")
    rent.add_argument("--queued", action="store_true", help="queue for it: a queued resource")
    rent.add_argument("--runtime-version", help="software of the VM; without: by its generation")
    rent.add_argument("--network")
    rent.add_argument("--subnetwork")
    rent.add_argument("--internal-ips", action="store_true", help="no address on the internet")
    rent.add_argument("--service-account")
    add_repeated(
        rent,
        "--create-flag",
        "FLAG",
        "handed to gcloud's create, such as --create-flag=--valid-until-duration=6h",
    )
    add_repeated(
        rent,
        "--connect-flag",
        "FLAG",
        "handed to gcloud's ssh and scp, such as --connect-flag=--internal-ip",
    )
    rent.add_argument("--track", choices=("alpha", "beta"), help="of gcloud")

    job = parser.add_argument_group("the job")
    add_repeated(
        job,
        "--mount",
        "SOURCE:/path",
        "storage that all workers share: gs://BUCKET:/path or HOST:/export:/path",
    )
    job.add_argument(
        "--workdir-is-shared",
        action="store_true",
        help="the work directory is on shared storage that --setup or the image mounts",
    )
    job.add_argument("--setup", help="shell command for every worker, before the installation")
    add_repeated(job, "--env", "KEY=VALUE")
    job.add_argument(
        "--max-restarts", type=number(0), default=10, help="after preemptions and the like (10)"
    )
    job.add_argument(
        "--delete-after", action="store_true", help="delete the slice when the job has ended"
    )
    job.add_argument("--lines", type=number(0), default=50, help="of the log to begin with (50)")
    job.add_argument(
        "--poll", type=number(0, float), default=30.0, help="seconds between two looks (30)"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Does the action that the first word names. Raises UserError, most before it rents."""
    flags, command = split_command(sys.argv[1:] if argv is None else argv)
    args = make_parser().parse_args(flags)
    check_name(args.name)
    runner = Runner(args.dry_run)
    if args.action in ("run", "up"):
        if not args.topology:
            raise UserError(f"{args.action} needs --topology, such as --topology=v5e:4x4")
        tpu_slice = parse_slice(args.topology)
        tpu = TpuVm(runner, args, tpu_slice)
        # Checks its flags, so before anything is rented.
        launch = Launch(runner, tpu, args, tpu_slice, command)
        if args.action == "run":
            launch.run()
        else:
            tpu.ensure()
            launch.install()
        return
    tpu = TpuVm(runner, args, None)
    if args.action == "logs":
        tpu.follow(args.lines)
    elif args.action == "status":
        state = tpu.state()
        workers = tpu.workers() if state == READY else []
        if not args.dry_run:
            print(f"{args.name}: {state}")
            for worker in workers:
                # `worker 0: idle`, with nothing behind it, and `worker 1: running: python ...`.
                print(f"worker {worker.number}: {worker.state}: {worker.detail}".rstrip(": "))
    elif args.action == "stop":
        tpu.ssh(f"bash {WORKER_SCRIPT} stop")
    else:
        tpu.delete()


class OtherJob(UserError):
    """The slice runs another command."""


class Launch:
    """The job on a slice: from the copy of the package to the end of its last restart."""

    def __init__(
        self,
        runner: Runner,
        tpu: TpuVm,
        args: argparse.Namespace,
        tpu_slice: Slice,
        command: list[str],
    ) -> None:
        """Raises UserError for what `args` or the command of the job have wrong."""
        self._runner, self._tpu, self._args = runner, tpu, args
        self._hosts = tpu_slice.size // chips_per_host(tpu_slice)
        self._mounts = [parse_mount(text) for text in args.mount]
        for mount, text in zip(self._mounts, args.mount, strict=True):
            if mount.kind == "claim":
                raise UserError(f"--mount={text}: claims are of Kubernetes, see launch/gke")
        environment = parse_environment(args.env)
        self._command = ""
        if args.action == "run":
            job = parse_command(command)
            self._check(job, tpu_slice)
            if self._hosts > 1:
                # First, so that --env=GROOT_DISTRIBUTED=... has the last word.
                environment = {"GROOT_DISTRIBUTED": "auto", **environment}
            # One text, since a worker tells it when it is asked what it runs: the same text is the
            # same job, to be followed and not started again.
            settings = [f"{key}={value}" for key, value in environment.items()]
            self._command = shlex.join(["env", *settings, *job.command])

    def _check(self, job: Job, tpu_slice: Slice) -> None:
        job.check_mesh(tpu_slice.size, tpu_slice.name)
        # Why the work directory has to be on a mount; the first reason that there is.
        reason = ""
        if self._hosts > 1:
            reason = f"the {self._hosts} hosts of {tpu_slice.name} all need it"
        elif self._args.spot:
            reason = "the disk of a spot VM is lost with it"
        elif self._args.delete_after:
            reason = "--delete-after deletes the disk of the VM"
        check_workdir(job.workdir, self._mounts, "" if self._args.workdir_is_shared else reason)

    def run(self) -> None:
        """Everything, with at most --max-restarts restarts. Raises UserError where it fails."""
        most = self._args.max_restarts
        # Each turn is a whole attempt, from the slice to the end of the log.
        for restarts in range(most + 1):
            try:
                reused = self._tpu.ensure()
            # UserErrors of other kinds go through: of a slice in a state that the user has to end.
            except (NotCreated, TakenAway) as error:
                # Capacity that was there once may come back; a first attempt has no such hope.
                if isinstance(error, NotCreated) and not restarts:
                    raise
                interruption = str(error)
                self._runner.sleep(self._args.poll)
            else:
                # A job that fails by itself would fail again: nothing is restarted for it.
                try:
                    interruption = self._once(reused)
                except OtherJob:  # Whose slice it is then, --delete-after or not.
                    raise
                except UserError:
                    self._tear_down()
                    raise
            if interruption == _DONE:
                self._tear_down()
                return
            if restarts < most:
                self._runner.say(f"{interruption}; restart {restarts + 1} of {most}")
        self._tear_down()
        raise UserError(
            f"{interruption}, and --max-restarts={most} are used up; run the same command again "
            "to continue"
        )

    def _tear_down(self) -> None:
        if self._args.delete_after:
            self._tpu.delete()
        else:
            self._runner.say(f"{self._args.name} still stands and costs; `down` deletes it")

    def _once(self, reused: bool) -> str:
        """The job until it is done (_DONE), or what interrupted it. Raises UserError."""
        try:
            if reused and self._runs_already():
                self._runner.say("the job is running: following it")
            else:
                self.install()
                self._tpu.ssh(shlex.join(["bash", WORKER_SCRIPT, "start", self._command]))
            return self._follow()
        except CommandFailed:
            # A slice that is being taken away fails in every way before it says so.
            self._runner.sleep(self._args.poll)
            state = self._tpu.state()
            if state == READY:
                raise
            return f"{self._args.name} is {state}"

    def _runs_already(self) -> bool:
        running = [worker for worker in self._tpu.workers() if worker.state == "running"]
        for worker in running:
            if worker.detail != self._command:
                raise OtherJob(
                    f"{self._args.name} runs another command already ({worker.detail}); `stop` "
                    "ends it"
                )
        # Fewer: one has lost its job, and the others wait for it in vain.
        return len(running) == self._hosts

    def install(self) -> None:
        """Copies the last commit to all workers and installs it there."""
        root, archive = str(ROOT), ROOT / "build" / "launch" / "groot.tar.gz"
        changed = self._runner.read("git", "-C", root, "status", "--porcelain", assumed="")
        if changed:
            self._runner.say(
                f"{len(changed.splitlines())} changed or new files stay here: commit them first"
            )
        # The commit and not the folder, so that what runs has a name.
        self._runner.run("mkdir", "-p", str(archive.parent))
        self._runner.run(
            "git", "-C", root, "archive", "--format=tar.gz", f"--output={archive}", "HEAD"
        )
        self._tpu.copy(archive)
        if self._args.setup:
            self._tpu.ssh(self._args.setup)
        # groot/venv and groot/run, with the log of the attempt before, stay.
        self._tpu.ssh(
            f"rm -rf groot/source && mkdir -p groot/source && "
            f"tar -xzf {archive.name} -C groot/source && bash {WORKER_SCRIPT} install"
        )
        # After the script that mounts is there, and before the job is started.
        for mount in self._mounts:
            words = (WORKER_SCRIPT, "mount", mount.kind, mount.source, str(mount.path))
            self._tpu.ssh(shlex.join(["bash", *words]))

    def _follow(self) -> str:
        """Shows the log until the job is done (_DONE), or something has interrupted it.

        Raises UserError where the job failed by itself on a slice that still stands.
        """
        unheard = 0
        while True:
            if self._tpu.follow(self._args.lines) == 0:
                return _DONE
            # Either the job has ended, or the connection, or the slice.
            self._runner.sleep(self._args.poll)
            state = self._tpu.state()
            if state != READY:
                return f"{self._args.name} is {state}"
            try:
                workers = self._tpu.workers()
            except CommandFailed:
                unheard += 1
                if unheard == _LOST_AFTER:
                    raise
                continue
            unheard = 0
            states = {worker.state for worker in workers}
            if states == {"finished"}:
                return _DONE
            if "running" in states:
                continue
            # Idle or interrupted; or silent, since what was installed is gone with the machine. A
            # worker that failed by itself (status 1) would do so again, whatever the others say.
            if "failed" not in states:
                return f"{self._args.name} was interrupted"
            failed = [worker for worker in workers if worker.state == "failed"]
            which = ", ".join(f"worker {worker.number} ({worker.detail})" for worker in failed)
            raise UserError(f"the job failed on {self._args.name}: {which}; its log is above")


if __name__ == "__main__":
    exit_on_user_error(main, "; a job that was started goes on, and costs: see `status` and `down`")
