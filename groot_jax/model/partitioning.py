"""Where parameters live: the names that the model gives them, laid over a mesh.

Turns logical axis names into NamedShardings. It moves no data and knows nothing of what the
parameters are for.
"""

from __future__ import annotations

import jax
from jax.sharding import AbstractMesh, Mesh

from groot_jax.mesh.layout import Layout, Rules, replicated_share
from groot_jax.model.config import T5Config
from groot_jax.model.param_tree import Params, logical_axes, param_shapes

_REPLICATED = 0.02  # A larger share of the parameters' bytes is worth a word.


def param_shardings(mesh: Mesh | AbstractMesh, config: T5Config, rules: Rules) -> Params:
    """A NamedSharding for each parameter of `config`, in the parameters' tree.

    A dimension that its mesh axes do not divide evenly (a vocabulary of odd size, say) is
    replicated. Raises UserError for a logical axis without a rule.
    """
    # wo's kernel [1024, 512] is named (mlp, embed): under fsdp=2, tensor=4 by the rules of
    # configs/default.py, its rows over tensor, its columns over fsdp, [256, 256] on each device.
    layout = Layout(mesh, rules)
    return jax.tree.map(
        lambda shape, names: layout.sharding(shape.shape, tuple(names)),
        param_shapes(config),
        logical_axes(config),
    )


def replication_problem(mesh: Mesh | AbstractMesh, config: T5Config, shardings: Params) -> str:
    """A sentence where fsdp or tensor splits too little of the parameters; otherwise nothing.

    `shardings` is what `param_shardings` gave. Norms and relative biases, which the default rules
    replicate, are far below the 2 % that count: 0.02 % of T5 v1.1 base.
    """
    # Under fsdp=1, tensor=1 all of them are whole on every device, and are meant to be.
    share = replicated_share(param_shapes(config), shardings)
    if mesh.shape["fsdp"] * mesh.shape["tensor"] == 1 or share <= _REPLICATED:
        return ""
    return (
        f"config.mesh: {share:.0%} of the parameters' bytes lie on every device whole, though "
        f"fsdp={mesh.shape['fsdp']} and tensor={mesh.shape['tensor']}: take sizes that divide the "
        "model's dimensions, or change config.mesh.rules"
    )
