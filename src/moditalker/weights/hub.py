"""Fetches weights from the Hugging Face Hub, only if a user names them as hf://USER/REPO."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from moditalker.errors import UserError

NAME = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")  # Path makes one slash of two
FILES = "mtov.safetensors", "atom.safetensors"  # every model has the last one


def is_hub(name: str | Path) -> bool:
    """Whether a name of weights points to the Hub."""
    return str(name).startswith("hf:/")


def fetched(name: str | Path) -> Path:
    """Fetch a model of the Hub, named hf://USER/REPO or hf://USER/REPO@REVISION; return its folder.

    It is fetched once. Later calls use the Hub's cache even if the Hub has changed; a revision (branch, tag,
    commit) picks other weights. Only the two files of weights are fetched, both safetensors.

    Raises:
        UserError: no such name, huggingface_hub is missing, fetching fails, or there are no weights.
    """
    if (parts := NAME.fullmatch(str(name))) is None:
        raise UserError(f"weights {str(name)!r} have no name of the Hub; write hf://USER/REPO@REVISION")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise UserError(f"{name} needs huggingface_hub: pip install 'moditalker[hub]'") from error
    (repo, revision), wanted = parts.groups(), list(FILES)
    try:
        folder = Path(
            snapshot_download(repo, revision=revision, allow_patterns=wanted, local_files_only=True)
        )
        if (folder / FILES[-1]).is_file():
            return folder
    except LocalEntryNotFoundError:
        pass
    print(f"note: fetching the weights {name}", file=sys.stderr)
    try:
        for file in FILES:  # one after the other: if the last is there, so are all
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=file))
            revision = folder.name  # of one commit
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} cannot be fetched ({reason}); check the name, or give a folder") from error
    if not (folder / FILES[-1]).is_file():
        raise UserError(f"{name} has no {FILES[-1]}, so it holds no weights of moditalker")
    return folder
