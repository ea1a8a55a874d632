"""What is in front of the lower face: hands, microphones, masks, cups, captions [ours].

A small network predicts how much of each pixel of an aligned crop is covered. Outlines of face, lips and
the gap between them, from the landmarks, are inputs too. It is trained on free faces with things drawn
over them (`tools/training/covers/`).
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from moditalker.geometry.raster import planes
from moditalker.weights import named
from moditalker.weights.files import fill, load_weights

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]
Floats = NDArray[np.floating]

# All lengths are pixels of an aligned crop of 128, whose eyes are 42 pixels apart in row 26.
CROP = 128
LEFT, TOP, EXTENT = 16, 32, 96  # of the square that the network sees
SIDE = 64  # its pixels along a side
SCALE = SIDE / EXTENT
OUTLINES = (
    np.array([*range(17), *range(26, 16, -1)]),  # the face: jaw and brows
    np.arange(48, 60),  # the lips
    np.arange(60, 68),  # the gap between them
)
FINER = 4  # how much finer outlines are drawn, so that they move smoothly


class Cover(nn.Module):
    """A window of a face and its outlines -> how much of each pixel is covered.

    A U-Net [Ronneberger et al. 2015] on blocks of 2 x 2 pixels: four levels, two convolutions each on
    the way down and one on the way up.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 24, 40, 64)) -> None:
        super().__init__()
        self.channels = channels
        widths = (4 * (3 + len(OUTLINES)), *channels)
        self.down = nn.ModuleList(nn.Sequential(_layer(a, b), _layer(b, b)) for a, b in pairwise(widths))
        self.up = nn.ModuleList(
            _layer(deep + skip, skip) for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.last = nn.Conv2d(channels[0], 4, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, picture: Tensor, outlines: Tensor) -> Tensor:
        """picture (B, 3, SIDE, SIDE) in [0, 1], outlines (B, 3, SIDE, SIDE) in [0, 1] -> (B, SIDE, SIDE)
        log-odds that a pixel is covered.
        """
        x = torch.cat([2 * picture - 1, outlines], dim=1)
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.avg_pool2d(x, 2))
            skips.append(x)
        for number, block in enumerate(self.up):
            skip = skips[-2 - number]
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return F.pixel_shuffle(self.last(x), 2)[:, 0]

    @torch.inference_mode()
    def covered(self, crop: Pixels, landmarks: Floats) -> Array:
        """How much of each pixel of a face something covers.

        Args:
            crop: (128, 128, 3) uint8, aligned as with `config.CropConfig` of preset tiny.
            landmarks: (68, 2 or 3) that the face has, crop pixels.

        Returns:
            (128, 128) float32 in [0, 1]; 0 outside the square that the network sees: rows from 32 on,
                columns
            16 to 112.
        """
        picture, outlines = inputs(crop, landmarks)
        seen = self(picture[None], outlines[None]).sigmoid()
        out = np.zeros((CROP, CROP), np.float32)
        full = F.interpolate(seen[None], size=(EXTENT, EXTENT), mode="bilinear", align_corners=False)
        out[TOP : TOP + EXTENT, LEFT : LEFT + EXTENT] = full[0, 0].numpy()
        return out


def inputs(crop: Pixels, landmarks: Floats) -> tuple[Tensor, Tensor]:
    """Inputs of the network from a crop (128, 128, 3) and its landmarks: picture and outlines, each (3, SIDE,
    SIDE) in [0, 1].

    Raises:
        ValueError: the crop has another size.
    """
    if crop.shape != (CROP, CROP, 3):
        raise ValueError(f"a crop {crop.shape}; ({CROP}, {CROP}, 3) is needed")
    rows, columns = _shrinking(TOP), _shrinking(LEFT)
    picture = (rows @ planes(crop) @ columns.T).round_().div_(255)
    return picture, torch.from_numpy(outlined(landmarks))


@cache
def _shrinking(start: int) -> Tensor:
    """Weights (SIDE, CROP) of the network's rows or columns, as `geometry.raster.warp` has them."""
    taps = np.array([[-0.25, 0.25]]) * math.sqrt(1 - SCALE**2)
    places = start + ((np.arange(SIDE) + 0.5)[:, None] + taps) / SCALE - 0.5
    apart = np.abs(np.minimum(places, CROP - 1)[..., None] - np.arange(CROP))
    return torch.from_numpy(np.maximum(0, 1 - apart).mean(1)).float()


def outlined(landmarks: Floats) -> Array:
    """Insides of face, lips and gap for landmarks (68, 2 or 3), crop pixels: (3, SIDE, SIDE) in [0, 1]."""
    fine = SIDE * FINER
    points = (np.asarray(landmarks)[:, :2] - [LEFT, TOP] + 0.5) * (fine / EXTENT) - 0.5
    planes = []
    for outline in OUTLINES:
        plane = Image.new("L", (fine, fine))
        ImageDraw.Draw(plane).polygon([(x, y) for x, y in points[outline].tolist()], fill=255)
        planes.append(np.asarray(plane.reduce(FINER), np.float32) / 255)
    return np.stack(planes)


def _layer(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, padding=1), nn.GroupNorm(8, outs), nn.SiLU())


@cache
def load_cover(path: Path | None = None) -> Cover:
    """The network with the package's weights, or a file's.

    Raises:
        UserError: the file is missing, damaged, or another part's.
    """
    path = path or named.find("cover")
    state, description = load_weights(path)
    model = Cover(tuple(description["config"]["channels"]))
    fill(model, state, path)
    return model.eval().requires_grad_(False)
