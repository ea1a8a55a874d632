"""One example: a face varied, with something in front of it or free, as a camera sees it."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from covers.drawing import (
    Floats,
    blurred,
    grid,
    hills,
    polygon,
    resized,
    speckle,
    widened,
)
from covers.people import People
from covers.things import SHARES, THINGS, caption
from moditalker.features.face.cover import CROP, LEFT, SCALE, SIDE, TOP, outlined
from moditalker.geometry.points import JAW, MIRROR, MOUTH
from moditalker.geometry.raster import warp

FREE = 0.45  # share of the examples with nothing in front


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
        shadow = blurred(np.roll(share, shift, (0, 1)), rng.uniform(1.0, 4.0))
        picture = picture * (1 - rng.uniform(0.15, 0.6) * shadow[..., None])
    if rng.random() < 0.35:  # it is out of focus
        sigma = rng.uniform(0.4, 1.6)
        colours, share = blurred(colours, sigma), blurred(share, sigma)
    mixed = picture + share[..., None] * (np.clip(colours, 0, 1) - picture)
    label = share
    if thing is caption:  # letters are finer than the network sees: what is between them counts
        label = widened(share, 3 if rng.random() < 0.5 else 5)
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
        picture = resized(resized(picture, low), CROP)
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


def on_skin(picture: Floats, points: Floats, rng: np.random.Generator) -> Floats:
    """A face with a beard, painted lips, shadows, glints: with what does not cover it."""
    if rng.random() < 0.2:
        picture = beard(picture, points, rng)
    if rng.random() < 0.12:  # painted lips
        inside = blurred(polygon(points[48:60]) - polygon(points[60:68]), 0.6)[..., None]
        paint = np.array([rng.uniform(0.3, 0.9), rng.uniform(0, 0.35), rng.uniform(0.05, 0.5)])
        lips = picture.mean(-1, keepdims=True) / 0.45 * paint
        picture = picture + rng.uniform(0.3, 0.8) * inside * (np.clip(lips, 0, 1) - picture)
    if rng.random() < 0.3:  # a side in shadow or light, with a soft or a hard edge
        edge = hills(rng, int(rng.integers(2, 5)))
        hard = np.clip(0.5 + edge * rng.uniform(1, 20), 0, 1)[..., None]
        colour = np.clip(rng.uniform(0.35, 1.5) + rng.normal(0, 0.06, 3), 0.2, 1.8)
        picture = np.clip(picture * (1 + hard * (colour - 1)), 0, 1)
    if rng.random() < 0.15:  # glints on skin and lips
        for _ in range(int(rng.integers(1, 4))):
            place = points[int(rng.integers(2, 68))] + rng.normal(0, 4, 2)
            spot = np.exp(-(((grid() - place) / rng.uniform(1.5, 7, 2)) ** 2).sum(-1))
            picture = picture + rng.uniform(0.1, 0.5) * spot[..., None]
    return picture


def beard(picture: Floats, points: Floats, rng: np.random.Generator) -> Floats:
    """Hair over jaw, chin and upper lip, or a part of these."""
    jaw, lips = points[JAW], points[48:60]
    upper = points[31:36] + np.array([0, 2])
    first = int(rng.integers(1, 6))
    nose, base = points[33], lips.mean(0)
    sides = [jaw[first : 17 - first], lips[[6, 5, 4, 3, 2, 1, 0]]]
    area = polygon(np.concatenate([sides[0] + [0, rng.uniform(0, 10)], [lips[6]], [base], [lips[0]]]))
    if rng.random() < 0.6:  # moustache
        area = np.maximum(area, polygon(np.concatenate([upper, lips[[6, 5, 4, 3, 2, 1, 0]]])))
    elif rng.random() < 0.5:  # goatee
        area = area * (np.abs(grid()[..., 0] - nose[0]) < rng.uniform(8, 20))
    area = blurred(area, rng.uniform(0.8, 4.0)) * (1 - blurred(polygon(lips), 0.7))
    hair = speckle(rng, rng.uniform(0.4, 0.9), rng.uniform(0.5, 1.6))
    grain = rng.uniform(0.02, 0.15)
    dark = np.array([0.12, 0.09, 0.07]) * rng.uniform(0.3, 2.0)
    if rng.random() < 0.4:
        dark = np.array([0.55, 0.45, 0.36]) * rng.uniform(0.4, 1.5)
    if rng.random() < 0.3:
        dark = np.full(3, rng.uniform(0.3, 0.85))  # grey
    strength = rng.uniform(0.25, 1.0)
    share = np.clip(area * strength * (0.85 + grain * hair), 0, 1)[..., None]
    return picture + share * (np.clip(dark * (1 + grain * hair[..., None]), 0, 1) - picture)
