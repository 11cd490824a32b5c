"""Layouts of parameters, moments and activations, without devices."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from groot_jax.config import default_config, load
from groot_jax.errors import UserError
from groot_jax.mesh.layout import (
    MESH_AXES,
    Layout,
    adds_in_order,
    constrain,
    replicated_share,
    use_layout,
)
from groot_jax.model.config import preset
from groot_jax.model.param_tree import param_shapes
from groot_jax.model.partitioning import param_shardings, replication_problem
from groot_jax.model.t5 import T5, init_params
from groot_jax.training import setup
from groot_jax.training.setup import Partitioning
from groot_jax.training.transforms import muon
from tests.model import golden_shardings

RETAIL = str(Path(__file__).parents[2] / "configs" / "retail.py")
RULES = default_config().mesh.rules.to_dict()
GOLDEN = Path(golden_shardings.__file__).with_suffix(".txt")


def mesh(data=1, fsdp=1, tensor=1):
    return AbstractMesh((data, fsdp, tensor), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def test_layouts_are_those_on_file():
    """A change of layout is seen in review: in the difference of the file."""
    found = "\n".join(golden_shardings.lines())
    assert found == GOLDEN.read_text().rstrip("\n") + "\n", (
        "parameters lie elsewhere than the file says; if that is wanted, write it anew: "
        f"{golden_shardings.__doc__.splitlines()[2].strip()}"
    )


@pytest.mark.parametrize("value", ["fsdp,model", "batch"])
def test_a_rule_that_names_no_mesh_axis_is_refused(value):
    with pytest.raises(UserError, match=r"config\.mesh\.rules\.embed is .* data, fsdp, tensor"):
        load(RETAIL, [("mesh.rules.embed", value)])


def test_one_mesh_axis_splits_one_dimension():
    layout = Layout(mesh(fsdp=2, tensor=2), RULES | {"mlp": "fsdp", "vocab": "fsdp,tensor"})
    assert layout.sharding((8, 8), ("embed", "mlp")).spec == PartitionSpec("fsdp", None)
    assert layout.sharding((8, 8), ("vocab", None)).spec == PartitionSpec(("fsdp", "tensor"), None)
    assert layout.sharding((6, 8), ("vocab", None)).spec == PartitionSpec(None, None)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_moments_lie_as_their_parameters_do(name):
    config = preset("mini", "v1_1", 256)
    layout = Layout(mesh(fsdp=2, tensor=4), RULES)
    shardings = param_shardings(mesh(fsdp=2, tensor=4), config, RULES)
    optimizer = {
        "adamw": partial(optax.adamw, 1e-3),
        "muon": partial(
            muon, optax.constant_schedule(1e-3), b1=0.9, b2=0.98, weight_decay=0.0, clip=0.0
        ),
        "adafactor": partial(optax.adafactor, 1e-3),
    }[name]()
    state = Partitioning(config, layout, shardings).state_shardings(optimizer)
    shapes = jax.eval_shape(optimizer.init, param_shapes(config))
    whole = held = 0
    for shape, sharding in zip(
        jax.tree.leaves(shapes), jax.tree.leaves(state.opt_state), strict=True
    ):
        whole += shape.size
        held += np.prod(sharding.shard_shape(shape.shape), dtype=int)
    assert held < whole * (0.6 if name == "adafactor" else 0.14)  # An eighth; half or a quarter.


def test_too_much_replication_is_said_aloud(capsys, monkeypatch):
    config = preset("nano", "v1_1", 256, num_heads=3, d_kv=5, d_ff=33)
    split = mesh(tensor=2)
    shardings = param_shardings(split, config, RULES)
    assert replicated_share(param_shapes(config), shardings) > 0.5
    problem = replication_problem(split, config, shardings)
    assert "config.mesh" in problem and "tensor=2" in problem
    assert not replication_problem(
        mesh(data=8), config, param_shardings(mesh(data=8), config, RULES)
    )
    even = preset("nano", "v1_1", 256)
    assert not replication_problem(split, even, param_shardings(split, even, RULES))

    monkeypatch.setattr(setup, "replication_problem", lambda *_: "too much")
    setup.make_partitioning(load(RETAIL), config)
    assert capsys.readouterr().err == "warning: too much\n"
    setup.make_partitioning(load(RETAIL, [("mesh.replicated", "allow")]), config)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="too much"):
        setup.make_partitioning(load(RETAIL, [("mesh.replicated", "error")]), config)


def test_gradients_are_added_in_order_only_where_devices_hold_whole_parameters():
    config = preset("nano", "v1_1", 256)

    def ordered(sums: str, platform: str, **sizes: int) -> bool:
        layout = Layout(mesh(**sizes), RULES)
        return adds_in_order(sums, layout, param_shardings(mesh(**sizes), config, RULES), platform)

    assert ordered("auto", "cpu", data=8) and ordered("ordered", "tpu", data=8)
    assert not ordered("auto", "tpu", data=8) and not ordered("any", "cpu", data=8)
    for sizes in ({"fsdp": 8}, {"data": 4, "tensor": 2}):
        assert not ordered("auto", "cpu", **sizes)
        with pytest.raises(UserError, match=r"mesh\.sums=ordered needs .*mesh\.tensor=1"):
            ordered("ordered", "cpu", **sizes)


def test_constraints_cost_nothing_on_one_device():
    config = preset("nano", "v1_1", 64, num_layers=1, num_decoder_layers=1)
    params, ids = init_params(config, 0), jnp.ones((2, 4), jnp.int32)

    def run(params, ids):
        return T5(config).apply({"params": params}, ids, ids)

    def laid_out(params, ids):
        with use_layout(Layout(mesh(), RULES)):
            return run(params, ids)

    assert str(jax.make_jaxpr(run)(params, ids)) == str(jax.make_jaxpr(laid_out)(params, ids))
    x = jnp.ones((2, 3))
    assert constrain(x, "batch") is x


def test_a_policy_of_rematerialisation_changes_no_gradient():
    config = preset("nano", "v1_1", 64, num_layers=2, num_decoder_layers=2, dropout_rate=0.0)
    params = init_params(config, 0)
    ids = jnp.arange(2, 14).reshape(2, 6)

    def gradient(remat):
        model = T5(dataclasses.replace(config, remat=remat))
        loss = lambda p: jnp.square(model.apply({"params": p}, ids, ids)).mean()  # noqa: E731
        traced = jax.jit(jax.grad(loss)).trace(params)
        return traced.lower().compile()(params), str(traced.jaxpr).count("dot_general")

    plain, products = gradient("none")
    again = {}
    for remat in ("dots", "full"):
        found, again[remat] = gradient(remat)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, plain
        )
    assert products < again["dots"] < again["full"]


def test_layers_as_one_loop_give_the_same_gradient():
    """Under every policy of rematerialisation that of the layers one by one, which keep all."""
    config = preset("nano", "v1_1", 64, num_layers=4, num_decoder_layers=3, dropout_rate=0.0)
    params = init_params(config, 0)
    ids = jnp.arange(2, 14).reshape(2, 6)

    def gradient(**changes):
        model = T5(dataclasses.replace(config, **changes))
        loss = lambda p: jnp.square(model.apply({"params": p}, ids, ids)).mean()  # noqa: E731
        traced = jax.jit(jax.value_and_grad(loss)).trace(params)
        return *traced.lower().compile()(params), str(traced.jaxpr)

    value, plain, unrolled = gradient(remat="none")
    assert " scan[" not in unrolled
    for remat in ("none", "dots", "full"):
        again, scanned, looped = gradient(remat=remat, scan_layers=True)
        np.testing.assert_allclose(value, again, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), scanned, plain
        )
        assert " scan[" in looped, remat


def test_each_layer_of_a_loop_draws_its_own_dropout():
    """With the same draw in each, two layers of equal weights would drop the same elements."""
    config = preset("nano", "v1_1", 64, num_layers=3, num_decoder_layers=1, dropout_rate=0.5)
    model = T5(dataclasses.replace(config, scan_layers=True))
    params, ids = init_params(config, 0), jnp.ones((2, 4), jnp.int32)

    def encode(params, key, deterministic):
        return model.apply(
            {"params": params},
            ids,
            deterministic=deterministic,
            rngs={"dropout": key},
            method="encode",
        )

    compiled = jax.jit(encode, static_argnums=2)
    first, other = (compiled(params, jax.random.key(i), False) for i in range(2))
    assert jnp.abs(first - other).max() > 0.01
    keys = str(jax.make_jaxpr(lambda p, k: encode(p, k, False))(params, jax.random.key(0)))
    assert "random_split[shape=(2,)" in keys
    none = str(jax.make_jaxpr(lambda p, k: encode(p, k, True))(params, jax.random.key(0)))
    assert "random_" not in none


def test_a_loop_over_layers_has_a_program_that_does_not_grow_with_them():
    def size(layers):
        config = preset("nano", "v1_1", 64, num_layers=layers, num_decoder_layers=layers)
        model = T5(dataclasses.replace(config, scan_layers=True))
        ids = jnp.ones((2, 4), jnp.int32)
        jaxpr = jax.make_jaxpr(lambda p: model.apply({"params": p}, ids, ids))(param_shapes(config))
        return str(jaxpr).count("dot_general")

    # But for the decoder's keys and values of the encoded sentence: two products a layer.
    assert size(9) - size(4) == 2 * 5


def test_stacked_layers_are_split_as_their_parameters_are():
    """The compiler would else hold the whole stack on each device."""
    config = preset("nano", "v1_1", 64, num_layers=3, num_decoder_layers=3, scan_layers=True)
    split = mesh(fsdp=2, tensor=2)
    params, ids = init_params(config, 0), jnp.ones((2, 4), jnp.int32)

    def laid_out(params):
        with use_layout(Layout(split, RULES)):
            return T5(config).apply({"params": params}, ids, ids)

    specs = [
        equation.params["sharding"].spec
        for equation in jax.make_jaxpr(laid_out)(params).eqns
        if equation.primitive.name == "sharding_constraint"
    ]
    assert specs.count(PartitionSpec(None, "fsdp", "tensor")) == 2 * 5 + 3  # q k v wi_0 wi_1
    assert specs.count(PartitionSpec(None, "tensor", "fsdp")) == 2 * 2 + 1  # o wo
