"""The update on token trees against the plain layout, one candidate at a time."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from groot_jax.contrast import projection
from groot_jax.contrast.losses import LOSSES, LossSettings
from groot_jax.contrast.pools import pool_batch
from groot_jax.contrast.projection import OutputColumns, token_log_probs
from groot_jax.contrast.tree import build_tree
from groot_jax.contrast.update import (
    PoolBatch,
    TrainState,
    groot_step,
    nll_batch,
    nll_scores,
    nll_step,
    pool_scores,
)
from groot_jax.data.batches import collate, encode
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Labeling, Sentence, Span
from groot_jax.data.tokenizer import train_tokenizer
from groot_jax.generate.grammar import make_grammar
from groot_jax.mesh.layout import MESH_AXES, Layout, use_layout
from groot_jax.model.config import preset
from groot_jax.model.t5 import T5, init_params
from groot_jax.reward.pool import PoolEntry

TYPES = ("brand", "color")
SENTENCES = [
    Sentence(("black", "levi", "jeans"), (Span(0, 1, "color"), Span(1, 3, "brand"))),
    Sentence(("red", "shoes"), (Span(0, 1, "color"),)),
]
LABELINGS: list[list[Labeling]] = [
    [
        (Span(0, 1, "color"), Span(1, 3, "brand")),
        (Span(0, 1, "color"), Span(1, 2, "brand")),
        (Span(0, 2, "brand"),),
        (),
    ],
    [(Span(0, 1, "color"),), (Span(0, 2, "color"),), (Span(1, 2, "brand"),)],
]
REWARDS = [[1.0, 0.5, 0.2, 0.0], [1.0, 0.3, 0.0]]
BUCKETS = (4, 8, 16, 32, 64)

# Compiled once for all tests that use the same sizes.
_nll_scores = jax.jit(nll_scores, static_argnums=0)
_pool_scores = jax.jit(pool_scores, static_argnums=0)
_random_params = functools.cache(init_params)


class Setting:
    def __init__(
        self,
        format_name: str = "fused_sentinel",
        dropout: float = 0.0,
        normalise: str = "legal",
        variant: str = "v1_1",
    ):
        tokenizer = train_tokenizer(SENTENCES, TYPES, 40, max_features=40)
        self.format = make_format(format_name, tokenizer, TYPES)
        self.config = preset(
            "nano", variant, 256, d_model=32, d_ff=64, d_kv=8, num_layers=1, num_decoder_layers=2
        )
        self.config = dataclasses.replace(self.config, dropout_rate=dropout)
        self.model = T5(self.config)
        self.params = _random_params(self.config, 0)
        grammar = make_grammar(self.format, normalise, self.config.vocab_size)
        self.columns = OutputColumns(
            jnp.asarray(grammar.columns_C), jnp.asarray(grammar.column_of_V)
        )
        self.examples = encode(SENTENCES, self.format)
        self.batch = collate(self.examples, 4, (32, 16))  # Two rows of padding.

    def pools(self, gold: bool = True) -> dict[int, list[PoolEntry]]:
        return {
            i: [
                PoolEntry(labeling, reward, float("nan"), "beam", -1, -1)
                for labeling, reward in zip(LABELINGS[i], REWARDS[i], strict=True)
                if gold or labeling != SENTENCES[i].labeling
            ]
            for i in range(2)
        }

    def pool_batch(self, gold: bool = True, rows: int = 4, **changes: Any) -> PoolBatch:
        """The two sentences and rows of padding; without `rows` = 4, no padding."""
        options: Any = {"size": 5, "start_token": 0, "buckets": BUCKETS} | changes
        return pool_batch(
            collate(self.examples, rows, (32, 16)),
            self.pools(gold),
            None,
            self.format,
            **options,
        )

    def plain_scores(self, params, labelings, row: int) -> jax.Array:
        """s of each labeling of a sentence, each as a sequence of its own."""
        target = np.zeros((len(labelings), 16), np.int32)
        for i, labeling in enumerate(labelings):
            ids = self.format.target(labeling, SENTENCES[row].words)
            target[i, : len(ids)] = ids
        data = jax.tree.map(
            lambda x: np.repeat(x[row : row + 1], len(labelings), 0), nll_batch(self.batch)
        )._replace(target_BxT=target)
        logp, _, mask = _nll_scores(self.model, params, data, self.columns)
        return (logp * mask).sum(1)

    def step(self, **changes):
        options = {
            "model": self.model,
            "optimizer": optax.sgd(1.0),
            "settings": LossSettings({"margin": 1.0, "risk": 2.0}, nll_weight=0.5),
            "average": "sentence",
        } | changes
        return jax.jit(partial(groot_step, **options))

    def state(self, optimizer=None) -> TrainState:
        optimizer = optimizer or optax.sgd(1.0)
        return TrainState(jnp.int32(0), self.params, optimizer.init(self.params))


def close(a, b, tolerance: float = 1e-4) -> None:
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(2, 4), max_size=5), min_size=1, max_size=6))
def test_a_tree_spells_every_candidate_and_holds_each_prefix_once(bodies):
    pool = [(*body, 1) for body in bodies]
    tree = build_tree(pool, 0)
    assert len(tree.tokens) == len({ids[:t] for ids in pool for t in range(len(ids))})
    assert len(tree.edge_labels) == len(tree.tokens) - 1 + len(set(pool))
    for ids, path in zip(pool, tree.paths, strict=True):
        assert tuple(tree.edge_labels[edge] for edge in path) == ids
        node = 0
        for depth, edge in enumerate(path):
            above, node = node, tree.edge_nodes[edge]
            assert tree.depths[node] == depth
            # What is below a node follows it, up to its end.
            assert above <= node < tree.ends[node] <= tree.ends[above]
            assert tree.tokens[node] == (0, *ids)[depth]


@pytest.mark.parametrize("format_name", ["aligned", "fused_sentinel", "sentinel_tag"])
def test_scores_on_the_tree_equal_those_of_separate_sequences(format_name):
    setting = Setting(format_name)
    scores = _pool_scores(setting.model, setting.params, setting.pool_batch(), setting.columns)
    for row, labelings in enumerate(LABELINGS):
        close(scores[row, : len(labelings)], setting.plain_scores(setting.params, labelings, row))
    assert (np.asarray(scores[2:]) == 0).all()


@pytest.mark.parametrize("format_name", ["aligned", "fused_sentinel", "sentinel_tag"])
@pytest.mark.parametrize(("buckets", "groups"), [((64,), 1), ((32,), 1), ((32,), 2), ((32,), 4)])
def test_scores_do_not_depend_on_who_shares_a_bin(format_name, buckets, groups):
    setting = Setting(format_name)
    batch = setting.pool_batch(buckets=buckets, groups=groups)
    scores = _pool_scores(setting.model, setting.params, batch, setting.columns)
    for row, labelings in enumerate(LABELINGS):
        close(scores[row, : len(labelings)], setting.plain_scores(setting.params, labelings, row))
    assert (np.asarray(scores[2:]) == 0).all()


def test_groups_on_devices_of_their_own_need_nothing_from_each_other():
    """In a process of its own: the number of CPU devices is fixed at start."""
    code = """
        import jax, numpy as np
        from groot_jax.contrast.update import pool_scores
        from groot_jax.mesh.layout import Layout, make_mesh
        from tests.contrast.test_update import Setting

        setting = Setting()
        layout = Layout(make_mesh(), {"batch": "data,fsdp"})
        assert layout.ways("batch") == 2
        batch = jax.device_put(setting.pool_batch(groups=2), layout.batch)
        scores = jax.jit(lambda p, b: pool_scores(setting.model, p, b, setting.columns))
        program = scores.lower(setting.params, batch).compile()
        text = program.as_text()
        for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
            assert name not in text, name
        wanted = pool_scores(setting.model, setting.params, setting.pool_batch(), setting.columns)
        np.testing.assert_allclose(program(setting.params, batch), wanted, atol=1e-4)
    """
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variant", ["v1_0", "v1_1"])
def test_whole_vocabulary_log_probs_are_a_softmax_in_whatever_chunks(variant, monkeypatch):
    setting = Setting(normalise="full", variant=variant)
    model, params, B, N = setting.model, setting.params, 2, 7
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((B, N, 32)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 256, (B, 9)))
    nodes = jnp.asarray(rng.integers(0, N, (B, 9)))
    weight = rng.standard_normal((B, 9))

    def plain(params, hidden):
        logits = model.apply({"params": params}, hidden, method=model.logits)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), nodes[..., None], 1)
        picked = jnp.take_along_axis(logp, labels[..., None], -1)[..., 0]
        return (weight * picked).sum(), (picked, logp.mean(-1))

    def chunked(params, hidden):
        logp, mean = token_log_probs(model, params, hidden, labels, setting.columns, nodes)
        return (weight * logp).sum(), (logp, mean)

    wanted = jax.jit(jax.value_and_grad(plain, (0, 1), has_aux=True))(params, hidden)
    # All seven nodes at once, four, three, one: what is left over is padded.
    for logits, turns in ((1 << 24, 1), (2 * 4 * 256, 2), (2 * 3 * 256, 3), (1, 7)):
        monkeypatch.setattr(projection, "_LOGITS", logits)
        # A new function each time: JAX must not take what it traced for another chunk.
        found = jax.jit(jax.value_and_grad(lambda *x: chunked(*x), (0, 1), has_aux=True))
        close(found(params, hidden), wanted)
        assert turns_of(chunked, params, hidden) == turns


def turns_of(function, *arguments):
    """Length of the loop in what `function` computes; 1 where there is none."""
    # A new function, for JAX must not take what it traced before.
    text = str(jax.make_jaxpr(lambda *x: function(*x))(*arguments))
    return max([int(length) for length in re.findall(r"length=(\d+)", text)], default=1)


@pytest.mark.parametrize(
    ("batch", "positions", "turns"), [(512, 64, 4), (512, 29, 2), (512, 61, 4)]
)
def test_turns_over_the_whole_vocabulary_are_counted_for_a_device(batch, positions, turns):
    """T5's 32,128 columns: on 16 devices, 32 sentences each, 16 positions fit at a time."""
    config = dataclasses.replace(Setting(normalise="full").model.config, vocab_size=32_128)
    model, columns = T5(config), OutputColumns(jnp.zeros(32_128, int), jnp.zeros(32_128, int))
    layout = Layout(AbstractMesh((16, 1, 1), MESH_AXES), {"batch": "data", "vocab": "tensor"})
    params = jax.eval_shape(lambda: init_params(config, 0))

    def norms(params, hidden, labels):
        return token_log_probs(model, params, hidden, labels, columns)

    hidden = jax.ShapeDtypeStruct((batch, positions, config.d_model), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch, positions), jnp.int32)
    with use_layout(layout):
        assert turns_of(norms, params, hidden, labels) == turns
    # One device has to take one position at a time.
    assert turns_of(norms, params, hidden, labels) == positions


@pytest.mark.parametrize("normalise", ["legal", "full"])
def test_gradients_on_the_tree_equal_those_of_separate_sequences(normalise):
    setting = Setting(normalise=normalise)
    weights = [jnp.array([1.0, -2.0, 0.5, 3.0]), jnp.array([0.3, 1.0, -1.0])]

    def on_tree(params):
        scores = pool_scores(setting.model, params, setting.pool_batch(), setting.columns)
        return sum((scores[b, : len(w)] * w).sum() for b, w in enumerate(weights))

    def plain(params):
        return sum(
            (setting.plain_scores(params, labelings, b) * w).sum()
            for b, (labelings, w) in enumerate(zip(LABELINGS, weights, strict=True))
        )

    close(jax.jit(jax.grad(on_tree))(setting.params), jax.jit(jax.grad(plain))(setting.params))


@pytest.mark.parametrize(
    ("average", "groups", "format_name"),
    [
        ("sentence", 2, "aligned"),
        ("token", 2, "sentinel_tag"),  # Nothing is fused to its source: an axis of size 0.
        ("token", 4, "fused_sentinel"),
    ],
)
def test_accumulation_gives_the_update_of_the_whole_batch(average, groups, format_name):
    setting = Setting(format_name)
    key = jax.random.key(0)
    whole, metrics = setting.step(average=average)(
        setting.state(), setting.pool_batch(), key, setting.columns
    )
    parts, metrics_parts = setting.step(average=average, accumulate=2)(
        setting.state(), setting.pool_batch(groups=groups), key, setting.columns
    )
    close(whole.params, parts.params, 1e-5)
    close(metrics, metrics_parts, 1e-5)


def test_gold_outside_the_pool_counts_in_the_nll_term_alone():
    setting = Setting()
    batch = setting.pool_batch(gold=False)
    for row in range(2):
        (slot,) = np.flatnonzero(batch.gold_BxM[row])
        assert not batch.in_contrast_BxM[row, slot]
    _, metrics = setting.step()(setting.state(), batch, jax.random.key(0), setting.columns)
    gold = [
        float(setting.plain_scores(setting.params, [s.labeling], i)[0])
        for i, s in enumerate(SENTENCES)
    ]
    close(metrics["gold_score"], (sum(gold), 2.0))


def test_systems_of_other_losses_share_a_program_and_have_the_updates_of_their_own():
    setting = Setting()
    shared: Any = jax.jit(
        partial(groot_step, model=setting.model, optimizer=optax.sgd(1.0), average="sentence")
    )
    batch, key = setting.pool_batch(), jax.random.key(0)
    found = []
    for losses, tau, nll_weight in (({"margin": 0.4}, 0.3, 2.0), ({"risk": 5.0}, 0.2, 0.0)):
        weights = dict.fromkeys(LOSSES, 0.0) | losses
        settings = LossSettings(weights, tau, nll_weight=nll_weight)
        state, _ = shared(setting.state(), batch, key, setting.columns, settings)
        found.append(state.params)
    assert shared._cache_size() == 1
    alone = setting.step(settings=LossSettings({"risk": 5.0}, 0.2))
    close(found[1], alone(setting.state(), batch, key, setting.columns)[0].params, 1e-5)
    first, second = (jax.tree.leaves(params)[0] for params in found)
    assert not np.allclose(first, second, atol=1e-4)


def test_rows_of_padding_change_no_update():
    setting = Setting()
    key = jax.random.key(0)
    padded, _ = setting.step()(setting.state(), setting.pool_batch(), key, setting.columns)
    tight = setting.pool_batch(rows=2)
    alone, _ = setting.step()(setting.state(), tight, key, setting.columns)
    close(padded.params, alone.params, 1e-5)


def test_a_step_lowers_the_loss_it_takes():
    setting = Setting()
    optimizer = optax.sgd(0.01)
    step = setting.step(optimizer=optimizer)
    state, losses = setting.state(optimizer), []
    for _ in range(4):
        state, metrics = step(state, setting.pool_batch(), jax.random.key(0), setting.columns)
        losses.append(float(metrics["loss"][0]))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.01
    assert int(state.step) == 4


@pytest.mark.parametrize("average", ["sentence", "token"])
def test_the_nll_step_takes_the_gradient_of_the_mean_it_names(average):
    setting = Setting()
    data = nll_batch(setting.batch)
    optimizer = optax.sgd(1.0)
    step = partial(
        nll_step,
        model=setting.model,
        optimizer=optimizer,
        average=average,
        label_smoothing=0.0,
        rdrop=0.0,
    )
    state, metrics = jax.jit(step)(setting.state(), data, jax.random.key(0), setting.columns)
    lengths = [len(e.target) for e in setting.examples]
    count = len(lengths) if average == "sentence" else sum(lengths)

    def mean(params):
        golds = [setting.plain_scores(params, [s.labeling], i)[0] for i, s in enumerate(SENTENCES)]
        return -sum(golds) / count

    value, grads = jax.jit(jax.value_and_grad(mean))(setting.params)
    total, denominator = metrics["loss"]
    close(total / denominator, value)
    close(state.params, jax.tree.map(lambda p, g: p - g, setting.params, grads))


def rdrop_loss(setting: Setting, rdrop: float) -> tuple[float, Any]:
    """The loss of a step of stage 0, and the parameters after it."""
    step = partial(
        nll_step, model=setting.model, optimizer=optax.sgd(1.0), average="sentence",
        label_smoothing=0.1, rdrop=rdrop,
    )  # fmt: skip
    data = nll_batch(setting.batch)
    state, metrics = jax.jit(step)(setting.state(), data, jax.random.key(0), setting.columns)
    total, sentences = metrics["loss"]
    close(sentences, 2.0)
    return float(total / sentences), state.params


@pytest.mark.parametrize("normalise", ["legal", "full"])
def test_two_readings_of_a_sentence_agree_without_dropout(normalise):
    setting = Setting(normalise=normalise)
    close(rdrop_loss(setting, 5.0), rdrop_loss(setting, 0.0), 1e-5)


def test_rdrop_adds_half_the_divergence_of_two_readings_to_the_mean_of_their_losses():
    setting = Setting("aligned", dropout=0.3)
    twice = jax.tree.map(lambda x: np.repeat(x, 2, 0), nll_batch(setting.batch))
    key = jax.random.fold_in(jax.random.key(0), 0)
    logp, smooth, mask = _nll_scores(setting.model, setting.params, twice, setting.columns, key)
    scores = ((0.9 * logp + 0.1 * smooth) * mask).sum(1)
    # Two readings of the first sentence, then two of the second.
    assert len({float(score) for score in scores[:4]}) == 4
    none, one, two = (rdrop_loss(setting, r)[0] for r in (1e-9, 1.0, 2.0))
    close(none, -float(scores[:4].mean()) * 2 / 2, 1e-5)
    assert one - none > 1e-4
    close(two - one, one - none, 1e-3)


@pytest.mark.parametrize(
    ("normalise", "logits"), [("legal", 0), ("full", 1 << 24), ("full", 4 * 3 * 256)]
)
def test_divergences_are_those_of_neighbouring_rows(normalise, logits, monkeypatch):
    monkeypatch.setattr(projection, "_LOGITS", logits)
    setting = Setting(normalise=normalise)
    hidden = jax.random.normal(jax.random.key(0), (4, 7, 32))

    def plain(hidden):
        every = setting.model.apply(
            {"params": setting.params}, hidden, setting.columns.columns_C, method="logits"
        )
        p, q = (jax.nn.softmax(every[first::2]) for first in (0, 1))
        there = (p * jnp.log(p / q)).sum(-1)
        back = (q * jnp.log(q / p)).sum(-1)
        return (there + back) / 2

    def found(hidden):
        return projection.divergences(setting.model, setting.params, hidden, setting.columns)

    close(jax.jit(found)(hidden), plain(hidden), 1e-5)
    weight = jax.random.normal(jax.random.key(1), (2, 7))

    def gradient(function):
        return jax.jit(jax.grad(lambda x: (function(x) * weight).sum()))(hidden)

    close(gradient(found), gradient(plain), 1e-4)


def test_dropout_draws_depend_on_the_step_alone():
    setting = Setting(dropout=0.3)
    step = setting.step()
    first, _ = step(setting.state(), setting.pool_batch(), jax.random.key(0), setting.columns)
    again, _ = step(setting.state(), setting.pool_batch(), jax.random.key(0), setting.columns)
    close(first.params, again.params, 0)
    later = dataclasses.replace(setting.state(), step=jnp.int32(7))
    other, _ = step(later, setting.pool_batch(), jax.random.key(0), setting.columns)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first.params, other.params)
    assert not all(jax.tree.leaves(same))
