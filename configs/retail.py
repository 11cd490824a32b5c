"""The built-in corpus of generated e-commerce queries: what `make demo` trains."""

from ml_collections import ConfigDict

from configs.default import get_config as default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.reader = "retail"
    config.nll.epochs = 16.0
    # A short run: more sizes would take longer to compile than they save.
    config.loader.rungs = 4
    # Of its pools: 16 sentences have some 850 nodes. With bins of 320 they take 1,111 places in 7
    # sizes; with 256, 512 and 1024 it was 1,184 in 9.
    config.loader.node_buckets = (320,)
    return config
