"""The user's downloads -> weights in our form, kept in one folder. No code in a file is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from moditalker.checkpoint import save_weights
from moditalker.errors import UserError
from moditalker.metrics import lpips, syncnet
from moditalker.weights import GIVEN, given_folder, sha256

# By the name that `moditalker weights add` takes: files -> states by the name they are kept under.
READERS: dict[str, Callable[[Sequence[Path]], dict[str, dict[str, Tensor]]]] = {
    "lpips": lpips.read_files,
    "syncnet": syncnet.read_files,
}


def keep(name: str, files: Sequence[Path], folder: Path | None = None) -> list[Path]:
    """Read, check and keep the user's files; where they now are. Raises UserError."""
    if name not in READERS:
        raise UserError(f"weights {name!r} are not known; there are {', '.join(READERS)}")
    sources = {file.name: sha256(file) for file in files}
    kept = []
    for key, state in READERS[name](files).items():
        kept.append((folder or given_folder()) / f"{key}.safetensors")
        save_weights(kept[-1], state, {}, {"sources": sources, "licence": GIVEN[key].licence})
    return kept
