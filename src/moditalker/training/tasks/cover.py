"""Task ``cover``: what is in front of a face, learnt from free faces and things that are drawn over them.

Faces are found once and kept in a file. Each example is one of them, varied, and in about half of the
examples something is put in front of it: a hand, a microphone, a mask, a cup, a caption, a sheet, a piece of
another picture. Beards, shadows, painted lips, glints, odd colours, noise and compression are put on faces
too, and are not to be called covered.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from moditalker.config import Config, CropConfig
from moditalker.features.face.cover import CROP, LEFT, SCALE, SIDE, TOP, Cover, outlined
from moditalker.features.face.tracker import FaceTracker, largest
from moditalker.geometry.align import align, transform
from moditalker.geometry.points import JAW, MIRROR, MOUTH
from moditalker.geometry.raster import warp
from moditalker.media import open_source

Floats = NDArray[np.floating]
Pixels = NDArray[np.uint8]
Layer = tuple[Floats, Floats]  # colours (CROP, CROP, 3) in [0, 1], and how much they cover, (CROP, CROP)

FREE = 0.45  # share of the examples with nothing in front
OUTSIDE = 0.25  # weight of pixels outside the face, where "in front" means little
VIEWS = 2  # of each face that is varied, by different cameras: drawing costs more than looking
FIXED = 9  # seed of the validation's examples


@dataclass(frozen=True)
class People:
    """Free faces: names (N,), crops (N, 128, 128, 3) uint8, landmarks (N, 68, 2) float32 in crop pixels."""

    names: NDArray[np.str_]
    crops: Pixels
    landmarks: NDArray[np.float32]

    def of(self, names: Iterable[str], without: bool = False) -> People:
        """Those of some people, or of all others."""
        chosen = np.isin(self.names, sorted(names), invert=without)
        return People(self.names[chosen], self.crops[chosen], self.landmarks[chosen])

    def save(self, path: Path) -> None:
        np.savez_compressed(path, names=self.names, crops=self.crops, landmarks=self.landmarks)

    @classmethod
    def load(cls, path: Path) -> People:
        with np.load(path) as file:
            return cls(file["names"], file["crops"], file["landmarks"])


def find_people(
    files: Iterable[tuple[str, Path]], most: int, crop: CropConfig, log: Callable[[str], None] = print
) -> People:
    """Up to `most` faces out of each picture or video, evenly in time; files: of a person's name."""
    tracker = FaceTracker()
    names: list[str] = []
    crops: list[Pixels] = []
    landmarks: list[NDArray[np.floating]] = []
    for name, path in files:
        source = open_source(path)
        picture = source.info.kind == "picture"
        frames = 1 if picture else max(1, int(float(source.info.seconds or 3) * float(source.info.fps)))
        stride = max(1, frames // most)
        before = len(names)
        for number, frame in enumerate(source):
            if number >= (1 if picture else stride * most):
                break
            if number % stride or not (faces := tracker.detect(frame.image, 0)):
                continue
            points = faces[largest(faces)].landmarks
            matrix = align(points[None], crop)[0]
            names.append(name)
            crops.append(warp(frame.image[None], matrix[None], crop.size)[0])
            landmarks.append(transform(points[None], matrix[None])[0, :, :2])
        log(f"cover: {name} {path.name}: {len(names) - before} faces")
    return People(np.array(names), np.stack(crops), np.stack(landmarks).astype(np.float32))


@dataclass(frozen=True)
class CoverBatch:
    """pictures, outlines: (B, 3, SIDE, SIDE) as of `features.cover.inputs`; covered: (B, SIDE, SIDE) in
    [0, 1].
    """

    pictures: Tensor
    outlines: Tensor
    covered: Tensor


class CoverTask:
    """The network that says what is in front of a face, for `training.loop.fit`."""

    name = "cover"

    def __init__(self, config: Config, train: People, validation: People, batch: int) -> None:
        self.config, self.train, self.size = config, train, batch
        _, number, counts = np.unique(train.names, return_inverse=True, return_counts=True)
        # A person of many frames is not worth as many people.
        weight = counts[number] ** -0.7
        self.probability = weight / weight.sum()
        self.model = Cover()
        rng = np.random.default_rng(FIXED)
        chosen = rng.choice(len(validation.names), size=512)
        self.fixed = [examples(validation, int(i), rng)[0] for i in chosen]

    def batch(self, rng: np.random.Generator) -> CoverBatch:
        """Random faces, varied, about half of them with something in front."""
        chosen = rng.choice(len(self.train.names), size=self.size // VIEWS, p=self.probability)
        return collated([view for i in chosen for view in examples(self.train, int(i), rng, VIEWS)])

    def loss(self, batch: CoverBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Binary cross-entropy, mostly of the pixels inside the face's outline."""
        made = self.model(batch.pictures, batch.outlines)
        weight = OUTSIDE + (1 - OUTSIDE) * batch.outlines[:, 0]
        error = F.binary_cross_entropy_with_logits(made, batch.covered, reduction="none")
        loss = (error * weight).sum() / weight.sum()
        return loss, {"entropy": loss.item()}

    def validate(self) -> dict[str, float]:
        """On people who are not learnt from: overlap (IoU) of what is covered in their faces; share of the
        free faces with more than a fiftieth of the lips' surroundings called covered; share of those with
        more than a twentieth of these surroundings really covered that are not called so.
        """
        common = both = 0.0
        alarms, misses = list[bool](), list[bool]()
        for start in range(0, len(self.fixed), 64):
            batch = collated(self.fixed[start : start + 64])
            made = self.model(batch.pictures, batch.outlines).sigmoid() > 0.5
            real = batch.covered > 0.5
            inside = batch.outlines[:, 0] > 0.5
            common += float((made & real & inside).sum())
            both += float(((made | real) & inside).sum())
            near = F.max_pool2d(batch.outlines[:, 1:2], 9, 1, 4)[:, 0] > 0.5
            called, true = (((part & near).sum((1, 2)) / near.sum((1, 2))).tolist() for part in (made, real))
            for mine, its in zip(called, true, strict=True):
                if its == 0:
                    alarms.append(mine > 0.02)
                elif its > 0.05:
                    misses.append(mine <= 0.02)
        return {
            "iou": common / max(1.0, both),
            "false_alarms": float(np.mean(alarms or [False])),
            "missed": float(np.mean(misses or [False])),
        }

    def score(self, figures: dict[str, float]) -> float:
        return figures["iou"] - figures["false_alarms"]

    def preview(self) -> NDArray[np.uint8]:
        """Pictures above what is called covered above what is, eight in a row."""
        batch = collated(self.fixed[:32])
        made = self.model(batch.pictures, batch.outlines).sigmoid()
        rows = []
        for start in range(0, 32, 8):
            part = slice(start, start + 8)
            rows.append(torch.cat(list(batch.pictures[part]), dim=-1))
            for plane in (made, batch.covered):
                rows.append(torch.cat(list(plane[part]), dim=-1).expand(3, -1, -1))
        sheet = torch.cat(rows, dim=-2)
        return (sheet * 255).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def collated(items: list[tuple[Tensor, Tensor, Tensor]]) -> CoverBatch:
    return CoverBatch(*(torch.stack(part) for part in zip(*items, strict=True)))


# --- one example -------------------------------------------------------------------------------------------


def examples(
    people: People, index: int, rng: np.random.Generator, views: int = 1, free: float = FREE
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Picture, outlines and what is covered, of a face varied, with something in front or free.

    views: by so many cameras.
    """
    picture, points = people.crops[index].astype(np.float32) / 255, people.landmarks[index]
    if rng.random() < 0.5:
        picture, points = picture[:, ::-1], points[MIRROR] * [-1, 1] + [CROP - 1, 0]
    picture = on_skin(picture, points, rng)
    covered = np.zeros((CROP, CROP), np.float32)
    if rng.random() >= free:
        other = people.crops[rng.integers(len(people.crops))].astype(np.float32) / 255
        for _ in range(1 + (rng.random() < 0.1)):
            picture, covered = in_front(picture, points, other, covered, rng)
    return [seen(picture, points, covered, rng) for _ in range(views)]


def in_front(
    picture: Floats, points: Floats, other: Floats, covered: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """A picture with a thing in front of the face, and what is covered now."""
    thing = THINGS[int(rng.choice(len(THINGS), p=SHARES))]
    colours, share = thing(picture, points, other, rng)
    if rng.random() < 0.5:  # of the light that the picture has
        colours = colours * (0.6 + 0.8 * picture[TOP:].mean())
    if rng.random() < 0.4 and thing is not caption:  # it casts a shadow on what is behind
        shift = rng.integers(-6, 7, 2)
        shadow = _blurred(np.roll(share, shift, (0, 1)), rng.uniform(1.0, 4.0))
        picture = picture * (1 - rng.uniform(0.15, 0.6) * shadow[..., None])
    if rng.random() < 0.35:  # it is out of focus
        sigma = rng.uniform(0.4, 1.6)
        colours, share = _blurred(colours, sigma), _blurred(share, sigma)
    mixed = picture + share[..., None] * (np.clip(colours, 0, 1) - picture)
    label = share
    if thing is caption:  # letters are finer than the network sees: what is between them counts
        label = _widened(share, 3 if rng.random() < 0.5 else 5)
    return mixed, np.maximum(covered, np.minimum(1, label * 1.15))


def seen(
    picture: Floats, points: Floats, covered: Floats, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """What a camera makes of it: colours, light, blur, noise, compression; turned, scaled, and cut out."""
    gain = np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.1, 3)).astype(np.float32)
    gamma = np.float32(np.exp(rng.normal(0, 0.25)))
    picture = np.clip(np.asarray(picture, np.float32) * gain, 0, 1) ** gamma
    if rng.random() < 0.08:
        picture = np.repeat(picture.mean(-1, keepdims=True), 3, axis=-1)
    if rng.random() < 0.3:
        grey = picture.mean(-1, keepdims=True)
        picture = grey + (picture - grey) * rng.uniform(0.3, 1.6)
    if rng.random() < 0.4:  # a small or soft picture
        low = int(rng.integers(36, 110))
        picture = _resized(_resized(picture, low), CROP)
    if rng.random() < 0.1:  # motion
        taps = int(rng.integers(3, 9))
        rolled = [np.roll(picture, k - taps // 2, int(rng.random() < 0.3)) for k in range(taps)]
        picture = np.mean(rolled, axis=0)
    if rng.random() < 0.5:
        noise = rng.standard_normal(picture.shape, np.float32)
        picture = picture + np.float32(rng.uniform(0.002, 0.05)) * noise
    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.6:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(20, 95)))
        pixels = np.asarray(Image.open(buffer))
    angle, scale = rng.normal(0, 0.05), np.exp(rng.normal(0, 0.04, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    middle = np.array([63.5, 60.0])
    move = np.column_stack([turn, middle - turn @ middle + rng.normal(0, 1.5, 2)])
    points = unsure(points, rng) @ move[:, :2].T + move[:, 2]
    centre = (SCALE - 1) / 2
    window = np.column_stack([SCALE * move[:, :2], SCALE * (move[:, 2] - [LEFT, TOP]) + centre])
    drawn = warp(np.ascontiguousarray(pixels)[None], window[None], SIDE)[0]
    label = warp(np.ascontiguousarray(covered, np.float32)[None], window[None], SIDE)[0]
    return (
        torch.from_numpy(np.ascontiguousarray(drawn.transpose(2, 0, 1))).float() / 255,
        torch.from_numpy(outlined(points)),
        torch.from_numpy(np.ascontiguousarray(label, np.float32)).clamp(0, 1),
    )


def unsure(points: Floats, rng: np.random.Generator) -> Floats:
    """Landmarks a little off, as those of a covered face are: lips shifted, scaled, shut or opened."""
    points = points + rng.normal(0, 0.4, (1, 2))
    if rng.random() < 0.5:
        lips = points[MOUTH]
        middle = lips.mean(0)
        scale = np.exp(rng.normal(0, [0.08, 0.2]))
        moved = points.copy()
        moved[MOUTH] = middle + (lips - middle) * scale + rng.normal(0, [0.8, 1.2])
        points = moved
    return points


# --- what belongs to a face --------------------------------------------------------------------------------


def on_skin(picture: Floats, points: Floats, rng: np.random.Generator) -> Floats:
    """A face with a beard, painted lips, shadows, glints: with what does not cover it."""
    if rng.random() < 0.2:
        picture = beard(picture, points, rng)
    if rng.random() < 0.12:  # painted lips
        inside = _blurred(_polygon(points[48:60]) - _polygon(points[60:68]), 0.6)[..., None]
        paint = np.array([rng.uniform(0.3, 0.9), rng.uniform(0, 0.35), rng.uniform(0.05, 0.5)])
        lips = picture.mean(-1, keepdims=True) / 0.45 * paint
        picture = picture + rng.uniform(0.3, 0.8) * inside * (np.clip(lips, 0, 1) - picture)
    if rng.random() < 0.3:  # a side in shadow or light, with a soft or a hard edge
        edge = _wave(rng, int(rng.integers(2, 5)))
        hard = np.clip(0.5 + edge * rng.uniform(1, 20), 0, 1)[..., None]
        colour = np.clip(rng.uniform(0.35, 1.5) + rng.normal(0, 0.06, 3), 0.2, 1.8)
        picture = np.clip(picture * (1 + hard * (colour - 1)), 0, 1)
    if rng.random() < 0.15:  # glints on skin and lips
        for _ in range(int(rng.integers(1, 4))):
            place = points[int(rng.integers(2, 68))] + rng.normal(0, 4, 2)
            spot = np.exp(-(((_grid() - place) / rng.uniform(1.5, 7, 2)) ** 2).sum(-1))
            picture = picture + rng.uniform(0.1, 0.5) * spot[..., None]
    return picture


def beard(picture: Floats, points: Floats, rng: np.random.Generator) -> Floats:
    """Hair over jaw, chin and upper lip, or a part of these."""
    jaw, lips = points[JAW], points[48:60]
    upper = points[31:36] + np.array([0, 2])
    first = int(rng.integers(1, 6))
    nose, base = points[33], lips.mean(0)
    sides = [jaw[first : 17 - first], lips[[6, 5, 4, 3, 2, 1, 0]]]
    area = _polygon(np.concatenate([sides[0] + [0, rng.uniform(0, 10)], [lips[6]], [base], [lips[0]]]))
    if rng.random() < 0.6:  # moustache
        area = np.maximum(area, _polygon(np.concatenate([upper, lips[[6, 5, 4, 3, 2, 1, 0]]])))
    elif rng.random() < 0.5:  # goatee
        area = area * (np.abs(_grid()[..., 0] - nose[0]) < rng.uniform(8, 20))
    area = _blurred(area, rng.uniform(0.8, 4.0)) * (1 - _blurred(_polygon(lips), 0.7))
    hair = _speckle(rng, rng.uniform(0.4, 0.9), rng.uniform(0.5, 1.6))
    grain = rng.uniform(0.02, 0.15)
    dark = np.array([0.12, 0.09, 0.07]) * rng.uniform(0.3, 2.0)
    if rng.random() < 0.4:
        dark = np.array([0.55, 0.45, 0.36]) * rng.uniform(0.4, 1.5)
    if rng.random() < 0.3:
        dark = np.full(3, rng.uniform(0.3, 0.85))  # grey
    strength = rng.uniform(0.25, 1.0)
    share = np.clip(area * strength * (0.85 + grain * hair), 0, 1)[..., None]
    return picture + share * (np.clip(dark * (1 + grain * hair[..., None]), 0, 1) - picture)


# --- what is in front --------------------------------------------------------------------------------------


def hand(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """A palm or a wrist and some fingers, from any side to the mouth; sometimes a fist, a forearm."""
    own = np.median(picture[60:100, 40:88].reshape(-1, 3), axis=0)
    skin = own * np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.04, 3))
    if rng.random() < 0.4:
        skin = np.array([0.92, 0.72, 0.6]) ** rng.uniform(0.6, 4.0) * np.exp(rng.normal(0, 0.06, 3))
    if rng.random() < 0.12:
        skin = rng.uniform(0, 1, 3)  # a glove
    tip = points[MOUTH].mean(0) + rng.normal(0, [14, 12])
    side = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.normal(np.pi / 2, 0.6)
    towards = np.array([np.cos(side), np.sin(side)])
    across = np.array([-towards[1], towards[0]])
    radius = rng.uniform(4.0, 8.0)
    length = rng.uniform(20, 50)
    count = int(rng.integers(1, 6))
    palm = tip + towards * (length + rng.uniform(4, 14))
    layer: Layer = _empty(skin)
    if rng.random() < 0.85:
        layer = _capsule(layer, palm, palm + towards * 120, radius * rng.uniform(2.0, 3.6), skin, rng)
        layer = _capsule(layer, palm - across * radius, palm + across * radius, radius * 2.2, skin, rng)
    spread, fan = radius * rng.uniform(1.7, 2.4), rng.normal(0, 0.12)
    for number in rng.permutation(count):
        offset = number - (count - 1) / 2
        root = palm + across * offset * spread * 0.9
        bend = rng.normal(0, 0.06) + fan * offset
        along = -(towards * np.cos(bend) + across * np.sin(bend))
        end = root + along * length * rng.uniform(0.6, 1.1)
        layer = _capsule(layer, root, end, radius * rng.uniform(0.8, 1.05), skin, rng, fine=True)
        if rng.random() < 0.35:  # a nail
            nail = np.clip(skin * [1.1, 1.0, 1.0] + 0.08, 0, 1)
            layer = _capsule(layer, end, end - along * radius * 0.3, radius * 0.45, nail, rng)
    texture = 1 + 0.05 * _wave(rng, 12)[..., None] + 0.02 * _speckle(rng, 0.6, 1.0)[..., None]
    return layer[0] * texture, layer[1]


def microphone(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """A head of foam or wire mesh on a stick, or a thin boom that ends at the mouth's corner."""
    mouth = points[MOUTH].mean(0)
    dark = np.clip(rng.uniform(0.02, 0.3) + rng.normal(0, 0.02, 3), 0, 1)
    foam = dark
    if rng.random() < 0.25:
        foam = rng.uniform(0.05, 0.9, 3)
    if rng.random() < 0.3:
        foam = np.full(3, rng.uniform(0.3, 0.8))  # metal
    empty: Layer = _empty(dark)
    if rng.random() < 0.2:  # a headset's boom
        side = -1 if rng.random() < 0.5 else 1
        end = mouth + np.array([side * rng.uniform(4, 24), rng.uniform(-3, 12)])
        start = np.array([63.5 + side * 50, rng.uniform(30, 90)])
        bent = (start + end) / 2 + [0, rng.uniform(0, 14)]
        thin = rng.uniform(0.8, 2.0)
        layer = _capsule(empty, start, bent, thin, dark, rng)
        layer = _capsule(layer, bent, end, thin, dark, rng)
        return _ball(layer, end, rng.uniform(2, 6, 2), 0.0, foam, rng)
    place = mouth + rng.normal([0, 12], [14, 10])
    size = rng.uniform(6, 20) * np.array([1, rng.uniform(1, 1.6)])
    lean = rng.normal(0, 0.5)
    down = np.array([np.sin(lean), np.cos(lean)])
    layer = _capsule(empty, place, place + down * 150, size[0] * rng.uniform(0.25, 0.8), dark, rng)
    if rng.random() < 0.25:  # the cube of a station
        middle = place + down * size[1] * 1.6
        colours, share = _sheet(middle, size[0] * 1.2 * np.ones(2), -lean, rng.uniform(0, 1, 3), rng)
        layer = _over(layer, (colours, share))
    return _ball(layer, place, size, -lean, foam, rng)


def caption(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """A line or two of letters, outlined, on a bar, or plain."""
    fine = 2
    size = CROP * fine
    text = Image.new("L", (size, size))
    back = Image.new("L", (size, size))
    drawing, behind = ImageDraw.Draw(text), ImageDraw.Draw(back)
    height = int(rng.uniform(6, 22) * fine)
    font = _font(height)
    lines = 1 + int(rng.random() < 0.35)
    stroke = int(rng.integers(0, 1 + max(1, height // 8)))
    bar = rng.random() < 0.3
    y = (points[MOUTH, 1].mean() + rng.normal(2, 18)) * fine
    x = rng.uniform(-0.6, 0.55) * size
    for line in range(lines):
        words = _words(rng, int(rng.integers(3, 40)))
        at = (x, y + line * height * 1.25)
        if bar:
            x0, y0, x1, y1 = drawing.textbbox(at, words, font=font)
            behind.rectangle((x0 - height / 3, y0 - height / 4, x1 + height / 3, y1 + height / 4), fill=255)
        elif stroke:
            behind.text(at, words, font=font, fill=255, stroke_width=stroke)
        drawing.text(at, words, font=font, fill=255)
    letters, under = (np.asarray(plane.reduce(fine), np.float32) / 255 for plane in (text, back))
    bright = rng.random() < 0.8
    ink = np.ones(3) if bright else np.zeros(3)
    if rng.random() < 0.35:
        ink = rng.uniform(0, 1, 3)
    ground = np.zeros(3) if bright else np.ones(3)
    if rng.random() < 0.2:
        ground = rng.uniform(0, 1, 3)
    solid = rng.uniform(0.4, 1.0) if bar else 1.0
    share = np.maximum(letters, under * solid)
    colours = ground + (letters / np.maximum(share, 1e-3))[..., None].clip(0, 1) * (ink - ground)
    return colours, share


def mask(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """Cloth from the nose to below the chin, with pleats and strings."""
    first = int(rng.integers(1, 4))
    top = points[[29, 30]].mean(0) if rng.random() < 0.75 else points[33] + [0, 2]
    rim = points[JAW[first : 17 - first]] + [0, rng.uniform(0, 6)] + rng.normal(0, 0.8, (17 - 2 * first, 2))
    left, right = rim[0] + [0, rng.uniform(-4, 10)], rim[-1] + [0, rng.uniform(-4, 10)]
    rise = -rng.uniform(0, 4)
    edge = [right, (right + top) / 2 + [0, rise], top, (left + top) / 2 + [0, rise], left]
    area = _polygon(np.vstack([rim[1:-1], *edge]))
    cloth = _fabric(other, rng)
    x, y = _grid()[..., 0], _grid()[..., 1]
    curve = ((x - top[0]) / 40) ** 2
    if rng.random() < 0.6:
        wave = np.sin((y + 6 * curve) * 2 * np.pi / rng.uniform(5, 14) + rng.uniform(0, 6))
        cloth = cloth * (1 + rng.uniform(0.02, 0.15) * wave[..., None])
    cloth = cloth * (1 - rng.uniform(0.05, 0.35) * np.clip(curve, 0, 1)[..., None])
    cloth = cloth * (1 + rng.uniform(0, 0.15) * _wave(rng, 6)[..., None])
    layer: Layer = cloth, _blurred(area, 0.5)
    if rng.random() < 0.5:
        for corner, out in ((left, -1), (right, 1)):
            end = corner + np.array([out * 40, -rng.uniform(0, 30)])
            layer = _capsule(layer, corner, end, 0.8, np.ones(3), rng)
    return layer


def cup(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """A cup, glass or bottle at the mouth, from below."""
    lips = points[MOUTH].mean(0) + rng.normal(0, [5, 5])
    lean = rng.normal(0, 0.25)
    top, height = rng.uniform(8, 26), rng.uniform(25, 90)
    bottom = top * rng.uniform(0.6, 1.1)
    turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    local = (_grid() - lips) @ turn
    half = top + (bottom - top) * np.clip(local[..., 1] / height, 0, 1)
    share = np.clip(half - np.abs(local[..., 0]) + 0.5, 0, 1)
    share = share * np.clip(local[..., 1] + 0.5, 0, 1) * np.clip(height - local[..., 1] + 0.5, 0, 1)
    rim = np.clip(1.5 - np.hypot(local[..., 0] / top, local[..., 1] / (0.25 * top + 1)) * 1.5, 0, 1)
    share = np.maximum(share, np.minimum(1, rim * 3))
    across = np.clip(local[..., 0] / np.maximum(half, 1), -1, 1)
    shade = 1 - rng.uniform(0.1, 0.6) * np.abs(across + rng.uniform(-0.4, 0.4)) ** 1.5
    colours = _fabric(other, rng) * shade[..., None]
    glint = np.exp(-(((across - rng.uniform(-0.6, 0.6)) / 0.12) ** 2)) * rng.uniform(0, 0.5)
    return colours + glint[..., None], share


def sheet(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """A phone, paper, card or sign."""
    place = points[MOUTH].mean(0) + rng.normal(0, [24, 20])
    size = np.exp(rng.uniform(np.log(5), np.log(50), 2))
    colours, share = _sheet(place, size, rng.normal(0, 0.5), rng.uniform(0, 1, 3), rng)
    if rng.random() < 0.5:
        colours = _fabric(other, rng)
    return colours, share


def blob(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """Any smooth shape with any texture, a piece of another picture among them."""
    field = _wave(rng, int(rng.integers(2, 7)))
    near = np.exp(
        -(((_grid() - points[MOUTH].mean(0) - rng.normal(0, 14, 2)) / rng.uniform(12, 45)) ** 2).sum(-1)
    )
    share = np.clip(0.5 + (field + 3 * near - 1.6) * rng.uniform(3, 12), 0, 1)
    return _fabric(other, rng), share


def strands(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """Hair, cables or sticks across the face."""
    colour = (
        rng.uniform(0.02, 0.5) * np.array([1.0, 0.85, 0.7]) if rng.random() < 0.6 else rng.uniform(0, 1, 3)
    )
    layer: Layer = _empty(colour)
    mouth, side = points[MOUTH].mean(0), rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(1, 5))):
        towards = np.array([np.cos(side + rng.normal(0, 0.15)), np.sin(side + rng.normal(0, 0.15))])
        through = mouth + rng.normal(0, 12, 2)
        layer = _capsule(
            layer, through - towards * 90, through + towards * 90, rng.uniform(0.9, 4), colour, rng
        )
    return layer


Thing = Callable[[Floats, Floats, Floats, np.random.Generator], Layer]
THINGS: tuple[Thing, ...] = (hand, microphone, caption, mask, cup, sheet, blob, strands)
SHARES = np.array([0.28, 0.14, 0.2, 0.12, 0.06, 0.06, 0.1, 0.04])


# --- shapes and textures -----------------------------------------------------------------------------------


@cache
def _grid() -> Floats:
    """Each pixel's own x, y: (CROP, CROP, 2)."""
    y, x = np.mgrid[:CROP, :CROP].astype(np.float32)
    return np.stack([x, y], axis=-1)


@cache
def _planes() -> tuple[Floats, Floats]:
    """x and y of each pixel, (CROP, CROP) each."""
    return _grid()[..., 0].copy(), _grid()[..., 1].copy()


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _words(rng: np.random.Generator, length: int) -> str:
    letters = "eeeaaioutnshrdlcmwfgypbvk   ETAOINSHRDLU0123456789.,!?'-äöüß"
    text = "".join(letters[i] for i in rng.integers(0, len(letters), length))
    return text.upper() if rng.random() < 0.3 else text


def _polygon(points: Floats) -> Floats:
    """Inside of a polygon, (CROP, CROP) in [0, 1]."""
    fine = 3
    plane = Image.new("L", (CROP * fine, CROP * fine))
    corners = (np.asarray(points, np.float64) + 0.5) * fine - 0.5
    ImageDraw.Draw(plane).polygon([(x, y) for x, y in corners.tolist()], fill=255)
    return np.asarray(plane.reduce(fine), np.float32) / 255


def _empty(colour: Floats) -> Layer:
    """Nothing yet; where edges are soft, of this colour."""
    return np.tile(np.asarray(colour, np.float32), (CROP, CROP, 1)), np.zeros((CROP, CROP), np.float32)


def _over(below: Layer, above: Layer) -> Layer:
    share = above[1]
    return below[0] + share[..., None] * (above[0] - below[0]), np.maximum(below[1], share)


def _capsule(
    layer: Layer,
    start: Floats,
    end: Floats,
    radius: float,
    colour: Floats,
    rng: np.random.Generator,
    fine: bool = False,
) -> Layer:
    """A rounded stick, lighter along its middle, over a layer; fine: with a dark contour, as of a finger."""
    x, y = _planes()
    ax, ay = (float(v) for v in end - start)
    ox, oy = x - np.float32(start[0]), y - np.float32(start[1])
    part = np.clip((ox * ax + oy * ay) / max(1e-6, ax * ax + ay * ay), 0, 1)
    distance = np.hypot(ox - part * ax, oy - part * ay)
    share = np.clip(radius - distance + 0.5, 0, 1)
    depth = rng.uniform(0.1, 0.45)
    light = np.sqrt(np.clip(1 - (distance / max(radius, 0.5)) ** 2, 0, 1))
    shade = 1 - depth + depth * light
    if fine:
        shade = shade * (1 - rng.uniform(0.0, 0.35) * np.clip(1 - (radius - distance) / 1.2, 0, 1))
    return _over(layer, (np.asarray(colour, np.float32) * shade[..., None], share))


def _ball(
    layer: Layer, place: Floats, size: Floats, angle: float, colour: Floats, rng: np.random.Generator
) -> Layer:
    """An ellipse with a light from above and the grain of foam or wire mesh."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    local = (_grid() - place) @ turn / size
    distance = np.hypot(local[..., 0], local[..., 1])
    share = np.clip((1 - distance) * size.min() + 0.5, 0, 1)
    light = np.clip(1 - np.hypot(local[..., 0] + rng.normal(0, 0.3), local[..., 1] + 0.4), 0, 1)
    grain = _speckle(rng, 0.5, 1.0)
    if rng.random() < 0.3:
        x, y = (_grid() * rng.uniform(1.2, 3)).transpose(2, 0, 1)
        grain = np.sign(np.sin(x + y) * np.sin(x - y))
    shade = (0.7 + rng.uniform(0.1, 1.0) * light) * (1 + rng.uniform(0, 0.25) * grain)
    return _over(layer, (np.clip(colour * shade[..., None], 0, 1), share))


def _sheet(place: Floats, size: Floats, angle: float, colour: Floats, rng: np.random.Generator) -> Layer:
    """A turned rectangle with a frame and a gradient."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    local = (_grid() - place) @ turn
    inside = size - np.abs(local)
    share = np.clip(inside + 0.5, 0, 1).prod(-1)
    frame = np.clip(rng.uniform(0, 4) - inside.min(-1), 0, 1)[..., None]
    slope = 1 + rng.normal(0, 0.15) * local[..., 1:] / size[1]
    return colour * slope * (1 - frame) + rng.uniform(0, 1, 3) * frame, share


def _fabric(other: Floats, rng: np.random.Generator) -> Floats:
    """Any texture: plain, striped, checked, mottled, or a piece of another picture."""
    kind = rng.random()
    if kind < 0.25:
        piece = np.rot90(other, int(rng.integers(1, 4)))
        return np.roll(piece, rng.integers(0, CROP, 2), (0, 1)) * np.exp(rng.normal(0, 0.2, 3))
    colour = rng.uniform(0, 1, 3) if rng.random() < 0.55 else np.full(3, rng.choice([0.05, 0.5, 0.95]))
    if rng.random() < 0.15:
        colour = np.array([0.55, 0.75, 0.9]) * rng.uniform(0.7, 1.1)
    plain = np.tile(colour, (CROP, CROP, 1))
    second = rng.uniform(0, 1, 3)
    if kind < 0.5:
        return plain * (1 + 0.06 * _wave(rng, 5)[..., None])
    if kind < 0.7:
        x, y = _grid()[..., 0], _grid()[..., 1]
        phase = x * rng.normal(0, 0.5) + y * rng.normal(0, 0.5)
        pattern = np.sin(phase) if rng.random() < 0.5 else np.sin(x * rng.uniform(0.2, 1.5)) * np.sin(y)
        return plain + (0.5 + 0.5 * pattern[..., None]) * (second - plain) * rng.uniform(0.1, 1)
    if kind < 0.9:
        return plain + np.clip(0.5 + _wave(rng, int(rng.integers(3, 16))), 0, 1)[..., None] * (second - plain)
    return plain * (1 + 0.2 * _speckle(rng, 0.7, 1.0)[..., None])


def _wave(rng: np.random.Generator, nodes: int) -> Floats:
    """A smooth field, (CROP, CROP), about standard normal, with about so many hills along a side."""
    field = Image.fromarray(rng.normal(0, 1, (nodes + 1, nodes + 1)).astype(np.float32))
    return np.asarray(field.resize((CROP, CROP), Image.Resampling.BICUBIC))


def _speckle(rng: np.random.Generator, across: float, along: float) -> Floats:
    """Grain, (CROP, CROP), about standard normal, with these deviations of a Gaussian along x and y."""
    noise = rng.standard_normal((CROP, CROP), np.float32)
    noise = _smooth(across) @ noise @ _smooth(along).T
    return noise / max(1e-6, float(noise.std()))


def _smooth(sigma: float) -> Floats:
    at = np.arange(CROP, dtype=np.float32)
    taps = np.exp(-0.5 * np.minimum(((at[:, None] - at) / np.float32(sigma)) ** 2, 60))
    taps[taps < 1e-6] = 0  # numbers that are almost 0 are slow to calculate with
    return taps / taps.sum(1, keepdims=True)


def _blurred(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of (CROP, CROP[, 3])."""
    taps = _smooth(sigma)
    image = np.asarray(image, np.float32)
    if image.ndim == 2:
        return taps @ image @ taps.T
    return np.asarray((taps @ np.ascontiguousarray(image.transpose(2, 0, 1)) @ taps.T).transpose(1, 2, 0))


def _widened(share: Floats, size: int) -> Floats:
    """The largest value of size x size neighbours."""
    plane = torch.from_numpy(np.ascontiguousarray(share, np.float32))[None, None]
    return F.max_pool2d(plane, size, 1, size // 2)[0, 0].numpy()


def _resized(picture: Floats, side: int) -> Floats:
    pixels = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32))[None]
    small = side < picture.shape[0]
    kind = "area" if small else "bilinear"
    made = F.interpolate(pixels, size=(side, side), mode=kind, align_corners=None if small else False)
    return made[0].numpy().transpose(1, 2, 0)
