"""The config of a run: read from a file and the command line, written to the work directory.

Every mistake of the user ends as one UserError sentence that names the key or the file and line.
This is the room's door: jobs and users' config files take from here what they need. No JAX here.
"""

from groot_jax.config.command_line import LIST_FLAGS as LIST_FLAGS
from groot_jax.config.command_line import JobParser as JobParser
from groot_jax.config.command_line import job_parser as job_parser
from groot_jax.config.command_line import parse_flags as parse_flags
from groot_jax.config.command_line import parse_job as parse_job
from groot_jax.config.command_line import split_overrides as split_overrides
from groot_jax.config.command_line import version as version
from groot_jax.config.keys import variant as variant
from groot_jax.config.loading import checked as checked
from groot_jax.config.loading import default_config as default_config
from groot_jax.config.loading import load as load
from groot_jax.config.loading import names_labeler as names_labeler
from groot_jax.config.loading import parse_arg as parse_arg
from groot_jax.config.workdir import CONFIG_FILE as CONFIG_FILE
from groot_jax.config.workdir import LOCK_FILE as LOCK_FILE
from groot_jax.config.workdir import STATUS_FILE as STATUS_FILE
from groot_jax.config.workdir import claim_workdir as claim_workdir
from groot_jax.config.workdir import differing_keys as differing_keys
from groot_jax.config.workdir import dump as dump
from groot_jax.config.workdir import has_lost_config as has_lost_config
from groot_jax.config.workdir import is_free as is_free
from groot_jax.config.workdir import load_dumped as load_dumped
from groot_jax.config.workdir import make_workdir as make_workdir
