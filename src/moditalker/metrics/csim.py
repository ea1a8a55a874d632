"""Identity similarity, CSIM: the cosine between embeddings of two faces [as in Zakharov et al. 2019].

The embedding is the user's: dlib's face recognition network [King 2017, CC0] from the npm package
@vladmandic/face-api (MIT), or any ArcFace-style network as an ONNX file, which needs ONNX Runtime. Figures of
different embeddings cannot be compared: a table has to name its embedding.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from moditalker.config import CropConfig
from moditalker.errors import UserError
from moditalker.metrics.onnx_network import OnnxNetwork, read_file
from moditalker.weights.files import load_weights
from moditalker.weights.named import find_given, sha256

NAME = "face-embedding"
PACKAGE = "vladmandic-face-api-1.7.15.tgz"  # `npm pack @vladmandic/face-api@1.7.15`
PACKAGE_SHA256 = "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031"
_MODEL = "package/model/face_recognition_model"

MEAN = (122.782, 117.001, 104.298)  # grey levels of red, green and blue
_STAGES = (
    (32, 3),
    (64, 4),
    (128, 3),
    (256, 3),
    (256, 1),
)  # width and blocks; all but the first halve the size first


class Embedder(Protocol):
    """Turns aligned faces into embeddings. crop: how the faces must be aligned."""

    crop: CropConfig

    def embed(self, faces: ArrayLike) -> NDArray[np.float32]:
        """Faces (n, size, size, 3), grey levels -> (n, D)."""


class _Scaled(nn.Module):
    """A 3x3 (or first, 7x7) convolution and a scale and shift of each channel."""

    def __init__(self, ins: int, outs: int, kernel: int = 3, down: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(ins, outs, kernel, 2 if down else 1, 0 if down else kernel // 2)
        self.scale = nn.Parameter(torch.ones(outs))
        self.shift = nn.Parameter(torch.zeros(outs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        return x * self.scale[:, None, None] + self.shift[:, None, None]


class _Block(nn.Module):
    def __init__(self, ins: int, outs: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.first, self.second = _Scaled(ins, outs, down=down), _Scaled(outs, outs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        if self.down:  # the shortcut has fewer channels, and may have a row and column more
            x = F.avg_pool2d(x, 2)
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return F.relu(x + y)


class FaceNetwork(nn.Module):
    """dlib's residual network of 29 layers: faces (n, 150, 150, 3) in grey levels -> (n, 128)."""

    crop = CropConfig(size=150, region_top=64, pose_rows=64, eye_distance=52.5, eye_row=47.0)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Scaled(3, 32, 7, down=True)
        blocks, ins = [], 32
        for stage, (width, count) in enumerate(_STAGES):
            for number in range(count):
                blocks.append(_Block(ins, width, down=stage > 0 and number == 0))
                ins = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(ins, 128, bias=False)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 150, 150) in grey levels -> (n, 128)."""
        x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / 255
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        embedding: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return embedding

    def embed(self, faces: ArrayLike) -> NDArray[np.float32]:
        x = torch.from_numpy(np.asarray(faces, np.float32)).permute(0, 3, 1, 2)
        return np.asarray(torch.cat([self(part) for part in x.split(8)]))


class OnnxEmbedder:
    """The user's network: (n or 1, 3, size, size), RGB as (x - 127.5) / 127.5 [ArcFace] -> (n, D)."""

    def __init__(self, path: Path) -> None:
        self.network = OnnxNetwork(path)
        if len(self.network.shape) != 3 or self.network.shape[1] != self.network.shape[2]:
            raise UserError(f"{path} takes {self.network.shape}; (3, size, size) is expected")
        size = self.network.shape[1]
        unit = size / 112  # eyes of ArcFace's five points: 35.24 apart, at row 51.6 of 112
        self.crop = CropConfig(
            size=size,
            region_top=size // 2,
            pose_rows=size // 2,
            eye_distance=35.24 * unit,
            eye_row=51.6 * unit,
        )

    def embed(self, faces: ArrayLike) -> NDArray[np.float32]:
        return self.network((np.asarray(faces, np.float32).transpose(0, 3, 1, 2) - 127.5) / 127.5)


@cache
def load_embedder() -> Embedder:
    """Load the embedding that the user added by `moditalker weights add face-embedding`.

    Raises UserError (weights.MissingWeights), with the way out, if there is none.
    """
    path = find_given(NAME)
    if path.suffix == ".onnx":
        return OnnxEmbedder(path)
    model = FaceNetwork()
    try:
        model.load_state_dict(load_weights(path)[0])
    except RuntimeError:
        raise UserError(f"{path} does not hold {NAME}; add its weights again") from None
    return model


def cosine_similarity(embeddings: ArrayLike, reference: ArrayLike) -> float:
    """Mean cosine of embeddings (S, D) and those of the same frames of another video, or of one face (1, D).

    In [-1, 1]; 1: the same. Raises ValueError if the shapes do not fit.
    """
    a, b = np.asarray(embeddings, np.float64), np.asarray(reference, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or len(b) not in (1, len(a)) or not len(a):
        raise ValueError(f"embeddings must be (S, D) and (S or 1, D), not {a.shape} and {b.shape}")
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(lengths, 1e-12)).mean())


# ------------------------------------------------------------------------------------- the user's files


def read_files(files: Sequence[Path]) -> dict[str, dict[str, Tensor] | bytes]:
    """Read the npm package as a state of `FaceNetwork`, or test an ONNX file. Raises UserError."""
    if len(files) != 1 or files[0].suffix not in (".tgz", ".onnx"):
        raise UserError(f"{NAME}: one file is expected, {PACKAGE} or an ONNX network (.onnx)")
    if files[0].suffix == ".onnx":
        return {**read_file(NAME, OnnxEmbedder(files[0]).network.shape, files)}
    if (found_sum := sha256(files[0])) != PACKAGE_SHA256:
        raise UserError(
            f"{files[0]} has SHA-256 {found_sum}, not {PACKAGE_SHA256}; "
            "run `npm pack @vladmandic/face-api@1.7.15` again"
        )
    with tarfile.open(files[0], "r:gz") as archive:
        manifest, content = (
            archive.extractfile(f"{_MODEL}{ending}") for ending in ("-weights_manifest.json", ".bin")
        )
        assert manifest is not None
        assert content is not None
        return {NAME: _state(_arrays(json.load(manifest), content.read()))}


def _arrays(manifest: Any, content: bytes) -> dict[str, NDArray[np.float32]]:
    """TensorFlow.js weights, one array after the other: float32, or 8 bits with a scale and a minimum."""
    arrays, at = {}, 0
    for entry in manifest[0]["weights"]:
        count, levels = int(np.prod(entry["shape"])), entry.get("quantization")
        values = np.frombuffer(content, np.uint8 if levels else np.dtype("<f4"), count, at)
        at += values.nbytes
        if levels:
            values = values.astype(np.float32) * np.float32(levels["scale"]) + np.float32(levels["min"])
        arrays[entry["name"]] = values.astype(np.float32).reshape(entry["shape"])
    return arrays


def _state(arrays: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Convert their names and layouts to ours."""
    names = ["conv32_1", "conv32_2", "conv32_3"]
    for width, count in ((64, 3), (128, 2), (256, 2)):
        names += [f"conv{width}_down", *(f"conv{width}_{i + 1}" for i in range(count))]
    names.append("conv256_down_out")
    state = {"head.weight": torch.from_numpy(arrays["fc"].T.copy())}
    places = {"stem": "conv32_down"}
    for i, name in enumerate(names):
        places |= {f"blocks.{i}.first": f"{name}/conv1", f"blocks.{i}.second": f"{name}/conv2"}
    for ours, theirs in places.items():
        filters = arrays[f"{theirs}/conv/filters"].transpose(3, 2, 0, 1)
        state[f"{ours}.convolution.weight"] = torch.from_numpy(filters.copy())
        for part, name in (
            ("convolution.bias", "conv/bias"),
            ("scale", "scale/weights"),
            ("shift", "scale/biases"),
        ):
            state[f"{ours}.{part}"] = torch.from_numpy(arrays[f"{theirs}/{name}"])
    return state
