"""ATIS, from scratch: --config.data.dir=FOLDER, or GROOT_DATA_DIR, is the folder above `atis`."""

from ml_collections import ConfigDict

from configs.default import get_config as default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.reader = "seq"
    config.data.train = "atis/train"
    config.data.dev = "atis/valid"
    config.data.test = "atis/test"
    # Four types occur in the test split only; they count as gold that is always missed.
    config.data.unknown_types = "keep"
    config.nll.epochs = 20.0
    # A short run: more sizes of bins would take longer to compile than they save.
    config.loader.node_buckets = (256, 512, 1024)
    return config
