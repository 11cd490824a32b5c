"""The model in the files of transformers and of Flax: weights, configuration, search settings."""

from __future__ import annotations

import json
from pathlib import Path

import flax.serialization

from groot_jax.evaluation.records import Json
from groot_jax.model.config import T5Config
from groot_jax.model.layers import Params
from groot_jax.model.pretrained import portable, save_pretrained
from groot_jax.task import Task
from groot_jax.trained import Trained

FLAX_FILE = "flax_model.msgpack"


def write_transformers(trained: Trained, folder: Path) -> None:
    """config.json, safetensors and generation_config.json, which transformers 4.57 and 5 load."""
    save_pretrained(folder, trained.task.model_config, trained.params)
    text = json.dumps(generation_config(trained.task), indent=2, sort_keys=True) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")


def write_flax(trained: Trained, folder: Path) -> None:
    """flax_model.msgpack, of the very parameters that `write_transformers` writes."""
    write_msgpack(folder, trained.task.model_config, trained.params)


def write_msgpack(folder: Path, config: T5Config, params: Params) -> None:
    """As `write_flax`. Raises UserError where the parameters are not those of `config`."""
    _, params = portable(config, params, folder)
    (folder / FLAX_FILE).write_bytes(flax.serialization.msgpack_serialize(params))


def generation_config(task: Task) -> Json:
    """Our search as `generate` of transformers takes it. What it lacks is the grammar."""
    settings, model = task.config.generate, task.model_config
    return {
        "do_sample": False,
        "num_beams": settings.k,
        "num_return_sequences": settings.k,
        # Until no running beam can reach the worst of the list: the rule of our search.
        "early_stopping": "never" if settings.k > 1 else False,
        "length_penalty": settings.length_penalty,
        "max_new_tokens": max(target for _, target in task.ladder.rungs),
        "decoder_start_token_id": model.decoder_start_token_id,
        "eos_token_id": model.eos_token_id,
        "pad_token_id": model.pad_token_id,
    }
