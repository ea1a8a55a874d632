"""Task ``interior``: what is between the lips, learnt from mouths that are open in pictures and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from moditalker.config import Config, CropConfig
from moditalker.features.face import FaceTracker
from moditalker.landmarks import MIRROR, align, lip_opening, transform, warp
from moditalker.media import open_source
from moditalker.metrics.lpips import load_lpips
from moditalker.video.interior import HEIGHT, SCALE, WIDTH, Interior, Window, shape_planes

SURROUND = 6  # crop pixels around the window that are kept for moving it
OPEN = 0.03  # eye distances between the lips from which on there is something to learn
POINTS, LPIPS, CRITIC = 1.0, 4.0, 0.15  # weights of the losses
MOST = 120  # mouths of one person


@dataclass(frozen=True)
class Mouth:
    """picture: (h, w, 3) uint8, a window with SURROUND around it; landmarks: (68, 2) its crop's pixels."""

    person: str
    picture: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


def find_mouths(
    people: Iterable[tuple[str, list[Path]]], crop: CropConfig, log: Callable[[str], None] = print
) -> Iterator[Mouth]:
    """Open mouths in pictures and videos of people, evenly in time, no more than MOST a person."""
    tracker = FaceTracker()
    for person, files in people:
        found: list[Mouth] = []
        for path in files:
            source = open_source(path)
            stride = max(1, round(float(source.info.fps) * 0.08))
            track = tracker.track((frame.image for frame in source), float(source.info.fps))
            for number, (frame, face) in enumerate(zip(source, track, strict=True)):
                if face is None or number % stride or lip_opening(face.landmarks) < OPEN:
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
    """pictures (B, 3, h, w) in [-1, 1], what the network is told of them (B, 4, h, w), gaps (B, 1, h, w)."""

    pictures: Tensor
    shape: Tensor
    gaps: Tensor


class Critic(nn.Module):
    """Whether patches of a mouth look real: (B, 3, h, w) -> (B, 1, h', w'), more is more real.

    [Isola et al. 2017, PatchGAN]
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((3, *channels)):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, picture: Tensor) -> Tensor:
        answer: Tensor = self.layers(picture)
        return answer


class Contest(nn.Module):
    """The painter, and the critic that it learns against; only the painter is kept in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.painter, self.critic = Interior(), Critic()

    def judged(self, picture: Tensor) -> Tensor:
        """The critic's answer, which lets gradients reach the picture and not the critic."""
        fixed = {name: value.detach() for name, value in self.critic.named_parameters()}
        answer: Tensor = functional_call(self.critic, fixed, (picture,))
        return answer


class InteriorTask:
    """The painter of what is between the lips, for `training.loop.fit`."""

    name = "interior"

    def __init__(self, config: Config, train: list[Mouth], validation: list[Mouth], batch: int) -> None:
        self.config, self.train, self.validation, self.size = config, train, validation, batch
        counts: dict[str, int] = {}
        for mouth in train:
            counts[mouth.person] = counts.get(mouth.person, 0) + 1
        # A person of many frames is not worth as many people.
        weight = np.array([counts[mouth.person] ** -0.7 for mouth in train])
        self.probability = weight / weight.sum()
        self.model = Contest()
        self.lpips = load_lpips("alex")

    def batch(self, rng: np.random.Generator) -> InteriorBatch:
        """Random mouths, varied: mirrored, turned, scaled, in other colours and light, blurred."""
        chosen = rng.choice(len(self.train), size=self.size, p=self.probability)
        return collated([varied(self.train[index], rng) for index in chosen])

    def loss(self, batch: InteriorBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """L1 between the lips; LPIPS and a critic of the mouth with what was painted in it [Lim, Ye 2017:
        hinge loss].
        """
        made = self.model.painter(batch.pictures, batch.shape)
        whole = torch.lerp(batch.pictures, made, batch.gaps)
        points = ((made - batch.pictures).abs() * batch.gaps).sum() / (3 * batch.gaps.sum())
        seen = self.lpips(_large(whole), _large(batch.pictures)).mean()
        # Only patches that hold some of what was painted are the painter's to answer for.
        share = F.adaptive_avg_pool2d(batch.gaps, self.model.critic(whole[:1].detach()).shape[-2:])
        weight = (share > 0.02).float()
        weight = weight / weight.sum().clamp_min(1)
        fooled = -(self.model.judged(whole) * weight).sum()
        real, false = self.model.critic(batch.pictures), self.model.critic(whole.detach())
        critic = ((F.relu(1 - real) + F.relu(1 + false)) * weight).sum()
        loss = POINTS * points + LPIPS * seen + CRITIC * fooled + critic
        terms = {"points": points.item(), "lpips": seen.item(), "critic": critic.item()}
        return loss, terms

    def validate(self) -> dict[str, float]:
        """L1 between the lips and LPIPS of the mouth, on people who are not learnt from."""
        points, lpips = [], []
        for start in range(0, len(self.validation), 16):
            batch = collated([still(mouth) for mouth in self.validation[start : start + 16]])
            made = self.model.painter(batch.pictures, batch.shape)
            points.append(float(((made - batch.pictures).abs() * batch.gaps).sum() / (3 * batch.gaps.sum())))
            whole = torch.lerp(batch.pictures, made, batch.gaps)
            lpips.append(float(self.lpips(_large(whole), _large(batch.pictures)).mean()))
        return {"l1": float(np.mean(points)), "lpips": float(np.mean(lpips))}

    def score(self, figures: dict[str, float]) -> float:
        return -figures["lpips"]

    def preview(self) -> NDArray[np.uint8]:
        """Real mouths above painted ones."""
        step = max(1, len(self.validation) // 24)
        batch = collated([still(mouth) for mouth in self.validation[::step][:24]])
        made = torch.lerp(batch.pictures, self.model.painter(batch.pictures, batch.shape), batch.gaps)
        rows = []
        for start in range(0, len(made), 8):
            rows += [torch.cat(list(part[start : start + 8]), dim=-1) for part in (batch.pictures, made)]
        width = max(row.shape[-1] for row in rows)
        sheet = torch.cat([F.pad(row, (0, width - row.shape[-1])) for row in rows], dim=-2)
        return ((sheet + 1) * 127.5).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _large(picture: Tensor) -> Tensor:
    """The mouth's middle at twice the size: what LPIPS sees is fine."""
    return F.interpolate(picture.clamp(-1, 1), scale_factor=1.5, mode="bilinear", align_corners=False)


def collated(items: list[tuple[Tensor, Tensor, Tensor]]) -> InteriorBatch:
    return InteriorBatch(*(torch.stack(part) for part in zip(*items, strict=True)))


def still(mouth: Mouth) -> tuple[Tensor, Tensor, Tensor]:
    """A mouth as it is."""
    return _item(mouth.picture, mouth.landmarks, np.eye(2, 3))


def varied(mouth: Mouth, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A mouth mirrored, turned, scaled, in other colours and light, blurred."""
    picture, points = mouth.picture, mouth.landmarks
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
        points = points[MIRROR] * [-1, 1] + [(picture.shape[1] - 1) / SCALE, 0]
    angle, scale = rng.normal(0, 0.06), np.exp(rng.normal(0, 0.07, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    middle = points[48:68].mean(0)
    shift = middle - turn @ middle + rng.normal(0, 0.8, 2)
    pixels, shape, gap = _item(picture, points, np.column_stack([turn, shift]))
    gain = np.exp(rng.normal(0, 0.1, (3, 1, 1)) + rng.normal(0, 0.25))
    gamma = float(np.exp(rng.normal(0, 0.12)))
    light = ((pixels + 1) / 2).clamp(1e-4, 1) ** gamma * torch.from_numpy(gain).float()
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
