"""What a job does before it touches data: compilation cache and mesh.

Knows where arrays live, not what they mean.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from groot_jax.contrast.update import TrainState
from groot_jax.errors import UserError
from groot_jax.mesh import arrays
from groot_jax.mesh.layout import Layout, batch_ways, factored_sharding, make_mesh
from groot_jax.model.config import T5Config
from groot_jax.model.partitioning import param_shardings, replication_problem
from groot_jax.model.t5 import param_shapes
from groot_jax.runtime.allocator import keep_freed_memory
from groot_jax.runtime.files import expanded
from groot_jax.runtime.hosts import Hosts, connect
from groot_jax.runtime.libtpu import enlarge_stacks

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
class Placement:
    """Where parameters and batches live on the mesh."""

    params: Any  # a NamedSharding for each parameter
    layout: Layout

    @property
    def batch(self) -> NamedSharding:
        """Of batches and candidates: sentences over `data` and `fsdp`, unless the rules differ."""
        return self.layout.batch

    def rows(self, batch_size: int, parts: int = 1) -> int:
        """`batch_size` rounded up to what the devices, times `parts`, divide; padding fills up."""
        least = batch_ways(self.batch) * parts
        return -(-batch_size // least) * least

    def own_rows(self, batch_size: int, parts: int = 1) -> np.ndarray:
        """bool [rows]: the rows of such a batch that this process has to fill."""
        return arrays.own_rows(self.batch, self.rows(batch_size, parts))

    @property
    def everywhere(self) -> NamedSharding:
        return self.layout.everywhere

    def shapes(self, config: T5Config) -> Any:
        """Shapes of the parameters with their shardings: what a checkpoint is restored onto."""
        return jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(
                shape.shape, shape.dtype, sharding=sharding
            ),
            param_shapes(config),
            self.params,
        )

    def state(self, config: T5Config, optimizer: optax.GradientTransformation) -> TrainState:
        """Shardings of a training state: moments lie as their parameters do."""
        everywhere: Any = self.everywhere
        shapes = param_shapes(config)
        opt_state = optax.tree_utils.tree_map_params(
            optimizer,
            lambda moment, shape, sharding: factored_sharding(moment.shape, shape.shape, sharding),
            jax.eval_shape(optimizer.init, shapes),
            shapes,
            self.params,
            transform_non_params=lambda _: everywhere,
        )
        return TrainState(everywhere, self.params, opt_state)


def place(
    config: ConfigDict,
    model_config: T5Config,
    devices: Sequence[jax.Device] | None = None,
    warn: bool = True,
) -> Placement:
    """Lays the mesh of the config over all devices, or those given; `warn` where it replicates much
    and `mesh.replicated` says so, which once a job is enough.

    Raises UserError where the mesh does not fit them, and where it replicates too much and
    `mesh.replicated` forbids it.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    layout = Layout(mesh, config.mesh.rules.to_dict())
    params = param_shardings(mesh, model_config, layout.rules)
    ordered = adds_in_order(config.mesh.sums, layout, params, mesh.devices.flat[0].platform)
    layout = dataclasses.replace(layout, ordered=ordered)
    problem = replication_problem(mesh, model_config, params)
    if problem and config.mesh.replicated == "error":
        raise UserError(problem)
    if warn and problem and config.mesh.replicated == "warn" and jax.process_index() == 0:
        print(f"warning: {problem}", file=sys.stderr)
    return Placement(params, layout)


def system_key(seed: int, system: str, placement: Placement) -> jax.Array:
    """The key of one system's random draws; those of a step are to depend on the step alone."""
    # `rbg` compiles in a third of the time that threefry takes, with dropout in every layer.
    draw = partial(_key, seed, zlib.crc32(system.encode()))
    return jax.jit(draw, out_shardings=placement.everywhere)()


def _key(seed: int, system: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed, impl="rbg"), system)


def adds_in_order(sums: str, layout: Layout, params: Any, platform: str) -> bool:
    """Whether gradients are added in the order of the devices; `sums`: `config.mesh.sums`.

    Raises UserError where it must and cannot be.
    """
    if sums == "any":
        return False
    whole = all(sharding.is_fully_replicated for sharding in jax.tree.leaves(params))
    possible = whole and layout.ways("batch") == layout.mesh.size
    if sums == "ordered" and not possible:
        raise UserError(
            "config.mesh.sums=ordered needs all devices on the data axis: take config.mesh.fsdp=1 "
            "and config.mesh.tensor=1, or config.mesh.sums=any"
        )
    return possible and (sums == "ordered" or platform == "cpu")
