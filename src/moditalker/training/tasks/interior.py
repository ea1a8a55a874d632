"""Task ``interior``: what is between the lips, learnt from mouths that are open in pictures and videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from moditalker.config import Config, CropConfig
from moditalker.features.face.tracker import FaceTracker
from moditalker.geometry.align import align, transform
from moditalker.geometry.points import MIRROR, lip_opening
from moditalker.geometry.raster import warp
from moditalker.media import open_source
from moditalker.metrics.lpips import load_lpips
from moditalker.video.interior import HEIGHT, SCALE, STYLE, WIDTH, Interior, Window, shape_planes

SURROUND = 6  # crop pixels around the window that are kept for moving it
OPEN = 0.03  # eye distances between the lips from which on there is something to learn
LPIPS = 3.0  # weight of LPIPS, against 1 for pixels and their edges
OWN = 0.75  # share of a batch that shows the person whose teeth will be painted
MOST = 120  # mouths of one person


@dataclass(frozen=True)
class Mouth:
    """picture: (h, w, 3) uint8, a window with SURROUND around it; landmarks: (68, 2) its crop's pixels."""

    person: str
    picture: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


def find_mouths(
    people: Iterable[tuple[str, list[Path]]],
    crop: CropConfig,
    log: Callable[[str], None] = print,
    stride: float = 0.08,
) -> Iterator[Mouth]:
    """Open mouths in pictures and videos of people, one in `stride` seconds, no more than MOST a person."""
    tracker = FaceTracker()
    for person, files in people:
        found: list[Mouth] = []
        for path in files:
            source = open_source(path)
            every = max(1, round(float(source.info.fps) * stride))
            track = tracker.track((frame.image for frame in source), float(source.info.fps))
            for number, (frame, face) in enumerate(zip(source, track, strict=True)):
                if face is None or number % every or lip_opening(face.landmarks) < OPEN:
                    continue
                matrix = align(face.landmarks[None], crop)[0]
                points = transform(face.landmarks[None], matrix[None])[0, :, :2]
                window = Window.of(points)
                corner = window.origin - SURROUND
                to_picture = SCALE * (matrix - np.array([[0, 0, corner[0]], [0, 0, corner[1]]]))
                size = (HEIGHT + 2 * SURROUND) * SCALE, (WIDTH + 2 * SURROUND) * SCALE
                picture = warp(frame.image[None], to_picture[None], size)[0]
                found.append(Mouth(person, picture, (points - corner).astype(np.float32)))
        step = max(1, -(-len(found) // MOST))
        log(f"interior: {person}: {len(found[::step])} open mouths")
        yield from found[::step]


@dataclass(frozen=True)
class InteriorBatch:
    """pictures (B, 3, h, w) in [-1, 1], what the network is told of them (B, 4, h, w), gaps (B, 1, h, w),
    people (B,).
    """

    pictures: Tensor
    shape: Tensor
    gaps: Tensor
    people: Tensor


class Painters(nn.Module):
    """The painter, and a style for each person that it learns from."""

    def __init__(self, people: int) -> None:
        super().__init__()
        self.painter, self.styles = Interior(), nn.Embedding(people, STYLE)

    def forward(self, batch: InteriorBatch) -> Tensor:
        painted: Tensor = self.painter(batch.pictures, batch.shape, self.styles(batch.people))
        return painted


class InteriorTask:
    """The painter of what is between the lips, for `training.loop.fit`."""

    name = "interior"

    def __init__(
        self, config: Config, train: list[Mouth], validation: list[Mouth], batch: int, style: str = ""
    ) -> None:
        self.config, self.train, self.validation, self.size = config, train, validation, batch
        self.people = sorted({mouth.person for mouth in train})
        counts = Counter(mouth.person for mouth in train)
        # A person of many frames is not worth as many people, but for the one whose teeth will be painted.
        weight = np.array([counts[mouth.person] ** -0.7 for mouth in train])
        own = np.array([mouth.person == style for mouth in train])
        if own.any():
            weight[own] *= OWN / (1 - OWN) * weight[~own].sum() / weight[own].sum()
        self.probability = weight / weight.sum()
        self.model = Painters(len(self.people))
        self.lpips = load_lpips("alex")

    def batch(self, rng: np.random.Generator) -> InteriorBatch:
        """Random mouths, varied: mirrored, turned, scaled, in other colours and light, blurred."""
        chosen = rng.choice(len(self.train), size=self.size, p=self.probability)
        return self._collated([(self.train[i].person, varied(self.train[i], rng)) for i in chosen])

    def _collated(self, items: list[tuple[str, tuple[Tensor, Tensor, Tensor]]]) -> InteriorBatch:
        people = torch.tensor([self.people.index(person) for person, _ in items])
        pictures, shape, gaps = (torch.stack(part) for part in zip(*(own for _, own in items), strict=True))
        return InteriorBatch(pictures, shape, gaps, people)

    def loss(self, batch: InteriorBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """L1 and L1 of the edges between the lips, LPIPS of the mouth with what was painted in it."""
        made = self.model(batch)
        points, edges = _errors(made, batch)
        whole = torch.lerp(batch.pictures, made, batch.gaps)
        seen = self.lpips(_large(whole), _large(batch.pictures)).mean()
        return points + edges + LPIPS * seen, {"points": points.item(), "lpips": seen.item()}

    def validate(self) -> dict[str, float]:
        """L1 between the lips and LPIPS of the mouth, on frames of people who are learnt from."""
        points, lpips = [], []
        for start in range(0, len(self.validation), 16):
            batch = self._stills(self.validation[start : start + 16])
            made = self.model(batch)
            points.append(float(_errors(made, batch)[0]))
            whole = torch.lerp(batch.pictures, made, batch.gaps)
            lpips.append(float(self.lpips(_large(whole), _large(batch.pictures)).mean()))
        return {"l1": float(np.mean(points)), "lpips": float(np.mean(lpips))}

    def painter(self, person: str) -> Interior:
        """The network with the style of a person that it learnt from."""
        painter = self.model.painter
        painter.style.copy_(self.model.styles.weight[self.people.index(person)].detach())
        return painter

    def _stills(self, mouths: list[Mouth]) -> InteriorBatch:
        return self._collated([(mouth.person, still(mouth)) for mouth in mouths])

    def score(self, figures: dict[str, float]) -> float:
        return -figures["lpips"]

    def preview(self) -> NDArray[np.uint8]:
        """Real mouths above painted ones."""
        step = max(1, len(self.validation) // 24)
        batch = self._stills(self.validation[::step][:24])
        made = torch.lerp(batch.pictures, self.model(batch), batch.gaps)
        rows = []
        for start in range(0, len(made), 8):
            rows += [torch.cat(list(part[start : start + 8]), dim=-1) for part in (batch.pictures, made)]
        width = max(row.shape[-1] for row in rows)
        sheet = torch.cat([F.pad(row, (0, width - row.shape[-1])) for row in rows], dim=-2)
        return ((sheet + 1) * 127.5).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _large(picture: Tensor) -> Tensor:
    """The mouth's middle at twice the size: what LPIPS sees is fine."""
    return F.interpolate(picture.clamp(-1, 1), scale_factor=1.5, mode="bilinear", align_corners=False)


def _errors(made: Tensor, batch: InteriorBatch) -> tuple[Tensor, Tensor]:
    """Mean absolute error between the lips, and that of differences to the right and below."""
    error, count = made - batch.pictures, 3 * batch.gaps.sum().clamp_min(1)
    right = (error.diff(dim=-1).abs() * batch.gaps[..., 1:]).sum()
    below = (error.diff(dim=-2).abs() * batch.gaps[..., 1:, :]).sum()
    return (error.abs() * batch.gaps).sum() / count, (right + below) / count


def still(mouth: Mouth) -> tuple[Tensor, Tensor, Tensor]:
    """A mouth as it is."""
    return _item(mouth.picture, mouth.landmarks, np.eye(2, 3))


def varied(mouth: Mouth, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A mouth mirrored, turned, scaled, in other colours and light, blurred."""
    picture, points = mouth.picture, mouth.landmarks
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
        points = points[MIRROR] * [-1, 1] + [(picture.shape[1] - 1) / SCALE, 0]
    angle, scale = rng.normal(0, 0.04), np.exp(rng.normal(0, 0.05, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    middle = points[48:68].mean(0)
    shift = middle - turn @ middle + rng.normal(0, 0.5, 2)
    pixels, shape, gap = _item(picture, points, np.column_stack([turn, shift]))
    gain = np.exp(rng.normal(0, 0.1, (3, 1, 1)) + rng.normal(0, 0.25))
    gamma = float(np.exp(rng.normal(0, 0.12)))
    light = ((pixels + 1) / 2).clamp(1e-4, 1) ** gamma * torch.from_numpy(gain).float()
    # Skin and lips have many colours; what is between them does not follow.
    skin = torch.from_numpy(np.exp(rng.normal(0, 0.12, (3, 1, 1)) + rng.normal(0, 0.15))).float()
    light = torch.lerp(light * skin, light, gap)
    if rng.random() < 0.3:  # a soft camera: lips and what is between them alike
        sigma = float(rng.uniform(0.5, 1.6))
        taps = torch.exp(-0.5 * (torch.arange(-4, 5) / sigma) ** 2)
        taps = taps / taps.sum()
        light = F.conv2d(
            F.pad(light[:, None], (4, 4, 4, 4), mode="replicate"), (taps[:, None] * taps)[None, None]
        )[:, 0]
    return light.clamp(0, 1) * 2 - 1, shape, gap


def _item(
    picture: NDArray[np.uint8], points: NDArray[np.floating], move: NDArray[np.float64]
) -> tuple[Tensor, Tensor, Tensor]:
    """The window of a picture after a move (2, 3) in crop pixels, of a mouth's own crop."""
    points = points @ move[:, :2].T + move[:, 2]
    # Pixels of the picture -> of the window, which follows the nose.
    window = Window.of(points)
    whole = np.column_stack([move[:, :2], SCALE * (move[:, 2] - window.origin)])
    drawn = warp(np.ascontiguousarray(picture)[None], whole[None], (HEIGHT * SCALE, WIDTH * SCALE))[0]
    shape, gap = shape_planes(points, window)
    pixels = torch.from_numpy(np.asarray(drawn)).permute(2, 0, 1).float() / 127.5 - 1
    return pixels, torch.from_numpy(shape), torch.from_numpy(gap)[None]
