"""A pretrained mT5 base (580M), of 101 languages, on your own files.

    --config=configs/mt5_base.py:train=my/train.txt,dev=my/dev.txt,test=my/test.txt

Wants an accelerator.
"""

from ml_collections import ConfigDict

from configs.t5_base import get_config as base_config


def get_config(arg: str = "") -> ConfigDict:
    config = base_config(arg)
    config.model.init = "google/mt5-base"
    return config
