"""Preflight as a job: what it prints and answers, and the sentences that it ends with."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from typing import Any, cast

import jax
import pytest
from ml_collections import ConfigDict

from groot_jax import preflight
from groot_jax.config import load
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.model.config import preset, released
from groot_jax.model.param_tree import param_shapes
from groot_jax.scaling import check
from groot_jax.scaling.check import Choice, Question, refusal
from groot_jax.scaling.chips import CHIPS, Slice, parse_slice
from groot_jax.scaling.cost import cost_of
from groot_jax.scaling.hlo import Program
from groot_jax.scaling.programs import Programs
from groot_jax.scaling.workload import Sentences, Workload
from groot_jax.training.setup import make_partitioning
from tests.jobs.support import ROOT, error_of, job_environment

RETAIL = f"--config={ROOT / 'configs' / 'retail.py'}"
SMALL = (
    RETAIL,
    "--words=6",
    "--types=3",
    "--config.model.encoder_layers=1",
    "--config.model.decoder_layers=1",
    "--config.generate.k=2",
    "--config.groot.pool.size=3",
    "--config.nll.batch_size=8",
    "--config.groot.batch_size=8",
)


def call(*flags: str, timeout: float = 600.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "groot_jax.preflight", *flags],
        env=job_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def with_libtpu() -> None:
    pytest.importorskip("libtpu", reason="needs libtpu: make test TORCH=1 installs it")


@pytest.fixture(scope="module")
def small() -> subprocess.CompletedProcess[str]:
    with_libtpu()
    return call(*SMALL, "--topology=v5e:2x2", "--json")


@pytest.mark.slow
def test_a_small_model_fits_and_the_last_line_says_so(small: Any) -> None:
    assert small.returncode == 0, small.stderr
    assert small.stderr == ""
    report = json.loads(small.stdout.splitlines()[-1])
    assert report["fits"] is True
    assert (report["chips"], report["hbm_per_chip_bytes"]) == (4, 16 << 30)
    assert list(report["steps"]) == ["nll", "generate", "update"]
    for name, step in report["steps"].items():
        assert step["fits"], name
        for key in ("argument_bytes", "output_bytes", "flops", "hbm_bytes"):
            assert step[key] > 0, (name, key)
        assert step["temp_bytes"] >= 0
        assert 0 < step["needed_bytes"] < report["hbm_per_chip_bytes"]
        assert step["estimated_seconds"] > 0
        assert step["bound_by"] in ("flops", "hbm", "ici")
        assert 0 < step["model_flop_utilisation"] < 1
    # Gradients are summed over the chips; the search asks them only whether to go on.
    assert report["steps"]["update"]["collectives"]["all-reduce"]["bytes"] > 1e5
    search = report["steps"]["generate"]["collectives"]
    assert list(search) == ["all-reduce"]
    assert search["all-reduce"]["bytes"] <= 4 * search["all-reduce"]["count"]
    assert "fits" in small.stdout and "sentences/s" in small.stdout


@pytest.mark.parametrize(
    "flags, parts",
    [
        (["--topology=v9:2x2"], ["--topology=v9:2x2", "v4, v5e, v5p, v6e"]),
        (["--topology=4x4"], ["CHIP:AxB"]),
        (["--topology=v5e:3x3"], ["v5e comes as 1x1, 2x2, 2x4, 4x4"]),
        (["--topology=v5p:4x4"], ["three sizes", "v5p:4x4x4"]),
        (["--topology=v5e:2x2", "--steps=nll,train"], ["--steps", "'train'"]),
        (["--topology=v5e:2x2", "--words=0"], ["--words is 0"]),
        (["--topology=v5e:2x2", "--workdir=w"], ["no flag --workdir"]),
    ],
)
def test_a_mistake_is_one_sentence(
    flags: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = error_of(lambda: preflight.main([RETAIL, *flags]), capsys)
    assert all(part in said for part in parts), said


def test_a_model_that_would_need_the_network_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_libtpu()
    model = ("--config.model.init=acme/t5-huge", "--config.text.format=auto")
    said = error_of(lambda: preflight.main([RETAIL, "--topology=v5e:2x2", *model]), capsys)
    assert "acme/t5-huge" in said and "preflight does not ask the network" in said


def test_libtpu_knows_the_slices_that_google_has() -> None:
    with_libtpu()
    from groot_jax.scaling.chips import abstract_devices

    for name in ("v4:2x2x1", "v5e:1x1", "v5e:2x4", "v5p:2x2x4", "v6e:1x1", "v6e:16x16"):
        found = parse_slice(name)
        assert len(abstract_devices(found)) == found.size, name
    with pytest.raises(UserError, match="v5e:3x3 is no slice .*not divisible"):
        abstract_devices(Slice(CHIPS["v5e"], (3, 3)))


def test_without_libtpu_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "libtpu":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    said = error_of(lambda: preflight.main([RETAIL, "--topology=v5e:2x2"]), capsys)
    assert "pip install libtpu" in said


def test_what_cannot_fit_is_refused_before_it_is_compiled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_libtpu()
    flags = [f"--config={ROOT / 'configs' / 't5_xxl.py'}", "--topology=v5e:2x2", "--json"]
    with pytest.raises(SystemExit) as ended:
        exit_on_user_error(lambda: preflight.main(flags))
    assert ended.value.code == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert report["fits"] is False and report["chips"] == 4
    for step in report["steps"].values():
        assert step["fits"] is False and "does not fit 4 devices" in step["reason"]
    assert "31.1 GiB of each; v5e:4x4 is the next slice" in report["reason"]
    assert report["reason"] in captured.err


def test_a_mesh_axis_may_take_a_part_of_a_dimension_of_the_torus() -> None:
    with_libtpu()
    from groot_jax.mesh.layout import make_mesh
    from groot_jax.scaling.chips import abstract_devices

    devices = abstract_devices(parse_slice("v5e:8x8"))
    assert dict(make_mesh(-1, 4, 8, devices).shape) == {"data": 2, "fsdp": 4, "tensor": 8}


def test_the_compilers_refusal_is_read() -> None:
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 22.50G of 15.75G hbm. Exceeded hbm capacity by 6.75G."
    )
    assert refusal(message) == int(22.5 * 2**30)
    assert refusal("INTERNAL: something else") is None


def test_choices_start_with_the_least_change_and_leave_room(monkeypatch: Any) -> None:
    with_libtpu()
    from groot_jax.config import load

    config = load(str(ROOT / "configs" / "retail.py"), [("mesh.fsdp", "2")])
    question = Question(config, parse_slice("v5e:2x4"), Sentences(words=4, types=2))
    found = list(check.choices(question))
    assert found[0].mesh[1] == 2 and found[0].batch_size == 16
    assert len(set(found)) == len(found)
    assert all(d * f * t == 8 and size % (d * f) == 0 for (d, f, t), size in found)
    assert {t for (_, _, t), _ in found} <= {1, 2, 4, 8}  # Divisors of nano's eight heads.
    assert "--config.mesh.fsdp=2" in str(found[0])
    assert check.spread(found, 3)[0].batch_size == max(
        c.batch_size for c in found if c.mesh == found[0].mesh
    )
    assert question.on(Choice((8, 1, 1), 24)).programs().rows("update") == 24


@pytest.mark.slow
def test_a_batch_that_the_chips_do_not_divide_is_padded_as_training_pads_it() -> None:
    with_libtpu()
    from groot_jax.config import load

    layers = [(f"model.{stack}_layers", "1") for stack in ("encoder", "decoder")]
    batches = [("nll.batch_size", "10"), ("groot.batch_size", "6"), ("groot.accumulate", "2")]
    config = load(str(ROOT / "configs" / "retail.py"), [*layers, *batches])
    question = Question(config, parse_slice("v5e:2x2"), Sentences(words=4, types=2))
    programs = question.programs()
    for step, rows in (("nll", 12), ("generate", 8), ("update", 8)):
        [_, batch, *_], _ = programs.lower(step).args_info
        assert jax.tree.leaves(batch)[0].shape[0] == rows, step


@pytest.mark.slow
def test_sums_of_gradients_run_behind_the_backward_pass() -> None:
    with_libtpu()
    layers = [(f"model.{stack}_layers", "1") for stack in ("encoder", "decoder")]
    config = load(str(ROOT / "configs" / "retail.py"), [*layers, ("model.dtype", "bfloat16")])
    question = Question(config, parse_slice("v5e:2x2"), Sentences(words=4, types=2))
    lowered: Any = question.programs().lower("nll")
    sums = cost_of(Program(lowered.compile().as_text())).transfers
    hidden = sum(size for _, size, _, _, behind in sums if behind)
    assert hidden > 0.5 * sum(size for _, size, *_ in sums)


def test_meshes_that_the_config_forbids_are_no_choices() -> None:
    with_libtpu()
    from groot_jax.config import load

    config = load(str(ROOT / "configs" / "retail.py"), [("mesh.sums", "ordered")])
    question = Question(config, parse_slice("v5e:2x2"), Sentences(words=4, types=2))
    assert {choice.mesh for choice in check.choices(question)} == {(4, 1, 1)}


@pytest.mark.parametrize(
    ("start", "least_gib", "larger"),
    [
        ("v5e:1x1", 30, "v5e:2x2"),  # There is no v5e:1x2.
        ("v5e:2x2", 20, "v5e:2x4"),  # Nor v5e:4x2.
        ("v5e:2x2", 31, "v5e:4x4"),
        ("v5e:16x16", 20, None),
        ("v5p:2x2x1", 600, "v5p:2x4x4"),
        ("v5p:16x16x16", 80, None),
    ],
)
def test_the_larger_slice_that_is_named_is_one_that_there_is(
    monkeypatch: pytest.MonkeyPatch, start: str, least_gib: int, larger: str | None
) -> None:
    monkeypatch.setattr(check, "least_state", lambda question: least_gib << 30)
    question = Question(ConfigDict(), parse_slice(start), Sentences())
    found = check.larger_slice(question)
    assert (found and found.name) == larger
    assert larger is None or found == parse_slice(larger)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("google/t5-v1_1-xxl", ("xxl", "v1_1", 32128)),
        ("google/flan-t5-base", ("base", "v1_1", 32128)),
        ("google/mt5-small", ("small", "v1_1", 250112)),
        ("t5-small", ("small", "v1_0", 32128)),
        ("google-t5/t5-3b", ("xl", "v1_0", 32128)),
    ],
)
def test_released_models_are_known_without_the_network(name: str, shape: Any) -> None:
    found = released(name)
    assert found is not None and found[0] == preset(*shape)
    assert found[1] == shape[2] - shape[2] % 100


@pytest.mark.parametrize("size, millions", [("small", 299.6), ("base", 581.7), ("xxl", 12921)])
def test_byt5_has_as_many_parameters_as_its_paper_says(size: str, millions: float) -> None:
    found = released(f"google/byt5-{size}")
    assert found is not None and found[1] == 384
    count = sum(leaf.size for leaf in jax.tree.leaves(param_shapes(found[0])))
    assert count / 1e6 == pytest.approx(millions, rel=5e-3)


@pytest.mark.parametrize(
    "name", ["google/byt5-nano", "google/t5-v1_1-nano", "google/t5-v1_1-3b", "acme/byt5-small"]
)
def test_other_models_are_not_known_without_the_network(name: str) -> None:
    assert released(name) is None


@pytest.mark.parametrize(
    "name, slice_name",
    [
        *[(name, "v5e:2x2") for name in ("t5_small", "t5_base", "flan_t5_base", "mt5_base")],
        *[("byt5_small", "v5e:2x2"), ("t5_large", "v5e:2x2"), ("t5_xl", "v5e:4x4")],
        ("t5_xxl", "v5e:8x8"),
    ],
)
def test_the_state_of_each_config_of_the_family_fits_its_slice(name: str, slice_name: str) -> None:
    """Parameters and moments, laid out by preflight as training lays them; nothing is compiled."""
    with_libtpu()
    tpu_slice = parse_slice(slice_name)
    config = load(str(ROOT / "configs" / f"{name}.py:train=x"))
    question = Question(config, tpu_slice, Sentences())
    programs = question.programs()
    assert programs.state_bytes()[1] < 0.9 * tpu_slice.chip.hbm_bytes
    # 32 words are some 200 bytes, and 48 pieces.
    S = programs.workload.size[0]
    assert S >= 192 if name == "byt5_small" else S < 128


@pytest.mark.parametrize(("teacher", "copies"), [("", 0), ("start", 1), ("policy", 0)])
def test_the_parameters_of_a_teacher_lie_beside_both_steps_of_stage_1(
    teacher: str, copies: int
) -> None:
    changes = [("data.unlabeled", "x"), ("groot.unlabeled", "0.5"), ("groot.teacher", teacher)]
    config = load(str(ROOT / "configs" / "retail.py"), changes if teacher else [])
    shape = preset("nano", "v1_1", 256)
    programs = Programs(config, shape, make_partitioning(config, shape), cast(Workload, None))
    params, state = programs.state_bytes()
    found = [programs.resident_bytes(step) for step in preflight.STEPS]
    assert found == [0, state - params + copies * params, copies * params]


def test_the_environment_of_the_tests_is_left_alone() -> None:
    assert os.environ["JAX_PLATFORMS"] == "cpu"
