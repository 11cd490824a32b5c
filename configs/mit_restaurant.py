"""MIT Restaurant, from scratch: --config.data.dir=FOLDER, or GROOT_DATA_DIR, is the folder above
`mit_restaurant`. The set has no dev split: a tenth of train becomes one, with a fixed seed."""

from ml_collections import ConfigDict

from configs.default import get_config as default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.reader = "columns"
    config.data.column_order = "tag_first"
    config.data.separator = "tab"
    config.data.train = "mit_restaurant/restauranttrain.bio"
    config.data.test = "mit_restaurant/restauranttest.bio"
    config.data.dev_fraction = 0.1
    config.nll.epochs = 12.0
    # A short run: more sizes of bins would take longer to compile than they save.
    config.loader.node_buckets = (256, 512, 1024)
    return config
