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
    """A network on the CPU: one input (n or 1, 3, ...) of fixed size, one output (n, D).

    shape: the input's shape without the batch axis. Raises UserError if ONNX Runtime is missing or the file
    has another input.
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
        """(n, *shape) -> (n, D). The items run one by one."""
        items = np.asarray(x, np.float32)
        return np.concatenate([self.session.run(None, {self.name: item[None]})[0] for item in items])


def read_file(name: str, shape: tuple[int, ...], files: Sequence[Path]) -> dict[str, bytes]:
    """Return {name: bytes} of a user's ONNX file, after a test run on zeros of this shape.

    Raises UserError if the file does not fit.
    """
    wanted = ", ".join(map(str, shape))
    if len(files) != 1 or files[0].suffix != ".onnx":
        raise UserError(f"{name}: give exactly one .onnx file whose input is (n, {wanted})")
    network = OnnxNetwork(files[0])
    if network.shape != shape:
        found = ", ".join(map(str, network.shape))
        raise UserError(f"{files[0]}: its input is (n, {found}), but {name} needs (n, {wanted})")
    if (features := network(np.zeros((1, *shape)))).ndim != 2:
        raise UserError(f"{files[0]} gives {features.shape}; features (n, D) are expected")
    return {name: files[0].read_bytes()}
