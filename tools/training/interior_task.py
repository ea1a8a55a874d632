"""Task ``interior``: learns the inside of a mouth from a sharp recording of a person who opens it wide.

The layers of `video.interior` are fitted to every frame at once. Landmarks are not exact to a pixel, so each
frame may shift its teeth a little while they are learnt; without that, textures blur.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moditalker.config import Config, CropConfig
from moditalker.errors import UserError
from moditalker.features.face.identity import Follower, anchored
from moditalker.features.face.tracker import FaceTracker
from moditalker.geometry.align import inverse, transform
from moditalker.geometry.points import lip_opening
from moditalker.media import open_source
from moditalker.video.flow import Gap
from moditalker.video.interior import QUICK, Interior, Place, skin_around

OPEN = 0.035  # eye distances between the lips from which on there is something to learn
POINTS = 1000  # pixels of a mouth that a step looks at
HELD = 8  # one in so many mouths validates
SHIFT = 0.003  # weight of squared shifts, pixels of the crop
SMOOTH = 0.03  # weight of squared differences between neighbours in a texture
BRIGHTEST = 0.7  # quantile from which on pixels of a mouth are teeth in full light
RIDGE = 0.3  # penalty on how the colour of teeth follows the skin's


@dataclass(frozen=True)
class Mouth:
    """Pixels between the lips of one frame.

    places: (n, 2) crop pixels; colours: (n, 3) in [0, 1]; wanted, rest: (68, 2) landmarks, as `Place.of`
    takes them; skin: (3,) around the lips.
    """

    places: NDArray[np.float32]
    colours: NDArray[np.float32]
    wanted: NDArray[np.float32]
    rest: NDArray[np.float32]
    skin: NDArray[np.float32]


def find_mouths(paths: Iterable[Path], crop: CropConfig, every: int = 1) -> Iterator[Mouth]:
    """Open mouths in videos and pictures, each at its own size; of each file one in `every`."""
    tracker = FaceTracker()
    for path in paths:
        yield from islice(_mouths_of(path, tracker, crop), 0, None, every)


def _mouths_of(path: Path, tracker: FaceTracker, crop: CropConfig) -> Iterator[Mouth]:
    unit = crop.eye_distance / 42
    source = open_source(path)
    follower = Follower(tracker, crop, source)
    if (anchor := follower.find_anchor()) is None:
        return
    fps = float(source.info.fps)
    for face, own in anchored(follower.follow(source), anchor, crop.size, fps):
        if not face.usable or face.landmarks is None or lip_opening(face.landmarks) < OPEN:
            continue
        both = np.concatenate([face.landmarks[None], face.at_rest(own)])
        wanted, rest = transform(both, face.matrix[None])[..., :2]
        places, colours = _between(face.frame.image, face.matrix, wanted)
        skin = skin_around(face.look(face.crop(crop.size), fps), unit)
        arrays = places / unit, colours, wanted / unit, rest / unit, skin
        yield Mouth(*(np.asarray(part, np.float32) for part in arrays))


def _between(
    image: NDArray[np.uint8], matrix: NDArray[np.floating], wanted: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Places and colours of the frame's pixels between the lips of landmarks (68, 2), crop pixels."""
    corners = wanted[48:68] @ inverse(matrix)[:, :2].T + inverse(matrix)[:, 2]
    low = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, np.array(image.shape[1::-1]))
    x, y = np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)))
    places = np.stack([x, y], axis=-1).reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2]
    gap = Gap.of(wanted)
    upper, lower = gap.edges(places[:, 0])
    inside = (places[:, 1] > upper) & (places[:, 1] < lower) & (gap.beyond(places[:, 0]) == 0)
    pixels = image[low[1] : high[1], low[0] : high[0]].reshape(-1, 3)
    return places[inside], pixels[inside] / 255


@dataclass(frozen=True)
class InteriorBatch:
    """Pixels of B mouths: the parts of `Place`, B in front; colours: (B, n, 3); number: (B,) of mouths."""

    shape: Tensor
    upper: Tensor
    lower: Tensor
    moves: Tensor
    colours: Tensor
    number: Tensor


class Fitted(nn.Module):
    """The layers, and each mouth's shift of its teeth from the place that landmarks give.

    shifts: (N, 8), for upper and for lower teeth: right, down, wider, turned.
    """

    def __init__(self, mouths: int) -> None:
        super().__init__()
        self.interior, self.shifts = Interior(), nn.Parameter(torch.zeros(mouths, 8))

    def forward(self, batch: InteriorBatch, shifted: bool = True) -> Tensor:
        made = []
        for i, number in enumerate(batch.number.tolist()):
            upper, lower = batch.upper[i], batch.lower[i]
            if shifted:
                upper, lower = map(_moved, (upper, lower), QUICK * self.shifts[number].view(2, 4))
            made.append(self.interior(Place(batch.shape[i], upper, lower, batch.moves[i])))
        return torch.stack(made)


def _moved(places: Tensor, shift: Tensor) -> Tensor:
    """Places (n, 2) of teeth that are moved right and down, and by tenths wider and turned."""
    x, y = places.T
    return torch.stack([(x - shift[0]) * (1 - shift[2] / 10), y - shift[1] - x * shift[3] / 10], dim=1)


class InteriorTask:
    """The inside of one person's mouth, for `training.loop.fit`."""

    name = "interior"

    def __init__(self, config: Config, mouths: list[Mouth], batch: int) -> None:
        if len(mouths) < HELD:
            raise UserError(f"{len(mouths)} open mouths were found; at least {HELD} are needed")
        self.config, self.size = config, batch
        self.places = [Place.of(mouth.wanted, mouth.rest, mouth.places) for mouth in mouths]
        self.colours = [torch.from_numpy(mouth.colours) for mouth in mouths]
        self.validation = list(range(HELD - 1, len(mouths), HELD))
        self.train = [i for i in range(len(mouths)) if i % HELD != HELD - 1]
        self.model = Fitted(len(mouths))

    def batch(self, rng: np.random.Generator) -> InteriorBatch:
        """Random pixels of random mouths."""
        return self._collated(rng.choice(self.train, self.size).tolist(), rng)

    def _collated(self, numbers: list[int], rng: np.random.Generator) -> InteriorBatch:
        parts = []
        for number in numbers:
            place, colours = self.places[number], self.colours[number]
            some = torch.from_numpy(rng.integers(len(colours), size=POINTS))
            at = place.shape[some], place.upper[some], place.lower[some], place.moves
            parts.append((*at, colours[some], torch.tensor(number)))
        return InteriorBatch(*(torch.stack(part) for part in zip(*parts, strict=True)))

    def loss(self, batch: InteriorBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """L1 and squared error of pixels; shifts and differences inside textures are small."""
        error = self.model(batch) - batch.colours
        points = error.abs().mean() + 2 * error.square().mean()
        shifts = (QUICK * self.model.shifts[batch.number]).square().sum(1).mean()
        textures = self.model.interior.upper, self.model.interior.lower
        rough = sum((QUICK * part.diff(dim=axis)).square().mean() for part in textures for axis in (1, 2))
        return points + SHIFT * shifts + SMOOTH * rough, {"points": points.item(), "shifts": shifts.item()}

    def validate(self) -> dict[str, float]:
        """L1 between the lips on held-out mouths, whose teeth have no shift."""
        rng, errors = np.random.default_rng(0), []
        for number in self.validation:
            batch = self._collated([number], rng)
            with torch.no_grad():
                made = self.model(batch, shifted=False)
            errors.append(float((made - batch.colours).abs().mean()))
        return {"l1": float(np.mean(errors))}

    def score(self, figures: dict[str, float]) -> float:
        return -figures["l1"]

    def preview(self) -> NDArray[np.uint8]:
        """Pictures of both textures: brightness, opacity, and their product."""
        rows = []
        for texture in (self.model.interior.upper, self.model.interior.lower):
            bright, share = (QUICK * texture[:1]).sigmoid(), (2 * QUICK * texture[1:]).sigmoid()
            rows.append(torch.cat([bright, share, bright * share], dim=-1).detach().expand(3, -1, -1))
        width = max(row.shape[-1] for row in rows)
        rows = [nn.functional.pad(row, (0, width - row.shape[-1])) for row in rows]
        return (torch.cat(rows, dim=1) * 255).byte().permute(1, 2, 0).numpy()


def learn_tint(interior: Interior, mouths: Iterable[Mouth], own: Iterable[Mouth]) -> None:
    """Fit the colour of teeth to the skin's, from many people's mouths.

    mouths: of others, one or a few each; own: some of the person that was learnt from.
    """
    rows, goals = [], []
    for mouth in [*mouths, *own]:
        with torch.no_grad():
            made = interior(Place.of(mouth.wanted, mouth.rest, mouth.places)).numpy()
        gain = np.log(_teeth(mouth.colours)) - np.log(_teeth(made))
        skin = np.log(np.maximum(mouth.skin, 1e-2))
        rows.append(np.append(skin - skin.mean(), 1.0))
        goals.append(gain - skin.mean())
    x, y = np.array(rows), np.array(goals)
    penalty = np.diag([RIDGE, RIDGE, RIDGE, 0.0])
    interior.tint.copy_(torch.from_numpy(np.linalg.solve(x.T @ x + penalty, x.T @ y).T.astype(np.float32)))


def _teeth(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of a mouth's brightest pixels."""
    light = colours.mean(1)
    bright = light >= np.quantile(light, BRIGHTEST)
    result: NDArray[np.float32] = np.maximum(colours[bright].mean(0), 0.02)
    return result
