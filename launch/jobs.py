"""What is launched: the command, its config and work directory, mounts; checked before renting."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ml_collections import ConfigDict

from groot_jax import config as configs
from groot_jax.errors import UserError

_AXES = ("data", "fsdp", "tensor")
_ADVICE = "mount shared storage with --mount=SOURCE:/path and name --workdir=/path/..."


@dataclass(frozen=True)
class Job:
    """A command that runs on every host. What is not a job of groot_jax has no config."""

    command: tuple[str, ...]
    config: ConfigDict | None
    workdir: str

    def check_mesh(self, devices: int, where: str) -> None:
        if self.config is not None:
            check_mesh(self.config, devices, where)


def parse_job(words: Sequence[str]) -> Job:
    """Reads `python -m groot_jax.train --config=... --workdir=...`. Raises UserError."""
    command = tuple(words)
    if not command:
        raise UserError("no command is given: end with -- python -m groot_jax.train --config=...")
    if any(character in word for word in command for character in "\n\r\0"):
        raise UserError("a word of the command holds a line break, which no log could show")
    module = command[2] if len(command) > 2 and command[1] == "-m" else ""
    if not module.startswith("groot_jax."):
        return Job(command, None, "")
    flags = list(_flags(command[3:]))
    named = dict(flags)
    workdir = named.get("--workdir", "")
    if module != "groot_jax.train":
        return Job(command, None, workdir)
    for flag in ("--config", "--workdir"):
        if not named.get(flag):
            raise UserError(f"the command groot_jax.train needs {flag}=...")
    overrides = [
        (flag.removeprefix("--config."), value or "")
        for flag, value in flags
        if flag.startswith("--config.")
    ]
    return Job(command, configs.load(named["--config"], overrides), workdir)


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`--flag=value` and `--flag value`."""
    position = 0
    while position < len(words):
        flag, equals, value = words[position].partition("=")
        position += 1
        if not flag.startswith("--"):
            continue
        if not equals and position < len(words) and not words[position].startswith("--"):
            value = words[position]
            position += 1
        yield flag, value


def check_mesh(config: ConfigDict, devices: int, where: str) -> None:
    """Raises UserError where the mesh of the config does not fill the devices."""
    sizes = {axis: config.mesh[axis] for axis in _AXES if axis in config.mesh}
    fixed = math.prod(size for size in sizes.values() if size > 0)
    rest_is_free = any(size < 0 for size in sizes.values())
    if devices % fixed or (devices != fixed and not rest_is_free):
        shown = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise UserError(f"config.mesh ({shown}) does not fill the {devices} devices of {where}")


# ---- Storage ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mount:
    """Storage that every host sees under the same path."""

    kind: str  # bucket, nfs or claim (of Kubernetes)
    source: str  # name of the bucket or claim; host:/export
    path: PurePosixPath


def parse_mount(text: str) -> Mount:
    """`gs://BUCKET:/path`, `HOST:/export:/path` or `claim:NAME:/path`. Raises UserError."""
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
    if re.match(r"[a-z0-9]+:/", workdir):
        raise UserError(
            f"--workdir={workdir}: groot_jax writes to file systems, not to URLs; {_ADVICE}"
        )
    path = PurePosixPath(workdir)
    on_mount = ".." not in path.parts and any(
        path.is_relative_to(mount.path) for mount in mounts if path.is_absolute()
    )
    if workdir and reason and not on_mount:
        raise UserError(f"--workdir={workdir} is not on shared storage, but {reason}; {_ADVICE}")


def parse_environment(words: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` words. Raises UserError."""
    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise UserError(f"--env={word}: write KEY=VALUE")
        values[key] = value
    return values


def check_name(name: str, most: int = 40) -> str:
    """A name that Google Cloud, Kubernetes and Slurm all take. Raises UserError."""
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) or len(name) > most:
        raise UserError(
            f"--name={name}: take at most {most} lower-case letters, digits and hyphens, "
            "a letter first and no hyphen last"
        )
    return name
