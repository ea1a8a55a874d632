"""Brings a crop to the light of the identity before the model sees it, and the result back afterwards [ours].

The model was trained in daylight. Without this, the colours that it adds (mainly between the lips) would be
too bright in a dark frame, and would have the identity's light in any other.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST = 0.4  # share of white: a darker identity is lit up to it; faces in a room have 0.5
SAME = 1.3  # a light that differs by no more than this factor is the same
MOST = 10.0  # the largest factor: darker crops hold little but noise


def level(crops: NDArray[np.uint8]) -> Tensor:
    """Mean of each crop's middle, without the mouth: (N, H, W, 3) uint8 -> (N,) in [0, 1]."""
    height, width = crops.shape[1:3]
    middle = crops[:, height // 4 : height * 5 // 8, width // 4 : width * 3 // 4]
    return torch.from_numpy(middle.mean(axis=(1, 2, 3)) / 255).float()


def gains(crops: NDArray[np.uint8], light: float) -> Tensor:
    """Factors (N, 1, 1, 1) that bring crops (N, H, W, 3) uint8 to a light; 1 if a crop has it already."""
    ratio = (light / level(crops).clamp_min(1e-3)).clamp(1 / MOST, MOST)
    return (ratio / ratio.clamp(1 / SAME, SAME))[:, None, None, None]


def lit(pixels: Tensor, gain: Tensor) -> Tensor:
    """Multiply the brightness of pixels (N, 3, H, W) in [-1, 1], -1 black, by `gain`; 1 changes nothing."""
    return (pixels + (gain - 1) * (pixels + 1)).clamp(max=1)
