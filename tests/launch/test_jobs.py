"""Mistakes in the command, the mesh, the storage or the slice come before anything is rented."""

from __future__ import annotations

import pytest

from groot_jax.errors import UserError
from groot_jax.scaling.chips import CHIPS, parse_slice
from launch.jobs import check_name, check_workdir, parse_command, parse_environment, parse_mount
from launch.slices import GENERATIONS, chips_per_host, gcloud_flags

TRAIN = ("python", "-m", "groot_jax.train", "--config=configs/retail.py")


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "flags"),
    [
        ("v5e:1x1", 1, 1, ("--accelerator-type=v5litepod-1",)),
        ("v5e:2x4", 8, 1, ("--accelerator-type=v5litepod-8",)),
        ("v5e:4x4", 16, 4, ("--accelerator-type=v5litepod-16",)),
        ("v5e:16x16", 256, 64, ("--accelerator-type=v5litepod-256",)),
        ("v6e:4x8", 32, 8, ("--accelerator-type=v6e-32",)),
        ("v4:2x2x1", 4, 1, ("--type=v4", "--topology=2x2x1")),
        ("v5p:8x8x8", 512, 128, ("--type=v5p", "--topology=8x8x8")),
    ],
)
def test_a_topology_says_how_many_hosts_there_are(
    name: str, chips: int, hosts: int, flags: tuple[str, ...]
):
    found = parse_slice(name)
    assert (found.name, found.size) == (name, chips)
    assert found.size // chips_per_host(found) == hosts
    assert gcloud_flags(found) == flags


def test_a_host_may_have_fewer_chips():
    assert chips_per_host(parse_slice("v5e:2x4"), 4) == 4


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("4x4", "is not CHIP:AxB or CHIP:AxBxC, such as v5e:4x4 or v5p:4x4x4; chips: v4, v5e"),
        ("v5e", "is not CHIP:AxB"),
        ("v5e:", "is not CHIP:AxB"),
        ("v9:4x4", "there is no chip 'v9'; it can be v4, v5e, v5p, v6e"),
        ("v5e:3x3", "v5e comes as 1x1, 2x2"),
        ("v5e:4x2", "v5e comes as 1x1, 2x2"),
        ("v5p:4x4", "three sizes"),
        ("v5p:1x1x1", "first two are even"),
        ("v5p:1x4x1", "first two are even"),
        ("v5p:4x4x0", "first two are even"),
        ("v4:-2x2x-1", "is not CHIP:AxB"),
    ],
)
def test_a_topology_that_is_none_is_said_to_be(name: str, part: str):
    for flag in ("--topology", "--eval-topology"):
        with pytest.raises(UserError, match=part) as caught:
            parse_slice(name, flag)
        assert str(caught.value).startswith(f"{flag}={name}")


def test_every_chip_can_be_rented():
    assert set(GENERATIONS) == set(CHIPS)


def test_chips_per_host_divide_the_slice():
    for count in (3, 16):
        with pytest.raises(UserError, match=f"--chips-per-host={count}"):
            chips_per_host(parse_slice("v5e:4x4"), count)


def test_a_training_command_is_read_with_its_config():
    job = parse_command([*TRAIN, "--workdir", "/w", "--config.mesh.tensor=2", "--config.seed", "7"])
    assert job.command[0] == "python" and job.command[-1] == "7"
    assert job.config is not None
    assert (job.workdir, job.config.mesh.tensor, job.config.seed) == ("/w", 2, 7)


def test_other_commands_pass():
    assert parse_command(["nvidia-smi"]).config is None
    assert parse_command(["python", "-m"]).workdir == ""
    evaluate = ["python", "-m", "groot_jax.evaluate", "--workdir=/w", "--watch"]
    assert parse_command(evaluate).workdir == "/w"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "no command is given"),
        (["echo", "a\nb"], "line break"),
        (TRAIN, "needs --workdir"),
        ([*TRAIN[:-1], "--workdir=w"], "needs --config"),
        ([*TRAIN, "--workdir=w", "--config.groot.tua=1"], "groot.tua"),
        ([*TRAIN[:-1], "--workdir=w", "--config=configs/retial.py"], "retail.py"),
    ],
)
def test_a_command_that_cannot_train_is_not_launched(words: list[str], part: str):
    with pytest.raises(UserError, match=part):
        parse_command(words)


@pytest.mark.parametrize(
    ("sizes", "devices", "fills"),
    [
        ({}, 16, True),
        ({"tensor": 4}, 16, True),
        ({"tensor": 3}, 16, False),
        ({"data": 4, "tensor": 4}, 16, True),
        ({"data": 2, "tensor": 4}, 16, False),
    ],
)
def test_the_mesh_fills_the_slice(sizes: dict[str, int], devices: int, fills: bool):
    flags = [f"--config.mesh.{axis}={size}" for axis, size in sizes.items()]
    job = parse_command([*TRAIN, "--workdir=w", *flags])
    if fills:
        job.check_mesh(devices, "v5e:4x4")
    else:
        with pytest.raises(UserError, match="does not fit 16 devices of v5e:4x4"):
            job.check_mesh(devices, "v5e:4x4")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gs://my-bucket:/mnt/b", ("bucket", "my-bucket", "/mnt/b")),
        ("10.0.0.2:/share:/mnt/share", ("nfs", "10.0.0.2:/share", "/mnt/share")),
        ("claim:runs:/runs", ("claim", "runs", "/runs")),
    ],
)
def test_mounts_are_read(text: str, parts: tuple[str, str, str]):
    mount = parse_mount(text)
    assert (mount.kind, mount.source, str(mount.path)) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/mnt",
        "gs://b",
        "gs://bucket/folder:/mnt",
        "host:/mnt",
        "gs://bucket:/",
        "gs://bucket:/a/../b",
    ],
)
def test_what_is_no_mount_is_refused(text: str):
    with pytest.raises(UserError, match="write gs://BUCKET:/path"):
        parse_mount(text)


def test_a_work_directory_has_to_be_where_all_hosts_see_it():
    mounts = [parse_mount("gs://bucket:/mnt/b")]
    check_workdir("/mnt/b/runs/demo", mounts, "4 hosts need it")
    check_workdir("runs/demo", mounts, "")
    for workdir in ("runs/demo", "/mnt/bb/demo", "/mnt/b/../demo", "~/demo"):
        with pytest.raises(UserError, match="not on shared storage, but 4 hosts need it"):
            check_workdir(workdir, mounts, "4 hosts need it")
    with pytest.raises(UserError, match="not to URLs"):
        check_workdir("gs://bucket/demo", mounts, "")


def test_names_and_environment_are_checked():
    assert check_name("groot-2") == "groot-2"
    for name in ("", "Groot", "2groot", "groot-", "a b", "x" * 41):
        with pytest.raises(UserError, match="--name="):
            check_name(name)
    assert parse_environment(["A=b=c", "D="]) == {"A": "b=c", "D": ""}
    for word in ("A", "=b", "1=2", "A B=c"):
        with pytest.raises(UserError, match="KEY=VALUE"):
            parse_environment([word])
