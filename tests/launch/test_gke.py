"""The manifests hold what GKE and JobSet want, and kubectl is given just them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_jax.config import split_overrides
from launch.gke import render
from tests.launch.support import World

ROOT = Path(__file__).resolve().parents[2]
BASE = ("--name=groot", "--image=pkg/groot:1", "--config=configs/retail.py", "--workdir=/runs/demo")
CLAIM = "--mount=claim:runs:/runs"
TPU = (*BASE, CLAIM, "--topology=v5e:4x4")
GPU = (*BASE, CLAIM, "--accelerator=nvidia-h100-80gb", "--nodes=4")


def manifest(*argv: str) -> dict[str, Any]:
    plain, overrides = split_overrides(argv)
    text = render.render(render.make_parser().parse_args(plain), overrides)
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def job(jobset: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [job for job in jobset["spec"]["replicatedJobs"] if job["name"] == name]
    assert found["replicas"] == 1
    template: dict[str, Any] = found["template"]
    return template


def pod(template: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = template["spec"]["template"]["spec"]
    return spec


def container(template: dict[str, Any]) -> dict[str, Any]:
    [found] = pod(template)["containers"]
    one: dict[str, Any] = found
    return one


def environment(template: dict[str, Any]) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container(template)["env"]}


@pytest.mark.parametrize(
    ("topology", "label", "hosts", "chips"),
    [
        ("v5e:4x4", "tpu-v5-lite-podslice", 4, 4),
        ("v5e:2x4", "tpu-v5-lite-podslice", 1, 8),
        ("v6e:16x16", "tpu-v6e-slice", 64, 4),
        ("v4:2x2x4", "tpu-v4-podslice", 4, 4),
        ("v5p:4x4x4", "tpu-v5p-slice", 16, 4),
    ],
)
def test_a_pod_for_every_host_of_the_topology(topology: str, label: str, hosts: int, chips: int):
    jobset = manifest(*BASE, CLAIM, f"--topology={topology}", "--spot")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    train = job(jobset, "train")
    assert train["spec"]["parallelism"] == train["spec"]["completions"] == hosts
    assert train["spec"]["completionMode"] == "Indexed"
    assert pod(train)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology.partition(":")[2],
        "cloud.google.com/gke-spot": "true",
    }
    resources = container(train)["resources"]
    assert resources["requests"] == resources["limits"] == {"google.com/tpu": chips}
    assert ("GROOT_DISTRIBUTED" in environment(train)) == (hosts > 1)
    exclusive = train.get("metadata", {}).get("annotations", {})
    assert ("alpha.jobset.sigs.k8s.io/exclusive-topology" in exclusive) == (hosts > 1)


def test_any_host_that_fails_starts_all_again():
    jobset = manifest(*TPU, "--max-restarts=7")
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"] == [
        {
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
        }
    ]
    train = job(jobset, "train")["spec"]
    assert train["backoffLimit"] == 0 and train["template"]["spec"]["restartPolicy"] == "Never"
    assert train["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget"}]}
    ]


def test_an_evaluation_stands_beside_the_training():
    jobset = manifest(*TPU, "--eval-flag=--split=dev", "--env=A=b")
    evaluate = job(jobset, "evaluate")
    assert container(evaluate)["command"] == [
        *("python", "-m", "groot_jax.evaluate", "--workdir=/runs/demo", "--watch", "--split=dev")
    ]
    assert evaluate["spec"]["completions"] == 1 and evaluate["spec"]["backoffLimit"] == 3
    assert evaluate["spec"]["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    assert pod(evaluate)["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x2"
    assert environment(evaluate) == {"PYTHONUNBUFFERED": "1", "A": "b"}
    names = [j["name"] for j in manifest(*TPU, "--no-eval")["spec"]["replicatedJobs"]]
    assert names == ["train"]


def test_gpus_find_each_other_by_the_name_of_the_first():
    jobset = manifest(*GPU)
    network = jobset["spec"]["network"]
    assert network["enableDNSHostnames"] and network["subdomain"] == "groot"
    train = job(jobset, "train")
    assert train["spec"]["parallelism"] == train["spec"]["completions"] == 4
    values = environment(train)
    assert values["JAX_COORDINATOR_ADDRESS"] == "groot-train-0-0.groot:8476"
    assert values["JAX_NUM_PROCESSES"] == "4"
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert values["JAX_PROCESS_ID"] == {"fieldRef": {"fieldPath": index}}
    assert "GROOT_DISTRIBUTED" not in values
    assert container(train)["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert pod(train)["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container(train)["volumeMounts"]
    assert container(job(jobset, "evaluate"))["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert "JAX_PROCESS_ID" not in environment(job(jobset, "evaluate"))
    single = environment(job(manifest(*GPU, "--nodes=1"), "train"))
    assert set(single) == {"PYTHONUNBUFFERED"}


def test_all_pods_have_the_same_storage():
    flags = ("--mount=gs://bucket:/data", "--mount=h:/share:/share", "--service-account=me")
    for template in manifest(*TPU, *flags)["spec"]["replicatedJobs"]:
        spec = pod(template["template"])
        assert spec["serviceAccountName"] == "me"
        claim, bucket, nfs = spec["volumes"]
        assert claim["persistentVolumeClaim"] == {"claimName": "runs"}
        assert bucket["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
        assert bucket["csi"]["volumeAttributes"]["bucketName"] == "bucket"
        assert nfs["nfs"] == {"server": "h", "path": "/share"}
        mounts = container(template["template"])["volumeMounts"]
        assert [mount["mountPath"] for mount in mounts] == ["/runs", "/data", "/share"]
        assert [mount["name"] for mount in mounts] == [v["name"] for v in spec["volumes"]]
        annotations = template["template"]["spec"]["template"]["metadata"]["annotations"]
        assert annotations == {"gke-gcsfuse/volumes": "true"}


ANY = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), max_size=12)


def expanded(text: str) -> str:
    """What Kubernetes makes of it where no variable is called so."""
    return text.replace("$$", "$")


@settings(max_examples=20, deadline=None)
@given(value=ANY, env=ANY)
def test_every_word_arrives_as_it_was(value: str, env: str):
    folder = f"--config.compilation_cache={value} $(HOME) 'x' \"y\" {{% if %}} # &"
    train = job(manifest(*TPU, folder, f"--env=A={env}"), "train")
    assert expanded(container(train)["command"][-1]) == folder
    assert "$(HOME)" in folder and "$$(HOME)" in container(train)["command"][-1]
    assert expanded(environment(train)["A"]) == env


@pytest.mark.parametrize("flags", [TPU, GPU])
def test_kubectl_is_given_what_a_dry_run_prints(world: World, flags: tuple[str, ...]):
    flags = (*flags, "--namespace=n", "--context=c")
    plain = world.output(lambda: render.main([*flags]))
    dry = world.output(lambda: render.main([*flags, "--dry-run", "--apply"]))
    assert world.calls() == []
    render.main([*flags, "--apply"])
    [call] = world.records()
    assert call["argv"] == ["kubectl", "--context=c", "--namespace=n", "apply", "-f", "-"]
    assert call["stdin"] == plain
    assert dry == f"{shlex.join(call['argv'])} <<'END'\n{plain}END\n"


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (BASE, "not on shared storage"),
        ((*BASE, CLAIM), "either --topology (TPUs) or --accelerator (GPUs)"),
        ((*TPU, "--accelerator=x"), "either --topology"),
        ((*TPU, "--topology=v5e:4x5"), "v5e comes as"),
        ((*TPU, "--eval-topology=v5e:4x4"), "has 4 hosts"),
        ((*TPU, "--eval-topology=v5e:4x5"), "--eval-topology=v5e:4x5: v5e comes as"),
        ((*TPU, "--config.mesh.tensor=3"), "does not fit 16 devices of v5e:4x4"),
        ((*TPU, "--config.mesh.tensor=16"), "--eval-flag=--config.mesh"),
        ((*TPU, "--config.groot.tua=1"), "groot.tua"),
        ((*TPU, "--config.seed"), "--config.seed=VALUE"),
        ((*TPU, "--name=A"), "--name=A"),
        ((*TPU, "--mount=x"), "--mount=x"),
        ((*TPU, "--what"), "--what"),
    ],
)
def test_a_mistake_is_one_sentence(world: World, argv: tuple[str, ...], part: str):
    assert part in world.error(lambda: render.main([*argv, "--apply"]))
    assert world.calls() == []


def test_keys_of_the_config_are_written_as_for_training():
    command = container(job(manifest(*TPU, "--config.seed", "7"), "train"))["command"]
    assert command[-1] == "--config.seed=7"


def test_the_evaluation_may_have_a_mesh_of_its_own():
    flags = ("--config.mesh.tensor=16", "--eval-flag=--config.mesh.tensor=4")
    command = container(job(manifest(*TPU, *flags), "evaluate"))["command"]
    assert command[-1] == "--config.mesh.tensor=4"


def test_what_kubectl_complains_of_is_shown(world: World, tmp_path: Path):
    world.answer("apply", status=1, err="error: no matches for kind JobSet\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "gke" / "render.py"), *TPU, "--apply"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: `kubectl apply -f -` ended with exit status 1: error: no matches for kind JobSet"
    )
