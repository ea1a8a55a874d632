"""Shapes and textures on a crop of a face."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from moditalker.features.face.cover import CROP

Floats = NDArray[np.floating]
Layer = tuple[Floats, Floats]  # colours (CROP, CROP, 3) in [0, 1], and how much they cover, (CROP, CROP)


@cache
def grid() -> Floats:
    """Each pixel's own x, y: (CROP, CROP, 2)."""
    y, x = np.mgrid[:CROP, :CROP].astype(np.float32)
    return np.stack([x, y], axis=-1)


@cache
def planes() -> tuple[Floats, Floats]:
    """x and y of each pixel, (CROP, CROP) each."""
    return grid()[..., 0].copy(), grid()[..., 1].copy()


@cache
def font_of(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def random_words(rng: np.random.Generator, length: int) -> str:
    letters = "eeeaaioutnshrdlcmwfgypbvk   ETAOINSHRDLU0123456789.,!?'-äöüß"
    text = "".join(letters[i] for i in rng.integers(0, len(letters), length))
    return text.upper() if rng.random() < 0.3 else text


def polygon(points: Floats) -> Floats:
    """Inside of a polygon, (CROP, CROP) in [0, 1]."""
    fine = 3
    plane = Image.new("L", (CROP * fine, CROP * fine))
    corners = (np.asarray(points, np.float64) + 0.5) * fine - 0.5
    ImageDraw.Draw(plane).polygon([(x, y) for x, y in corners.tolist()], fill=255)
    return np.asarray(plane.reduce(fine), np.float32) / 255


def no_layer(colour: Floats) -> Layer:
    """Nothing yet; where edges are soft, of this colour."""
    return np.tile(np.asarray(colour, np.float32), (CROP, CROP, 1)), np.zeros((CROP, CROP), np.float32)


def over(below: Layer, above: Layer) -> Layer:
    share = above[1]
    return below[0] + share[..., None] * (above[0] - below[0]), np.maximum(below[1], share)


def capsule(
    layer: Layer,
    start: Floats,
    end: Floats,
    radius: float,
    colour: Floats,
    rng: np.random.Generator,
    fine: bool = False,
) -> Layer:
    """A rounded stick, lighter along its middle, over a layer; fine: with a dark contour, as of a finger."""
    x, y = planes()
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
    return over(layer, (np.asarray(colour, np.float32) * shade[..., None], share))


def ball(
    layer: Layer, place: Floats, size: Floats, angle: float, colour: Floats, rng: np.random.Generator
) -> Layer:
    """An ellipse with a light from above and the grain of foam or wire mesh."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    local = (grid() - place) @ turn / size
    distance = np.hypot(local[..., 0], local[..., 1])
    share = np.clip((1 - distance) * size.min() + 0.5, 0, 1)
    light = np.clip(1 - np.hypot(local[..., 0] + rng.normal(0, 0.3), local[..., 1] + 0.4), 0, 1)
    grain = speckle(rng, 0.5, 1.0)
    if rng.random() < 0.3:
        x, y = (grid() * rng.uniform(1.2, 3)).transpose(2, 0, 1)
        grain = np.sign(np.sin(x + y) * np.sin(x - y))
    shade = (0.7 + rng.uniform(0.1, 1.0) * light) * (1 + rng.uniform(0, 0.25) * grain)
    return over(layer, (np.clip(colour * shade[..., None], 0, 1), share))


def rectangle(place: Floats, size: Floats, angle: float, colour: Floats, rng: np.random.Generator) -> Layer:
    """A turned rectangle with a frame and a gradient."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    local = (grid() - place) @ turn
    inside = size - np.abs(local)
    share = np.clip(inside + 0.5, 0, 1).prod(-1)
    frame = np.clip(rng.uniform(0, 4) - inside.min(-1), 0, 1)[..., None]
    slope = 1 + rng.normal(0, 0.15) * local[..., 1:] / size[1]
    return colour * slope * (1 - frame) + rng.uniform(0, 1, 3) * frame, share


def fabric(other: Floats, rng: np.random.Generator) -> Floats:
    """Any texture: plain, striped, checked, mottled, or a piece of another picture."""
    kind = rng.random()
    if kind < 0.25:
        piece = np.rot90(other, int(rng.integers(1, 4)))
        return np.roll(piece, rng.integers(0, CROP, 2), (0, 1)) * np.exp(rng.normal(0, 0.2, 3))
    colour = rng.uniform(0, 1, 3) if rng.random() < 0.55 else np.full(3, rng.choice([0.05, 0.5, 0.95]))
    if rng.random() < 0.15:
        colour = np.array([0.55, 0.75, 0.9]) * rng.uniform(0.7, 1.1)
    plain: Floats = np.tile(colour, (CROP, CROP, 1))
    second = rng.uniform(0, 1, 3)
    if kind < 0.5:
        plain = plain * (1 + 0.06 * hills(rng, 5)[..., None])
    elif kind < 0.7:
        x, y = grid()[..., 0], grid()[..., 1]
        phase = x * rng.normal(0, 0.5) + y * rng.normal(0, 0.5)
        pattern = np.sin(phase) if rng.random() < 0.5 else np.sin(x * rng.uniform(0.2, 1.5)) * np.sin(y)
        plain = plain + (0.5 + 0.5 * pattern[..., None]) * (second - plain) * rng.uniform(0.1, 1)
    elif kind < 0.9:
        plain = plain + np.clip(0.5 + hills(rng, int(rng.integers(3, 16))), 0, 1)[..., None] * (
            second - plain
        )
    else:
        plain = plain * (1 + 0.2 * speckle(rng, 0.7, 1.0)[..., None])
    return plain


def hills(rng: np.random.Generator, nodes: int) -> Floats:
    """A smooth field, (CROP, CROP), about standard normal, with about so many hills along a side."""
    field = Image.fromarray(rng.normal(0, 1, (nodes + 1, nodes + 1)).astype(np.float32))
    return np.asarray(field.resize((CROP, CROP), Image.Resampling.BICUBIC))


def speckle(rng: np.random.Generator, across: float, along: float) -> Floats:
    """Grain, (CROP, CROP), about standard normal, with these deviations of a Gaussian along x and y."""
    noise: Floats = rng.standard_normal((CROP, CROP), np.float32)
    noise = smooth(across) @ noise @ smooth(along).T
    return np.asarray(noise / max(1e-6, float(noise.std())))


def smooth(sigma: float) -> Floats:
    at = np.arange(CROP, dtype=np.float32)
    taps = np.exp(-0.5 * np.minimum(((at[:, None] - at) / np.float32(sigma)) ** 2, 60))
    taps[taps < 1e-6] = 0  # numbers that are almost 0 are slow to calculate with
    return np.asarray(taps / taps.sum(1, keepdims=True))


def blurred(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of (CROP, CROP[, 3])."""
    taps = smooth(sigma)
    image = np.asarray(image, np.float32)
    if image.ndim == 2:
        return np.asarray(taps @ image @ taps.T)
    return np.asarray((taps @ np.ascontiguousarray(image.transpose(2, 0, 1)) @ taps.T).transpose(1, 2, 0))


def widened(share: Floats, size: int) -> Floats:
    """The largest value of size x size neighbours."""
    plane = torch.from_numpy(np.ascontiguousarray(share, np.float32))[None, None]
    return F.max_pool2d(plane, size, 1, size // 2)[0, 0].numpy()


def resized(picture: Floats, side: int) -> Floats:
    pixels = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32))[None]
    small = side < picture.shape[0]
    kind = "area" if small else "bilinear"
    made = F.interpolate(pixels, size=(side, side), mode=kind, align_corners=None if small else False)
    return np.asarray(made[0].numpy().transpose(1, 2, 0))
