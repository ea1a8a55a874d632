"""Paints the inside of a mouth that the source never shows: teeth, tongue and dark [ours].

Three layers, as in a mouth. Behind are tongue and dark, a smooth function of the place between the lips.
In front of them are the lower teeth, which move with the jaw, and the upper teeth, which move with the
head. Teeth are two textures: they are rigid, so they stay sharp and do not bend while lips uncover them.
How much light reaches a place is a smooth function too. All four are trained together on one recording.
The colour of the light is a function of the colour of the skin around the lips.

Lengths are in pixels of a crop whose eyes are 42 pixels apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moditalker.geometry.looks import Look
from moditalker.video.flow import Gap, outline_distance
from moditalker.weights.files import fill, load_weights
from moditalker.weights.named import find

Floats = NDArray[np.floating]
Box = tuple[float, float, float, float]

UPPER: Box = (-17, 17, -8, 6)  # left, right, top, bottom of the upper teeth's texture, from the lips' line
LOWER: Box = (-16, 16, -6, 10)  # the same for the lower teeth
TEXELS = 4  # texels per pixel
WIDTH = 27.0  # distance between the corners of the shut mouth in the training recording
SHAPE = 7  # numbers for a place between the lips
HIDDEN = 32  # width of the smooth functions
LONG = 10.0  # pixels for one unit of these numbers
BRIGHTER = 1.2  # logarithm of the largest factor of the light, either way
SKIN = 3.0, 8.0  # distances from the lips between which the skin measures the light
MARBLE = 0.05, 0.11  # skin's saturation: up to the first a face is stone without teeth, from the second not
KNEE, BRIGHT = 0.55, 0.88  # share of white: brighter colours are compressed; limit of all
DEEP = 0.07, 0.025, 0.025  # colour of the darkest places; the recording shows them black
QUICK = 10.0  # factor of the textures, so that they learn faster than the functions


@dataclass(frozen=True)
class Place:
    """Coordinates of pixels in a mouth.

    shape: (n, SHAPE - 1), between the lips; upper: (n, 2), from the upper teeth; lower: (n, 2), from where
    the lower teeth are with a shut mouth; moves: (3,), how far chin and lower lip went down, and 1.
    """

    shape: Tensor
    upper: Tensor
    lower: Tensor
    moves: Tensor

    @classmethod
    def of(cls, wanted: Floats, rest: Floats, places: Floats, unit: float = 1.0) -> Place:
        """Places (n, 2) in the mouth of landmarks (68, 2); all in crop pixels.

        rest: (68, 2), the same face in the same pose with a shut mouth.
        unit: crop pixels for one of a crop whose eyes are 42 pixels apart.
        """
        along = rest[64] - rest[60]
        width = max(float(np.linalg.norm(along)), 1e-3)
        right = along / width
        axes = np.stack([right * WIDTH / width, np.array([-right[1], right[0]]) / unit])
        gap = Gap.of(wanted)
        x, y = places[:, 0], places[:, 1]
        top, bottom = gap.edges(x)
        half = (gap.x[-1] - gap.x[0]) / 2
        upper, lower = ((places - rest[point]) @ axes.T for point in (62, 66))
        shape = np.stack(
            [
                (y - top) / (unit * LONG),
                (bottom - y) / (unit * LONG),
                np.abs(x - gap.x.mean()) / max(half, 1e-3),
                np.full_like(x, gap.open() / (unit * LONG)),
                np.full_like(x, half / (unit * LONG)),
                upper[:, 1] / LONG,
            ],
            axis=1,
        )
        moves = [float(axes[1] @ (wanted[point] - rest[point])) for point in (8, 66)]
        parts = (shape, upper, lower, np.array([*moves, 1.0]))
        return cls(*(torch.from_numpy(np.asarray(part, np.float32)) for part in parts))


class Interior(nn.Module):
    """The layers between the lips.

    upper, lower: (2, h, w) logits of the teeth's brightness and opacity; enamel, flesh: (3,) logits of the
    colours of the teeth and of the layer behind them; behind, light: brightness as functions of a place;
    jaw: how lower teeth follow chin and lower lip; tint: (3, 4), the light's logarithm from the skin's.
    """

    tint: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = nn.Parameter(_texture(UPPER, 1)), nn.Parameter(_texture(LOWER, -1))
        self.enamel = nn.Parameter(torch.full((3,), 2.0))
        self.flesh = nn.Parameter(torch.tensor([1.0, -0.5, -0.5]))
        self.behind, self.light = _function(1), _function(2)
        self.jaw = nn.Parameter(torch.tensor([0.5, 0.3, 0.0]))
        self.register_buffer("tint", torch.zeros(3, 4))

    def forward(self, place: Place, teeth: float = 1.0) -> Tensor:
        """Colours (n, 3) in [0, 1], in the light of the training recording; teeth: their opacity."""
        down = place.moves @ self.jaw
        lower = place.lower - torch.stack([torch.zeros_like(down), down])
        shape = torch.cat([place.shape, lower[:, 1:] / LONG], dim=1)
        light = (BRIGHTER * self.light(shape).tanh()).exp()
        flesh = (self.behind(shape) - 1).sigmoid() * self.flesh.sigmoid()
        seen = torch.maximum(flesh, shape.new_tensor(DEEP))
        for number, (texture, box, at) in enumerate(
            ((self.lower, LOWER, lower), (self.upper, UPPER, place.upper))
        ):
            bright, share = _drawn(texture, box, at)
            colour = bright * light[:, number : number + 1] * self.enamel.sigmoid()
            seen = torch.lerp(seen, colour, teeth * share)
        return seen

    def paint(
        self,
        wanted: Floats,
        rest: Floats,
        places: Floats,
        skin: Floats,
        unit: float = 1.0,
        grey: bool = False,
    ) -> Tensor:
        """`forward` for a face: places (n, 2) in its crop -> (n, 3) in [0, 1], in that face's light.

        Args:
            wanted, rest, unit: see `Place.of`.
            skin: (3,) in [0, 1], the colour around its lips.
            grey: whether the picture has no colours.
        """
        saturation = 1 - skin.min() / max(float(skin.max()), 1e-3)
        teeth = 1.0 if grey else float(np.clip((saturation - MARBLE[0]) / (MARBLE[1] - MARBLE[0]), 0, 1))
        colours = self(Place.of(wanted, rest, places, unit), teeth) * self.tinted(skin)
        colours = torch.lerp(colours.mean(1, keepdim=True), colours, 0.0 if grey else teeth)
        room = BRIGHT - KNEE
        return torch.where(colours < KNEE, colours, KNEE + room * ((colours - KNEE) / room).tanh())

    def tinted(self, skin: Floats) -> Tensor:
        """Factors (3,) that adapt colours to this colour of the skin."""
        logarithm = torch.from_numpy(np.log(np.maximum(np.asarray(skin, np.float32), 1e-2)))
        mean = logarithm.mean()
        return (mean + self.tint @ torch.cat([logarithm - mean, torch.ones(1)])).exp()


@lru_cache(maxsize=128)
def skin_around(look: Look, unit: float) -> Floats:
    """Measure the colour around a look's lips, (3,) in [0, 1]; unit: see `Place.of`."""
    size = len(look.crop)
    places = np.stack(np.meshgrid(np.arange(float(size)), np.arange(float(size))), axis=-1)
    distance = outline_distance(places, look.landmarks)
    near = (distance > SKIN[0] * unit) & (distance < SKIN[1] * unit)
    seen = look.crop[near] if near.any() else look.crop.reshape(-1, 3)
    return np.asarray(np.median(seen, axis=0) / 255)


def _texture(box: Box, hides: int) -> Tensor:
    """A white texture that hides everything above (1) or below (-1) its line."""
    h, w = (round(TEXELS * (box[i + 1] - box[i])) for i in (2, 0))
    y = torch.linspace(box[2], box[3], h)
    share = (1 - hides * y).clamp(-2, 2)
    return torch.stack([torch.full((h, w), 1.5), share[:, None].expand(h, w)]) / QUICK


def _drawn(texture: Tensor, box: Box, at: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness (n, 1) and opacity (n, 1) at places (n, 2); opacity is 0 beyond the texture's box."""
    low, high = at.new_tensor([box[0], box[2]]), at.new_tensor([box[1], box[3]])
    grid = (at - low) / (high - low) * 2 - 1
    seen = F.grid_sample(texture[None], grid[None, None], align_corners=False, padding_mode="border")[0, :, 0]
    seen = QUICK * seen.T
    inside = torch.minimum(at - low, high - at).amin(1, keepdim=True).clamp(0, 1)
    return seen[:, :1].sigmoid(), (2 * seen[:, 1:]).sigmoid() * inside


def _function(outs: int) -> nn.Sequential:
    widths = (SHAPE, HIDDEN, HIDDEN, outs)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def load_interior(path: Path | None = None) -> Interior:
    """Load the layers with the package's weights, or a file's. UserError: damaged or for another part."""
    path = path or find("interior")
    state, _ = load_weights(path)
    model = Interior()
    fill(model, state, path)
    return model.eval().requires_grad_(False)
