"""The inside of a mouth that the source never showed: teeth, tongue and dark, from the lips around it [ours].

A small convolutional network paints what lies between the lips, in a window that is fixed to the head, at
twice the crop's resolution. It sees the lips without anything between them, and knows where each place lies
between the edges of the lips. Upper teeth do not move with the lips, and neither does the window, so they
stay where they are while the lips uncover them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moditalker.video.flow import Gap
from moditalker.weights.files import fill, load_weights
from moditalker.weights.named import find

Floats = NDArray[np.floating]

SCALE = 2  # pixels of the window for one of a crop of 128
WIDTH, HEIGHT = 56, 44  # of the window, pixels of that crop
ABOVE = 4.0  # of it above the base of the nose
MARGIN = 0.8  # by how much more than the gap is hidden from the network: landmarks are not exact
INPUTS = 7  # lips (3), gap, distance to either lip (2), place across
STYLE = 8  # numbers that say whose teeth they are
NEAR = 10.0  # pixels of the crop that distances are measured in


@dataclass(frozen=True)
class Window:
    """A head's window. origin: (2,) crop pixels, the centre of its first pixel; unit: crop pixels for one
    of a crop of 128.
    """

    origin: Floats
    unit: float

    @classmethod
    def of(cls, landmarks: Floats, unit: float = 1.0) -> Window:
        """For landmarks (68, 2), crop pixels."""
        return cls(landmarks[33, :2] - np.array([WIDTH / 2, ABOVE]) * unit, unit)

    def places(self) -> Floats:
        """Crop pixel of each of its pixels, (HEIGHT SCALE, WIDTH SCALE, 2)."""
        x, y = (np.arange(n * SCALE) * self.unit / SCALE for n in (WIDTH, HEIGHT))
        return np.asarray(np.stack(np.meshgrid(x, y), axis=-1) + self.origin)

    def within(self, places: Tensor) -> Tensor:
        """Crop pixels (2, h, w) -> pixels of the window."""
        origin = torch.from_numpy(np.asarray(self.origin, np.float32)).view(2, 1, 1)
        return (places - origin) * (SCALE / self.unit)


def shape_planes(landmarks: Floats, window: Window) -> tuple[Floats, Floats]:
    """What the network is told about a window but for its picture.

    Returns:
        planes: (4, h, w): what is hidden, distance below the upper and above the lower lip, place across;
        gap: (h, w), 1 between the lips.
    """
    places, unit = window.places(), window.unit
    gap = Gap.of(np.asarray(landmarks[:, :2], np.float64))
    x, y = places[..., 0], places[..., 1]
    upper, lower = gap.edges(x)
    below, above = (y - upper) / unit, (lower - y) / unit
    within = np.clip(1 - gap.beyond(x) / unit, 0, 1)
    hidden = np.clip(0.5 + below + MARGIN, 0, 1) * np.clip(0.5 + above + MARGIN, 0, 1) * within
    between = np.clip(0.5 + below, 0, 1) * np.clip(0.5 + above, 0, 1) * (gap.beyond(x) == 0)
    across = (x - (gap.x[0] + gap.x[-1]) / 2) / (2 * NEAR * unit)
    planes = np.stack([hidden, *(np.clip(d / NEAR, -1, 2) for d in (below, above)), np.clip(across, -1, 1)])
    return planes.astype(np.float32), between.astype(np.float32)


class Interior(nn.Module):
    """Lips with nothing between them -> what is between them.

    Four levels, two convolutions each, with skips [Ronneberger et al. 2015, U-Net]. People's teeth differ,
    and their mean is a grey smear, so a style tells the network whose they are; `style` is the one that is
    painted.
    """

    style: Tensor

    def __init__(self, channels: tuple[int, ...] = (24, 48, 72, 72)) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("style", torch.zeros(STYLE))
        widths = (INPUTS + STYLE, *channels)
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(
            _block(deep + skip, skip) for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.last = nn.Conv2d(channels[0], 3, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, lips: Tensor, shape: Tensor, style: Tensor | None = None) -> Tensor:
        """lips (B, 3, h, w) in [-1, 1], shape (B, 4, h, w) of `shape_planes` -> (B, 3, h, w) in [-1, 1];
        style: (B, STYLE).
        """
        hidden, (height, width) = shape[:, :1], shape.shape[-2:]
        whose = (self.style.expand(len(lips), -1) if style is None else style)[..., None, None]
        parts = [lips * (1 - hidden), shape, whose.expand(-1, -1, height, width)]
        x = torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)
        skips = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.avg_pool2d(x, 2, ceil_mode=True))
            skips.append(x)
        for block in self.up:
            skip = skips[-2]
            skips.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], dim=1))
        return self.last(x).tanh()

    def describe(self) -> dict[str, list[int]]:
        """What `load_interior` builds it from."""
        return {"channels": list(self.channels)}


def _block(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, 3, padding=1),
        nn.GroupNorm(8, outs),
        nn.SiLU(),
        nn.Conv2d(outs, outs, 3, padding=1),
        nn.GroupNorm(8, outs),
        nn.SiLU(),
    )


def load_interior(path: Path | None = None) -> Interior:
    """The network with the package's weights, or a file's. UserError: damaged, or another part's."""
    path = path or find("interior")
    state, description = load_weights(path)
    model = Interior(tuple(description["config"]["channels"]))
    fill(model, state, path)
    return model.eval().requires_grad_(False)
