"""WNUT 2017, from scratch: --config.data.dir=FOLDER, or GROOT_DATA_DIR, is the folder above
`wnut17`."""

from ml_collections import ConfigDict

from configs.default import get_config as default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.reader = "columns"
    config.data.column_order = "word_first"
    config.data.separator = "tab"
    config.data.train = "wnut17/wnut17train.conll"
    config.data.dev = "wnut17/emerging.dev.conll"
    config.data.test = "wnut17/emerging.test.annotated"
    # Four test sentences have up to 105 words; a tokenizer of our own can have the sentinels.
    config.text.max_words = 128
    # Names that training does not have are what this set is about.
    config.data.hide_words = 0.3
    # 3,394 sentences are soon known by heart.
    config.model.dropout = 0.3
    config.groot.dropout = 0.3
    config.nll.epochs = 12.0
    # A short run: more sizes of bins would take longer to compile than they save.
    config.loader.node_buckets = (256, 512, 1024)
    return config
