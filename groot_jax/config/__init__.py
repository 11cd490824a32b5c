"""The config of a run: read from a file and the command line, written to the work directory.

Every mistake of the user ends as one UserError sentence that names the key or the file and line.
This is the room's door: jobs and users' config files take from here what they need. No JAX here.
"""

from groot_jax.config.checks import validate, variant
from groot_jax.config.command_line import job_parser, parse_job, split_overrides
from groot_jax.config.loading import default_config, load, override, parse_arg
from groot_jax.config.workdir import (
    CONFIG_FILE,
    LOCK_FILE,
    STATUS_FILE,
    claim_workdir,
    differing_keys,
    dump,
    load_dumped,
    make_workdir,
)

__all__ = [
    "CONFIG_FILE",
    "LOCK_FILE",
    "STATUS_FILE",
    "claim_workdir",
    "default_config",
    "differing_keys",
    "dump",
    "job_parser",
    "load",
    "load_dumped",
    "make_workdir",
    "override",
    "parse_arg",
    "parse_job",
    "split_overrides",
    "validate",
    "variant",
]
