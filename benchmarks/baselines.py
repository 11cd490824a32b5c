"""What a user would pick instead: T5 of CTranslate2, of transformers in Flax and in torch, and
scoring by tiling.

Everything is jitted where it can be, batched and cached as the library offers it. torch is used
where it is installed, on the device that the benchmark runs on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

# transformers decides once per process whether torch is there, and groot_jax, which never wants it,
# hides torch when it loads a tokenizer.
import transformers.utils.import_utils  # noqa: F401

from benchmarks.measure import Params
from groot_jax.contrast import losses
from groot_jax.contrast.losses import LossSettings
from groot_jax.contrast.update import PoolBatch
from groot_jax.data.batches import Batch
from groot_jax.data.format import Format
from groot_jax.export.translator import write_model
from groot_jax.model.config import T5Config
from groot_jax.model.layers import relative_position_bucket
from groot_jax.reward.pool import Pool

if TYPE_CHECKING:
    from transformers import FlaxT5ForConditionalGeneration

Array: TypeAlias = Any  # numpy on the host, jax.Array once it is on a device
Translator: TypeAlias = Any  # CTranslate2's; it is not installed everywhere either.
TorchT5: TypeAlias = Any  # torch is not installed everywhere, and never where types are checked.


def _bucket(
    relative_position: jax.Array,
    bidirectional: bool = True,
    num_buckets: int = 32,
    max_distance: int = 128,
) -> jax.Array:
    """Ours in place of transformers' own, which asks `jnp.clip` for an argument that current JAX
    no longer has. The formula is the same."""
    return relative_position_bucket(relative_position, bidirectional, num_buckets, max_distance)


# ---- Flax -------------------------------------------------------------------------------------


def flax_t5(config: T5Config) -> FlaxT5ForConditionalGeneration:
    """transformers' Flax T5 without parameters: it takes ours, whose tree is the same."""
    # Their import takes seconds, and whoever compares with nothing imports this module, too.
    from transformers import FlaxT5ForConditionalGeneration
    from transformers import T5Config as HfConfig
    from transformers.models.t5 import modeling_flax_t5

    setattr(  # noqa: B010
        modeling_flax_t5.FlaxT5Attention, "_relative_position_bucket", staticmethod(_bucket)
    )
    values = {k: v for k, v in config.to_hf().items() if k not in ("model_type", "torch_dtype")}
    return FlaxT5ForConditionalGeneration(
        HfConfig(**values), dtype=jnp.dtype(config.dtype), _do_init=False
    )


def flax_params(model: FlaxT5ForConditionalGeneration, config: T5Config, params: Params) -> Params:
    """Our parameters in the type that its user would run: half precision for half precision."""
    return model.to_bf16(params) if config.dtype == "bfloat16" else params


def flax_generate(
    model: FlaxT5ForConditionalGeneration, *, k: int, steps: int
) -> Callable[[Params, Array], tuple[jax.Array, jax.Array]]:
    """(params, source_BxS) -> (tokens_BxKxT without the start token, scores_BxK), to be jitted."""

    def generate(params: Params, source_BxS: Array) -> tuple[jax.Array, jax.Array]:
        B = source_BxS.shape[0]
        # Without a length penalty a beam is ranked by the sum of its log-probabilities, as ours is.
        output = model.generate(
            source_BxS,
            attention_mask=(source_BxS != model.config.pad_token_id).astype(jnp.int32),
            params=params,
            num_beams=k,
            num_return_sequences=k,
            max_new_tokens=steps,
            length_penalty=0.0,
            do_sample=False,
        )
        # [B * K, 1 + T] -> [B, K, T]
        return output.sequences.reshape(B, k, -1)[:, :, 1:], output.scores.reshape(B, k)

    return generate


# ---- Loss by tiling ---------------------------------------------------------------------------


class TiledBatch(NamedTuple):
    """A pool in the plain layout: each candidate a row with its sentence's source beside it."""

    source_RxS: Array  # R = B * M rows
    target_RxT: Array  # ids, EOS last, then 0
    length_BxM: Array  # tokens; 0: no candidate there
    rewards_BxM: Array
    in_contrast_BxM: Array  # False for gold that is there for its likelihood alone
    gold_BxM: Array


def tile(batch: PoolBatch) -> TiledBatch:
    """The plain layout of token trees, as wide as the largest pool and the longest target.

    An edge of a tree is a token after a prefix (its node). A candidate is the set of its edges; the
    depth of an edge's node is the token's place, so that `a b` with edges (root, a) at depth 0 and
    (a, b) at depth 1 becomes the row [a, b, 0, ...].
    """
    assert batch.groups == 1
    forest = batch.forest
    path_BxMxE = np.asarray(forest.path_BxMxE)
    length_BxM = np.asarray(forest.length_BxM)
    depth_BxE = np.asarray(forest.depth_RxN).reshape(-1)[np.asarray(forest.edge_node_BxE)]
    label_BxE = np.asarray(forest.edge_label_BxE)
    # Our pools are padded to the config's size; theirs get no wider than the fullest of the batch.
    B = len(length_BxM)
    M = int(np.flatnonzero((length_BxM > 0).any(0)).max(initial=0)) + 1
    target_BxMxT = np.zeros((B, M, int(length_BxM.max())), np.int32)
    for b, m in np.argwhere(length_BxM[:, :M] > 0).tolist():
        edges = np.flatnonzero(path_BxMxE[b, m])
        target_BxMxT[b, m, depth_BxE[b, edges]] = label_BxE[b, edges]
    return TiledBatch(
        source_RxS=np.repeat(np.asarray(batch.source_BxS), M, axis=0),
        target_RxT=target_BxMxT.reshape(B * M, -1),
        length_BxM=length_BxM[:, :M],
        rewards_BxM=np.asarray(batch.rewards_BxM)[:, :M],
        in_contrast_BxM=np.asarray(batch.in_contrast_BxM)[:, :M],
        gold_BxM=np.asarray(batch.gold_BxM)[:, :M],
    )


def plain_batch(
    batch: Batch,
    pools: Mapping[int, Pool],
    tokens_BxKxT: np.ndarray,
    format_: Format,
    size: int,
) -> TiledBatch:
    """The plain layout straight from ranked pools, of one shape for each bucket of lengths.

    size: M; pools hold gold (config.groot.pool.gold) wherever it can be written.
    """
    B, T = batch.target_BxT.shape
    target_BxMxT = np.zeros((B, size, T), np.int32)
    rewards_BxM = np.zeros((B, size), np.float32)
    gold_BxM = np.zeros((B, size), bool)
    for b, example in enumerate(batch.examples):
        if example is None:
            continue
        sentence = example.sentence
        # A malformed output is no labeling: what is scored is the very tokens that the beam wrote.
        for m, entry in enumerate(pools.get(example.index, ())):
            if entry.well_formed:
                ids = format_.target(entry.labeling, sentence.words)
            else:
                ids = tuple(id_ for id_ in tokens_BxKxT[b, entry.slot].tolist() if id_)
            target_BxMxT[b, m, : len(ids)] = ids
            rewards_BxM[b, m] = entry.reward
            gold_BxM[b, m] = entry.well_formed and entry.labeling == sentence.labeling
    length_BxM = (target_BxMxT != 0).sum(-1)
    return TiledBatch(
        source_RxS=np.repeat(batch.source_BxS, size, axis=0),
        target_RxT=target_BxMxT.reshape(B * size, T),
        length_BxM=length_BxM,
        rewards_BxM=rewards_BxM,
        in_contrast_BxM=length_BxM > 0,
        gold_BxM=gold_BxM,
    )


def tiled_loss(
    model: FlaxT5ForConditionalGeneration,
    params: Params,
    batch: TiledBatch,
    settings: LossSettings,
    columns_C: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """The loss of `groot_step`: mean contrast over sentences + lambda * mean of -s(gold).

    columns_C: vocabulary columns that the softmax runs over; None: all. The model projects to the
    whole vocabulary in either case, which is all that its interface offers.
    """
    # The decoder reads the target one place later: [a, b, EOS] -> [start, a, b].
    start = model.config.decoder_start_token_id
    inputs_RxT = jnp.pad(batch.target_RxT[:, :-1], ((0, 0), (1, 0)), constant_values=start)
    logits_RxTxV = model(
        batch.source_RxS,
        attention_mask=(batch.source_RxS != model.config.pad_token_id).astype(jnp.int32),
        decoder_input_ids=inputs_RxT,
        decoder_attention_mask=jnp.ones_like(inputs_RxT),
        params=params,
        train=dropout_key is not None,
        dropout_rng=dropout_key,
    ).logits.astype(jnp.float32)
    target_RxT = batch.target_RxT
    if columns_C is None:
        norm_RxT = jax.nn.logsumexp(logits_RxTxV, axis=-1)
    else:
        norm_RxT = jax.nn.logsumexp(logits_RxTxV[..., columns_C], axis=-1)
    picked_RxT = jnp.take_along_axis(logits_RxTxV, target_RxT[..., None], axis=-1)[..., 0]
    # s(y): the sum of log p over the real tokens of y, EOS included.
    real_RxT = target_RxT != model.config.pad_token_id
    scores_BxM = jnp.where(real_RxT, picked_RxT - norm_RxT, 0.0).sum(1)
    scores_BxM = scores_BxM.reshape(batch.rewards_BxM.shape)  # [B * M] -> [B, M]
    pools = losses.ScoredPools(
        scores_BxM, batch.rewards_BxM, batch.in_contrast_BxM, batch.length_BxM
    )
    # Means run over sentences that have anything to score, not over the rows that fill up a batch.
    real_B = (batch.gold_BxM | batch.in_contrast_BxM).any(1)
    sentences = jnp.maximum(real_B.sum().astype(jnp.float32), 1.0)
    gold_sum = jnp.where(batch.gold_BxM, scores_BxM, 0.0).sum()
    return (losses.contrast(pools, settings).sum() - settings.nll_weight * gold_sum) / sentences


# ---- torch ------------------------------------------------------------------------------------


def torch_device() -> str | None:
    """Where torch would run beside JAX; None where it is not installed or has no such device."""
    if find_spec("torch") is None:
        return None
    import torch

    if jax.default_backend() == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else None


def torch_t5(folder: Path, dtype: str, device: str) -> TorchT5:
    """transformers' torch T5 from a folder of `save_pretrained`, for inference."""
    import torch
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(folder, torch_dtype=getattr(torch, dtype))
    return model.eval().to(device)


def torch_generate(
    model: TorchT5, source_BxS: np.ndarray, *, k: int, steps: int
) -> Callable[[], np.ndarray]:
    """A call that returns tokens_BxKxT without the start token, waiting for the device."""
    import torch

    source = torch.from_numpy(np.asarray(source_BxS, np.int64)).to(model.device)
    mask = (source != model.config.pad_token_id).long()

    def generate() -> np.ndarray:
        with torch.inference_mode():
            output = model.generate(
                source,
                attention_mask=mask,
                num_beams=k,
                num_return_sequences=k,
                max_new_tokens=steps,
                length_penalty=0.0,
                do_sample=False,
            )
        # [B * K, 1 + T] -> [B, K, T]; copying to the host waits for the device.
        tokens: np.ndarray = output.reshape(len(source), k, -1)[:, :, 1:].cpu().numpy()
        return tokens

    return generate


# ---- CTranslate2 ------------------------------------------------------------------------------


def ct2_translators(
    config: T5Config, params: Params, folder: Path, unknown: int
) -> dict[str, Translator]:
    """The model in CTranslate2, converted into `folder`, once for each type that is compared and
    that it has here: float32, int8 and, on a GPU, bfloat16. None without CTranslate2.

    int8 is its own quantisation of kernels, each row of one with a scale, and of what they are
    multiplied with. It gets all cores for one batch, as our program does.
    """
    if find_spec("ctranslate2") is None:
        return {}
    # Before torch is imported or with it: the writer hides it from CTranslate2's converters.
    write_model(config, params, folder, "float32", unknown=unknown)
    import ctranslate2

    cpu = jax.default_backend() == "cpu"
    device = "cpu" if cpu else "cuda"
    if device == "cuda" and not ctranslate2.get_cuda_device_count():
        return {}
    types = ("float32", "int8") if cpu else ("float32", "int8", "bfloat16")
    supported = ctranslate2.get_supported_compute_types(device)
    return {
        type_: ctranslate2.Translator(
            str(folder),
            device=device,
            compute_type=type_,
            inter_threads=1,
            intra_threads=len(os.sched_getaffinity(0)) if cpu else 0,
        )
        for type_ in types
        if type_ in supported
    }


def ct2_generate(
    translator: Translator, source_BxS: np.ndarray, *, k: int, steps: int
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A call that returns tokens_BxKxT and scores_BxK, best first.

    Every output has `steps` tokens: its own stop rule, which ends a sentence when the best beam has
    ended, never comes to bear.
    """
    sources = [[f"<id_{id_}>" for id_ in ids if id_] for ids in np.asarray(source_BxS).tolist()]

    def generate() -> tuple[np.ndarray, np.ndarray]:
        results = translator.translate_batch(
            sources,
            beam_size=k,
            num_hypotheses=k,
            length_penalty=0.0,
            min_decoding_length=steps,
            max_decoding_length=steps,
            max_input_length=0,
            return_scores=True,
        )
        # `<id_7>` -> 7.
        tokens = [[[int(t[4:-1]) for t in ids] for ids in r.hypotheses] for r in results]
        return np.array(tokens, np.int32), np.array([r.scores for r in results], np.float32)

    return generate
