"""T5 v1.1 XL (2.8B) on your own files: for 16 chips of 16 GiB and more.

    --config=configs/t5_xl.py:train=my/train.txt,dev=my/dev.txt,test=my/test.txt

docs/scaling.md says what fits where; `python -m groot_jax.preflight` tries it out.
"""

from ml_collections import ConfigDict

from configs.t5_base import get_config as base_config


def get_config(arg: str = "") -> ConfigDict:
    config = base_config(arg)
    config.model.init = "google/t5-v1_1-xl"
    config.model.remat = "full"
    config.model.scan_layers = True
    config.nll.learning_rate = 3e-4
    config.groot.learning_rate = 3e-5
    config.nll.batch_size = 64
    config.groot.batch_size = 64
    # 16 chips hold the parameters and moments; more of them share the sentences.
    config.mesh.fsdp = 4
    config.mesh.tensor = 4
    return config
