"""Writes tests/model/transformers5/*.json: config and header, no weights, as transformers 5 saves
models of the T5 family.

    .venv/transformers5/bin/python tests/model/write_headers.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open

SHAPE: dict[str, Any] = {
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 20,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}
# As the released files of each say it, in the form of transformers 4.
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": {"vocab_size": 40, "feed_forward_proj": "relu"},
    "t5_v1_1": {
        "vocab_size": 40,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "flan": {
        "vocab_size": 40,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "n_positions": 512,
    },
    "byt5": {
        "vocab_size": 384,
        "num_decoder_layers": 1,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "tokenizer_class": "ByT5Tokenizer",
    },
    "mt5": {
        "vocab_size": 48,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "model_type": "mt5",
    },
    "umt5": {"vocab_size": 48, "feed_forward_proj": "gated-gelu", "model_type": "umt5"},
}


def main() -> None:
    import numpy as np
    import transformers
    from safetensors.numpy import save_file

    from groot_jax.model.config import T5Config
    from groot_jax.model.param_tree import param_shapes
    from groot_jax.model.pretrained import torch_name

    assert transformers.__version__ >= "5"
    rng = np.random.default_rng(0)
    for family, written in FAMILIES.items():
        config = {"model_type": "t5"} | SHAPE | written
        kind = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}[config["model_type"]]
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            flat: dict[str, Any] = {}

            def add(tree: dict[str, Any], path: tuple[str, ...], to: dict[str, Any]) -> None:
                for key, value in tree.items():
                    if isinstance(value, dict):
                        add(value, (*path, key), to)
                    else:
                        shape = value.shape[::-1] if key == "kernel" else value.shape
                        to[torch_name((*path, key))] = rng.random(shape, np.float32)

            add(param_shapes(T5Config.from_hf(config)), (), flat)
            save_file(flat, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_text(json.dumps(config))
            model = getattr(transformers, f"{kind}ForConditionalGeneration").from_pretrained(folder)
            model.save_pretrained(folder / "saved")
            saved = json.loads((folder / "saved" / "config.json").read_text())
            with safe_open(folder / "saved" / "model.safetensors", framework="numpy") as file:
                names = {
                    name: [file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()]
                    for name in sorted(file.keys())
                }
        out = Path(__file__).parent / "transformers5" / f"{family}.json"
        lines = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in names.items())
        head = json.dumps(saved, sort_keys=True)
        out.write_text(f'{{"config": {head},\n "tensors": {{\n  {lines}\n }}}}\n')


if __name__ == "__main__":
    main()
