"""A pretrained ByT5 small (300M), which reads bytes: no word is unknown, in no language.

    --config=configs/byt5_small.py:train=my/train.txt,dev=my/dev.txt,test=my/test.txt

A word is some six positions instead of one or two. Wants an accelerator.
"""

from ml_collections import ConfigDict

from configs.t5_base import get_config as base_config


def get_config(arg: str = "") -> ConfigDict:
    config = base_config(arg)
    config.model.init = "google/byt5-small"
    return config
