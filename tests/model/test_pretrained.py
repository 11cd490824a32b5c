"""Checkpoints of transformers come in, ours go out, and broken ones are named in one sentence."""

from __future__ import annotations

import dataclasses
import json

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from groot_jax.errors import UserError
from groot_jax.model.pretrained import (
    load_pretrained,
    resize_embeddings,
    save_pretrained,
    torch_name,
)
from groot_jax.model.t5 import T5

VARIANTS = ["v1_0", "v1_1"]


def assert_equal_trees(ours, theirs):
    ours, theirs = flatten_dict(ours), flatten_dict(theirs)
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=str(key))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_saved_loads_again(tiny, random_params, tmp_path, variant):
    config = tiny(variant)
    params = random_params(config)
    save_pretrained(tmp_path / "new" / "folder", config, params)
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["config.json", "model.safetensors"]
    loaded_config, loaded = load_pretrained(tmp_path / "new" / "folder")
    assert loaded_config == config
    assert_equal_trees(loaded, params)


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_folder_of_transformers_flax_loads(
    tiny, random_params, flax_t5, batch, tmp_path, variant, sharded
):
    config = tiny(variant)
    params = random_params(config)
    model = flax_t5(config)
    model.save_pretrained(tmp_path, params=params, max_shard_size="20KB" if sharded else "1GB")
    assert (tmp_path / "flax_model.msgpack").exists() != sharded
    loaded_config, loaded = load_pretrained(tmp_path)
    assert loaded_config == config
    assert_equal_trees(loaded, params)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_flax_reads_what_we_save(
    tiny, random_params, flax_t5, batch, tmp_path, variant
):
    config = tiny(variant)
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    oracle = type(flax_t5(config)).from_pretrained(tmp_path)
    assert_equal_trees(params, jax.device_get(oracle.params))
    source_BxS, inputs_BxT, _ = batch
    theirs = oracle(source_BxS, (source_BxS != 0).astype(int), inputs_BxT).logits
    ours = jax.jit(T5(config).apply)({"params": params}, source_BxS, inputs_BxT)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("kind", ["whole", "sharded", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_folder_of_transformers_torch_loads(tiny, batch, tmp_path, variant, kind):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import transformers
    from transformers import T5Config as HfConfig
    from transformers import T5ForConditionalGeneration

    config = tiny(variant)
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(HfConfig.from_dict(config.to_hf())).eval()
    if kind == "bfloat16":
        model = model.to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="20KB" if kind == "sharded" else "1GB")
    assert (tmp_path / "model.safetensors").exists() == (kind != "sharded")
    loaded_config, params = load_pretrained(tmp_path)
    # What transformers makes from scratch is tied since version 5, whatever its config says.
    tied = config.tie_word_embeddings or transformers.__version__ >= "5"
    config = dataclasses.replace(config, tie_word_embeddings=tied)
    assert loaded_config == config
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    source_BxS, inputs_BxT, _ = batch
    theirs = torch_logits(model.float(), source_BxS, inputs_BxT)
    ours = jax.jit(T5(config).apply)({"params": params}, source_BxS, inputs_BxT)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_torch_reads_what_we_save(tiny, random_params, tmp_path, variant):
    pytest.importorskip("torch", reason="torch is not installed")
    from transformers import T5ForConditionalGeneration

    config = tiny(variant)
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    model, report = T5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for key, value in flatten_dict(params).items():
        wanted = value.T if key[-1] == "kernel" else value
        np.testing.assert_array_equal(state[torch_name(key)], wanted)


def torch_logits(model, source_BxS, inputs_BxT):
    import torch

    with torch.no_grad():
        return model.eval()(
            input_ids=torch.tensor(source_BxS).long(),
            attention_mask=torch.tensor(source_BxS != 0).long(),
            decoder_input_ids=torch.tensor(inputs_BxT).long(),
        ).logits.numpy()


def is_mt5(folder):
    """Says in a folder's config.json that it is mT5's."""
    path = folder / "config.json"
    written = json.loads(path.read_text()) | {"model_type": "mt5", "architectures": []}
    path.write_text(json.dumps(written))


@pytest.mark.parametrize("kind", ["t5", "mt5"])
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_that_transformers_loads_and_saves_keeps_its_head(
    tiny, random_params, batch, tmp_path, variant, sharded, kind
):
    """Version 5 writes of all of them that their heads are tied."""
    pytest.importorskip("torch", reason="torch is not installed")
    from transformers import MT5ForConditionalGeneration, T5ForConditionalGeneration

    if (variant, kind) == ("v1_0", "mt5"):
        pytest.skip("mT5 has a head of its own")
    model_class = T5ForConditionalGeneration if kind == "t5" else MT5ForConditionalGeneration
    config = tiny(variant)
    save_pretrained(tmp_path / "ours", config, random_params(config))
    if kind == "mt5":
        is_mt5(tmp_path / "ours")
    model = model_class.from_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB" if sharded else "1GB")
    loaded_config, params = load_pretrained(tmp_path / "theirs")
    assert loaded_config == config
    source_BxS, inputs_BxT, _ = batch
    ours = jax.jit(T5(config).apply)({"params": params}, source_BxS, inputs_BxT)
    theirs = torch_logits(model, source_BxS, inputs_BxT)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_a_scale_that_does_not_follow_the_tie_is_written_into_the_head(
    tiny, random_params, batch, tmp_path, tied
):
    pytest.importorskip("torch", reason="torch is not installed")
    from transformers import T5ForConditionalGeneration

    config = dataclasses.replace(
        tiny("v1_1"), tie_word_embeddings=tied, scale_decoder_outputs=not tied
    )
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    source_BxS, inputs_BxT, _ = batch
    ours = jax.jit(T5(config).apply)({"params": params}, source_BxS, inputs_BxT)
    model = T5ForConditionalGeneration.from_pretrained(tmp_path)
    theirs = torch_logits(model, source_BxS, inputs_BxT)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    again, loaded = load_pretrained(tmp_path)
    back = jax.jit(T5(again).apply)({"params": loaded}, source_BxS, inputs_BxT)
    np.testing.assert_allclose(back, ours, atol=1e-5)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "lm_head.weight"])
def test_tied_embedding_is_found_under_its_other_names(tiny, random_params, tmp_path, name):
    config = tiny("v1_0")
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    rewrite(tmp_path, lambda tensors: tensors.update({name: tensors.pop("shared.weight")}))
    assert_equal_trees(load_pretrained(tmp_path)[1], params)


def test_repeated_and_unused_tensors_of_old_checkpoints_are_ignored(tiny, random_params, tmp_path):
    config = tiny("v1_0")
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

    def repeat(tensors):
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
            tensors[f"{name}.weight"] = tensors["shared.weight"].copy()
        tensors[unused] = np.zeros((8, 3), np.float32)

    rewrite(tmp_path, repeat)
    assert_equal_trees(load_pretrained(tmp_path)[1], params)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_embeddings_that_encoder_and_decoder_do_not_share_are_refused(
    tiny, random_params, tmp_path, side
):
    """transformers 5 saves such a model, and loads it as it was."""
    config = tiny("v1_0")
    save_pretrained(tmp_path, config, random_params(config))
    name = f"{side}.embed_tokens.weight"

    def part(tensors):
        tensors[name] = tensors["shared.weight"].copy()
        tensors[name][39, 15] += 1

    rewrite(tmp_path, part)
    with pytest.raises(
        UserError, match=rf"model\.safetensors: the tensor '{name}' is not the same"
    ):
        load_pretrained(tmp_path)


WI = "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.update({WI: np.zeros((21, 16), np.float32)}),
            [WI, "(21, 16)", "(20, 16)"],
        ),
        (
            lambda t: t.pop(WI),
            [WI, "missing", "(20, 16)"],
        ),
        (lambda t: t.pop("shared.weight"), ["shared.weight", "missing", "(40, 16)"]),
        (lambda t: t.update({"adapter.weight": np.zeros(3)}), ["adapter.weight", "none of this"]),
    ],
    ids=["shape", "missing", "embedding", "unknown"],
)
def test_a_wrong_tensor_is_named(tiny, random_params, tmp_path, change, words):
    config = tiny("v1_1")
    save_pretrained(tmp_path, config, random_params(config))
    rewrite(tmp_path, change)
    with pytest.raises(UserError) as caught:
        load_pretrained(tmp_path)
    assert all(word in str(caught.value) for word in [*words, str(tmp_path)])


def _spoil(name, text):
    return lambda folder: (folder / name).write_text(text)


def _only_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _index_outside(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"shared.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _msgpack_garbage(folder):
    (folder / "model.safetensors").unlink()
    (folder / "flax_model.msgpack").write_bytes(b"\x93garbage")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_only_pickles, ["pickles", "safe_serialization=True"]),
        (lambda folder: (folder / "config.json").unlink(), ["config.json", "not found"]),
        (_spoil("config.json", "{"), ["config.json", "JSON"]),
        (_spoil("config.json", "[]"), ["config.json", "object"]),
        (_spoil("model.safetensors", "no tensors"), ["model.safetensors", "safetensors"]),
        (_spoil("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), ["lfs pull"]),
        (_index_outside, ["index.json", "../outside.safetensors"]),
        (_msgpack_garbage, ["flax_model.msgpack", "msgpack"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["flax_model.msgpack"]),
    ],
    ids=[
        "pickle",
        "no config",
        "bad json",
        "list",
        "bad tensors",
        "LFS",
        "path",
        "msgpack",
        "empty",
    ],
)
def test_a_broken_folder_gets_one_sentence(tiny, random_params, tmp_path, spoil, words):
    config = tiny("v1_1")
    save_pretrained(tmp_path, config, random_params(config))
    spoil(tmp_path)
    with pytest.raises(UserError) as caught:
        load_pretrained(tmp_path)
    assert all(word in str(caught.value) for word in [*words, str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_a_refusing_disk_leaves_no_half_file(tiny, random_params, tmp_path, monkeypatch):
    from groot_jax.model import pretrained

    config = tiny("v1_1")
    params = random_params(config)

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_pretrained(tmp_path, config, params)
    assert not list(tmp_path.iterdir())


def test_one_shard_at_a_time_is_turned(tiny, random_params, tmp_path, monkeypatch):
    """Of what is saved there is no whole second copy."""
    import weakref

    from groot_jax.model import pretrained

    config = tiny("v1_1")
    copies: list[weakref.ref[np.ndarray]] = []

    def written(tensors, path, metadata):
        assert [copy for copy in copies if copy() is not None] == []
        copies.extend(weakref.ref(x) for x in tensors.values() if x.base is None)
        path.write_bytes(b"")

    params = random_params(config)
    given = {id(x) for x in jax.tree.leaves(params)}
    # Norms and embeddings are written as they are.
    copied = [key for key in flatten_dict(params) if key[-1] == "kernel"]
    monkeypatch.setattr(
        pretrained,
        "save_file",
        lambda tensors, path, metadata: written(
            {name: x for name, x in tensors.items() if id(x) not in given}, path, metadata
        ),
    )
    save_pretrained(tmp_path, config, params, shard_bytes=20_000)
    assert len(copies) == len(copied) and len([*tmp_path.glob("*.safetensors")]) > 2


def test_parameters_of_another_config_are_not_saved(tiny, random_params, tmp_path):
    with pytest.raises(UserError, match="wi_0"):
        save_pretrained(tmp_path, tiny("v1_1"), random_params(tiny("v1_0")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variant", VARIANTS)
def test_growing_the_vocabulary_keeps_old_logits(tiny, random_params, batch, variant):
    config = tiny(variant)
    params = random_params(config)
    grown = resize_embeddings(params, 50)
    source_BxS, inputs_BxT, _ = batch
    before = jax.jit(T5(config).apply)({"params": params}, source_BxS, inputs_BxT)
    after = jax.jit(T5(tiny(variant, vocab_size=50)).apply)(
        {"params": grown}, source_BxS, inputs_BxT
    )
    assert after.shape[-1] == 50
    np.testing.assert_allclose(after[..., :40], before, atol=1e-5)
    assert params["shared"]["embedding"].shape == (40, 16)
    new = np.asarray(grown["shared"]["embedding"][40:])
    assert len(np.unique(new, axis=0)) == 10


def test_new_embeddings_have_the_moments_of_the_old(tiny, random_params):
    rng = np.random.default_rng(0)
    table = (rng.standard_normal((500, 3)) * [1, 2, 3] + [5, 0, -5]).astype(np.float32)
    grown = resize_embeddings({"shared": {"embedding": table}}, 4500)["shared"]["embedding"]
    np.testing.assert_array_equal(grown[:500], table)
    np.testing.assert_allclose(grown[500:].mean(0), table.mean(0), atol=0.15)
    np.testing.assert_allclose(grown[500:].std(0), table.std(0), rtol=0.05)
    again = resize_embeddings({"shared": {"embedding": table}}, 4500)["shared"]["embedding"]
    np.testing.assert_array_equal(grown, again)


def test_a_vocabulary_does_not_shrink(tiny, random_params):
    with pytest.raises(UserError, match="40 embeddings and the tokenizer only 39"):
        resize_embeddings(random_params(tiny()), 39)
    assert_equal_trees(resize_embeddings(random_params(tiny()), 40), random_params(tiny()))


def test_nested_and_flat_msgpack_are_the_same(tiny, random_params, tmp_path):
    config = tiny("v1_1")
    params = random_params(config)
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(half))
    loaded = load_pretrained(tmp_path)[1]
    assert_equal_trees(loaded, jax.tree.map(lambda x: np.asarray(x, np.float32), half))
    flat = {"/".join(k): v for k, v in flatten_dict(half).items()}
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(flat))
    assert_equal_trees(load_pretrained(tmp_path)[1], unflatten_dict(flatten_dict(loaded)))
