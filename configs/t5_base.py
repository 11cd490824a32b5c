"""A pretrained T5 v1.1 on your own files; any Hub id or folder of the T5 family can stand in.

    --config=configs/t5_base.py:train=my/train.txt,dev=my/dev.txt,test=my/test.txt

Wants an accelerator: 250M parameters.
"""

from ml_collections import ConfigDict

from configs.columns import get_config as columns_config


def get_config(arg: str = "") -> ConfigDict:
    config = columns_config(arg)
    config.model.init = "google/t5-v1_1-base"
    config.model.dtype = "bfloat16"
    config.data.augment = 0.0  # Measured for models from scratch alone.
    config.nll.learning_rate = 1e-3
    config.nll.epochs = 8.0
    config.nll.eval_every = 1.0  # Eight evaluations to choose from, not four.
    config.groot.learning_rate = 1e-4
    return config
