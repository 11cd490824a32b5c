"""A pretrained T5 v1.1 large (780M) on your own files: for four chips of 16 GiB and more.

    --config=configs/t5_large.py:train=my/train.txt,dev=my/dev.txt,test=my/test.txt

docs/scaling.md says what fits where; `python -m groot_jax.preflight` tries it out.
"""

from ml_collections import ConfigDict

from configs.t5_base import get_config as base_config


def get_config(arg: str = "") -> ConfigDict:
    config = base_config(arg)
    config.model.init = "google/t5-v1_1-large"
    config.model.remat = "full"
    config.model.scan_layers = True
    config.nll.learning_rate = 5e-4
    config.groot.learning_rate = 5e-5
    config.mesh.fsdp = 4
    return config
