"""What the compiled search exchanges between devices, and that it finds the same on any mesh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
    import json, sys
    import jax, numpy as np
    from groot_jax.config import load
    from groot_jax.generate.inputs import search_input
    from groot_jax.model.t5 import init_params
    from groot_jax.scaling.cost import cost_of
    from groot_jax.scaling.hlo import Program
    from groot_jax.scaling.programs import Programs, model_of
    from groot_jax.scaling.workload import Sentences, make_workload
    from groot_jax.training.setup import make_partitioning
    from tests.scaling.support import collectives_in_loops

    out = {}
    for sizes in json.loads(sys.argv[1]):
        axes = dict(zip(("data", "fsdp", "tensor"), sizes))
        changes = {f"mesh.{axis}": str(size) for axis, size in axes.items()} | {
            "generate.k": "3", "text.vocab_size": "200", "model.encoder_layers": "1",
            "model.decoder_layers": "1",
            "groot.batch_size": "8", "nll.batch_size": "8", "systems": "groot",
        }
        config = load("configs/retail.py", list(changes.items()))
        model_config, vocab = model_of(config)
        workload = make_workload(config, vocab, Sentences(words=17, types=3), 8)
        devices = jax.devices()[: int(np.prod(sizes))]
        partitioning = make_partitioning(config, model_config, devices)
        programs = Programs(config, model_config, partitioning, workload)
        compiled = programs.lower("generate").compile()
        program = Program(compiled.as_text())
        params = jax.device_put(init_params(model_config, 0), programs.partitioning.params)
        inputs = jax.device_put(search_input(workload.batch(8)), programs.partitioning.layout.batch)
        beams = compiled(params, inputs, None)
        out["x".join(map(str, sizes))] = {
            "loops": [[role, i.opcode, [list(s.dims) for s in i.shapes]]
                      for role, i in collectives_in_loops(program)],
            "all": list(cost_of(program).collectives),
            "tokens": np.asarray(beams.tokens_BxKxT).tolist(),
            "split": str(beams.tokens_BxKxT.sharding.spec),
        }
    print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def searches() -> dict[str, Any]:
    """In a process of its own: the number of CPU devices is fixed at start."""
    env = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "NPROC": "16",  # XLA's thread pool: fewer threads than devices can deadlock collectives.
        "PYTHONPATH": str(ROOT),
    }
    meshes = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE), json.dumps(meshes)],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_data_parallel_search_exchanges_nothing_but_whether_it_goes_on(searches):
    found = searches["8x1x1"]
    assert {(role, kind) for role, kind, _ in found["loops"]} == {("condition", "all-reduce")}
    assert all(shape == [] for _, _, shapes in found["loops"] for shape in shapes)
    assert found["all"] == ["all-reduce"]


@pytest.mark.slow
def test_split_parameters_are_gathered_before_the_loop(searches):
    found = searches["1x8x1"]
    assert "all-gather" in found["all"]
    assert {(role, kind) for role, kind, _ in found["loops"]} == {("condition", "all-reduce")}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["8x1x1", "1x8x1", "2x2x2"])
def test_every_mesh_finds_the_same(searches, mesh):
    assert searches[mesh]["tokens"] == searches["1x1x1"]["tokens"]
    assert "data" in searches[mesh]["split"] and "fsdp" in searches[mesh]["split"]
