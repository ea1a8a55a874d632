"""Converts weights that the user downloaded, and keeps them in one folder. No code in a file is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from moditalker.errors import UserError
from moditalker.jobs.files import write_whole
from moditalker.media import voices
from moditalker.metrics import csim, fid, lpips, onnx_network, syncnet
from moditalker.weights.files import save_weights
from moditalker.weights.named import GIVEN, given_folder, sha256

# By the name that `moditalker weights add` takes: a function from files to states by their names.
Read = Mapping[str, dict[str, Tensor] | bytes]  # bytes: an ONNX file
READERS: dict[str, Callable[[Sequence[Path]], Read]] = {
    "face-embedding": csim.read_files,
    "i3d": partial(onnx_network.read_file, "i3d", fid.I3D),
    "inception": partial(onnx_network.read_file, "inception", fid.INCEPTION),
    "lpips": lpips.read_files,
    "syncnet": syncnet.read_files,
}


def keep(name: str, files: Sequence[Path], folder: Path | None = None) -> list[Path]:
    """Read, check and keep the user's files; return where they now are. Raises UserError."""
    if name == "voice":
        return voices.keep(files, folder or given_folder())
    if name not in READERS:
        raise UserError(f"weights {name!r} are not known; there are {', '.join(READERS)}, voice")
    sources = {file.name: sha256(file) for file in files}
    read, folder, kept = READERS[name](files), folder or given_folder(), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); choose another by --to") from None
    for key, state in read.items():
        stem = folder / key
        if isinstance(state, bytes):
            path, other = stem.with_suffix(".onnx"), stem.with_suffix(".safetensors")
            write_whole(path, state)
        else:
            path, other = stem.with_suffix(".safetensors"), stem.with_suffix(".onnx")
            save_weights(path, state, {}, {"sources": sources, "licence": GIVEN[key].licence})
        other.unlink(missing_ok=True)  # the last one counts
        kept.append(path)
    return kept
