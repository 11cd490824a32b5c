"""What a job does before it touches data: its processes, its compiled programs, its mesh.

Knows where arrays live, not what they mean.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from groot_jax.errors import UserError
from groot_jax.mesh import arrays
from groot_jax.mesh.layout import Layout, adds_in_order, factored_sharding, make_mesh
from groot_jax.model.config import T5Config
from groot_jax.model.param_tree import Params, param_shapes
from groot_jax.model.partitioning import param_shardings, replication_problem
from groot_jax.runtime.allocator import keep_freed_memory
from groot_jax.runtime.files import expanded
from groot_jax.runtime.hosts import Hosts, connect
from groot_jax.runtime.libtpu import enlarge_stacks

if TYPE_CHECKING:
    import optax

    from groot_jax.contrast.update import TrainState

Shardings: TypeAlias = Any  # a tree with a NamedSharding for each array
ParamShapes: TypeAlias = Any  # the tree of the parameters with a ShapeDtypeStruct for each

_KEPT_FROM = 0.5  # Seconds of compilation from which a program is kept on disk.


def device_setup(config: ConfigDict) -> Hosts:
    """Joins the processes of the run, and keeps compiled programs on disk between runs, where
    `config.compilation_cache` says. Comes before anything that asks for devices."""
    # Orbax logs, with tracebacks, what it raises as well, and warns of its own defaults; of many
    # arrays that fail together, asyncio logs all but the one that is raised.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    enlarge_stacks()
    keep_freed_memory()
    # Joined before JAX sees its devices, of which it then knows those of all processes.
    hosts = connect(config.distributed.start_timeout, config.distributed.timeout)
    keep_programs(config.compilation_cache, warn=hosts.main)
    return hosts


def keep_programs(folder: str, warn: bool = True) -> None:
    """Keeps compiled programs on disk, in `folder`, `config.compilation_cache`; empty: nowhere.

    A folder that cannot be written costs a run its compiling and nothing else: `warn` says so in a
    line on stderr.
    """
    if not folder:
        return
    found = folder
    try:
        if "://" not in folder:  # A bucket's address is JAX's business.
            found = str(expanded(folder, "config.compilation_cache"))
            # To create a file is the only sure test: permissions do not tell of a full disk.
            os.makedirs(found, exist_ok=True)
            tempfile.TemporaryFile(dir=found).close()
    except (UserError, OSError) as error:
        why = str(error) if isinstance(error, UserError) else f"{found}: {error.strerror}"
        if warn:
            print(
                f"compiled programs are not kept between runs ({why}): name another folder in "
                "config.compilation_cache, or '' for none",
                file=sys.stderr,
            )
        return
    jax.config.update("jax_compilation_cache_dir", found)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _KEPT_FROM)
    compilation_cache.reset_cache()  # It may have been asked for before there was a folder.


@dataclass(frozen=True)
class Partitioning:
    """A model laid over the devices: where its parameters lie, and all that training adds to them.

    It holds shapes and shardings, and no array.
    """

    model_config: T5Config
    layout: Layout
    params: Shardings  # of each parameter

    @property
    def param_shapes(self) -> ParamShapes:
        """Shapes of the parameters with their shardings: what a checkpoint is restored onto."""
        return jax.tree.map(_placed, param_shapes(self.model_config), self.params)

    def state_shardings(self, optimizer: optax.GradientTransformation) -> TrainState:
        """Shardings of a training state: moments lie as their parameters do."""
        # Here and not above: predict, which starts in a second and a half, needs neither.
        import optax

        from groot_jax.contrast.update import TrainState

        everywhere: Shardings = self.layout.everywhere
        shapes = param_shapes(self.model_config)
        # AdamW's two moments have their parameter's shape, [D, F] say, and its sharding. Those of
        # Adafactor, where it factors, are [D] and [F], and lie as that dimension of it does.
        opt_state = optax.tree_utils.tree_map_params(
            optimizer,
            lambda moment, shape, sharding: factored_sharding(moment.shape, shape.shape, sharding),
            jax.eval_shape(optimizer.init, shapes),
            shapes,
            self.params,
            # What belongs to no parameter, such as the count of updates, is a few bytes.
            transform_non_params=lambda _: everywhere,
        )
        return TrainState(everywhere, self.params, opt_state)

    def new_state(self, params: Params, optimizer: optax.GradientTransformation) -> TrainState:
        """Step 0 of placed parameters, laid out as updates leave it: they are compiled once."""
        from groot_jax.contrast.update import TrainState

        # Compiled for its result's shardings: each device makes its own part of the moments.
        shardings = self.state_shardings(optimizer)
        opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
        return TrainState(arrays.put(np.int32(0), shardings.step), params, opt_state)

    def state_shapes(self, optimizer: optax.GradientTransformation) -> TrainState:
        """What `new_state` makes, as shapes with their shardings, without making it."""
        from groot_jax.contrast.update import TrainState

        state = jax.eval_shape(
            lambda params: TrainState(jnp.int32(0), params, optimizer.init(params)),
            param_shapes(self.model_config),
        )
        return jax.tree.map(_placed, state, self.state_shardings(optimizer))


def _placed(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def make_partitioning(
    config: ConfigDict,
    model_config: T5Config,
    devices: Sequence[jax.Device] | None = None,
    warn: bool = True,
) -> Partitioning:
    """Lays the mesh of the config over all devices, or those given; `warn` where it replicates much
    and `mesh.replicated` says so, which once a job is enough.

    Raises UserError where the mesh does not fit them, and where it replicates too much and
    `mesh.replicated` forbids it.
    """
    # The rules decide about the parameters, the parameters about the order of sums: a layout is
    # complete only at the end.
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    layout = Layout(mesh, config.mesh.rules.to_dict())
    params = param_shardings(mesh, model_config, layout.rules)
    ordered = adds_in_order(config.mesh.sums, layout, params, mesh.devices.flat[0].platform)
    problem = replication_problem(mesh, model_config, params)
    if problem and config.mesh.replicated == "error":
        raise UserError(problem)
    if warn and problem and config.mesh.replicated == "warn" and jax.process_index() == 0:
        print(f"warning: {problem}", file=sys.stderr)
    return Partitioning(model_config, dataclasses.replace(layout, ordered=ordered), params)
