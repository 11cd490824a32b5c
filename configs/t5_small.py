"""A pretrained T5 v1.1 small (77M) on your own files.

--config=configs/t5_small.py:train=my/train.txt,dev=my/dev.txt,test=my/test.txt
"""

from ml_collections import ConfigDict

from configs.t5_base import get_config as base_config


def get_config(arg: str = "") -> ConfigDict:
    config = base_config(arg)
    config.model.init = "google/t5-v1_1-small"
    return config
