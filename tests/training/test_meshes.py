"""The same answer on every mesh: losses, gradients, updated parameters and candidates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
# Sizes, and how gradients are added: in order only the data axis can.
MESHES = (
    (8, 1, 1, "ordered"),
    (8, 1, 1, "any"),
    (2, 2, 2, "any"),
    (1, 4, 2, "any"),
    (1, 1, 8, "any"),
)
# Matrices that are split over devices are made orthogonal as whole ones are, and both readings of
# a sentence lie on one device.
MUON = ((1, 1, 1, "any"), (2, 2, 2, "any"))
PARTS = ((1, 1, 1, "any"), (8, 1, 1, "ordered"), (2, 2, 2, "any"))  # Updates by parts as well.
# With the dropout of stage 0, which draws the same on all of them; an update by parts draws anew.
# In a process of its own: the number of CPU devices is fixed at start. Batches of 12 sentences fit
# no mesh of 8, and 5 sentences are fewer than there are devices.
PROGRAM = '''
import dataclasses
import json
import sys

import jax
import numpy as np
import optax

from groot_jax import config as configs
from groot_jax.contrast.pools import pool_batch
from groot_jax.contrast.update import OutputColumns, nll_batch
from groot_jax.data.batches import TrainingBatches, encode, evaluation_batches
from groot_jax.data.corpus import read_corpus
from groot_jax.mesh import arrays
from groot_jax.mesh.rows import own_rows
from groot_jax.model.t5 import init_params
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.pool import PoolSettings, ScoringTask
from groot_jax.reward.rewards import RewardSpec
from groot_jax.training.optimizer import make_optimizer
from groot_jax.training.setup import make_partitioning
from groot_jax.training.steps import jit_groot_step, jit_nll_step, loss_settings
from groot_jax.task import make_task

settings = [
    ("data.train_limit", "40"), ("text.vocab_size", "200"), ("loader.rungs", "1"),
    ("generate.k", "3"), ("nll.batch_size", "12"), ("groot.batch_size", "12"),
    ("loader.node_buckets", "128"), ("groot.dropout", "0"),
    ("groot.pool.size", "6"), ("reward.workers", "0"), ("optimizer.clip", "0"),
    ("groot.clip", "0"), ("mesh.replicated", "allow"), ("text.max_words", "9"),
    ("data.policy", "skip"),
]
config = configs.load(sys.argv[1], settings)
corpus = read_corpus(config)
task = make_task(config, corpus)
# Small, with heads for eight.
small = dict(d_model=64, d_kv=8, num_heads=8, d_ff=128, num_layers=1, num_decoder_layers=1)
task = dataclasses.replace(task, model_config=dataclasses.replace(task.model_config, **small))
examples = encode(corpus.train, task.format)
few = encode(corpus.dev[:5], task.format, gold=False)
start = init_params(task.model_config, 0)
pools = {}
meshes, parts, with_muon = json.loads(sys.argv[2])


def flat(tree):
    return {jax.tree_util.keystr(k): arrays.read(v) for k, v in
            jax.tree_util.tree_flatten_with_path(tree)[0]}


def answers(mesh):
    """On a mesh: metrics and parameters after an update of each kind, and candidates."""
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor, config.mesh.sums = mesh
    sizes = mesh[:3]
    count = int(np.prod(sizes))
    partitioning = make_partitioning(config, task.model_config, jax.devices()[:count])
    assert partitioning.layout.ordered == (mesh[3] == "ordered")
    everywhere = partitioning.layout.everywhere
    grammar = task.grammar
    outputs = arrays.put(OutputColumns(grammar.columns_C, grammar.column_of_V), everywhere)
    key = arrays.named_key(0, "mesh", everywhere)
    params = arrays.put(jax.tree.map(np.asarray, start), partitioning.params)
    found = {}

    # Meshes that split no heads have the same candidates by tests/generate/test_collectives.py.
    candidates = None
    generator = task.generator(partitioning.layout)
    if count == 1 or sizes[2] > 1:
        own_B = generator.own_rows(4)
        batches = list(evaluation_batches(few, len(own_B), task.ladder, own_B))
        labeled = generator.label(params, batches)
        assert sorted(labeled) == list(range(5))
        candidates = [
            [(tuple(map(tuple, c.labeling)), c.score) for c in labeled[i]] for i in range(5)
        ]

    descent = optax.sgd(1.0)
    own_B = own_rows(partitioning.layout, 12)
    batch = TrainingBatches(examples, 12, task.ladder, 0, own_B=own_B)[0]
    assert (batch.index_B >= 0).sum() == 12
    data = nll_batch(batch)
    step = jit_nll_step(config.nll, descent, partitioning)
    state, metrics = step(partitioning.new_state(params, descent),
                          arrays.put(data, partitioning.layout.batch), key, outputs)
    found["nll"] = flat(state.params), jax.device_get(metrics)

    if list(mesh) in with_muon:
        # At a rate of 1, so that what it moves can be seen.
        stage = config.nll.copy_and_resolve_references()
        stage.update(learning_rate=1.0, warmup=0.0, optimizer="muon", rdrop=1.0)
        muon = make_optimizer(config.optimizer, stage, 0.0, 10)
        step = jit_nll_step(stage, muon, partitioning)
        params = arrays.put(jax.tree.map(np.asarray, start), partitioning.params)
        state, metrics = step(partitioning.new_state(params, muon),
                              arrays.put(data, partitioning.layout.batch), key, outputs)
        found["muon"] = (
            {k: v for k, v in flat(state.params).items() if "kernel" in k},
            jax.device_get(metrics),
        )

    for accumulate in (1, 2) if list(mesh) in parts else (1,):
        config.groot.accumulate = accumulate
        own_B = own_rows(partitioning.layout, 12, accumulate)
        batch = TrainingBatches(examples, 12, task.ladder, 0, own_B=own_B)[0]
        params = arrays.put(jax.tree.map(np.asarray, start), partitioning.params)
        if not pools:  # Of the one device: all meshes get the same ones.
            tasks = [
                ScoringTask(e.sentence.words, e.sentence.labeling, listed, e.index)
                for e, listed in generator.read(generator(params, batch), batch)
            ]
            with Oracle(RewardSpec(**config.reward), 0) as oracle:
                ranked = oracle.submit(tasks, PoolSettings(**config.groot.pool)).result()
            pools.update(zip((t.key for t in tasks), ranked))
        data = pool_batch(
            batch, pools, None, task.format, size=6, start_token=0,
            buckets=config.loader.node_buckets,
            groups=partitioning.layout.ways("batch") * accumulate,
        )
        step = jit_groot_step(config.groot, descent, partitioning)
        losses = arrays.put(loss_settings(config.groot, ["margin"]), everywhere)
        state, metrics = step(partitioning.new_state(params, descent),
                              arrays.put(data, partitioning.layout.batch), key, outputs, losses)
        found[f"groot, accumulate {accumulate}"] = flat(state.params), jax.device_get(metrics)
    return found, candidates


def worst(left, right):
    return max(float(np.abs(left[k] - right[k]).max()) for k in left)


expected, expected_candidates = answers([1, 1, 1, "any"])
one, two = (expected[f"groot, accumulate {n}"] for n in (1, 2))
report = {"accumulate": worst(one[0], two[0]), "moved": worst(flat(start), one[0])}
for mesh in meshes:
    found, candidates = answers(mesh)
    for name, (params, metrics) in found.items():
        there, numbers = expected[name]
        differ = {k: abs(float(a) - float(numbers[k][0])) / max(abs(float(numbers[k][0])), 1e-6)
                  for k, (a, _) in metrics.items()}
        counts = {k: (float(n), float(numbers[k][1])) for k, (_, n) in metrics.items()}
        assert all(a == b for a, b in counts.values()), counts
        worsts = {"params": worst(params, there), "metrics": max(differ.values())}
        report[f"{mesh} {name}"] = worsts
    if candidates is None:
        continue
    labelings, others = ([[y for y, _ in c] for c in x] for x in (candidates, expected_candidates))
    assert labelings == others
    report[f"{mesh} scores"] = max(
        abs(a - b) for c, d in zip(candidates, expected_candidates)
        for (_, a), (_, b) in zip(c, d)
    )
print(json.dumps(report))
'''


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "NPROC": "16",  # Fewer threads than two a device can deadlock in a collective.
    }
    done = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM, str(ROOT / "configs" / "retail.py")),
            json.dumps([MESHES, PARTS, MUON]),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_a_mesh_gives_the_answers_of_one_device(report, mesh):
    """Parameters after a step of plain descent at rate 1, so that they differ by the gradients."""
    assert report["moved"] > 0.1
    kinds = {name: found for name, found in report.items() if name.startswith(str(list(mesh)))}
    assert kinds.pop(f"{list(mesh)} scores", 0.0) < 1e-3
    assert len(kinds) == 2 + (mesh in PARTS) + (mesh in MUON)
    for name, found in kinds.items():
        assert found["params"] < 1e-4 * report["moved"], name
        assert found["metrics"] < 1e-4, name


def test_accumulation_gives_the_update_of_the_whole_batch(report):
    assert report["accumulate"] < 1e-4 * report["moved"]
