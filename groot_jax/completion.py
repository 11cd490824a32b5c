"""Completion for bash: `source <(groot completion)` lets Tab complete jobs, flags and keys.

The script holds all words, so that a Tab starts no Python. No JAX here until a job is asked for its
flags.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Sequence

from groot_jax import config as configs
from groot_jax.config.checks import CHOICES
from groot_jax.config.keys import flatten
from groot_jax.config.loading import built_in_configs

_SCRIPT = """\
# Completion of groot for bash. In ~/.bashrc: source <(groot completion)
_groot() {{
    local line=${{COMP_LINE:0:COMP_POINT}} choices="" job current word
    current=${{line##*[[:space:]]}}
    read -r _ job _ <<< "$line"
    if [[ $line =~ ^[[:space:]]*[^[:space:]]+[[:space:]]+[^[:space:]]*$ ]]; then
        choices="{jobs} --help --version"
    else
        case $job in
{cases}
        esac
    fi
    COMPREPLY=()
    # After --workdir= come names of files, which Bash itself knows.
    for word in $(compgen -W "$choices" -- "$current"); do
        [[ $word == *= && $word == "$current" ]] || COMPREPLY+=("$word")
    done
    # A word that ends in = waits for its value.
    [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} != *= ]] || compopt -o nospace 2> /dev/null
    # Bash takes what follows = or : for a word of its own, and wants no more than that.
    local before=${{current%"${{current##*[=:]}}"}}
    [[ -z $before || ${{#COMPREPLY[@]}} -eq 0 ]] || COMPREPLY=("${{COMPREPLY[@]#"$before"}}")
}}
complete -o default -F _groot groot
"""


def script(jobs: Sequence[str]) -> str:
    """The script for the jobs of these names, asked for their flags."""
    cases = "\n".join(
        f"        {job}) choices={_quoted(' '.join(words_of(job)))} ;;" for job in jobs
    )
    return _SCRIPT.format(jobs=" ".join(jobs), cases=cases)


def words_of(job: str) -> list[str]:
    """All words that a job takes: flags, values of those that have a choice, keys of the config."""
    module = f"groot_jax.{job}" if job != "export" else "groot_jax.export.__main__"
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        importlib.import_module(module).main([configs.LIST_FLAGS])
    words = told.getvalue().split()
    if "--config.=" in words:
        words.remove("--config.=")
        words += [f"--config.{key}=" for key in flatten(configs.default_config())]
        words += [f"--config.{key}={value}" for key, values in CHOICES.items() for value in values]
    if "--config=" in words:
        words += [f"--config={name}" for name in built_in_configs() if name != "default"]
    return words


def _quoted(words: str) -> str:
    # No key and no flag holds a quote; a name of a config file might.
    return "'" + words.replace("'", "'\\''") + "'"


def main(jobs: Sequence[str]) -> None:
    """Prints the script."""
    sys.stdout.write(script(jobs))
