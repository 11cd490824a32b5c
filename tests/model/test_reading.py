"""Checkpoints are proven by their headers, read in parts, and refused where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from groot_jax.errors import UserError
from groot_jax.model import pretrained, stored
from groot_jax.model.config import T5Config
from groot_jax.model.param_tree import param_shapes
from groot_jax.model.pretrained import (
    load_pretrained,
    open_checkpoint,
    resize_embeddings,
    save_pretrained,
    torch_name,
)

FAMILIES = sorted((Path(__file__).parent / "transformers5").glob("*.json"))
TYPES = {"F32": np.float32}


def as_torch(params):
    return {
        torch_name(k): np.ascontiguousarray(np.asarray(v).T if k[-1] == "kernel" else v)
        for k, v in flatten_dict(params).items()
    }


@pytest.mark.parametrize("file", FAMILIES, ids=lambda file: file.stem)
def test_what_transformers_5_wrote_loads_with_its_own_head_and_scale(file, tmp_path):
    """Config and header are its own (write_headers.py); the weights are random."""
    written = json.loads(file.read_text())
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape).astype(TYPES[kind])
        for name, (kind, shape) in written["tensors"].items()
    }
    (tmp_path / "config.json").write_text(json.dumps(written["config"]))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config, params = load_pretrained(tmp_path)
    tied = file.stem in ("t5", "umt5")
    assert config.tie_word_embeddings == tied == config.scale_decoder_outputs
    assert config.bias_per_layer == (file.stem == "umt5")
    loaded = as_torch(params)
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)


@pytest.fixture
def folder(tiny, random_params, tmp_path):
    save_pretrained(tmp_path, tiny("v1_1"), random_params(tiny("v1_1")))
    return tmp_path


def rewrite(folder, change):
    from safetensors.numpy import load_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def set_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_each_device_reads_its_own_part(folder, tiny, random_params, monkeypatch):
    """Elements that are asked of the file, under a sharding of two devices of which one is ours."""
    params = random_params(tiny("v1_1"))
    key = ("encoder", "block", "1", "layer", "1", "DenseReluDense", "wi_0", "kernel")
    checkpoint = open_checkpoint(folder)
    asked = []
    elements = stored.StoredTensor._elements

    def counted(self, start, stop):
        asked.append((self.name, start, stop))
        return elements(self, start, stop)

    monkeypatch.setattr(stored.StoredTensor, "_elements", counted)
    # The second half of wi_0's columns, [16, 20], is rows 10 to 19 of the file's [20, 16].
    half = checkpoint._read(key, (slice(0, 16), slice(10, 20)))
    np.testing.assert_array_equal(half, flatten_dict(params)[key][:, 10:])
    assert asked == [(torch_name(key), 160, 320)]


@pytest.mark.parametrize("form", ["safetensors", "msgpack"])
def test_placed_parameters_are_those_on_the_host(folder, tiny, random_params, form):
    params = random_params(tiny("v1_1"))
    if form == "msgpack":
        (folder / "model.safetensors").unlink()
        (folder / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(params))
    checkpoint = open_checkpoint(folder)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda _: everywhere, params)
    placed = flatten_dict(checkpoint.params(45, shardings))
    host = flatten_dict(checkpoint.params(45))
    grown = flatten_dict(resize_embeddings(params, 45))
    assert placed.keys() == host.keys() == grown.keys()
    for key in grown:
        assert isinstance(placed[key], jax.Array)
        np.testing.assert_array_equal(placed[key], host[key])
        np.testing.assert_allclose(host[key], grown[key], rtol=1e-6, atol=1e-6)
    # A part that lies across the old rows and the new ones, and one of new ones alone.
    for rows in (slice(38, 43), slice(42, 45)):
        part = checkpoint._read(("lm_head", "kernel"), (slice(3, 9), rows))
        np.testing.assert_array_equal(part, host["lm_head", "kernel"][3:9, rows])


def test_on_a_cpu_a_parameter_is_the_memory_that_it_was_read_into(folder, tiny, monkeypatch):
    """Nothing is there twice: of xl, 11 GB, a second copy would not fit."""
    made = set()
    aligned = pretrained.aligned

    def noted(shape):
        out = aligned(shape)
        made.add(out.ctypes.data)
        return out

    monkeypatch.setattr(pretrained, "aligned", noted)
    mesh = Mesh(np.array(jax.devices("cpu")[:1]), ("data",))
    shapes = param_shapes(tiny("v1_1"))
    shardings = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), shapes)
    placed = jax.tree.leaves(open_checkpoint(folder).params(None, shardings))
    assert {x.unsafe_buffer_pointer() for x in placed} == made
    assert len(made) == len(placed)


def test_arrays_that_flax_cut_in_chunks_are_one(tmp_path, monkeypatch):
    from flax import serialization

    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    table = np.arange(60, dtype=np.float32).reshape(12, 5)
    (tmp_path / "a.msgpack").write_bytes(
        serialization.msgpack_serialize({"shared": {"embedding": table}, "b": table[0, :3]})
    )
    found = stored.read_headers(tmp_path / "a.msgpack")
    assert {name: t.shape for name, t in found.items()} == {"shared/embedding": (12, 5), "b": (3,)}
    assert len(found["shared/embedding"].pieces) > 2
    out = np.zeros((7, 2), np.float32)
    found["shared/embedding"].read_into(out, (slice(3, 10), slice(1, 3)))
    np.testing.assert_array_equal(out, table[3:10, 1:3])


@pytest.mark.parametrize("cut", [1, 5, 40, 200, -1])
def test_a_file_that_was_cut_off_is_refused(folder, tiny, random_params, cut):
    data = flax.serialization.to_bytes(random_params(tiny("v1_1")))
    (folder / "cut.msgpack").write_bytes(data[:cut])
    with pytest.raises(UserError, match="cannot be read as Flax msgpack"):
        stored.read_headers(folder / "cut.msgpack")


Q = "encoder.block.0.layer.0.SelfAttention.q.weight"


def spoiled(value, dtype=np.float32):
    def change(tensors):
        tensors[Q] = tensors[Q].astype(dtype)
        tensors[Q][2, 1] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        spoiled(np.nan),
        spoiled(-np.inf),
        spoiled(np.inf, ml_dtypes.bfloat16),
        spoiled(np.nan, np.float16),
        spoiled(1e300, np.float64),
    ],
    ids=["nan", "inf", "bfloat16", "float16", "too large"],
)
def test_weights_that_are_no_numbers_are_refused_by_name(folder, change):
    rewrite(folder, change)
    with pytest.raises(UserError, match=rf"{Q}' holds NaN or infinite values \(first in row 2\)"):
        open_checkpoint(folder).params()


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, bool])
def test_whole_number_weights_are_refused_by_the_header(folder, dtype):
    rewrite(folder, lambda tensors: tensors.update({Q: tensors[Q].astype(dtype)}))
    with pytest.raises(UserError, match=f"'{Q}' is of type .*quantized or whole-number"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_model": "16"}, "d_model is '16', but has to be a whole number of 1 to"),
        ({"vocab_size": 1 << 33}, "vocab_size is 8589934592, but .* of 1 to 16777216"),
        ({"num_layers": 10**9}, "num_layers is 1000000000, but .* of 1 to 1000"),
        ({"relative_attention_num_buckets": 1 << 40}, "num_buckets is 1099511627776, but"),
        ({"num_heads": 8192, "d_kv": 8192}, "num_heads is 8192 and d_kv 8192, but their product"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon is 1000"),
        ({"d_ff": 20.0}, "d_ff is 20.0, but"),
        ({"num_layers": 0}, "num_layers is 0, but"),
        ({"num_heads": True}, "num_heads is True, but"),
        ({"vocab_size": [40]}, r"vocab_size is \[40\], but"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', but .* true or false"),
        ({"scale_decoder_outputs": 1}, "scale_decoder_outputs is 1, but"),
        ({"dropout_rate": 1}, "dropout_rate is 1, but has to be at least 0 and below 1"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon is '1e-6'"),
        ({"relative_attention_num_buckets": 2}, "num_buckets is 2"),
        ({"relative_attention_max_distance": 4}, "max_distance is 4, but has to be above half"),
        ({"eos_token_id": []}, r"eos_token_id is \[\]"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"pad_token_id": 40}, "pad_token_id is 40, but vocab_size is 40"),
        ({"feed_forward_proj": 3}, "feed_forward_proj is 3, but has to be text"),
        ({"feed_forward_proj": "gated-tanh"}, "'gated-tanh' is not known"),
        ({"dense_act_fn": "relu"}, "they have to say the same"),
        ({"is_gated_act": False}, "they have to say the same"),
        ({"model_type": ["t5"]}, r"model_type is \['t5'\]"),
        ({"quantization_config": {"bits": 8}}, "quantization_config"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_value_of_the_config_is_one_sentence(folder, changes, words):
    set_config(folder, **changes)
    with pytest.raises(UserError, match=words) as caught:
        open_checkpoint(folder)
    assert str(folder / "config.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_several_ids_that_end_an_output_the_tokenizers_is_taken(folder):
    set_config(folder, eos_token_id=[2, 1])
    assert open_checkpoint(folder, eos_id=1).config.eos_token_id == 1
    assert open_checkpoint(folder).config.eos_token_id == 2


@pytest.mark.parametrize("name", ["swish", "gated-swish"])
def test_swish_is_silu(tiny, name):
    config = T5Config.from_hf(tiny().to_hf() | {"feed_forward_proj": name, "dense_act_fn": "swish"})
    assert config.activation == "silu"
    assert config.gated == name.startswith("gated")


def test_a_tensor_in_two_shards_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model-2.safetensors").write_bytes((folder / "model-1.safetensors").read_bytes())
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-1\.safetensors and model-2\.safetensors hold"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", ['{"weight_map": {"a": 1}}', "[" * 100_000], ids=["name", "deep"])
def test_an_index_that_is_none_is_one_sentence(folder, text):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="file '1', which is not|no index of weight files"):
        open_checkpoint(folder)


def test_an_embedding_without_rows_is_one_sentence(folder):
    """Beside a head, with which it is compared, since version 5 says that every head is tied."""
    set_config(folder, tie_word_embeddings=True)
    rewrite(folder, lambda tensors: tensors.update({"shared.weight": np.array(1, np.float32)}))
    with pytest.raises(UserError, match=r"'shared.weight' has shape \(\), but"):
        open_checkpoint(folder)
