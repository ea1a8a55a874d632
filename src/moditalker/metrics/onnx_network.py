"""Networks that a user brings as ONNX files: Inception for FID, I3D for FVD, a face embedding for CSIM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from moditalker.errors import UserError
from moditalker.weights.onnx import session


class OnnxNetwork:
    """One input (n or 1, 3, ...) of fixed size, one output (n, D), on the CPU.

    shape: of the input behind n. Raises UserError without ONNX Runtime, and for a file of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.session = session(path, torch.get_num_threads())
        inputs = self.session.get_inputs()
        self.name, self.shape = inputs[0].name, tuple(inputs[0].shape[1:])
        if len(inputs) != 1 or self.shape[:1] != (3,) or not all(isinstance(n, int) for n in self.shape):
            raise UserError(
                f"{path} takes {inputs[0].shape}; one input (n, 3, ...) of fixed size is expected"
            )

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """(n, *shape) -> (n, D), one after the other."""
        items = np.asarray(x, np.float32)
        return np.concatenate([self.session.run(None, {self.name: item[None]})[0] for item in items])


def read_file(name: str, shape: tuple[int, ...], files: Sequence[Path]) -> dict[str, bytes]:
    """A user's ONNX file, once it has run on zeros of the shape. Raises UserError."""
    if len(files) != 1 or files[0].suffix != ".onnx":
        raise UserError(
            f"{name}: one ONNX file (.onnx) is expected, its input (n, {', '.join(map(str, shape))})"
        )
    network = OnnxNetwork(files[0])
    if network.shape != shape:
        raise UserError(f"{files[0]} takes (n, {', '.join(map(str, network.shape))}); {name} takes {shape}")
    if (found := network(np.zeros((1, *shape)))).ndim != 2:
        raise UserError(f"{files[0]} gives {found.shape}; features (n, D) are expected")
    return {name: files[0].read_bytes()}
