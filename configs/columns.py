"""Your own labeled files, from scratch.

    --config=configs/columns.py:train=my/train.txt,dev=my/dev.txt,test=my/test.txt

Column files (`word tag` or `tag word`, a blank line between sentences), JSON lines, or folders that
hold seq.in and seq.out: the reader looks at the files. `dev` and `test` may be left out; then parts
of train are set aside for them.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default_config
from groot_jax.config import parse_arg


def get_config(arg: str = "") -> ConfigDict:
    paths = parse_arg(arg, train="", dev="", test="")
    config = default_config()
    config.data.reader = "auto"
    config.data.train = paths["train"]
    config.data.dev = paths["dev"]
    config.data.test = paths["test"]
    # Without a test file a tenth of train stands in for it; for dev the default does the same.
    config.data.test_fraction = 0.0 if paths["test"] else 0.1
    return config
