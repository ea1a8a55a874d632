"""Keeps faces found in a source in a file of arrays; no code in it is run."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moditalker.features.face.identity import FaceFrame
from moditalker.geometry.looks import Identity, Look
from moditalker.jobs.files import write_whole

_CLASSES: dict[str, type[Any]] = {kind.__name__: kind for kind in (FaceFrame, Identity, Look)}
_LEFT_OUT = ("frame", "crops")  # pictures, which are read from the source again


def keep(path: Path, anchor: Identity, frames: Sequence[FaceFrame]) -> None:
    """Write a source's anchor and its frames' faces; their pictures are left out."""
    arrays = list[Any]()
    tree = json.dumps(_packed([anchor, *frames], arrays))
    with io.BytesIO() as file:
        np.savez(file, *arrays, tree=np.frombuffer(tree.encode(), np.uint8))
        write_whole(path, file.getvalue())


def read(path: Path) -> tuple[Identity, list[FaceFrame]]:
    """Read what `keep` wrote; the frames have no pictures."""
    with np.load(path, allow_pickle=False) as file:
        arrays = [file[f"arr_{number}"] for number in range(len(file.files) - 1)]
        anchor, *frames = _unpacked(json.loads(file["tree"].tobytes()), arrays)
    return anchor, frames


def _packed(value: Any, arrays: list[Any]) -> Any:
    """The value as JSON; arrays go to the list, and their indices replace them."""
    if isinstance(value, np.ndarray | np.generic):
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1, "scalar": isinstance(value, np.generic)}
    if isinstance(value, list | tuple):
        return {"items": [_packed(item, arrays) for item in value], "list": isinstance(value, list)}
    if is_dataclass(value):
        kept = [each.name for each in fields(value) if each.name not in _LEFT_OUT]
        return {
            "class": type(value).__name__,
            "fields": {name: _packed(getattr(value, name), arrays) for name in kept},
        }
    return value


def _unpacked(tree: Any, arrays: Sequence[Any]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]][()] if tree["scalar"] else arrays[tree["array"]]
    if "items" in tree:
        items = [_unpacked(item, arrays) for item in tree["items"]]
        return items if tree["list"] else tuple(items)
    kind = _CLASSES[tree["class"]]
    values = {name: _unpacked(value, arrays) for name, value in tree["fields"].items()}
    if kind is FaceFrame:
        values["frame"] = None
    return kind(**values)
