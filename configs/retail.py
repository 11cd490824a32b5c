"""The built-in corpus of generated e-commerce queries: what `make demo` trains."""

from ml_collections import ConfigDict

from configs.default import get_config as default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.reader = "retail"
    config.nll.epochs = 16.0
    # A short run: more sizes would take longer to compile than they save.
    config.loader.rungs = 4
    config.loader.node_buckets = (256, 512, 1024)
    return config
