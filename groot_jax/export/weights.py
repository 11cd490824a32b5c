"""The model in the files of transformers and of Flax: weights, configuration, search settings."""

from __future__ import annotations

import json
from pathlib import Path

import flax.serialization

from groot_jax.errors import UserError
from groot_jax.evaluation.records import Json
from groot_jax.model.config import T5Config
from groot_jax.model.layers import Params
from groot_jax.model.pretrained import portable, save_pretrained
from groot_jax.runtime.hiding import imported_without
from groot_jax.task import Task
from groot_jax.trained import Trained

FLAX_FILE = "flax_model.msgpack"
CONFIG_FILE, SEARCH_FILE = "config.json", "generation_config.json"
# Keys of config.json that transformers keeps otherwise: since its version 5 it takes every head for
# a tied one until it has read the weights, and a type becomes torch's where there is torch.
_KEPT_OTHERWISE = {"tie_word_embeddings", "torch_dtype"}


def write_transformers(trained: Trained, folder: Path) -> None:
    """config.json, safetensors and generation_config.json, which transformers 4.57 and 5 load."""
    save_pretrained(folder, trained.task.model_config, trained.params)
    text = json.dumps(generation_config(trained.task), indent=2, sort_keys=True) + "\n"
    (folder / SEARCH_FILE).write_text(text, encoding="utf-8")
    check_read_back(folder)


def check_read_back(folder: Path) -> None:
    """Raises UserError where the transformers that is installed refuses config.json or
    generation_config.json, or takes a key for something else than stands there."""
    with imported_without("transformers", "torch", "tensorflow"):
        # Imported here: of all jobs this one alone needs it, and it takes seconds.
        from transformers import AutoConfig, GenerationConfig, __version__

        try:
            search = GenerationConfig.from_pretrained(folder)
            search.validate(strict=True)
            read = {CONFIG_FILE: AutoConfig.from_pretrained(folder), SEARCH_FILE: search}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"--format=transformers: transformers {__version__} refuses the settings of this "
                f"labeler ({reason}): change config.generate, or take --format=stablehlo"
            ) from None
    for name, found in read.items():
        for key, value in json.loads((folder / name).read_text(encoding="utf-8")).items():
            if key not in _KEPT_OTHERWISE and (theirs := getattr(found, key, None)) != value:
                raise UserError(
                    f"--format=transformers: {name} says {key}={value!r}, which transformers "
                    f"{__version__} reads as {theirs!r}: install transformers 4.57 or 5"
                )


def write_flax(trained: Trained, folder: Path) -> None:
    """flax_model.msgpack, of the very parameters that `write_transformers` writes."""
    write_msgpack(folder, trained.task.model_config, trained.params)


def write_msgpack(folder: Path, config: T5Config, params: Params) -> None:
    """As `write_flax`. Raises UserError for UMT5, and where the parameters are not those of
    `config`."""
    if config.bias_per_layer:
        # FlaxT5 reads such a file, and takes the first block's bias for all.
        raise UserError(
            "--format=flax: transformers has no UMT5 in Flax; take --format=transformers or "
            "--format=stablehlo"
        )
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
        # Of one beam there is nothing to compare, and transformers warns of such a setting.
        **({"length_penalty": settings.length_penalty} if settings.k > 1 else {}),
        "max_new_tokens": max(target for _, target in task.ladder.rungs),
        "decoder_start_token_id": model.decoder_start_token_id,
        "eos_token_id": model.eos_token_id,
        "pad_token_id": model.pad_token_id,
    }
