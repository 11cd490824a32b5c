"""A pretrained Flan-T5 base (250M), which has learned from instructions, on your own files.

    --config=configs/flan_t5_base.py:train=my/train.txt,dev=my/dev.txt,test=my/test.txt

Wants an accelerator.
"""

from ml_collections import ConfigDict

from configs.t5_base import get_config as base_config


def get_config(arg: str = "") -> ConfigDict:
    config = base_config(arg)
    config.model.init = "google/flan-t5-base"
    return config
