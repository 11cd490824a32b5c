"""Logical axis names of the parameters, and what the rules table makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType, PartitionSpec

from groot_jax.config import default_config
from groot_jax.errors import UserError
from groot_jax.mesh.layout import make_mesh
from groot_jax.model.param_tree import logical_axes, param_shapes
from groot_jax.model.partitioning import param_shardings
from groot_jax.model.t5 import T5

RULES = default_config().mesh.rules.to_dict()


def test_every_dimension_of_every_parameter_has_a_rule(tiny):
    for variant in ("v1_0", "v1_1"):
        shapes = flatten_dict(param_shapes(tiny(variant)))
        axes = flatten_dict(logical_axes(tiny(variant)))
        assert axes.keys() == shapes.keys()
        for key, names in axes.items():
            assert len(names) == len(shapes[key].shape), key
            assert all(name in RULES for name in names), key
    assert axes["shared", "embedding"] == PartitionSpec("vocab", "embed")
    assert axes["lm_head", "kernel"] == PartitionSpec("embed", "vocab")


@pytest.mark.parametrize("variant", ["v1_0", "v1_1", "umt5"])
def test_the_tree_is_that_of_the_layers(tiny, variant):
    config = tiny(variant)
    ids = np.zeros((1, 1), np.int32)
    boxed = jax.eval_shape(T5(config).init, jax.random.key(0), ids, ids)["params"]
    assert param_shapes(config) == nn.unbox(boxed)
    assert logical_axes(config) == nn.get_partition_spec(boxed)


def test_mesh_has_auto_axes_over_all_devices():
    mesh = make_mesh()
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.shape["data"] == jax.device_count()
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (3, 5, 7), (0, 1, 1), (-1, 64, 1), (-2, 1, 1)])
def test_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(UserError, match=rf"config\.mesh: data={sizes[0]}, fsdp={sizes[1]}"):
        make_mesh(*sizes)


def test_rules_that_name_nothing_are_refused(tiny):
    with pytest.raises(UserError, match="no rule for '(vocab|embed)'"):
        param_shardings(make_mesh(), tiny(), {"vocab": ""})
    with pytest.raises(UserError, match="'model'"):
        param_shardings(make_mesh(), tiny(), {**RULES, "mlp": "model"})


def test_shardings_on_eight_devices_follow_the_rules(tmp_path):
    """In a process of its own: the number of CPU devices is fixed at start."""
    code = """
        import json
        import jax, jax.numpy as jnp, numpy as np
        from flax.traverse_util import flatten_dict
        from groot_jax.config import default_config
        from groot_jax.model.config import preset
        from groot_jax.mesh.layout import Layout, make_mesh
        from groot_jax.model.partitioning import param_shardings
        from groot_jax.model.t5 import T5, init_params

        config = preset("nano", "v1_1", 101, num_layers=1, num_decoder_layers=1)
        mesh = make_mesh(data=-1, fsdp=2, tensor=2)
        rules = default_config().mesh.rules.to_dict()
        shardings = param_shardings(mesh, config, rules)
        params = init_params(config, 0)
        placed = jax.device_put(params, shardings)
        ids = np.arange(2, 26).reshape(4, 6)
        run = jax.jit(lambda p, x: T5(config).apply({"params": p}, x, x))
        sharded = run(placed, jax.device_put(ids, Layout(mesh, rules).batch))
        out = {"mesh": dict(mesh.shape), "error": float(jnp.abs(sharded - run(params, ids)).max())}
        out["specs"] = {"/".join(k): str(v.spec) for k, v in flatten_dict(shardings).items()}
        print(json.dumps(out))
    """
    env = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "NPROC": "16",  # XLA's thread pool: fewer threads than devices can deadlock collectives.
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
    assert out["error"] < 1e-4
    specs = out["specs"]
    # 101 rows are not divisible by 2.
    assert specs["shared/embedding"] == str(PartitionSpec(None, "fsdp"))
    ff = "decoder/block/0/layer/2/DenseReluDense"
    assert specs[f"{ff}/wi_0/kernel"] == str(PartitionSpec("fsdp", "tensor"))
    assert specs[f"{ff}/wo/kernel"] == str(PartitionSpec("tensor", "fsdp"))
    attention = "encoder/block/0/layer/0/SelfAttention"
    assert specs[f"{attention}/q/kernel"] == str(PartitionSpec("fsdp", "tensor"))
    bias = specs[f"{attention}/relative_attention_bias/embedding"]
    assert bias == str(PartitionSpec(None, "tensor"))
    assert specs["encoder/final_layer_norm/weight"] == str(PartitionSpec(None))
