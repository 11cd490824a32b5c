"""Writes the JobSet that trains a config on GKE, with an evaluation beside it, and submits it.

    python launch/gke/render.py --name=groot --image=IMAGE --topology=v5e:4x4 \\
        --mount=claim:runs:/mnt/runs --config=configs/retail.py --workdir=/mnt/runs/demo --apply

`--topology` makes it TPUs, `--accelerator`, `--nodes` and `--gpus-per-node` make it GPUs. Keys of
the config change with --config.KEY=VALUE, as for groot_jax.train. Without `--apply` the manifest is
printed; with `--dry-run`, too, the command that would submit it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from groot_jax.errors import UserError, exit_on_user_error
from launch.commands import Parser, Runner, number
from launch.jobs import (
    Mount,
    check_name,
    check_workdir,
    parse_environment,
    parse_job,
    parse_mount,
)
from launch.slices import Slice, parse_slice

_COORDINATOR_PORT = 8476
_LIBTPU_PORT = 8471
_EVALUATION_RETRIES = 3
_WHOLE_SHARED_MEMORY = {"medium": "Memory"}


def make_parser() -> Parser:
    parser = Parser("launch/gke/render.py", __doc__ or "")
    parser.add_argument("--name", required=True, help="of the JobSet")
    parser.add_argument("--image", required=True, help="see launch/gke/Dockerfile")
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="on one of the mounts")
    parser.add_argument("--dry-run", action="store_true", help="print the command, run none")
    parser.add_argument("--apply", action="store_true", help="submit it with kubectl")
    parser.add_argument("--namespace")
    parser.add_argument("--context", help="of kubectl: which cluster")

    tpu = parser.add_argument_group("TPUs")
    tpu.add_argument("--topology", metavar="v5e:4x4")
    tpu.add_argument(
        "--chips-per-host", type=number(0), default=0, help="4 for a v5e or v6e 2x4 of two hosts"
    )
    tpu.add_argument(
        "--eval-topology", metavar="v5e:2x2", help="of the evaluation, one host (4 chips)"
    )

    gpu = parser.add_argument_group("GPUs")
    gpu.add_argument("--accelerator", help="GKE's name of the GPU, such as nvidia-h100-80gb")
    gpu.add_argument("--nodes", type=number(1), default=1)
    gpu.add_argument("--gpus-per-node", type=number(1), default=8)
    gpu.add_argument("--eval-gpus", type=number(1), default=1)

    both = parser.add_argument_group("both")
    both.add_argument("--spot", action="store_true", help="on spot nodes")
    both.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="SOURCE:/path",
        help="claim:NAME:/path, gs://BUCKET:/path or HOST:/export:/path",
    )
    both.add_argument("--env", action="append", default=[], metavar="KEY=VALUE")
    both.add_argument("--service-account", help="of Kubernetes; a bucket needs one that may use it")
    both.add_argument("--max-restarts", type=number(0), default=10, help="after failures (10)")
    both.add_argument("--no-eval", action="store_true", help="train alone")
    both.add_argument(
        "--eval-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="handed to groot_jax.evaluate, such as --eval-flag=--config.mesh.fsdp=4",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    plain, overrides = _split_overrides(sys.argv[1:] if argv is None else argv)
    args = make_parser().parse_args(plain)
    runner = Runner(args.dry_run)
    manifest = render(args, overrides)
    if args.apply or args.dry_run:
        flags = [f"--context={args.context}"] if args.context else []
        flags += [f"--namespace={args.namespace}"] if args.namespace else []
        runner.run("kubectl", *flags, "apply", "-f", "-", stdin=manifest)
    else:
        print(manifest, end="")


def _split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--config.KEY=VALUE` out of the command line."""
    overrides = [word for word in words if word.startswith("--config.")]
    for word in overrides:
        if "=" not in word:
            raise UserError(f"{word} has no value: write {word}=VALUE")
    return [word for word in words if word not in overrides], overrides


def render(args: argparse.Namespace, overrides: Sequence[str]) -> str:
    """The manifest. Raises UserError."""
    check_name(args.name)
    mounts = [parse_mount(text) for text in args.mount]
    check_workdir(args.workdir, mounts, "the disk of a pod is lost with it")
    train = ["python", "-m", "groot_jax.train", f"--config={args.config}"]
    train += [f"--workdir={args.workdir}", *overrides]
    evaluate = ["python", "-m", "groot_jax.evaluate", f"--workdir={args.workdir}", "--watch"]
    evaluate += args.eval_flag
    if bool(args.topology) == bool(args.accelerator):
        raise UserError("give either --topology (TPUs) or --accelerator (GPUs)")
    make_jobs = _tpu_jobs if args.topology else _gpu_jobs
    training, evaluation = make_jobs(args)
    parse_job(train).check_mesh(training.pop("devices"), args.topology or "the nodes")
    common = parse_environment(args.env)
    training |= {
        "name": "train",
        "command": train,
        "environment": training["environment"] | common,
        "retries": 0,
        "on_disruption": "FailJob",
    }
    devices = evaluation.pop("devices")
    evaluation |= {
        "name": "evaluate",
        "command": evaluate,
        "environment": common,
        "retries": _EVALUATION_RETRIES,
        # It scores again what is still there; training need not stop for that.
        "on_disruption": "Ignore",
    }
    jobs = [training]
    if not args.no_eval:
        meshes = [flag for flag in args.eval_flag if flag.startswith("--config.mesh.")]
        try:
            parse_job([*train, *meshes]).check_mesh(devices, "the evaluation")
        except UserError as error:
            raise UserError(
                f"{error}: change that with --eval-flag=--config.mesh...., --eval-topology or "
                "--eval-gpus, or leave it out with --no-eval"
            ) from error
        jobs.append(evaluation)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Kubernetes expands $(NAME) in commands and environment, and takes $$ for a dollar.
    environment.filters["quoted"] = _quoted
    environment.filters["literal"] = lambda text: text.replace("$", "$$")
    return environment.get_template("jobset.yaml.j2").render(
        name=args.name,
        image=args.image,
        max_restarts=args.max_restarts,
        service_account=args.service_account,
        buckets=any(mount.kind == "bucket" for mount in mounts),
        volumes=_volumes(mounts, gpus=bool(args.accelerator)),
        jobs=jobs,
    )


def _quoted(value: Any) -> str:
    """A value as YAML that holds ASCII alone."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if " " <= c <= "~" else f"\\U{ord(c):08x}" for c in text)


def _tpu_jobs(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What training and evaluation have of their own on TPUs."""
    slice_ = parse_slice(args.topology, args.chips_per_host)
    usual = f"{slice_.generation}:{'2x2' if slice_.google.shapes else '2x2x1'}"
    single = parse_slice(args.eval_topology or usual)
    if single.hosts > 1:
        raise UserError(f"--eval-topology={single.name} has {single.hosts} hosts: take one of one")

    def job(which: Slice) -> dict[str, Any]:
        return {
            "hosts": which.hosts,
            "devices": which.chips,
            "exclusive": which.hosts > 1,
            "nodes": {
                "cloud.google.com/gke-tpu-accelerator": which.google.gke_accelerator,
                "cloud.google.com/gke-tpu-topology": which.shape,
                **_spot(args),
            },
            "environment": {"GROOT_DISTRIBUTED": "auto"} if which.hosts > 1 else {},
            "index_as": "",
            "resources": {"google.com/tpu": which.chips_per_host},
            "ports": [_LIBTPU_PORT] if which.hosts > 1 else [],
        }

    return job(slice_), job(single)


def _gpu_jobs(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What training and evaluation have of their own on GPUs."""

    def job(nodes: int, gpus: int) -> dict[str, Any]:
        several = nodes > 1
        first = f"{args.name}-train-0-0.{args.name}:{_COORDINATOR_PORT}"
        addresses = {"JAX_COORDINATOR_ADDRESS": first, "JAX_NUM_PROCESSES": str(nodes)}
        return {
            "hosts": nodes,
            "devices": nodes * gpus,
            "exclusive": False,
            "nodes": {"cloud.google.com/gke-accelerator": args.accelerator, **_spot(args)},
            "environment": addresses if several else {},
            "index_as": "JAX_PROCESS_ID" if several else "",
            "resources": {"nvidia.com/gpu": gpus},
            "ports": [_COORDINATOR_PORT] if several else [],
        }

    return job(args.nodes, args.gpus_per_node), job(1, args.eval_gpus)


def _spot(args: argparse.Namespace) -> dict[str, str]:
    return {"cloud.google.com/gke-spot": "true"} if args.spot else {}


def _volumes(mounts: Sequence[Mount], gpus: bool) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = []
    for index, mount in enumerate(mounts):
        kind = "persistentVolumeClaim"
        settings: dict[str, Any] = {"claimName": mount.source}
        if mount.kind == "nfs":
            server, _, path = mount.source.partition(":")
            kind, settings = "nfs", {"server": server, "path": path}
        elif mount.kind == "bucket":
            # Hosts shall see each other's files at once, and checkpoints are renamed into place.
            options = "implicit-dirs,metadata-cache:ttl-secs:0,rename-dir-limit=200000"
            attributes = {"bucketName": mount.source, "mountOptions": options}
            kind = "csi"
            settings = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}
        volumes.append(
            {"name": f"mount-{index}", "path": str(mount.path), "kind": kind, "settings": settings}
        )
    if gpus:
        # NCCL wants more than the 64 MiB that a container has.
        volumes.append(
            {
                "name": "shared-memory",
                "path": "/dev/shm",
                "kind": "emptyDir",
                "settings": _WHOLE_SHARED_MEMORY,
            }
        )
    return volumes


if __name__ == "__main__":
    exit_on_user_error(main)
