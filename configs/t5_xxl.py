"""T5 v1.1 XXL (11B) on your own files: for a pod.

    --config=configs/t5_xxl.py:train=my/train.txt,dev=my/dev.txt,test=my/test.txt

docs/scaling.md says what fits where; `python -m groot_jax.preflight` tries it out.
"""

from ml_collections import ConfigDict

from configs.t5_base import get_config as base_config


def get_config(arg: str = "") -> ConfigDict:
    config = base_config(arg)
    config.model.init = "google/t5-v1_1-xxl"
    config.model.remat = "full"
    config.model.scan_layers = True
    config.nll.learning_rate = 2e-4
    config.groot.learning_rate = 2e-5
    config.nll.batch_size = 512
    config.groot.batch_size = 512
    # 32 chips hold the parameters and moments; more of them share the sentences. Tensor parallelism
    # serves generation, whose every step reads all of a chip's weights.
    config.mesh.fsdp = 4
    config.mesh.tensor = 8
    return config
