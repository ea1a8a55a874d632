"""Things that may be in front of a face: each draws a layer over a crop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from covers.drawing import (
    Floats,
    Layer,
    ball,
    blurred,
    capsule,
    fabric,
    font_of,
    grid,
    hills,
    no_layer,
    over,
    polygon,
    random_words,
    rectangle,
    speckle,
)
from moditalker.features.face.cover import CROP
from moditalker.geometry.points import JAW, MOUTH


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
    layer: Layer = no_layer(skin)
    if rng.random() < 0.85:
        layer = capsule(layer, palm, palm + towards * 120, radius * rng.uniform(2.0, 3.6), skin, rng)
        layer = capsule(layer, palm - across * radius, palm + across * radius, radius * 2.2, skin, rng)
    spread, fan = radius * rng.uniform(1.7, 2.4), rng.normal(0, 0.12)
    for number in rng.permutation(count):
        offset = number - (count - 1) / 2
        root = palm + across * offset * spread * 0.9
        bend = rng.normal(0, 0.06) + fan * offset
        along = -(towards * np.cos(bend) + across * np.sin(bend))
        end = root + along * length * rng.uniform(0.6, 1.1)
        layer = capsule(layer, root, end, radius * rng.uniform(0.8, 1.05), skin, rng, fine=True)
        if rng.random() < 0.35:  # a nail
            nail = np.clip(skin * [1.1, 1.0, 1.0] + 0.08, 0, 1)
            layer = capsule(layer, end, end - along * radius * 0.3, radius * 0.45, nail, rng)
    texture = 1 + 0.05 * hills(rng, 12)[..., None] + 0.02 * speckle(rng, 0.6, 1.0)[..., None]
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
    empty: Layer = no_layer(dark)
    if rng.random() < 0.2:  # a headset's boom
        side = -1 if rng.random() < 0.5 else 1
        end = mouth + np.array([side * rng.uniform(4, 24), rng.uniform(-3, 12)])
        start = np.array([63.5 + side * 50, rng.uniform(30, 90)])
        bent = (start + end) / 2 + [0, rng.uniform(0, 14)]
        thin = rng.uniform(0.8, 2.0)
        layer = capsule(empty, start, bent, thin, dark, rng)
        layer = capsule(layer, bent, end, thin, dark, rng)
        return ball(layer, end, rng.uniform(2, 6, 2), 0.0, foam, rng)
    place = mouth + rng.normal([0, 12], [14, 10])
    size = rng.uniform(6, 20) * np.array([1, rng.uniform(1, 1.6)])
    lean = rng.normal(0, 0.5)
    down = np.array([np.sin(lean), np.cos(lean)])
    layer = capsule(empty, place, place + down * 150, size[0] * rng.uniform(0.25, 0.8), dark, rng)
    if rng.random() < 0.25:  # the cube of a station
        middle = place + down * size[1] * 1.6
        colours, share = rectangle(middle, size[0] * 1.2 * np.ones(2), -lean, rng.uniform(0, 1, 3), rng)
        layer = over(layer, (colours, share))
    return ball(layer, place, size, -lean, foam, rng)


def caption(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """A line or two of letters, outlined, on a bar, or plain."""
    fine = 2
    size = CROP * fine
    text = Image.new("L", (size, size))
    back = Image.new("L", (size, size))
    drawing, behind = ImageDraw.Draw(text), ImageDraw.Draw(back)
    height = int(rng.uniform(6, 22) * fine)
    font = font_of(height)
    lines = 1 + int(rng.random() < 0.35)
    stroke = int(rng.integers(0, 1 + max(1, height // 8)))
    bar = rng.random() < 0.3
    y = (points[MOUTH, 1].mean() + rng.normal(2, 18)) * fine
    x = rng.uniform(-0.6, 0.55) * size
    for line in range(lines):
        words = random_words(rng, int(rng.integers(3, 40)))
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
    area = polygon(np.vstack([rim[1:-1], *edge]))
    cloth = fabric(other, rng)
    x, y = grid()[..., 0], grid()[..., 1]
    curve = ((x - top[0]) / 40) ** 2
    if rng.random() < 0.6:
        wave = np.sin((y + 6 * curve) * 2 * np.pi / rng.uniform(5, 14) + rng.uniform(0, 6))
        cloth = cloth * (1 + rng.uniform(0.02, 0.15) * wave[..., None])
    cloth = cloth * (1 - rng.uniform(0.05, 0.35) * np.clip(curve, 0, 1)[..., None])
    cloth = cloth * (1 + rng.uniform(0, 0.15) * hills(rng, 6)[..., None])
    layer: Layer = cloth, blurred(area, 0.5)
    if rng.random() < 0.5:
        for corner, out in ((left, -1), (right, 1)):
            end = corner + np.array([out * 40, -rng.uniform(0, 30)])
            layer = capsule(layer, corner, end, 0.8, np.ones(3), rng)
    return layer


def cup(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """A cup, glass or bottle at the mouth, from below."""
    lips = points[MOUTH].mean(0) + rng.normal(0, [5, 5])
    lean = rng.normal(0, 0.25)
    top, height = rng.uniform(8, 26), rng.uniform(25, 90)
    bottom = top * rng.uniform(0.6, 1.1)
    turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    local = (grid() - lips) @ turn
    half = top + (bottom - top) * np.clip(local[..., 1] / height, 0, 1)
    share = np.clip(half - np.abs(local[..., 0]) + 0.5, 0, 1)
    share = share * np.clip(local[..., 1] + 0.5, 0, 1) * np.clip(height - local[..., 1] + 0.5, 0, 1)
    rim = np.clip(1.5 - np.hypot(local[..., 0] / top, local[..., 1] / (0.25 * top + 1)) * 1.5, 0, 1)
    share = np.maximum(share, np.minimum(1, rim * 3))
    across = np.clip(local[..., 0] / np.maximum(half, 1), -1, 1)
    shade = 1 - rng.uniform(0.1, 0.6) * np.abs(across + rng.uniform(-0.4, 0.4)) ** 1.5
    colours = fabric(other, rng) * shade[..., None]
    glint = np.exp(-(((across - rng.uniform(-0.6, 0.6)) / 0.12) ** 2)) * rng.uniform(0, 0.5)
    return colours + glint[..., None], share


def sheet(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """A phone, paper, card or sign."""
    place = points[MOUTH].mean(0) + rng.normal(0, [24, 20])
    size = np.exp(rng.uniform(np.log(5), np.log(50), 2))
    colours, share = rectangle(place, size, rng.normal(0, 0.5), rng.uniform(0, 1, 3), rng)
    if rng.random() < 0.5:
        colours = fabric(other, rng)
    return colours, share


def blob(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """Any smooth shape with any texture, a piece of another picture among them."""
    field = hills(rng, int(rng.integers(2, 7)))
    near = np.exp(
        -(((grid() - points[MOUTH].mean(0) - rng.normal(0, 14, 2)) / rng.uniform(12, 45)) ** 2).sum(-1)
    )
    share = np.clip(0.5 + (field + 3 * near - 1.6) * rng.uniform(3, 12), 0, 1)
    return fabric(other, rng), share


def strands(picture: Floats, points: Floats, other: Floats, rng: np.random.Generator) -> Layer:
    """Hair, cables or sticks across the face."""
    colour = (
        rng.uniform(0.02, 0.5) * np.array([1.0, 0.85, 0.7]) if rng.random() < 0.6 else rng.uniform(0, 1, 3)
    )
    layer: Layer = no_layer(colour)
    mouth, side = points[MOUTH].mean(0), rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(1, 5))):
        towards = np.array([np.cos(side + rng.normal(0, 0.15)), np.sin(side + rng.normal(0, 0.15))])
        through = mouth + rng.normal(0, 12, 2)
        layer = capsule(
            layer, through - towards * 90, through + towards * 90, rng.uniform(0.9, 4), colour, rng
        )
    return layer


Thing = Callable[[Floats, Floats, Floats, np.random.Generator], Layer]
THINGS: tuple[Thing, ...] = (hand, microphone, caption, mask, cup, sheet, blob, strands)
SHARES = np.array([0.28, 0.14, 0.2, 0.12, 0.06, 0.06, 0.1, 0.04])
