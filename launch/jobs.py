"""What is launched: the command, its config and work directory, mounts; checked before renting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.errors import UserError
from groot_jax.mesh.sizes import fill_mesh
from launch.commands import Parser

_LONGEST_NAME = 40
_ADVICE = "mount shared storage with --mount=SOURCE:/path and name --workdir=/path/..."


@dataclass(frozen=True)
class Job:
    """A command that runs on every host. What is not a job of groot_jax has no config."""

    command: tuple[str, ...]
    config: ConfigDict | None
    workdir: str

    def check_mesh(self, devices: int, where: str) -> None:
        """Raises UserError where the mesh of the config does not fill the devices of `where`."""
        if self.config is not None:
            mesh = self.config.mesh
            fill_mesh(mesh.data, mesh.fsdp, mesh.tensor, devices, f" of {where}")


def parse_command(words: Sequence[str]) -> Job:
    """`python -m groot_jax.train --config=c.py --workdir=w --config.seed=7` -> the job with the
    config that it would train with. Raises UserError for what it would stop at, too."""
    command = tuple(words)
    if not command:
        raise UserError("no command is given: end with -- python -m groot_jax.train --config=...")
    if any(character in word for word in command for character in "\n\r\0"):
        raise UserError("a word of the command holds a line break, which no log could show")
    # Anything may be launched; of what is no job of this package nothing is known.
    module = command[2] if len(command) > 2 and command[1] == "-m" else ""
    if not module.startswith("groot_jax."):
        return Job(command, None, "")
    plain, overrides = configs.split_overrides(command[3:])
    # Other flags are the job's affair; its own parser would bring in JAX.
    parser = Parser(module, add_help=False)
    parser.add_argument("--config", default="")
    parser.add_argument("--workdir", default="")
    flags, _ = parser.parse_known_args(plain)
    if module != "groot_jax.train":
        return Job(command, None, flags.workdir)
    for flag in ("config", "workdir"):
        if not getattr(flags, flag):
            raise UserError(f"the command groot_jax.train needs --{flag}=...")
    return Job(command, configs.load(flags.config, overrides), flags.workdir)


# ---- Storage ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mount:
    """Storage that every host sees under the same path."""

    kind: str  # bucket, nfs or claim (of Kubernetes)
    source: str  # name of the bucket or claim; host:/export
    path: PurePosixPath


def parse_mount(text: str) -> Mount:
    """`gs://BUCKET:/path`, `HOST:/export:/path` or `claim:NAME:/path`. Raises UserError.

    10.0.0.2:/share:/mnt/share -> nfs, 10.0.0.2:/share, /mnt/share
    """
    # The last colon, since each source holds one itself.
    source, _, path = text.rpartition(":")
    if path.startswith("/") and path.strip("/") and ".." not in path.split("/"):
        place = PurePosixPath(path)
        if re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+", source):
            return Mount("bucket", source.removeprefix("gs://"), place)
        if re.fullmatch(r"claim:[a-z0-9][a-z0-9.-]*", source):
            return Mount("claim", source.removeprefix("claim:"), place)
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*:/(?!/)\S*", source):
            return Mount("nfs", source, place)
    raise UserError(
        f"--mount={text}: write gs://BUCKET:/path, HOST:/export:/path (NFS) or, on Kubernetes, "
        "claim:NAME:/path"
    )


def check_workdir(workdir: str, mounts: Sequence[Mount], reason: str) -> None:
    """Raises UserError where a work directory cannot be written or, given a reason why it must be
    on shared storage, is on none of the mounts."""
    # gs://bucket/demo, which a file system would take for a folder named `gs:`.
    if re.match(r"[a-z0-9]+:/", workdir):
        raise UserError(
            f"--workdir={workdir}: groot_jax writes to file systems, not to URLs; {_ADVICE}"
        )
    # A path of another machine: nothing here is asked whether it exists.
    path = PurePosixPath(workdir)
    # By parts and not by text: /mnt/bb is not on a mount at /mnt/b, nor is /mnt/b/../x.
    on_mount = ".." not in path.parts and any(path.is_relative_to(m.path) for m in mounts)
    if workdir and reason and not on_mount:
        raise UserError(f"--workdir={workdir} is not on shared storage, but {reason}; {_ADVICE}")


def parse_environment(words: Sequence[str]) -> dict[str, str]:
    """["A=b=c"] -> {"A": "b=c"}. Raises UserError for a word that is not KEY=VALUE."""
    values = {}
    for word in words:
        # At the first `=`: the value may hold others.
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise UserError(f"--env={word}: write KEY=VALUE")
        values[key] = value
    return values


def check_name(name: str) -> str:
    """A name that Google Cloud, Kubernetes and Slurm all take. Raises UserError."""
    # A label of a host name has 63 characters at most (RFC 1035); JobSet's are NAME-evaluate-0-0.
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) or len(name) > _LONGEST_NAME:
        raise UserError(
            f"--name={name}: take at most {_LONGEST_NAME} lower-case letters, digits and hyphens, "
            "a letter first and no hyphen last"
        )
    return name
