"""MediaPipe's face networks in plain torch: a small interpreter for their operations.

The files ``assets/face_*.safetensors`` hold the weights and, as JSON in their metadata, the list of
operations; ``tools/convert_face_networks.py`` made them from MediaPipe's TFLite files (Apache-2.0, see
``assets/NOTICE``).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from moditalker.weights import named


def landmarks_to_matrix(landmarks: Tensor, op: dict[str, Any]) -> Tensor:
    """Where a refined region lies: (B, N, 3) -> (B, 4, 4), region pixels to landmark units.

    The region is the bounding box of a subset of points after turning the line between two of them level,
    enlarged.
    """

    points = landmarks[..., :2].numpy()  # numpy is several times as quick with so few numbers
    across = points[:, op["right_rotation_idx"]] - points[:, op["left_rotation_idx"]]
    angle = np.arctan2(across[:, 1], across[:, 0]) - np.float32(op["target_rotation_radians"])
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)  # from level to turned
    level = points[:, op["subset_idxs"]] @ turn  # of rows: the inverse turn
    low, high = level.min(1), level.max(1)
    extent = (high - low) * np.array([op["scale_x"], op["scale_y"]], points.dtype)
    corner = (low + high - extent) / 2
    matrix = np.tile(np.eye(4, dtype=points.dtype), (len(points), 1, 1))
    size = np.array([op["output_width"], op["output_height"]], points.dtype)
    matrix[:, :2, :2] = turn * (extent / size)[:, None]
    matrix[:, :2, 3] = (turn @ corner[..., None])[..., 0]
    return torch.from_numpy(matrix)


def sample(features: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
    """Bilinear samples of (B, C, H, W) at ``matrix`` times the pixels of (height, width); 0 outside."""
    size = torch.tensor([features.shape[3], features.shape[2]], dtype=matrix.dtype)
    pixels = _pixels(height, width).to(matrix)
    places = torch.baddbmm(matrix[:, None, :2, 3], pixels.expand(len(matrix), -1, -1), matrix[:, :2, :2].mT)
    inside = ((places >= 0.5) & (places <= size - 0.5)).all(-1).view(-1, 1, height, width)
    grid = (places * 2 / size - 1).view(-1, height, width, 2)
    return F.grid_sample(features, grid, align_corners=False) * inside


@lru_cache(maxsize=16)
def _pixels(height: int, width: int) -> Tensor:
    """Centres of pixels, (height * width, 2) x, y; continuous: pixel 0 covers [0, 1]."""
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    return torch.stack([columns.repeat(height), rows.repeat_interleave(width)], -1)


def transform_landmarks(landmarks: Tensor, matrix: Tensor) -> Tensor:
    """(B, N, 2) by the first two rows of (B, 4, 4)."""
    return landmarks @ matrix[:, :2, :2].mT + matrix[:, None, :2, 3]


def add(a: Tensor, b: Tensor, branches: int = 1) -> Tensor:
    """Sum of two maps, each ``branches`` maps side by side; missing channels count as 0."""
    if a.shape[1] == b.shape[1]:
        return a + b
    few, many = (a, b) if a.shape[1] < b.shape[1] else (b, a)
    many = many.clone()  # keeps the memory format, which a concatenation would not
    many.unflatten(1, (branches, -1))[:, :, : few.shape[1] // branches] += few.unflatten(1, (branches, -1))
    return many


def conv(x: Tensor, weight: Tensor, bias: Tensor, op: dict[str, Any]) -> Tensor:
    """A convolution, padded as TFLite does; op: its stride, padding and groups."""
    groups, (left, right, top, bottom) = op["groups"], op["pad"]
    if groups > 1 and weight.shape[1:] == (weight.shape[1], 1, 1) and weight.shape[1] > 1:
        # One matrix product for each branch: of so few pixels a fourth of a grouped convolution's time.
        b, _, h, w = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(b * h * w, groups, -1).transpose(0, 1)
        branches = weight.flatten(1).unflatten(0, (groups, -1)).mT
        y = torch.baddbmm(bias.view(groups, 1, -1), pixels, branches).transpose(0, 1)
        return y.reshape(b, h, w, -1).permute(0, 3, 1, 2)
    padding = (top, left)
    if (left, top) != (right, bottom):  # TFLite pads even sizes more at the end
        x, padding = F.pad(x, op["pad"]), (0, 0)
    return F.conv2d(x, weight, bias, op["stride"], padding, groups=groups)


class FaceNetwork(nn.Module):
    """One converted network: (B, 3, size, size) float -> outputs by name, each (B, ...) in TFLite's order.

    ``size`` is the side of the square input. The mesh wants values in [0, 1], the detectors in [-1, 1].
    """

    def __init__(self, graph: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.size: int = graph["size"]
        self.ops: list[dict[str, Any]] = graph["ops"]
        for op in self.ops:
            if "subset_idxs" in op:
                op["subset_idxs"] = np.array(op["subset_idxs"])  # a list would be converted in each call
        self.input: int = graph["input"]
        self.outputs: dict[str, int] = graph["outputs"]
        last = {i: place for place, op in enumerate(self.ops) for i in op["in"]}
        self.done: list[list[int]] = [[] for _ in self.ops]  # values that nothing reads after each operation
        for i in last.keys() - set(self.outputs.values()):
            self.done[last[i]].append(i)
        for name, weight in weights.items():
            fast = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
            self.register_buffer(name, weight.float().contiguous(memory_format=fast))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        values = {self.input: images.contiguous(memory_format=torch.channels_last)}
        weights = self._buffers
        for op, done in zip(self.ops, self.done, strict=True):
            values[op["out"]] = self.step(op, [values[i] for i in op["in"]], weights)
            for i in done:  # memory that is used again is still in the processor's cache
                del values[i]
        return {name: values[i] for name, i in self.outputs.items()}

    @staticmethod
    def step(op: dict[str, Any], inputs: list[Tensor], weights: dict[str, Any]) -> Tensor:
        x = inputs[0]
        kind = op["op"]
        if kind == "conv":
            y = conv(x, weights[op["weight"]], weights[op["bias"]], op)
        elif kind == "prelu":
            y = F.prelu(x, weights[op["weight"]].flatten())
        elif kind == "add":
            y = add(x, inputs[1], op.get("branches", 1))
        elif kind == "relu":
            y = F.relu(x)
        elif kind == "max_pool":
            y = F.max_pool2d(x, op["kernel"], op["stride"])
        elif kind == "pad":
            y = F.pad(x, op["pad"])
        elif kind == "reshape":
            x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
            y = x.reshape(len(x), *op["shape"])
        elif kind == "concat":
            y = torch.cat(inputs, 1)
        elif kind == "channels":
            y = torch.cat([x[:, start:stop] for start, stop in op["parts"]], 1)
            y = y.contiguous(memory_format=torch.channels_last)
        elif kind == "resize":
            y = F.interpolate(x, op["size"], mode="bilinear", align_corners=False)
        elif (
            kind == "depth_to_space"
        ):  # channels are (row, column, channel); torch's pixel_shuffle has another order
            b, c, h, w = x.shape
            n = op["block"]
            y = x.view(b, n, n, c // n**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // n**2, h * n, w * n)
        elif kind == "scale":
            y = x * weights[op["weight"]]
        elif kind == "landmarks_to_matrix":
            y = landmarks_to_matrix(x, op)
        elif kind == "sample":
            y = sample(x, inputs[1], op["output_height"], op["output_width"])
        elif kind == "transform_landmarks":
            y = transform_landmarks(x, inputs[1])
        else:
            raise ValueError(f"operation {kind!r} is not known")
        return F.relu(y) if op.get("activation") == "relu" else y


def load_face_network(name: str) -> FaceNetwork:
    """``name``: "face-detector", "face-detector-far" or "face-mesh"; their checksums are compared.

    Raises:
        UserError: the file is missing or damaged.
    """
    with safe_open(named.find(name), "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        network = FaceNetwork(json.loads(file.metadata()["graph"]), weights)
    return network.eval()
