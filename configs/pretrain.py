"""Text without labels, on which `groot_jax.pretrain` trains a model to start from.

    --config=configs/pretrain.py:text=my/queries.txt

A file of plain text, one sentence a line, or of JSON lines with `text` or `words`; several files:
--config.pretrain.text=a.txt,b.txt. --config.model.init goes on from a released T5 instead of from
scratch.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default_config
from groot_jax.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    text = parse_arg(arg, text="")["text"]
    config = default_config()
    config.pretrain.text = (text,) if text else ()
    return config
