"""Which checkpoints load with the logits of whoever wrote them: the matrix of docs/models.md.

    python benchmarks/models.py [--python5=.venv/transformers5/bin/python]

transformers 4.57, and 5 where `--python5` has it, each write a tiny random model of every variant,
in each file format and type, and their own logits of the same ids. All of it is loaded here. A cell
is the largest difference of a logit, or why there is none. Needs torch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from groot_jax.model.config import T5Config

ROOT = Path(__file__).resolve().parent.parent
SHAPE: dict[str, Any] = {
    "vocab_size": 384,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 3,
    "decoder_start_token_id": 0,
}
GATED: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
# variant -> (transformers' class, what its config has of its own).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "T5": ("T5", {"feed_forward_proj": "relu"}),
    "T5 v1.1, Flan-T5": ("T5", GATED),
    "ByT5": ("T5", GATED | {"num_decoder_layers": 1, "tokenizer_class": "ByT5Tokenizer"}),
    "mT5": ("MT5", GATED),
    "UMT5": ("UMT5", {"feed_forward_proj": "gated-gelu"}),
}
FORMATS = ("safetensors", "sharded safetensors", "msgpack", "sharded msgpack")
TYPES = ("float32", "bfloat16", "float16")


def ids() -> tuple[np.ndarray, np.ndarray]:
    """source_BxS with padding, and decoder inputs_BxT."""
    rng = np.random.default_rng(0)
    source_BxS = rng.integers(3, 384, (2, 40))
    source_BxS[1, 30:] = 0
    return source_BxS, np.pad(rng.integers(3, 384, (2, 11)), ((0, 0), (1, 0)))


def write(folder: Path) -> None:
    """All of one transformers' own, as FOLDER/variant/format/type with logits.npy in each."""
    import torch
    import transformers
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save_file

    from groot_jax.model.config import T5Config
    from groot_jax.model.param_tree import param_shapes
    from groot_jax.model.pretrained import torch_name

    transformers.logging.set_verbosity_error()
    source_BxS, inputs_BxT = ids()
    for variant, (kind, own) in VARIANTS.items():
        # As released checkpoints are: with the head that their config of version 4 speaks of.
        written = {"model_type": kind.lower()} | SHAPE | own
        flat = flatten_dict(param_shapes(T5Config.from_hf(written)))
        rng = np.random.default_rng(1)
        tensors = {}
        for key, leaf in flat.items():
            shape = leaf.shape[::-1] if key[-1] == "kernel" else leaf.shape
            tensors[torch_name(key)] = 0.3 * rng.standard_normal(shape, np.float32)
        start = folder / variant / "start"
        start.mkdir(parents=True, exist_ok=True)
        save_file(tensors, start / "model.safetensors", metadata={"format": "pt"})
        config = getattr(transformers, f"{kind}Config")(**written)
        if transformers.__version__ < "5":
            config.save_pretrained(start)
        else:
            import json

            (start / "config.json").write_text(json.dumps(written))
        for type_ in TYPES:
            cls = getattr(transformers, f"{kind}ForConditionalGeneration")
            model = cls.from_pretrained(start).to(getattr(torch, type_)).eval()
            for form in FORMATS:
                out = folder / variant / form / type_
                out.mkdir(parents=True)
                size = "30KB" if form.startswith("sharded") else "1GB"
                if form.endswith("safetensors"):
                    model.save_pretrained(out, max_shard_size=size)
                elif not _flax(transformers, kind, start, type_, out, size):
                    continue
                with torch.no_grad():
                    logits = model.float()(
                        input_ids=torch.tensor(source_BxS),
                        attention_mask=torch.tensor(source_BxS != 0).long(),
                        decoder_input_ids=torch.tensor(inputs_BxT),
                    ).logits
                model.to(getattr(torch, type_))
                np.save(out / "logits.npy", logits.numpy())


def _flax(transformers: Any, kind: str, start: Path, type_: str, out: Path, size: str) -> bool:
    """Saves transformers' Flax model; False where it has none."""
    import jax
    import jax.numpy as jnp

    cls = getattr(transformers, f"Flax{kind}ForConditionalGeneration", None)
    if transformers.__version__ >= "5" or cls is None:
        return False
    model = _flax_model(cls, start)
    to = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}[type_]
    params = jax.tree.map(lambda x: jnp.asarray(x, to), model.params)
    model.save_pretrained(out, params=params, max_shard_size=size)
    return True


@cache
def _flax_model(cls: Any, start: Path) -> Any:
    import jax.numpy as jnp
    from transformers.models.t5 import modeling_flax_t5

    # It wants an argument of jnp.clip that JAX no longer has. What comes of it is not used.
    attention: Any = modeling_flax_t5.FlaxT5Attention
    attention._relative_position_bucket = staticmethod(lambda x, **_: jnp.zeros_like(x))
    return cls.from_pretrained(start)


@cache
def forward(config: T5Config) -> Any:
    """Compiled once for all files of a variant."""
    import jax

    from groot_jax.model.t5 import T5

    return jax.jit(T5(config).apply)


def difference(folder: Path) -> str:
    """The largest difference of a logit between ours and what lies in the folder."""
    from groot_jax.errors import UserError
    from groot_jax.model.pretrained import load_pretrained

    if not (folder / "logits.npy").exists():
        return "not written"
    try:
        config, params = load_pretrained(folder)
    except UserError as error:
        return f"refused: {error}"
    ours = forward(config)({"params": params}, *ids())
    return f"{np.abs(np.asarray(ours) - np.load(folder / 'logits.npy')).max():.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python5", default="", help="a Python that has transformers 5")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(args.write)
        return
    pythons = {"4.57": sys.executable} | ({"5": args.python5} if args.python5 else {})
    print(f"| variant | writer | file | {' | '.join(TYPES)} |")
    print(f"|---|---|---|{'---|' * len(TYPES)}")
    with tempfile.TemporaryDirectory() as text:
        for writer, python in pythons.items():
            folder = Path(text) / writer
            paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
            command = [python, str(Path(__file__).resolve()), f"--write={folder}"]
            subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
            for variant in VARIANTS:
                for form in FORMATS:
                    cells = [difference(folder / variant / form / type_) for type_ in TYPES]
                    print(f"| {variant} | {writer} | {form} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
