"""Folders that a config names: those on this machine, and those of the Hugging Face Hub."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from groot_jax.errors import UserError
from groot_jax.runtime.files import expanded

_PATIENCE = 5.0  # Seconds for the Hub to answer what it has.


@functools.lru_cache(maxsize=8)
def fetch(name: str, what: str, wanted: Callable[[Sequence[str], str], Sequence[str]]) -> Path:
    """`name` where it is a folder, else the local snapshot of that Hub id, fetched once a process.

    `what`: the key that names it. `wanted`: of the names of a repository's files, and what to call
    it, those that are fetched; it raises where none will do. Raises UserError where `name` is
    neither, and where the Hub cannot be reached and holds nothing of it on this disk.
    """
    path = expanded(name, what)
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{what}={name}: is a file; name the folder that it lies in")
    # owner/name or name: anything else is the path of a folder, and was meant as one.
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"{what}={name}: there is no such folder")
    # Imported here: a run from scratch needs no Hub client.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        info = HfApi().model_info(name, timeout=_PATIENCE)
        files = wanted([file.rfilename for file in info.siblings or ()], f"{what}={name}")
        # Of the revision that was looked at, so that all files are of one.
        return Path(snapshot_download(name, revision=info.sha, allow_patterns=list(files)))
    except UserError:
        raise
    except HFValidationError:
        raise UserError(
            f"{what}={name}: is neither an existing folder nor a Hub id (owner/name)"
        ) from None
    except Exception as error:  # The client raises a dozen unrelated kinds, of several libraries.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if "MaxRetryError" in reason:  # urllib3's text is of pools and retries.
            reason = "no connection"
    try:
        # Fetched by an earlier run: without network it serves.
        folder = Path(snapshot_download(name, local_files_only=True))
        wanted([file.name for file in folder.iterdir()], f"{what}={name}")
        return folder
    except Exception:
        raise UserError(
            f"{what}={name}: is no existing folder, and could not be fetched from the Hugging Face "
            f"Hub ({reason[:200]}); check the name and the network, or download it and give the "
            "folder"
        ) from None
