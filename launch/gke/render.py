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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from groot_jax import config as configs
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.scaling.chips import Slice, parse_slice
from launch.commands import Parser, Runner, add_repeated, number, passed_on
from launch.jobs import (
    Mount,
    check_name,
    check_workdir,
    parse_command,
    parse_environment,
    parse_mount,
)
from launch.slices import GENERATIONS, chips_per_host
from launch.templates import templates_in

_COORDINATOR_PORT = 8476  # of process 0 on GPUs; any that is free in a pod would do
_LIBTPU_PORT = 8471  # of libtpu, at which the hosts of a slice find each other
_EVALUATION_RETRIES = 3


def make_parser() -> Parser:
    """The flags but for --config.KEY=VALUE."""
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
    add_repeated(
        both, "--mount", "SOURCE:/path", "claim:NAME:/path, gs://BUCKET:/path or HOST:/export:/path"
    )
    add_repeated(both, "--env", "KEY=VALUE")
    both.add_argument("--service-account", help="of Kubernetes; a bucket needs one that may use it")
    both.add_argument("--max-restarts", type=number(0), default=10, help="after failures (10)")
    both.add_argument("--no-eval", action="store_true", help="train alone")
    add_repeated(
        both,
        "--eval-flag",
        "FLAG",
        "handed to groot_jax.evaluate, such as --eval-flag=--config.mesh.fsdp=4",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Prints the manifest, or hands it to kubectl. Raises UserError."""
    plain, overrides = configs.split_overrides(sys.argv[1:] if argv is None else argv)
    args = make_parser().parse_args(plain)
    runner = Runner(args.dry_run)
    manifest = render(args, overrides)
    if args.apply or args.dry_run:
        flags = passed_on(args, "context", "namespace")
        runner.run("kubectl", *flags, "apply", "-f", "-", stdin=manifest)
    else:
        print(manifest, end="")


@dataclass(frozen=True)
class Pods:
    """What one of the two jobs asks of the cluster, on TPUs or on GPUs; jobset.yaml.j2 reads it."""

    hosts: int
    devices: int  # of all hosts
    nodes: dict[str, str]  # labels that their nodes have
    resources: dict[str, int]  # of each host
    environment: dict[str, str]
    ports: Sequence[int]  # at which the hosts find each other
    exclusive: bool = False  # All hosts are in one node pool of their own.
    index_as: str = ""  # environment variable that gets the host's number


def render(args: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> str:
    """The manifest. Raises UserError."""
    check_name(args.name)
    mounts = [parse_mount(text) for text in args.mount]
    check_workdir(args.workdir, mounts, "the disk of a pod is lost with it")
    # What each pod runs. Words and no shell line: nothing in them has to be quoted for a shell.
    train = ["python", "-m", "groot_jax.train", f"--config={args.config}"]
    train += [f"--workdir={args.workdir}", *(f"--config.{key}={text}" for key, text in overrides)]
    evaluate = ["python", "-m", "groot_jax.evaluate", f"--workdir={args.workdir}", "--watch"]
    evaluate += args.eval_flag
    if bool(args.topology) == bool(args.accelerator):
        raise UserError("give either --topology (TPUs) or --accelerator (GPUs)")
    training, evaluation = _tpu_pods(args) if args.topology else _gpu_pods(args)
    parse_command(train).check_mesh(training.devices, args.topology or "the nodes")
    # --env is for both jobs, and has the last word over what the launcher sets.
    common = parse_environment(args.env)
    jobs = [
        {
            "name": "train",
            "pods": training,
            "command": train,
            "environment": training.environment | common,
            # The JobSet restarts, all hosts at once: one alone would find none to talk to.
            "retries": 0,
            "on_disruption": "FailJob",
        }
    ]
    if not args.no_eval:
        # Its config is that of the work directory, the training's; its devices are fewer. A mesh
        # of tensor=16 fits 16 chips and not 4.
        meshes = [flag for flag in args.eval_flag if flag.startswith("--config.mesh.")]
        try:
            parse_command([*train, *meshes]).check_mesh(evaluation.devices, "the evaluation")
        except UserError as error:
            raise UserError(
                f"{error}: change that with --eval-flag=--config.mesh...., --eval-topology or "
                "--eval-gpus, or leave it out with --no-eval"
            ) from error
        jobs.append(
            {
                "name": "evaluate",
                "pods": evaluation,
                "command": evaluate,
                "environment": common,
                "retries": _EVALUATION_RETRIES,
                # It scores again what is still there; training need not stop for that.
                "on_disruption": "Ignore",
            }
        )
    templates = templates_in(Path(__file__).resolve().parent)
    templates.filters["quoted"] = _quoted
    # Kubernetes expands $(NAME) in commands and environment, and takes $$ for a dollar.
    templates.filters["literal"] = lambda text: text.replace("$", "$$")
    return templates.get_template("jobset.yaml.j2").render(
        name=args.name,
        image=args.image,
        max_restarts=args.max_restarts,
        service_account=args.service_account,
        buckets=any(mount.kind == "bucket" for mount in mounts),
        volumes=_volumes(mounts, gpus=bool(args.accelerator)),
        jobs=jobs,
    )


def _quoted(value: object) -> str:
    """A value as YAML that holds ASCII alone: `grün` -> `"gr\\U000000fcn"`."""
    # JSON is YAML, but json's own escapes are not: it writes what lies beyond 16 bits as two.
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if " " <= c <= "~" else f"\\U{ord(c):08x}" for c in text)


def _tpu_pods(args: argparse.Namespace) -> tuple[Pods, Pods]:
    """Of training and of evaluation."""
    whole = parse_slice(args.topology)
    # Four chips, which one host of each generation has.
    usual = f"{whole.chip.name}:{'2x2' if whole.chip.shapes else '2x2x1'}"
    single = parse_slice(args.eval_topology or usual, "--eval-topology")

    def pods(on: Slice, chips: int) -> Pods:
        hosts = on.size // chips
        several = hosts > 1
        return Pods(
            hosts,
            on.size,
            nodes={
                "cloud.google.com/gke-tpu-accelerator": GENERATIONS[on.chip.name].gke_accelerator,
                "cloud.google.com/gke-tpu-topology": on.shape,
                **_spot(args),
            },
            resources={"google.com/tpu": chips},
            # GKE tells each pod of a slice who the others are, and JAX knows where it is said.
            environment={"GROOT_DISTRIBUTED": "auto"} if several else {},
            ports=[_LIBTPU_PORT] if several else [],
            exclusive=several,
        )

    training = pods(whole, chips_per_host(whole, args.chips_per_host))
    evaluation = pods(single, chips_per_host(single))
    if evaluation.hosts > 1:
        raise UserError(
            f"--eval-topology={single.name} has {evaluation.hosts} hosts: take one of one"
        )
    return training, evaluation


def _gpu_pods(args: argparse.Namespace) -> tuple[Pods, Pods]:
    """Of training and of evaluation."""

    def pods(nodes: int, gpus: int) -> Pods:
        several = nodes > 1
        # Nobody tells pods with GPUs of one another, so the first is named, as JobSet names it:
        # NAME-JOB-REPLICA-INDEX.SUBDOMAIN.
        first = f"{args.name}-train-0-0.{args.name}:{_COORDINATOR_PORT}"
        addresses = {"JAX_COORDINATOR_ADDRESS": first, "JAX_NUM_PROCESSES": str(nodes)}
        return Pods(
            nodes,
            nodes * gpus,
            nodes={"cloud.google.com/gke-accelerator": args.accelerator, **_spot(args)},
            resources={"nvidia.com/gpu": gpus},
            environment=addresses if several else {},
            ports=[_COORDINATOR_PORT] if several else [],
            index_as="JAX_PROCESS_ID" if several else "",
        )

    return pods(args.nodes, args.gpus_per_node), pods(1, args.eval_gpus)


def _spot(args: argparse.Namespace) -> dict[str, str]:
    return {"cloud.google.com/gke-spot": "true"} if args.spot else {}


def _volumes(mounts: Sequence[Mount], gpus: bool) -> list[dict[str, object]]:
    # For each its name, the path at which a container sees it, and what Kubernetes calls it.
    volumes: list[dict[str, object]] = []
    for index, mount in enumerate(mounts):
        kind = "persistentVolumeClaim"
        settings: dict[str, object] = {"claimName": mount.source}
        if mount.kind == "nfs":
            server, _, path = mount.source.partition(":")
            kind, settings = "nfs", {"server": server, "path": path}
        elif mount.kind == "bucket":
            # Hosts shall see each other's files at once, so that nothing about them is kept (0
            # seconds); and a checkpoint, a folder of up to so many files, is renamed into place.
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
                "settings": {"medium": "Memory"},
            }
        )
    return volumes


if __name__ == "__main__":
    exit_on_user_error(main)
