"""SNIPS, from scratch: --config.data.dir=FOLDER, or GROOT_DATA_DIR, is the folder above `snips`."""

from ml_collections import ConfigDict

from configs.default import get_config as default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.reader = "seq"
    config.data.train = "snips/train"
    config.data.dev = "snips/valid"
    config.data.test = "snips/test"
    config.nll.epochs = 12.0
    # A short run: more sizes of bins would take longer to compile than they save.
    config.loader.node_buckets = (256, 512, 1024)
    return config
