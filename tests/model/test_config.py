"""Presets are the released shapes; Hugging Face configurations mean what transformers means."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from groot_jax.errors import UserError
from groot_jax.model.config import T5Config, from_scratch, preset
from groot_jax.model.param_tree import param_shapes


@pytest.mark.parametrize(
    ("name", "variant", "millions"),
    # Parameters of the released checkpoints, as transformers counts them.
    [
        ("small", "v1_0", 60.5),
        ("base", "v1_0", 222.9),
        ("large", "v1_0", 737.7),
        ("xl", "v1_0", 2851.6),
        ("xxl", "v1_0", 11307.3),
        ("small", "v1_1", 77.0),
        ("base", "v1_1", 247.6),
        ("large", "v1_1", 783.2),
        ("xl", "v1_1", 2849.8),
        ("xxl", "v1_1", 11135.3),
    ],
)
def test_presets_have_the_released_parameter_counts(name, variant, millions):
    shapes = param_shapes(preset(name, variant, 32128))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_preset_takes_changes():
    config = preset("nano", "v1_1", 500, dropout_rate=0.0, dtype="bfloat16")
    assert (config.d_model, config.dropout_rate, config.dtype) == (128, 0.0, "bfloat16")
    assert config.gated
    assert config.activation == "gelu_new"
    assert not preset("mini", "v1_0", 500).gated


def test_a_model_from_scratch_may_have_other_layers_than_its_preset():
    from configs.default import get_config

    model = get_config().model
    model.encoder_layers, model.dropout = 3, 0.25
    config = from_scratch(model, 500)
    assert config.num_layers == 3
    assert config.num_decoder_layers == preset("nano", "tied", 9).num_decoder_layers
    assert (config.vocab_size, config.dropout_rate) == (500, 0.25)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: preset("tiny", "v1_1", 9), ["model.preset", "tiny", "nano"]),
        (lambda: preset("nano", "v2", 9), ["model.variant", "v2", "v1_0"]),
        (lambda: preset("nano", "v1_1", 9, dtype="float16"), ["dtype", "float16", "bfloat16"]),
        (lambda: preset("nano", "v1_1", 9, remat="some"), ["remat", "some", "full"]),
        (
            lambda: preset("nano", "v1_1", 9, feed_forward_proj="gated-tanh"),
            ["feed_forward_proj", "gated-tanh", "relu"],
        ),
        (lambda: T5Config.from_hf({"model_type": "bert"}), ["model_type", "bert", "t5"]),
        (lambda: T5Config.from_hf({"d_model": 8}), ["config.json", "vocab_size"]),
    ],
)
def test_unknown_values_are_named(call, words):
    with pytest.raises(UserError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)


def test_absent_keys_get_the_defaults_of_transformers_class(tiny):
    transformers = pytest.importorskip("transformers")
    shapes = {
        "vocab_size": 40,
        "d_model": 16,
        "d_kv": 6,
        "d_ff": 20,
        "num_layers": 2,
        "num_heads": 3,
    }
    for kind, cls in (("t5", transformers.T5Config), ("mt5", transformers.MT5Config)):
        ours = T5Config.from_hf({"model_type": kind, **shapes})
        theirs = cls(**shapes)
        # Since version 5 the first is always true there, and before it there is no second.
        apart = {"tie_word_embeddings", "scale_decoder_outputs"}
        if transformers.__version__ < "5":
            assert ours.tie_word_embeddings == theirs.tie_word_embeddings
        elif kind == "t5":
            assert ours.scale_decoder_outputs == theirs.scale_decoder_outputs
        for field in dataclasses.fields(ours):
            if field.name not in apart | {
                "dtype",
                "remat",
                "scan_layers",
                "bias_per_layer",
                "decoder_start_token_id",
            }:
                assert getattr(ours, field.name) == getattr(theirs, field.name), (kind, field.name)


def test_config_survives_the_way_through_hugging_face_json(tiny):
    transformers = pytest.importorskip("transformers")
    for variant in ("v1_0", "v1_1"):
        config = tiny(variant)
        theirs = transformers.T5Config.from_dict(config.to_hf()).to_dict()
        if transformers.__version__ >= "5":  # Of ties only the weights tell.
            assert theirs["tie_word_embeddings"]
            theirs["tie_word_embeddings"] = config.tie_word_embeddings
        assert T5Config.from_hf(theirs) == config


def test_what_version_5_writes_says_apart_whether_outputs_are_scaled():
    shapes = {"vocab_size": 9, "d_model": 4, "d_kv": 2, "d_ff": 8, "num_layers": 1, "num_heads": 2}

    def scaled(**written):
        return T5Config.from_hf({**shapes, **written}).scale_decoder_outputs

    by_4, by_5 = {"transformers_version": "4.57.6"}, {"transformers_version": "5.24.0"}
    tied = {"tie_word_embeddings": True}
    assert scaled(**by_4, **tied) and not scaled(**by_4, tie_word_embeddings=False)
    assert scaled(**by_5, **tied, scale_decoder_outputs=True)
    assert not scaled(**by_5, **tied, scale_decoder_outputs=False)
    assert scaled(**by_4, **tied, model_type="mt5")
    assert not scaled(**by_5, **tied, model_type="mt5")
    assert not scaled(transformers_version="10.0.0", **tied, model_type="mt5")
