"""Weights on disk that introduce themselves: safetensors, with config and checksum in the metadata.

Nothing here runs code from a file. A file is either the old one or the whole new one, never half of either.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from moditalker.errors import UserError
from moditalker.jobs.files import write_whole
from moditalker.weights.named import sha256 as file_sha256

KEY = "moditalker"  # key of the metadata that holds JSON


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of names, dtypes, shapes and values; the order of the names does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert floating point tensors to half precision, in which weights are stored."""
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def save_weights(
    path: str | Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Write tensors, config and further facts (plain JSON); the same input gives the same bytes.

    Returns the SHA-256 of the file. Raises UserError if the folder cannot be written.
    """
    path = Path(path)
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    description = {**(extra or {}), "config": config, "sha256": tensors_sha256(plain)}
    content = save(plain, metadata={KEY: json.dumps(description, sort_keys=True)})
    with _unwritable_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def check_writable(path: Path) -> None:
    """Raise UserError if weights could not be written; call it before the work that makes them."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; choose another name")
    with _unwritable_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


@contextlib.contextmanager
def _unwritable_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another folder") from None


def load_weights(
    path: str | Path, *, sha256: str | None = None, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_weights` wrote: tensors, and a dict with "config", "sha256" and the extras.

    The tensors must have the checksum of the metadata, and the file that of ``sha256`` if it is given.
    Raises UserError if the file is missing, is not safetensors, is not ours, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a weights file (.safetensors)")
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise UserError(f"{path} has SHA-256 {found}, not {sha256}; fetch or copy the file again")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            metadata = file.metadata() or {}
            # Cloned: tensors of an open file are views of it, and a file that is replaced or shortened pulls
            # them away from under the network.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); copy it again") from None
    description = _description(path, metadata)
    if tensors_sha256(state) != description["sha256"]:
        raise UserError(f"{path} is damaged: its weights differ from their checksum; copy the file again")
    return {name: tensor.to(device) for name, tensor in state.items()}, description


def describe(path: str | Path) -> dict[str, Any]:
    """Return the dict of :func:`load_weights` without reading the tensors. Raises UserError as it does."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a weights file (.safetensors)")
    try:
        with safe_open(path, "pt") as file:
            return _description(path, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); copy it again") from None


def _description(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if KEY not in metadata:
        raise UserError(
            f"{path} says nothing of its config; for the authors' files see `moditalker weights convert`"
        )
    try:
        description: dict[str, Any] = json.loads(metadata[KEY])
        description["sha256"], description["config"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} has a description that cannot be read; copy the file again") from None
    return description


def fill(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load the weights of the file ``path`` into a network.

    Raises UserError if they are another network's, or settings change the trained network.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise UserError(
            f"{path}: its weights do not fit this network, but another part or size; give weights of this "
            "part, and only settings that change no weights"
        ) from None
